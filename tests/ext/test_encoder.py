"""RESP encoding, against the packers of redis-py: single commands, batches, and what must not go wrong in them."""

import enum
import itertools
import subprocess
import sys
from typing import Any

import numpy
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis._parsers.encoders import Encoder
from redis.connection import Connection, HiredisRespSerializer, PythonRespSerializer
from redis.crc import key_slot as redis_key_slot

from slotwise._encoder import Batch, Indices, encode_command, encode_commands
from slotwise._slots import SlotTable

# From this size on a value is referenced instead of copied, and this many arguments fit on the stack.
BORROW_MIN = 16384
STACK_ARGS = 24


def python_packed(*call: Any, encoding: tuple[str, str] = ("utf-8", "strict")) -> bytes:
    return b"".join(map(bytes, PythonRespSerializer(6000, Encoder(*encoding, False).encode).pack(*call)))


def hiredis_packed(*call: Any) -> bytes:
    return b"".join(HiredisRespSerializer().pack(*call))


def encoded_in_batch(*call: Any, encoding: tuple[str, str] | None = None) -> bytes:
    batch = Batch(encoding)
    batch.add(call, 0)
    return batch.encoded(0)


#: The two ways to a command's bytes, which share only a part of their code.
one_command = pytest.mark.parametrize("encode", [encode_command, encoded_in_batch])


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):
    GET = "GET"


class Loud(int):
    def __repr__(self) -> str:
        return "loud"


class Text(str):
    pass


class Raw(bytes):
    pass


