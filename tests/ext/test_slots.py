"""Key to slot, against redis-py, a live server and the cluster specification; the table from slot to shard."""

import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot as redis_key_slot

from slotwise._slots import SLOTS, SlotTable, key_slot, key_slots
from slotwise.local import LocalCluster

# Binary keys in which braces are frequent: hash tags, empty ones, nested ones, unbalanced ones.
braced_keys = st.lists(
    st.one_of(st.sampled_from([b"{", b"}", b"{}", b"\x00", "ключ".encode()]), st.binary(max_size=20))
).map(b"".join)


# -- one key --------------------------------------------------------------------------------------


def test_check_value() -> None:
    assert SLOTS == 16384
    assert key_slot("123456789") == 0x31C3


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("{user1000}.following", "user1000"),
        ("foo{bar}{zap}", "bar"),  # the first tag only
        ("foo{{bar}}zap", "{bar"),  # up to the first closing brace
        ("foo}{bar}", "bar"),  # a closing brace before it closes nothing
        ("{a}", "a"),
        ("{ключ}:имя", "ключ"),
        (b"\xff{\x00\xfe}\xff", b"\x00\xfe"),
        (b"{\xff}", b"\xff"),
    ],
)
def test_a_hash_tag_alone_is_hashed(key: str | bytes, hashed: str | bytes) -> None:
    assert key_slot(key) == key_slot(hashed)
    assert key_slot(key) == redis_key_slot(key.encode() if isinstance(key, str) else key)


@pytest.mark.parametrize("key", ["", "{}", "{}x", "foo{}{bar}", "a{b", "a}b", "}{", "{{", "a}b{", "plain"])
def test_a_key_without_a_tag_is_hashed_whole(key: str) -> None:
    # binascii.crc_hqx is the CRC-16 in question, written by somebody else.
    from binascii import crc_hqx

    assert key_slot(key) == crc_hqx(key.encode(), 0) % 16384


class Loud(int):
    def __repr__(self) -> str:
        return "loud"


class Text(str):
    pass


class Raw(bytes):
    pass


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        (b"k\x00ey", b"k\x00ey"),
        (Raw(b"key"), b"key"),
        ("k\x00é\U0001f600", "k\x00é\U0001f600".encode()),
        (Text("é"), "é".encode()),
        (12, b"12"),
        (-12, b"-12"),
        (10**30, b"1" + b"0" * 30),
        (Loud(1), b"loud"),
        (1.0, b"1.0"),
        (1e300, b"1e+300"),
        (float("nan"), b"nan"),
        (float("-inf"), b"-inf"),
        (bytearray(b"{a}b"), b"{a}b"),
        (memoryview(b"{a}b"), b"{a}b"),
        (memoryview(b"k.e.y.")[::2], b"key"),
        (memoryview(b"yek")[::-1], b"key"),
        (memoryview(b"\x01\x02\x03\x04").cast("H"), b"\x01\x02\x03\x04"),
        (numpy.array([[1, 2], [3, 4]], dtype="u1", order="F").data, b"\x01\x02\x03\x04"),
    ],
)
def test_the_bytes_that_are_sent_are_hashed(key: Any, sent: bytes) -> None:
    assert key_slot(key) == redis_key_slot(sent)
    assert key_slots([key]).tolist() == [redis_key_slot(sent)]


@pytest.mark.parametrize("key", [None, True, False, {}, [], (), object(), numpy.arange(3), 1j])
@pytest.mark.parametrize("look_up", [key_slot, lambda key: key_slots(["a", key, "b"])])
def test_what_is_no_key_is_refused_and_harms_nothing(look_up: Callable[[Any], object], key: Any) -> None:
    message = (
        f"Invalid input of type: '{type(key).__name__}'. Convert to a bytes, string, int or float first."
    )
    with pytest.raises(redis.DataError, match=re.escape(message)):
        look_up(key)
    assert key_slot("123456789") == 0x31C3
    assert key_slots(["123456789"]).tolist() == [0x31C3]


def test_text_that_utf8_cannot_hold_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError) as ours:
        key_slot("a\ud800b")
    with pytest.raises(UnicodeEncodeError) as pythons:
        "a\ud800b".encode()
    assert ours.value.args == pythons.value.args


@given(braced_keys)
def test_binary_key_equals_redis_py(key: bytes) -> None:
    slot = redis_key_slot(key)
    assert key_slot(key) == slot
    assert key_slot(bytearray(key)) == slot
    assert key_slot(memoryview(key)) == slot


