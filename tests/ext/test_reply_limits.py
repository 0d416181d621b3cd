"""What a hostile server can make a link allocate, and what it cannot; see `_reply.pxd`."""

import asyncio
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from slotwise._aiolink import AsyncLink, Turns, Unusual
from slotwise._link import LinkFailure
from slotwise._reply import Flawed, ServerError

LIMIT = 100_000
MIB = 2**20


class Fed:
    """A link with commands in flight that is fed bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, commands: int, **options: Any) -> None:
        transport = SimpleNamespace(write=len, abort=int, pause_reading=int, resume_reading=int)
        self.link = AsyncLink(None, Turns(loop), transport, None, **options)
        self.futures = [self.link.execute(("GET", "k"), True) for _ in range(commands)]

    def feed(self, data: bytes) -> list[Any]:
        """The replies so far: values, or what somebody who waits is told."""
        self.link.feed(data)
        results = [future.result() for future in self.futures if future.done()]
        return [result.what if isinstance(result, Unusual) else result for result in results]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def refused(found: list[Any], reason: str) -> bool:
    return [type(one) for one in found] == [LinkFailure] * 2 and all(reason in str(one) for one in found)


@pytest.mark.parametrize("header", [b"*%d\r\n", b"%%%d\r\n", b"~%d\r\n", b">%d\r\n", b"|%d\r\n"])
@pytest.mark.parametrize("count", [1_000_000, 600_000_000])
def test_counts_take_no_memory(loop: asyncio.AbstractEventLoop, header: bytes, count: int) -> None:
    fed = Fed(loop, 2)
    tracemalloc.start()
    try:
        # A map's first key, and so on.
        assert fed.feed(header % count + (b":1\r\n" + b"*%d\r\n" % count) * 100) == []
        assert tracemalloc.get_traced_memory()[1] < MIB // 4
    finally:
        tracemalloc.stop()
    assert not fed.link.closed


@pytest.mark.parametrize("type", [b"$", b"="])
def test_lengths_take_no_memory(loop: asyncio.AbstractEventLoop, type: bytes) -> None:
    fed = Fed(loop, 2)
    tracemalloc.start()
    try:
        assert fed.feed(b"%b3000000000\r\n" % type + b"x" * 2 * MIB) == []
        assert tracemalloc.get_traced_memory()[1] < 9 * MIB
    finally:
        tracemalloc.stop()
    assert not fed.link.closed


@pytest.mark.parametrize(
    "data",
    [
        b"$100001\r\n",
        b"*2\r\n$1\r\nx\r\n=99995\r\n",
        b"*33334\r\n",
        b"%16667\r\n",
        b"*1\r\n~33334\r\n",
        b"*4294967295\r\n",
        b"$999999999999999999\r\n",
        b"*30000\r\n" + b":1000\r\n" * 15_000,
        b"|1\r\n+k\r\n:1\r\n" * 10_000,
        b"+" + b"x" * LIMIT,
        b"-" + b"x" * LIMIT,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_replies_beyond_the_limit(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    fed = Fed(loop, 2, max_reply_size=LIMIT)
    assert refused(fed.feed(data), f"more than {LIMIT} bytes")
    assert fed.link.closed


def test_replies_within_the_limit(loop: asyncio.AbstractEventLoop) -> None:
    values = [b"x" * (LIMIT - 10), b"y" * 70_000]
    replies = [b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
    assert len(replies[0]) == LIMIT
    fed = Fed(loop, 3, max_reply_size=LIMIT)
    assert fed.feed(b"".join(replies) + b"+" + b"z" * (LIMIT - 3) + b"\r\n") == [*values, b"z" * (LIMIT - 3)]


def test_depth(loop: asyncio.AbstractEventLoop) -> None:
    expected: Any = 1
    for _ in range(256):
        expected = [expected]
    fed = Fed(loop, 3)
    assert fed.feed(b"*1\r\n" * 256 + b":1\r\n") == [expected]
    found = fed.feed(b"*1\r\n" * 257)
    assert refused(found[1:], "256 aggregates inside one another")


@pytest.mark.parametrize(
    "data",
    [
        b"$3\r\nabcde:1\r\n",
        b"!3\r\nabc\r\n",
        b"$01\r\n",
        b"=3\r\nabc\r\n",
        b"*-2\r\n",
        b"#x\r\n",
        b":\r\n",
        b"$?\r\n",
    ],
)
def test_malformed(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    fed = Fed(loop, 2)
    assert refused(fed.feed(data), "")
    assert fed.link.closed


def test_attributes_are_no_reply(loop: asyncio.AbstractEventLoop) -> None:
    """hiredis gives them to whoever waits, and every later reply to the wrong one."""
    pushes: list[Any] = []
    fed = Fed(loop, 3, encoding=("utf-8", "strict"), on_push=pushes.append)
    data = b"|1\r\n$1\r\n\xff\r\n-ERR\r\n"
    found = fed.feed(
        data + b":1\r\n" + data + b">1\r\n$1\r\n\xff\r\n" + data + b"*2\r\n" + data + b"+a\r\n+b\r\n"
    )
    assert found == [1, ["a", "b"]]
    assert pushes == [[b"\xff"]]


def test_a_list_as_a_key(loop: asyncio.AbstractEventLoop) -> None:
    """A script may return it: the caller is told, and the connection serves the others on."""
    fed = Fed(loop, 2)
    found = fed.feed(b"%1\r\n*1\r\n:1\r\n:2\r\n:3\r\n")
    assert [type(one).__name__ for one in found] == ["ProtocolError", "int"]


def test_a_key_twice(loop: asyncio.AbstractEventLoop) -> None:
    """hiredis takes the last value for that of another key."""
    assert Fed(loop, 1).feed(b"%3\r\n+a\r\n:1\r\n+b\r\n:2\r\n+a\r\n:3\r\n") == [{b"a": 3, b"b": 2}]


def test_errors_inside(loop: asyncio.AbstractEventLoop) -> None:
    (found,) = Fed(loop, 1).feed(b"%1\r\n+k\r\n~1\r\n-ERR x\r\n")
    assert isinstance(found, Flawed)
    assert isinstance(found.reply[b"k"][0], ServerError)