names = st.one_of(
    st.sampled_from(
        [
            "GET",
            "CONFIG SET",
            "  config   set ",
            "A\tB",
            "a\xa0b",
            "имя",
            b"GET",
            b"MEMORY USAGE",
            b" A  B ",
            b"A\tB",
        ]
    ),
    st.sampled_from([bytearray(b"GET"), bytearray(b"CONFIG SET"), Text("CONFIG SET"), Raw(b"GET"), Word.GET]),
    st.text(min_size=1).filter(lambda name: bool(name.encode().split())),
    st.binary(min_size=1).filter(lambda name: bool(name.split())),
)
big_sizes = st.sampled_from([BORROW_MIN - 1, BORROW_MIN, BORROW_MIN + 1, 3 * BORROW_MIN])
big_values = st.one_of(
    st.builds(lambda size: b"b" * size, big_sizes),
    st.builds(lambda size: "t" * size, big_sizes),
    st.builds(lambda size: "é" * (size // 2), big_sizes),
    st.builds(lambda size: Raw(b"r" * size), big_sizes),
    st.builds(lambda size: bytearray(b"a" * size), big_sizes),
)
arguments = st.one_of(
    st.binary(),
    st.text(),
    st.integers(),
    st.sampled_from([0, 9, 10, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**400, -1]),
    st.floats(),
    st.builds(
        lambda digits, decimals: digits / 10**decimals, st.integers(-(10**16), 10**16), st.integers(0, 9)
    ),
    st.sampled_from([0.0, -0.0, 1e-3, 9.99e-4, 1e14, 1e15, 1e16, 5e-324, -2.2250738585072014e-308]),
    st.builds(bytearray, st.binary()),
    st.binary().map(memoryview),
    st.builds(lambda value: memoryview(value)[::-2], st.binary()),
    st.builds(Text, st.text()),
    st.builds(Raw, st.binary()),
)
calls = st.builds(lambda name, args: (name, *args), names, st.lists(arguments, max_size=2 * STACK_ARGS + 2))
big_calls = st.builds(
    lambda name, args: (name, *args),
    names,
    st.lists(st.one_of(arguments, big_values), min_size=1, max_size=6),
)


# -- one command ----------------------------------------------------------------------------------


@one_command
def test_framing(encode: Any) -> None:
    assert encode("PING") == b"*1\r\n$4\r\nPING\r\n"
    assert (
        encode("CONFIG SET", "a", b"", 10)
        == b"*5\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n$2\r\n10\r\n"
    )


@one_command
@given(call=st.one_of(calls, big_calls))
def test_command_equals_both_packers_of_redis_py(encode: Any, call: tuple[Any, ...]) -> None:
    ours = encode(*call)
    assert ours == python_packed(*call)
    assert ours == hiredis_packed(*call)


@one_command
def test_command_equals_the_packer_of_a_connection(encode: Any) -> None:
    call = ("SET", "ключ", b"\x00\r\n", "EX", 3600, 1.5)
    assert encode(*call) == b"".join(Connection().pack_command(*call))


@one_command
@pytest.mark.parametrize("count", [0, 1, STACK_ARGS - 1, STACK_ARGS, STACK_ARGS + 1, 1000])
def test_command_with_many_arguments(encode: Any, count: int) -> None:
    call = ("SADD", *range(count))
    assert encode(*call) == python_packed(*call)


@one_command
@pytest.mark.parametrize("value", [Number.ONE, Loud(1), Loud(-1)])
def test_subclasses_of_int_are_sent_as_redis_py_encodes_them(encode: Any, value: int) -> None:
    # By their repr. hiredis' packer refuses them.
    assert encode("SET", "k", value) == python_packed("SET", "k", value)


@one_command
@pytest.mark.parametrize("item", ["B", "b", "H", "i", "Q", "d"])
def test_memoryview_of_any_item_size_is_sent_whole(encode: Any, item: Any) -> None:
    # redis-py's packer in Python states the number of items as the size; the one with hiredis is right.
    view = memoryview(bytes(range(48))).cast("B").cast(item)
    assert encode("SET", "k", view) == hiredis_packed("SET", "k", view)
    assert encode("SET", "k", view[::2]) == hiredis_packed("SET", "k", view[::2])


@one_command
def test_memoryview_of_several_dimensions_is_sent_in_order(encode: Any) -> None:
    table = numpy.array([[1, 2], [3, 4]], dtype="u1", order="F").data
    assert encode("SET", "k", table) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\x01\x02\x03\x04\r\n"


def test_more_names_than_are_remembered() -> None:
    # The second round finds the first names in the table and the last ones not.
    for _ in range(2):
        for i in range(5000):
            assert encode_command(f"NAME {i}", "k") == python_packed(f"NAME {i}", "k")


def test_names_in_text_and_in_bytes_are_never_compared() -> None:
    code = (
        "from slotwise._encoder import encode_command as e; "
        "assert e('GET', 'k') == e(b'GET', 'k') == e('GET', 'k') == e(b'GET', 'k')"
    )
    subprocess.run([sys.executable, "-bb", "-c", code], check=True, timeout=60)


# -- other encodings ------------------------------------------------------------------------------

ENCODINGS = [
    ("utf-8", "strict"),
    ("utf-8", "surrogateescape"),
    ("latin-1", "strict"),
    ("latin-1", "backslashreplace"),
    ("ascii", "ignore"),
    ("utf-16", "strict"),
    ("cp1251", "replace"),
]


@one_command
@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=30)
@given(call=st.one_of(calls, big_calls), odd=st.text(alphabet="aé\udcff\U0001f600ж"))
def test_other_encodings(encode: Any, encoding: tuple[str, str], call: tuple[Any, ...], odd: str) -> None:
    call = (*call, odd, Text(odd))
    assert outcome(encode, call, encoding) == outcome(python_packed, call, encoding)


def outcome(encode: Any, call: tuple[Any, ...], encoding: tuple[str, str]) -> Any:
    try:
        return encode(*call, encoding=encoding)
    except UnicodeEncodeError as error:
        return error.args


@one_command
@pytest.mark.parametrize("call", [("SET", "k", "a\ud800b"), ("SET", "\udcff", b""), ("S\ud800T", "k")])
def test_text_that_utf8_cannot_hold(encode: Any, call: tuple[Any, ...]) -> None:
    with pytest.raises(UnicodeEncodeError) as ours:
        encode(*call)
    with pytest.raises(UnicodeEncodeError) as redis_pys:
        python_packed(*call)
    assert ours.value.args == redis_pys.value.args


@one_command
def test_encoding_that_does_not_exist(encode: Any) -> None:
    with pytest.raises(LookupError, match="unknown encoding: no-such"):
        encode("SET", "k", "v", encoding=("no-such", "strict"))


# -- what is refused ------------------------------------------------------------------------------


@one_command
@pytest.mark.parametrize(
    "value", [None, True, False, {}, [], (), {"a"}, object(), 1j, numpy.arange(3), range(3)]
)
@pytest.mark.parametrize("others", [0, STACK_ARGS])
def test_argument_of_another_type(encode: Any, value: Any, others: int) -> None:
    call = ("SET", *["k"] * others, value)
    with pytest.raises(redis.DataError) as ours:
        encode(*call)
    with pytest.raises(redis.DataError) as redis_pys:
        python_packed(*call)
    assert str(ours.value) == str(redis_pys.value)
    assert "Convert to a bytes, string, int or float first" in str(ours.value)
    assert encode("GET", "k") == python_packed("GET", "k")


@one_command
@pytest.mark.parametrize("name", [None, 5, True, ["GET"], {}, object()])
def test_name_of_another_type(encode: Any, name: Any) -> None:
    with pytest.raises(
        redis.DataError, match=rf"is text, not {type(name).__name__}: pass it as the first argument"
    ):
        encode(name, "k")


@one_command
@pytest.mark.parametrize("name", ["", "  ", b"", b"  ", bytearray()])
def test_empty_name(encode: Any, name: Any) -> None:
    with pytest.raises(redis.DataError, match="name is empty: pass it as the first argument"):
        encode(name, "k")


@one_command
def test_no_name(encode: Any) -> None:
    with pytest.raises(redis.DataError, match="needs a name: pass it as the first argument"):
        encode()


# -- batches --------------------------------------------------------------------------------------


@given(st.lists(st.one_of(calls, big_calls), max_size=20))
def test_commands_equal_redis_py(commands: list[tuple[Any, ...]]) -> None:
    expected = b"".join(python_packed(*call) for call in commands)
    assert encode_commands(commands) == expected
    assert encode_commands(list(call) for call in commands) == expected
    assert expected == b"".join(Connection().pack_commands(commands))


def test_commands_in_another_encoding() -> None:
    commands = [("SET", "é", "ж"), ("GET", "é")]
    assert encode_commands(commands, encoding=("latin-1", "replace")) == b"".join(
        python_packed(*call, encoding=("latin-1", "replace")) for call in commands
    )


def test_no_commands() -> None:
    assert encode_commands([]) == b""
    batch = Batch()
    assert (len(batch), batch.count) == (0, 0)
    assert batch.by_shard(SlotTable()) == {}


def groups(batch: Batch, table: SlotTable) -> dict[int, list[int]]:
    return {shard: list(members) for shard, members in batch.by_shard(table).items()}


@given(st.lists(st.one_of(calls, big_calls), max_size=20), st.data())
def test_batch_keeps_each_command_and_its_slot(commands: list[tuple[Any, ...]], data: st.DataObject) -> None:
    batch = Batch()
    slots = []
    for call in commands:
        key = data.draw(st.integers(0, len(call) - 1))
        slots.append(redis_key_slot(python_argument(call[key])) if key else -1)
        assert batch.add(call, key) == slots[-1]
    assert len(batch) == batch.count == len(commands)
    # In any order, and again.
    for index in data.draw(st.permutations(range(len(commands)))) * 2:
        assert batch.encoded(index) == python_packed(*commands[index])
        assert batch.slot(index) == slots[index]


def python_argument(value: Any) -> bytes:
    return bytes(Encoder("utf-8", "strict", False).encode(value))


def test_indices_are_a_sequence() -> None:
    indices = Indices(i * i for i in range(4))
    assert (len(indices), list(indices), indices[3], indices[1:3]) == (4, [0, 1, 4, 9], 9, [1, 4])
    assert repr(indices) == "Indices([0, 1, 4, 9])"
    assert (list(Indices()), list(Indices(indices))) == ([], [0, 1, 4, 9])
    for place in (-1, 4):
        with pytest.raises(IndexError):
            indices[place]
    with pytest.raises(TypeError):
        Indices(["a"])  # type: ignore[list-item]


@pytest.mark.parametrize("place", [0, -1, 3, 10**6])
def test_command_without_a_key_has_no_slot(place: int) -> None:
    batch = Batch()
    assert batch.add(("SET", "k", "v"), place) == -1
    assert batch.slot(0) == -1
    assert groups(batch, SlotTable([(0, 16383, 0)], "a")) == {-1: [0]}


def test_key_is_hashed_as_it_is_encoded() -> None:
    batch = Batch(("latin-1", "strict"))
    assert batch.add(("GET", "é"), 1) == redis_key_slot(b"\xe9")


def test_big_batch() -> None:
    commands = [("SET", f"key:{i}", i, "x" * (i % 40)) for i in range(10_000)]
    batch = Batch()
    for call in commands:
        batch.add(call, 1)
    assert b"".join(batch.encoded(i) for i in range(len(batch))) == encode_commands(commands)
    assert encode_commands(commands) == b"".join(python_packed(*call) for call in commands)


@given(
    slots=st.lists(st.integers(-1, 16383), max_size=200),
    bounds=st.lists(st.integers(0, 16383), min_size=2, max_size=6),
)
def test_batch_by_shard(slots: list[int], bounds: list[int]) -> None:
    bounds.sort()
    spans = [(first, last, index) for index, (first, last) in enumerate(itertools.pairwise(bounds))]
    table = SlotTable(spans, range(len(spans)))
    batch = Batch()
    expected: dict[int, list[int]] = {}
    for index, slot in enumerate(slots):
        batch.add(("GET", "k"), 1)
        batch.set_slot(index, slot)
        assert batch.slot(index) == slot
        owner = None if slot < 0 else table.index(slot)
        expected.setdefault(-1 if owner is None else owner, []).append(index)
    assert groups(batch, table) == expected


@pytest.mark.parametrize("slot", [-2, 16384, 0xFFFF])
def test_set_slot_refuses_a_slot_that_does_not_exist(slot: int) -> None:
    batch = Batch()
    own = batch.add(("GET", "k"), 1)
    with pytest.raises(ValueError, match=f"slot {slot} is not within 0-16383"):
        batch.set_slot(0, slot)
    assert batch.slot(0) == own


@pytest.mark.parametrize("index", [-1, 2, 64])
def test_command_that_does_not_exist(index: int) -> None:
    batch = Batch()
    batch.add(("GET", "a"), 1)
    batch.add(("GET", "b"), 1)
    for look_up in (batch.encoded, batch.slot, lambda index: batch.set_slot(index, 0)):
        with pytest.raises(IndexError, match=f"command {index} of 2"):
            look_up(index)


def test_grouping_needs_a_table() -> None:
    batch = Batch()
    batch.add(("GET", "a"), 1)
    with pytest.raises(TypeError):
        batch.by_shard(None)  # type: ignore[arg-type]


# -- what fails leaves no trace -------------------------------------------------------------------

BAD_CALLS: list[tuple[Any, ...]] = [
    (),
    ("",),
    (5, "k"),
    ("SET", "k", None),
    ("SET", "k", b"x" * BORROW_MIN, "x" * BORROW_MIN, None),
    ("SET", "k", *range(2 * STACK_ARGS), {}),
    ("SET", "k", "\ud800"),
]


@given(
    st.lists(
        st.one_of(st.tuples(st.just(True), big_calls), st.tuples(st.just(False), st.sampled_from(BAD_CALLS)))
    )
)
def test_failed_commands_leave_the_batch_as_it_was(steps: list[tuple[bool, tuple[Any, ...]]]) -> None:
    batch = Batch()
    good = [call for is_good, call in steps if is_good]
    for is_good, call in steps:
        if is_good:
            batch.add(call, 0)
        else:
            before = len(batch)
            with pytest.raises((redis.DataError, UnicodeEncodeError)):
                batch.add(call, 1)
            assert len(batch) == before
    assert [batch.encoded(i) for i in range(len(batch))] == [python_packed(*call) for call in good]
    assert groups(batch, SlotTable()) == ({-1: list(range(len(good)))} if good else {})


class Interrupted(int):
    def __repr__(self) -> str:
        raise KeyboardInterrupt


@one_command
def test_what_a_repr_raises_is_raised(encode: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode("SET", b"x" * BORROW_MIN, Interrupted(1))


@pytest.mark.parametrize("before", [0, 63, 64])
def test_a_repr_that_adds_to_the_same_batch(before: int) -> None:
    # Its command lies before the one that it is an argument of, also where both need more room.
    class Adds(int):
        def __repr__(self) -> str:
            batch.add(("INNER", b"i" * BORROW_MIN), 1)
            return "adds"

    batch = Batch()
    for _ in range(before):
        batch.add(("GET", "k"), 1)
    batch.add(("OUTER", b"o" * BORROW_MIN, Adds(1)), 1)
    assert len(batch) == before + 2
    assert batch.encoded(before) == python_packed("INNER", b"i" * BORROW_MIN)
    assert batch.encoded(before + 1) == python_packed("OUTER", b"o" * BORROW_MIN, "adds")


# -- ownership ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, BORROW_MIN])
def test_buffer_that_changes_after_the_call(size: int) -> None:
    value = bytearray(b"x" * size)
    batch = Batch()
    batch.add(("MSET", "a", value, "b", memoryview(value)), 1)
    value[:] = b"y" * size
    assert batch.encoded(0) == python_packed("MSET", "a", b"x" * size, "b", b"x" * size)


@pytest.mark.parametrize(
    "value",
    [b"b" * BORROW_MIN, "t" * BORROW_MIN, "é" * BORROW_MIN],
    ids=["bytes", "text", "wide text"],
)
def test_big_value_is_referenced_as_long_as_its_batch_lives(value: bytes | str) -> None:
    alone = sys.getrefcount(value)
    batch = Batch()
    batch.add(("SET", "k", value), 1)
    assert sys.getrefcount(value) == alone + 1
    assert batch.encoded(0) == python_packed("SET", "k", value)
    assert sys.getrefcount(value) == alone + 1
    with pytest.raises(redis.DataError):
        batch.add(("SET", "k", value, None), 1)
    assert sys.getrefcount(value) == alone + 1
    del batch
    assert sys.getrefcount(value) == alone


@pytest.mark.parametrize(
    "value",
    [b"b" * (BORROW_MIN - 1), "t" * (BORROW_MIN - 1), Raw(b"r" * BORROW_MIN)],
    ids=["bytes", "text", "subclass"],
)
def test_small_values_and_objects_of_subclasses_are_copied(value: bytes | str) -> None:
    alone = sys.getrefcount(value)
    batch = Batch()
    batch.add(("SET", "k", value), 1)
    assert sys.getrefcount(value) == alone


def test_many_big_values() -> None:
    values = [bytes([i]) * (BORROW_MIN + i) for i in range(200)]
    alone = [sys.getrefcount(value) for value in values]
    command: tuple[bytes | str, ...] = ("RPUSH", "k", *values)
    assert encode_commands([command, ("PING",), command]) == b"".join(
        [python_packed(*command), python_packed("PING"), python_packed(*command)]
    )
    del command
    assert [sys.getrefcount(value) for value in values] == alone
