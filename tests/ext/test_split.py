"""One command over keys of many slots, queued once per slot, and its values back at the places of their keys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from slotwise._batch import Queue, scatter, split
from slotwise._encoder import encode_command

PLAIN: Any = SimpleNamespace(callback=None)

# Few tags, so that slots are shared, and keys of every kind that an argument can be.
keys_in = st.one_of(
    st.builds("{{{}}}{}".format, st.integers(0, 4), st.integers(0, 99)),
    st.builds(b"{%d}%d".__mod__, st.tuples(st.integers(0, 4), st.integers(0, 99))),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=20).map(bytearray),
)


def wire(key: Any) -> bytes:
    """A key as redis-py's encoder makes it."""
    if isinstance(key, (bytes, bytearray)):
        return bytes(key)
    return (key if isinstance(key, str) else repr(key)).encode()


def queued(queue: Queue) -> list[bytes]:
    return [queue.batch.encoded(i) for i in range(len(queue))]


@given(st.lists(keys_in, max_size=60), st.sampled_from([1, 2]))
def test_one_command_per_slot_in_the_order_of_the_keys(keys: list[Any], width: int) -> None:
    groups: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key_slot(wire(key)), []).append(place)
    # What follows a key is a number: its digits lie where the argument lies.
    things = [part for place, key in enumerate(keys) for part in (key, place)[:width]]
    commands = [
        ("MSET", *(part for i in places for part in things[i * width : (i + 1) * width]))
        for places in groups.values()
    ]

    queue = Queue()
    queue.add(("GET", "before"), {}, PLAIN, 1)
    order = split(queue, "MSET", things, PLAIN, width)

    assert queue.calls == [("GET", "before"), *commands]
    assert queued(queue)[1:] == [encode_command(*command) for command in commands]
    assert [queue.batch.slot(i) for i in range(1, len(queue))] == list(groups)
    assert list(order) == [place for places in groups.values() for place in places]
    assert not queue.shaped

    found = [[f"value {place}" for place in places] for places in groups.values()]
    assert scatter(order, found) == [f"value {place}" for place in range(len(keys))]


def test_keys_of_every_slot() -> None:
    keys = [f"key:{n}" for n in range(200_000)]
    queue = Queue()
    order = split(queue, "MGET", keys, PLAIN)
    assert [queue.batch.slot(i) for i in range(len(queue))] == list(
        dict.fromkeys(map(key_slot, map(str.encode, keys)))
    )
    assert len(queue) == 16384
    assert [key for call in queue.calls for key in call[1:]] == [keys[place] for place in order]


def test_slots_of_what_goes_over_the_wire() -> None:
    """Text in another encoding lies in the slot of its bytes."""
    queue = Queue(("utf-16-le", "strict"))
    split(queue, "DEL", ["ключ"], PLAIN)
    assert queue.batch.slot(0) == key_slot("ключ".encode("utf-16-le"))


def test_commands_with_a_callback_are_shaped() -> None:
    plan: Any = SimpleNamespace(callback=bool)
    queue = Queue()
    split(queue, "MSET", ["a", 1, "b", 2], plan, 2)
    assert queue.shaped == [(0, plan), (1, plan)]


def test_big_values_of_one_slot() -> None:
    """Values that are referenced instead of copied, gathered from different places."""
    big = [bytes([n]) * 20_000 for n in range(3)]
    queue = Queue()
    split(queue, "MSET", ["{a}1", big[0], "b", big[1], "{a}2", big[2]], PLAIN, 2)
    assert queued(queue) == [
        encode_command("MSET", "{a}1", big[0], "{a}2", big[2]),
        encode_command("MSET", "b", big[1]),
    ]


def test_refused_key_leaves_the_queue_as_it_was() -> None:
    queue = Queue()
    with pytest.raises(Exception, match="Invalid input of type: 'NoneType'"):
        split(queue, "MGET", ["a", None], PLAIN)
    assert (len(queue), queue.calls) == (0, [])


def test_more_values_than_keys() -> None:
    order = split(Queue(), "MGET", ["a", "b"], PLAIN)
    with pytest.raises(ValueError, match="more values than the 2 keys"):
        scatter(order, [[1, 2], [3]])
