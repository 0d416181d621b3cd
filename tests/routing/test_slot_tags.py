"""Hash tags by slot: a second key beside any key, whatever its braces."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot as oracle

from slotwise._slots import SLOTS
from slotwise.routing.slot_tags import beside, tags

# Braces far more often than chance would have it.
KEYS = st.lists(st.one_of(st.binary(max_size=5), st.sampled_from([b"{", b"}", b"{}", b"a"]))).map(b"".join)


@given(KEYS)
@example(b"")
@example(b"{}a")
@example(b"a}b{c")
@example(b"{a")
@example(b"{a}b")
@example(b"{{a}}")
def test_a_key_beside_another_lies_in_its_slot(key: bytes) -> None:
    other = beside("slotwise:history:", key)
    assert oracle(other) == oracle(key)
    assert other.startswith(b"slotwise:history:{")
    assert other.endswith(b"}:" + key)


def test_each_slot_has_the_smallest_number_of_it() -> None:
    assert len(tags()) == SLOTS
    smallest: dict[int, int] = {}
    for number in range(max(map(int, tags())) + 1):
        smallest.setdefault(oracle(b"%d" % number), number)
    assert [int(tag) for tag in tags()] == [smallest[slot] for slot in range(SLOTS)]


@pytest.mark.parametrize("key", [b"a", b"b", b"{a}1"])
def test_keys_beside_different_keys_differ(key: bytes) -> None:
    assert beside("one:", key) != beside("other:", key)
    assert beside("one:", key) != beside("one:", key + b"x")