@given(st.one_of(st.text(), st.text(alphabet="{}é\x00a")))
def test_text_key_equals_redis_py(key: str) -> None:
    assert key_slot(key) == redis_key_slot(key.encode())


@given(st.one_of(st.integers(), st.floats()))
def test_number_key_equals_redis_py(key: int | float) -> None:
    assert key_slot(key) == redis_key_slot(repr(key).encode())


# -- batches --------------------------------------------------------------------------------------


def test_100000_random_binary_keys_equal_redis_py_and_the_server(cluster: LocalCluster) -> None:
    chance = random.Random(1)
    keys = [chance.randbytes(chance.randrange(64)) for _ in range(60_000)]
    # Few distinct bytes, so that braces meet in every order.
    keys += [bytes(chance.choices(b"{}a\x00\xff", k=chance.randrange(12))) for _ in range(40_000)]
    slots = key_slots(keys).tolist()
    assert slots == [redis_key_slot(key) for key in keys]
    assert slots == [key_slot(key) for key in keys]
    host, port = cluster.nodes[0].address
    with redis.Redis(host, port) as client:
        for first in range(0, len(keys), 10_000):
            with client.pipeline(transaction=False) as pipeline:
                for key in keys[first : first + 10_000]:
                    pipeline.execute_command("CLUSTER KEYSLOT", key)
                assert pipeline.execute() == slots[first : first + 10_000]


@pytest.mark.parametrize("kind", [list, tuple, iter, dict.fromkeys, lambda keys: (key for key in keys)])
def test_batch_of_any_iterable(kind: Callable[[list[str]], Iterable[str]]) -> None:
    slots = key_slots(kind(["123456789", "a", "b"]))
    assert slots.dtype == numpy.uint16
    assert slots.shape == (3,)
    assert slots.flags.writeable
    assert slots.tolist() == [0x31C3, 15495, 3300]


def test_batch_of_nothing() -> None:
    slots = key_slots([])
    assert slots.dtype == numpy.uint16
    assert slots.shape == (0,)


def test_batch_needs_an_iterable() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        key_slots(5)  # type: ignore[arg-type]


def test_batch_is_what_the_list_was_when_it_was_given() -> None:
    class Clears(int):
        def __repr__(self) -> str:
            keys.clear()
            return "a"

    keys: list[Any] = [Clears(1), "b", "123456789"]
    assert key_slots(keys).tolist() == [15495, 3300, 0x31C3]


@given(st.lists(st.one_of(braced_keys, st.text(alphabet="{}ab"), st.integers(), st.floats())))
def test_batch_equals_one_by_one(keys: list[bytes | str | int | float]) -> None:
    assert key_slots(keys).tolist() == [key_slot(key) for key in keys]


