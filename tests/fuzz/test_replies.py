"""Whatever a server sends, a link makes of it what a plain parser makes, waits for more, or fails with a protocol error.

``SLOTWISE_STRESS=1`` makes it 1,000,000 streams, also under AddressSanitizer (docs/development.md)::

    SLOTWISE_STRESS=1 pytest --timeout=3600 tests/fuzz
"""

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from slotwise._aiolink import AsyncLink, Turns, Unusual
from slotwise._link import LinkFailure
from tests.fuzz import numbers
from tests.fuzz.reference import Broken, Encoding, More, Stream, hiredis_alone, normal
from tests.fuzz.streams import pieces, stream

ENCODINGS: list[Encoding] = [None, None, ("utf-8", "strict"), ("utf-8", "replace"), ("latin-1", "strict")]
LIMITS = [2**32, 2**32, 2**32, 70_000]


class Received:
    """What a link makes of a stream that comes in ``pieces``, with ``calls`` commands in flight."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pieces: list[bytes],
        calls: int,
        encoding: Encoding,
        limit: int,
    ) -> None:
        self.pushes: list[Any] = []
        transport = SimpleNamespace(
            write=len, abort=int, pause_reading=int, resume_reading=int, is_closing=bool
        )
        link = AsyncLink(
            None, Turns(loop), transport, None, encoding, self.pushes.append, max_reply_size=limit
        )
        futures = [link.execute(("GET", "k"), True) for _ in range(calls)]
        for piece in pieces:
            link.feed(piece)
        # A turn wakes a bounded number of callers; this reads the rest.
        self.broken = link.closed
        link.connection_lost(None)
        results = [future.result() for future in futures]
        replies = [result.what if isinstance(result, Unusual) else result for result in results]
        self.failures = [reply for reply in replies if isinstance(reply, LinkFailure)]
        self.replies = replies[: calls - len(self.failures)]


def check(loop: asyncio.AbstractEventLoop, rnd: random.Random) -> str:
    data = stream(rnd)
    encoding, limit = rnd.choice(ENCODINGS), rnd.choice(LIMITS)
    expected = Stream(data, encoding, limit)
    calls = len(expected.replies) + 1
    received = Received(loop, pieces(rnd, data), calls, encoding, limit)
    assert normal(received.replies) == normal(expected.replies)
    assert normal(received.pushes) == normal(expected.pushes)
    # Everybody who still waited was told.
    assert len(received.failures) == 1
    assert received.failures[0].sent is False or received.failures[0].sent is True
    if isinstance(expected.end, Broken):
        assert received.broken
    elif isinstance(expected.end, More) and not expected.end.in_line:
        assert not received.broken
    if not expected.unlike_hiredis and encoding is None:
        replies, pushes = hiredis_alone(data)
        assert normal(replies) == normal(received.replies)
        assert normal(pushes) == normal(received.pushes)
    return type(expected.end).__name__


@pytest.mark.timeout(3600)
def test_replies() -> None:
    loop = asyncio.new_event_loop()
    ends = {"More": 0, "Broken": 0}
    try:
        for name, rnd in numbers(5_000):
            try:
                ends[check(loop, rnd)] += 1
            except BaseException as error:
                raise AssertionError(name) from error
            if rnd.random() < 0.01:
                # Callbacks that the links asked for.
                loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    # Both ends are met, or the generator is a bad one.
    assert min(ends.values()) > sum(ends.values()) / 5
