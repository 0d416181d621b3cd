"""What tells a half-open connection from one whose node is busy."""

from __future__ import annotations

from typing import Any

import pytest

from slotwise.errors import ConnectionError, ResponseError
from slotwise.routing.silence import Suspects, client_id, has_answered_all
from slotwise.routing.topology import Address

NODE = Address("node", 1)
# As Redis 7.0 tells of a client that waits for nothing.
IDLE = (
    b"id=7 addr=127.0.0.1:5 laddr=127.0.0.1:1 fd=8 name= age=9 idle=2 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 "
    b"qbuf=0 qbuf-free=20474 argv-mem=0 multi-mem=0 rbs=1024 rbp=0 obl=0 oll=0 omem=0 tot-mem=22400 events=r cmd=get "
    b"user=default redir=-1 resp=3\n"
)


def verdict(reply: Any) -> bool:
    steps = has_answered_all(NODE, 7)
    assert next(steps) == NODE
    try:
        if isinstance(reply, ConnectionError):
            steps.throw(reply)
        assert steps.send(None) == "CLIENT LIST ID 7"
        if isinstance(reply, Exception):
            steps.throw(reply)
        steps.send(reply)
    except StopIteration as end:
        return bool(end.value)
    raise AssertionError("goes on")


@pytest.mark.parametrize("reply", [IDLE, IDLE.decode(), b"txt:" + IDLE], ids=["bytes", "text", "verbatim"])
def test_a_node_with_nothing_to_do_for_a_client_has_answered_all(reply: Any) -> None:
    assert verdict(reply)


@pytest.mark.parametrize(
    "busy",
    [
        IDLE.replace(b"flags=N", b"flags=b"),
        IDLE.replace(b"qbuf=0", b"qbuf=31"),
        IDLE.replace(b"obl=0", b"obl=512"),
        IDLE.replace(b"oll=0", b"oll=2"),
        pytest.param(b"", id="unknown"),
        pytest.param(b"OK", id="a proxy"),
        pytest.param(None, id="nil"),
        ResponseError("NOPERM this user has no permissions to run the 'client|list' command"),
        ConnectionError("refused"),
    ],
)
def test_otherwise_the_link_is_waited_for(busy: Any) -> None:
    assert not verdict(busy)


@pytest.mark.parametrize(
    ("hello", "number"),
    [
        ({b"server": b"redis", b"id": 7}, 7),
        ({"server": "redis", "id": 7}, 7),
        ({b"server": b"proxy"}, None),
        ({b"id": b"x"}, None),
        (None, None),
    ],
)
def test_the_number_of_a_connection(hello: Any, number: int | None) -> None:
    assert client_id(hello) == number


def test_each_silence_is_looked_into_once() -> None:
    suspects: Suspects[str] = Suspects()
    assert suspects.new({"a"}) == ["a"]
    assert suspects.new({"a", "b"}) == ["b"]
    assert suspects.new(set()) == []
    assert suspects.new({"a"}) == ["a"]