def test_numpy_is_loaded_by_the_first_batch() -> None:
    code = (
        "import sys; from slotwise._slots import key_slot, key_slots; key_slot('a'); "
        "assert 'numpy' not in sys.modules; key_slots(['a']); assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- the table from slot to shard -----------------------------------------------------------------

THIRDS = [(0, 5460, 0), (5461, 10922, 1), (10923, 16383, 2)]


def owners(table: SlotTable) -> list[int | None]:
    return [table.index(slot) for slot in range(SLOTS)]


def test_table_of_a_whole_cluster() -> None:
    table = SlotTable(THIRDS, "abc")
    assert table.shards == ("a", "b", "c")
    assert table.covered == SLOTS
    assert table.ranges() == THIRDS
    assert [table[slot] for slot in (0, 5460, 5461, 10922, 10923, 16383)] == list("aabbcc")
    assert [table.index(slot) for slot in (0, 5460, 5461, 10922, 10923, 16383)] == [0, 0, 1, 1, 2, 2]


def test_table_with_a_hole() -> None:
    table = SlotTable([(1, 1, 0), (3, 16383, 0)], ["a"])
    assert table.covered == SLOTS - 2
    assert [table[slot] for slot in range(4)] == [None, "a", None, "a"]
    assert table.index(0) is None
    assert table.ranges() == [(1, 1, 0), (3, 16383, 0)]


def test_empty_table() -> None:
    table = SlotTable()
    assert (table.shards, table.covered, table.ranges()) == ((), 0, [])
    assert table[0] is None
    assert table[16383] is None


def test_the_last_of_overlapping_ranges_wins() -> None:
    table = SlotTable([(0, 100, 0), (50, 60, 1), (60, 70, 0)], "ab")
    assert table.ranges() == [(0, 49, 0), (50, 59, 1), (60, 100, 0)]
    assert table.covered == 101


def test_a_patch_is_another_table() -> None:
    table = SlotTable(THIRDS, "abc")
    patched = table.with_slot(7, 2)
    assert (table[7], patched[7]) == ("a", "c")
    assert patched.ranges() == [(0, 6, 0), (7, 7, 2), (8, 5460, 0), *THIRDS[1:]]
    assert patched.shards is table.shards
    assert table.ranges() == THIRDS
    assert table.covered == patched.covered == SLOTS


def test_a_patch_may_add_a_shard_and_cover_a_slot() -> None:
    table = SlotTable([(0, 5, 0)], ["a"])
    patched = table.with_slot(9, 1, ["A", "b"])
    assert patched.ranges() == [(0, 5, 0), (9, 9, 1)]
    assert (patched[0], patched[9]) == ("A", "b")
    assert (table.covered, patched.covered) == (6, 7)
    assert (table.shards, table[9]) == (("a",), None)
    assert patched.with_slot(9, 0).covered == 7


def test_a_table_cannot_be_changed() -> None:
    table = SlotTable(THIRDS, "abc")
    with pytest.raises(AttributeError):
        table.shards = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        table.covered = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        table[0] = "b"  # type: ignore[index]
    with pytest.raises(TypeError):
        type("Sub", (SlotTable,), {})


@pytest.mark.parametrize("span", [(-1, 3, 0), (5, 4, 0), (0, 16384, 0), (16384, 16384, 0)])
def test_table_refuses_slots_that_do_not_exist(span: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=rf"slot range {span[0]}-{span[1]} is not within 0-16383"):
        SlotTable([span], "a")


@pytest.mark.parametrize("index", [-1, 2, 0xFFFF])
def test_table_refuses_shards_that_do_not_exist(index: int) -> None:
    with pytest.raises(ValueError, match=f"shard {index} of 2 does not exist"):
        SlotTable([(0, 1, index)], "ab")
    with pytest.raises(ValueError, match=f"shard {index} of 2 does not exist"):
        SlotTable([], "ab").with_slot(0, index)


def test_table_refuses_more_shards_than_slots() -> None:
    assert SlotTable([(16383, 16383, 16383)], range(SLOTS))[16383] == 16383
    with pytest.raises(ValueError, match="16385 shards: a cluster has at most 16384"):
        SlotTable([], range(SLOTS + 1))
    with pytest.raises(ValueError, match="16385 shards: a cluster has at most 16384"):
        SlotTable([], "a").with_slot(0, 0, range(SLOTS + 1))


def test_a_patch_cannot_drop_shards_that_slots_point_to() -> None:
    table = SlotTable(THIRDS, "abc")
    with pytest.raises(ValueError, match="2 shards in place of 3"):
        table.with_slot(0, 1, "ab")
    assert table[16383] == "c"


@pytest.mark.parametrize("slot", [-1, 16384])
def test_look_up_of_a_slot_that_does_not_exist(slot: int) -> None:
    table = SlotTable(THIRDS, "abc")
    for look_up in (table.__getitem__, table.index, lambda slot: table.with_slot(slot, 0)):
        with pytest.raises(IndexError, match=f"slot {slot} is not within 0-16383"):
            look_up(slot)


@settings(max_examples=50)
@given(
    spans=st.lists(
        st.tuples(st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1), st.integers(0, 4)), max_size=8
    ),
    patches=st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, 4)), max_size=8),
)
def test_table_equals_a_dictionary(spans: list[tuple[int, int, int]], patches: list[tuple[int, int]]) -> None:
    spans = [(min(first, last), max(first, last), index) for first, last, index in spans]
    model: list[int | None] = [None] * SLOTS
    for first, last, index in spans:
        model[first : last + 1] = [index] * (last + 1 - first)
    table = SlotTable(spans, "abcde")
    for slot, index in patches:
        model[slot] = index
        table = table.with_slot(slot, index)
    assert owners(table) == model
    assert [table[slot] for slot in range(SLOTS)] == [
        None if index is None else "abcde"[index] for index in model
    ]
    assert table.covered == SLOTS - model.count(None)
    # Its own ranges make the same table, and no two of them could be one.
    again = SlotTable(table.ranges(), "abcde")
    assert owners(again) == model
    assert all(left[1] + 1 < right[0] or left[2] != right[2] for left, right in pairwise(table.ranges()))
