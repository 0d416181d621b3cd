"""The loop stays awake for replies that may come at once, and only for those."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from slotwise._aiolink import AsyncLink, Turns
from tests.asyncio.loops import run

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) == 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() == 1,
    reason="with one processor, to wait awake would keep the server from answering: nobody does",
)

# Waits that sleep after the first one in vain, and at the most.
NAPS = 8
NAPS_MAX = 64
# How long the loop stays awake here, in seconds: so long that a busy machine does not lose it between two turns.
EAGER = 0.1


class Transport:
    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


Wait = Callable[[str], Awaitable[int]]


def with_waits(test: Callable[[Wait], Awaitable[None]], *, eager: bool = True) -> None:
    """Runs ``test(wait)``: ``wait("late")`` sends a command that is answered once the loop sleeps, "at once" before.

    It gives the turns that the loop took, beyond what any wait takes, before it slept or had the reply.
    """

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        link: Any = AsyncLink(None, Turns(loop, eager=EAGER), Transport(), None, eager=eager)
        timeouts: list[float | None] = []
        late = False
        select = loop._selector.select

        def recorded(timeout: float | None = None) -> Any:
            nonlocal late
            timeouts.append(timeout)
            if late and timeout != 0:
                late = False
                loop.call_soon(link.feed, b"$1\r\nv\r\n")
                timeout = 0
            return select(timeout)

        loop._selector.select = recorded

        async def wait(when: str) -> int:
            nonlocal late
            reply = link.execute(("GET", "k"))
            late = when == "late"
            if not late:
                loop.call_soon(loop.call_soon, link.feed, b"$1\r\nv\r\n")
            timeouts.clear()
            assert await reply == b"v"
            slept = [place for place, timeout in enumerate(timeouts) if timeout != 0]
            assert bool(slept) == (when == "late")
            # One is the write's.
            return (slept or [len(timeouts)])[0] - 1

        await test(wait)
        link.close()

    run(main)


def test_a_wait_in_vain_ends_asleep_and_so_do_the_next() -> None:
    async def test(wait: Wait) -> None:
        naps = NAPS
        for _ in range(5):
            assert await wait("late") > 0, "awake at first"
            for _ in range(naps):
                assert await wait("late") == 0
            naps = min(2 * naps, NAPS_MAX)

    with_waits(test)


def test_one_that_is_not_in_vain_lets_the_others_stay_awake() -> None:
    async def test(wait: Wait) -> None:
        for _ in range(3):
            assert await wait("late") > 0
            for _ in range(NAPS):
                assert await wait("at once") >= 0
            for _ in range(3):
                await wait("at once")
                # The look that finds nothing left to wait for.
                await asyncio.sleep(0.001)

    with_waits(test)


def test_a_link_that_is_not_eager_sleeps_at_once() -> None:
    async def test(wait: Wait) -> None:
        for _ in range(3):
            assert await wait("late") == 0

    with_waits(test, eager=False)
