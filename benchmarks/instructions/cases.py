"""What is counted. A case is one function: it prepares, and returns the step that is counted.

The package is imported inside, so that a base without a module still counts the other cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    prepare: Callable[[], Step]
    # Operations in a step: counts are per operation.
    per: int
    # Prepares what a step does beside them, which is counted as well and taken off.
    beside: Callable[[], Step] | None


CASES: dict[str, Case] = {}


def case(
    name: str, per: int = 1, beside: Callable[[], Step] | None = None
) -> Callable[[Callable[[], Step]], Callable[[], Step]]:
    """Makes a case of the function below it."""

    def register(prepare: Callable[[], Step]) -> Callable[[], Step]:
        CASES[name] = Case(prepare, per, beside)
        return prepare

    return register


KEYS = [f"key:{number:012}" for number in range(1_000)]
GETS = [("GET", key) for key in KEYS]
# What a pipeline of an application may hold.
MIXED: list[tuple[Any, ...]] = [
    call
    for number in range(20)
    for call in (
        ("GET", f"user:{number}"),
        ("SET", f"user:{number}", b"x" * 100, "EX", 3600),
        ("HSET", f"cart:{{{number}}}", "item", number, "price", 1.5),
        ("INCRBY", f"visits:{number}", number),
        ("EXPIRE", f"user:{number}", 60),
    )
]

# -- slots ------------------------------------------------------------------------------------------------------------


@case("slots: key_slot of a short key")
def key_slot_of_one() -> Step:
    from slotwise._slots import key_slot

    return partial(key_slot, "user:1000")


@case("slots: key_slots of 1,000 keys", per=1_000)
def key_slots_of_many() -> Step:
    from slotwise._slots import key_slots

    return partial(key_slots, KEYS)


@case("slots: 1,000 commands grouped by node", per=1_000)
def grouped_by_node() -> Step:
    from slotwise._encoder import Batch
    from slotwise._slots import SlotTable

    table = SlotTable([(0, 5_460, 0), (5_461, 10_922, 1), (10_923, 16_383, 2)], ("a", "b", "c"))
    batch = Batch()
    for call in GETS:
        batch.add(call, 1)
    return partial(batch.by_shard, table)


# -- encoder ----------------------------------------------------------------------------------------------------------


@case("encoder: GET")
def encode_get() -> Step:
    from slotwise._encoder import encode_command

    return partial(encode_command, "GET", "user:1000")


@case("encoder: SET of 100 bytes with EX")
def encode_set() -> Step:
    from slotwise._encoder import encode_command

    return partial(encode_command, "SET", "user:1000", b"x" * 100, "EX", 3600)


@case("encoder: pipeline of 100 mixed commands, with slots", per=len(MIXED))
def encode_pipeline() -> Step:
    from slotwise._encoder import Batch

    def step() -> Batch:
        batch = Batch()
        for call in MIXED:
            batch.add(call, 1)
        return batch

    return step


# -- link: encode, send, receive, match -------------------------------------------------------------------------------


def the_far_end() -> Step:
    """It costs twice what one command does."""
    from benchmarks.canned import VALUE, far_end_alone

    return far_end_alone(VALUE)


@case("link: one GET", beside=the_far_end)
def link_get() -> Step:
    from benchmarks.canned import VALUE, one_by_one

    return one_by_one(GETS[0], VALUE)


@case("link: batch of 1,000 GET", per=1_000)
def link_batch() -> Step:
    from benchmarks.canned import VALUE, batch_of

    return batch_of(GETS, VALUE)


@case("link: reply of an array of 100 values", per=100, beside=the_far_end)
def link_array() -> Step:
    from benchmarks.canned import REPLIES, one_by_one

    return one_by_one(GETS[0], REPLIES["an array of 100 values"])


@case("link: reply of a map of 50 fields", per=50, beside=the_far_end)
def link_map() -> Step:
    from benchmarks.canned import REPLIES, one_by_one

    return one_by_one(GETS[0], REPLIES["a map of 50 fields"])


@case("link: reply of 10 arrays of 10 integers", per=100, beside=the_far_end)
def link_nested() -> Step:
    from benchmarks.canned import REPLIES, one_by_one

    return one_by_one(GETS[0], REPLIES["10 arrays of 10 integers"])


@case("asyncio link: 1,000 GET in one turn", per=1_000)
def async_link_gets() -> Step:
    from benchmarks.canned import VALUE, together

    return together(GETS, VALUE)


# -- versions ---------------------------------------------------------------------------------------------------------


@case("versions: a clock's now()")
def version_now() -> Step:
    from slotwise._versions import HybridClock

    # The wall clock stands still: every version borrows, as in a busy millisecond.
    return HybridClock(lambda: 1_700_000_000_000_000_000, 1, 60_000).now


@case("versions: seal 100 bytes")
def version_seal() -> Step:
    from slotwise._versions import Version, seal

    return partial(seal, Version(1_700_000_000_000, 1, 2), 0, b"x" * 100)


@case("versions: unseal 100 bytes")
def version_unseal() -> Step:
    from slotwise._versions import Version, seal, unseal

    return partial(unseal, seal(Version(1_700_000_000_000, 1, 2), 0, b"x" * 100))


def columns() -> tuple[bytes, bytes]:
    from slotwise._versions import Version

    ours = [Version(1_700_000_000_000 + number, 0, 1) for number in range(1_000)]
    theirs = [Version(1_700_000_000_000 + number ^ 1, 0, 2) for number in range(1_000)]
    return b"".join(map(bytes, ours)), b"".join(map(bytes, theirs))


@case("versions: compare 1,000 pairs", per=1_000)
def versions_compare() -> Step:
    from slotwise._versions import compare

    return partial(compare, *columns())


@case("versions: newest of 1,000 pairs", per=1_000)
def versions_newest() -> Step:
    from slotwise._versions import newest

    return partial(newest, *columns())
