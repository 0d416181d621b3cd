"""What is known of a call by its name alone."""

from __future__ import annotations

import pytest

from slotwise.errors import SlotNotCoveredError
from slotwise.routing.plan import keys_in, named_slot, only_key, plan_of


def shape(reply: object) -> object:
    return reply


@pytest.mark.parametrize("name", ["GET", "get", "SET", "HGETALL", "INCRBY", "LPUSH", "ZADD"])
def test_one_key_at_a_fixed_place_goes_straight(name: str) -> None:
    plan = plan_of(name, shape, flagged=False)
    assert plan.first_key == 1
    assert plan.callback is shape


@pytest.mark.parametrize(
    "name",
    [
        "MGET",  # several keys
        "RENAME",
        "EVAL",  # keys that move
        "XREAD",
        "BLPOP",  # waits
        "SUBSCRIBE",  # changes the connection
        "WATCH",
        "PING",  # no key
        "OBJECT",  # a container
        "NOSUCH",
        "GET a",
    ],
)
def test_everything_else_takes_the_long_way(name: str) -> None:
    assert plan_of(name, None, flagged=False).first_key == 0


def test_flagged_commands_take_the_long_way() -> None:
    assert plan_of("GET", None, flagged=True).first_key == 0


@pytest.mark.parametrize(
    ("call", "at"),
    [
        (("GET", "a"), 1),
        (("GET",), 0),
        (("EVALSHA", "digest", 1, "a", "argument"), 3),
        (("evalsha", b"digest", b"1", b"a"), 3),
        (("EVAL", "return 1", "1", "a"), 3),
        (("FCALL", "function", 1, "a"), 3),
        # Several keys, whose slots have to be compared, or none.
        (("EVALSHA", "digest", 2, "a", "b"), 0),
        (("EVALSHA", "digest", 0, "a"), 0),
        (("EVALSHA", "digest", 1), 0),
        # What is no number of keys is refused further on.
        (("EVALSHA", "digest", True, "a"), 0),
        (("EVALSHA", "digest", 1.0, "a"), 0),
        (("EVALSHA", "digest", [1], "a"), 0),
        # A count elsewhere, or one that is waited behind.
        (("ZUNION", 1, "a", "b"), 0),
        (("BLMPOP", 1, 1, "a", "LEFT"), 0),
    ],
)
def test_the_only_key_of_a_script_goes_straight(call: tuple[object, ...], at: int) -> None:
    plan = plan_of(str(call[0]), None, flagged=False)
    assert only_key(plan, call) == at


def test_the_only_key_of_a_flagged_script_does_not() -> None:
    assert only_key(plan_of("EVALSHA", None, flagged=True), ("EVALSHA", "digest", 1, "a")) == 0


@pytest.mark.parametrize(
    ("name", "read"), [("GET", True), ("MGET", True), ("HGETALL", True), ("SET", False), ("NOSUCH", False)]
)
def test_reads_may_go_to_replicas(name: str, read: bool) -> None:
    assert plan_of(name, None, flagged=False).read is read


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (("GET", "a"), ["a"]),
        (("mget", "a", "b"), ["a", "b"]),
        (("MSET", "a", 1, "b", 2), ["a", "b"]),
        (("OBJECT", "ENCODING", "a"), ["a"]),
        (("OBJECT ENCODING", "a"), ["a"]),
        (("EVAL", "return 1", 2, "a", "b", "arg"), ["a", "b"]),
        (("PUBLISH", "channel", "message"), ["channel"]),
        (("PING",), []),
        (("NOSUCH", "a"), None),
    ],
)
def test_keys_of_a_call(args: tuple[object, ...], keys: list[object] | None) -> None:
    assert keys_in(args) == keys


@pytest.mark.parametrize("number", [0, 16383, "7", b"7"])
def test_a_slot_by_its_number(number: object) -> None:
    assert named_slot(number) == int(number)  # type: ignore[call-overload]


@pytest.mark.parametrize("number", [-1, 16384, 99_999])
def test_no_cluster_has_such_a_slot(number: int) -> None:
    with pytest.raises(SlotNotCoveredError, match="0 to 16383"):
        named_slot(number)
