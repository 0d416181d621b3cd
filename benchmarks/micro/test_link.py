"""Replies and round trips without a server, beside hiredis' reader and redis-py's connection.

The far end of a socket pair has its reply ready and belongs to this thread: what both pay for it is in their figures.
"""

from collections.abc import Callable
from typing import Any

import hiredis
import pytest
import redis
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.canned import REPLIES, VALUE, Peer, batch_of, one_by_one, together

Step = Callable[[], Any]

GET = ("GET", "key:12345")
COUNT = 1_000


class _Connection(redis.Connection):
    """redis-py's connection over a socket that is open already."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(protocol=3)
        self._peer = peer
        self._sock = peer.ours
        self._parser.on_connect(self)

    def ask(self) -> Any:
        self._peer.answer()
        self.send_command(*GET)
        found = self.read_response()
        self._peer.forget()
        return found

    def ask_many(self) -> list[Any]:
        """What redis-py's pipelines do."""
        self._peer.answer()
        self.send_packed_command(self.pack_commands([GET] * COUNT))
        found = [self.read_response() for _ in range(COUNT)]
        self._peer.forget()
        return found


def parsed_by_hiredis(reply: bytes) -> Step:
    reader = hiredis.Reader()

    def step() -> Any:
        reader.feed(reply)
        return reader.gets()

    return step


@pytest.mark.parametrize("shape", REPLIES)
@pytest.mark.parametrize("way", ["redis-py", "slotwise"])
def test_one(benchmark: BenchmarkFixture, shape: str, way: str) -> None:
    benchmark.group = f"link: reply of {shape}"
    reply = REPLIES[shape]
    step = one_by_one(GET, reply) if way == "slotwise" else _Connection(Peer(reply)).ask
    assert benchmark(step) == parsed_by_hiredis(reply)()


# The asyncio link starts and stops an event loop each time.
@pytest.mark.parametrize("way", ["hiredis, no link", "redis-py", "slotwise", "slotwise, asyncio"])
def test_many(benchmark: BenchmarkFixture, way: str) -> None:
    benchmark.group = f"link: {COUNT} times GET of 100 bytes"
    if way == "hiredis, no link":
        step = _many_by_hiredis
    elif way == "redis-py":
        step = _Connection(Peer(VALUE * COUNT)).ask_many
    else:
        step = (batch_of if way == "slotwise" else together)([GET] * COUNT, VALUE)
    assert benchmark(step) == [b"x" * 100] * COUNT


def _many_by_hiredis() -> list[Any]:
    """The replies' parsing alone, which is redis-py's share that is compiled."""
    reader = hiredis.Reader()
    reader.feed(VALUE * COUNT)
    return [reader.gets() for _ in range(COUNT)]
