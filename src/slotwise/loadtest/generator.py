"""Callers: they take operations from streams and write down when each ended and how long it took.

In a closed loop a caller's next operation begins when its last has ended. So a server that stands still keeps the callers
from asking, and the operations that would have been slow never take place: coordinated omission (Gil Tene, "How NOT to
Measure Latency", 2015). In an open loop operations are due at times that nothing delays, and a latency counts from there.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from slotwise.loadtest.stream import Chunk, Stream
from slotwise.loadtest.tally import SILENCE, UNFINISHED, Tally

# Seconds that a caller of a closed loop waits after an error: who is refused at once would do nothing else than fail.
ERROR_PAUSE = 0.01
# Seconds after the end in which what is under way may still be answered.
GRACE = 1.0
# Seconds before an operation is due at which the pacer stops sleeping: event loops sleep for whole milliseconds.
_AWAKE = 0.002
# Operations that the pacer begins before it lets the event loop read replies.
_BURST = 32

# All processes of a machine read the same one: CLOCK_MONOTONIC on Linux, mach_absolute_time on macOS.
clock = time.perf_counter

Unfinished = type(UNFINISHED, (Exception,), {"__doc__": "The run was over before the operation was."})


@dataclass(frozen=True)
class Span:
    """When callers begin and end, on `clock`. From ``begin`` to ``begin + ramp`` they become more."""

    begin: float
    end: float
    ramp: float = 0.0


class Feed:
    """The operations of one stream, drawn when they are wanted. With a ``tally``, what has ended is counted on the way.

    ``due`` gives the times at which the next ones are due; after ``most`` operations, in whole chunks, there are no more.
    """

    def __init__(
        self,
        stream: Stream,
        tally: Tally | None = None,
        due: Callable[[int], list[float]] | None = None,
        most: float = math.inf,
    ) -> None:
        self._stream, self._tally, self._due = stream, tally, due
        self._left = most
        #: Those with operations that are to be counted.
        self.chunks: list[Chunk] = []
        #: Times, on `clock`, in which operations were due and nothing was begun: all that may be under way was.
        self.held: list[tuple[float, float]] = []
        self._stopped = False
        #: Number, call, arguments and chunk of each operation.
        self.operations = chain.from_iterable(self._draw())

    def _draw(self) -> Iterator[Iterator[tuple[int, Callable[..., Any], tuple[Any, ...], Chunk]]]:
        while not self._stopped and self._left > 0:
            chunk = self._stream.draw()
            self._left -= len(chunk.calls)
            if self._due is not None:
                chunk.due = self._due(len(chunk.calls))
            if self._tally:
                self.count()
            self.chunks.append(chunk)
            yield chunk.numbered()

    def stop(self) -> None:
        """Nothing is drawn any more."""
        self._stopped = True

    def count(self) -> None:
        """Counts what has ended by now."""
        if self._tally is not None:
            self.chunks = self._tally.count(self.chunks)

    def hold(self, began: float, until: float) -> None:
        """Nothing was begun from then until now, though it was due."""
        if self.held and began - self.held[-1][1] < SILENCE:
            began = self.held.pop()[0]
        self.held.append((began, until))

    def give_up(self, begun: list[tuple[Chunk, int, float]]) -> None:
        """What was ``begun`` (at a time) and never ended counts as an error."""
        now = clock()
        for chunk, number, at in begun:
            chunk.failed[number] = Unfinished()
            chunk.took[number] = now - at
            chunk.ended[number] = now


# -- asyncio ---------------------------------------------------------------------------------------------------------


async def closed(feed: Feed, callers: int, span: Span) -> None:
    """So many tasks, each of which awaits one operation after the other."""
    begun: dict[int, tuple[Chunk, int, float]] = {}

    async def call_on(caller: int) -> None:
        await asyncio.sleep(max(0.0, span.begin + span.ramp * caller / callers - clock()))
        end = span.end
        before = clock()
        for number, call, args, chunk in feed.operations:
            try:
                await call(*args)
            except asyncio.CancelledError:
                begun[caller] = chunk, number, before
                raise
            except Exception as error:
                now = _failed(chunk, number, before, error)
                await asyncio.sleep(ERROR_PAUSE)
                before = clock()
            else:
                now = clock()
                chunk.took[number] = now - before
                chunk.ended[number] = now
                before = now
            if now >= end:
                return

    tasks = [asyncio.create_task(call_on(caller)) for caller in range(callers)]
    await _end(tasks, span)
    feed.give_up(list(begun.values()))


async def opened(feed: Feed, most: int, span: Span) -> None:
    """Begins operations when they are due, whatever has become of those before; ``most`` are under way at once."""
    running: set[asyncio.Task[None]] = set()
    begun: list[tuple[Chunk, int, float]] = []
    room = asyncio.Event()

    async def call_once(number: int, call: Any, args: tuple[Any, ...], chunk: Chunk, due: float) -> None:
        chunk.late[number] = clock() - due
        try:
            await call(*args)
        except asyncio.CancelledError:
            begun.append((chunk, number, due))
            raise
        except Exception as error:
            _failed(chunk, number, due, error)
        else:
            now = clock()
            chunk.took[number] = now - due
            chunk.ended[number] = now

    def over(task: asyncio.Task[None]) -> None:
        running.discard(task)
        room.set()

    async def pace() -> None:
        at_once = 0
        for number, call, args, chunk in feed.operations:
            due = chunk.due[number]
            if due >= span.end:
                return
            now = clock()
            if now < due:
                if due - now > _AWAKE:
                    await asyncio.sleep(due - now - _AWAKE)
                while clock() < due:
                    await asyncio.sleep(0)
                at_once = 0
            elif at_once >= _BURST:
                await asyncio.sleep(0)
                at_once = 0
            while len(running) >= most:
                room.clear()
                full = clock()
                try:
                    await room.wait()
                finally:
                    feed.hold(full, clock())
            at_once += 1
            if not number:
                chunk.late = [0.0] * len(chunk.calls)
            task = asyncio.create_task(call_once(number, call, args, chunk, due))
            running.add(task)
            task.add_done_callback(over)

    try:
        await _end([asyncio.create_task(pace())], span)
        await _end(list(running), Span(span.begin, clock()))
    finally:
        for task in running:
            task.cancel()
    feed.give_up(begun)


async def _end(tasks: list[asyncio.Task[None]], span: Span) -> None:
    """Waits for tasks until the end and a while; cancels those that are not over then, or when it is cancelled itself."""
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, timeout=max(0.0, span.end - clock()) + GRACE)
    finally:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
    for task in tasks:
        if not task.cancelled():
            task.result()


# -- threads ---------------------------------------------------------------------------------------------------------


class Callers:
    """So many threads, each with a feed of its own."""

    def __init__(self, feeds: list[Feed], span: Span, *, open_loop: bool) -> None:
        self._feeds = feeds
        self._span = span
        self._begun: list[tuple[Chunk, int, float] | None] = [None] * len(feeds)
        self._errors: list[BaseException] = []
        work = self._opened if open_loop else self._closed
        self._threads = [
            threading.Thread(target=self._run, args=(work, caller), daemon=True)
            for caller in range(len(feeds))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Some have not ended."""
        return any(thread.is_alive() for thread in self._threads)

    def count(self, tally: Tally) -> None:
        """Counts what has ended by now, of all threads at once: else one would seem silent while others were answered."""
        # A thread may append another one meanwhile; none but this takes any away.
        seen = [list(feed.chunks) for feed in self._feeds]
        unfinished = set(map(id, tally.count(chain.from_iterable(seen))))
        for feed, chunks in zip(self._feeds, seen, strict=True):
            for chunk in chunks:
                if id(chunk) not in unfinished:
                    feed.chunks.remove(chunk)

    def join(self) -> None:
        """Waits for the end; who hangs in a call is left behind, as its thread cannot be ended."""
        deadline = self._span.end + GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - clock()))
        for feed, begun in zip(self._feeds, self._begun, strict=True):
            # Its own thread may end it at this moment: then both have written the same operation's end.
            if begun is not None and not begun[0].ended[begun[1]]:
                feed.give_up([begun])
        if self._errors:
            raise self._errors[0]

    def _run(self, work: Callable[[int], None], caller: int) -> None:
        try:
            work(caller)
        except BaseException as error:
            self._errors.append(error)

    def _closed(self, caller: int) -> None:
        span = self._span
        time.sleep(max(0.0, span.begin + span.ramp * caller / len(self._feeds) - clock()))
        begun, end = self._begun, span.end
        before = clock()
        for number, call, args, chunk in self._feeds[caller].operations:
            begun[caller] = chunk, number, before
            try:
                call(*args)
            except Exception as error:
                now = _failed(chunk, number, before, error)
                time.sleep(ERROR_PAUSE)
                before = clock()
            else:
                now = clock()
                chunk.took[number] = now - before
                chunk.ended[number] = now
                before = now
            if now >= end:
                break
        begun[caller] = None

    def _opened(self, caller: int) -> None:
        begun, end, feed = self._begun, self._span.end, self._feeds[caller]
        for number, call, args, chunk in feed.operations:
            due = chunk.due[number]
            if due >= end or clock() >= end:
                break
            wait = due - clock()
            if wait > 0:
                time.sleep(wait)
            if not number:
                chunk.late = [0.0] * len(chunk.calls)
            begun[caller] = chunk, number, due
            now = clock()
            chunk.late[number] = now - due
            if now - due >= SILENCE:
                feed.hold(due, now)
            try:
                call(*args)
            except Exception as error:
                _failed(chunk, number, due, error)
            else:
                now = clock()
                chunk.took[number] = now - due
                chunk.ended[number] = now
        begun[caller] = None


def _failed(chunk: Chunk, number: int, since: float, error: BaseException) -> float:
    now = clock()
    # First this: whoever sees the end looks here.
    chunk.failed[number] = error
    chunk.took[number] = now - since
    chunk.ended[number] = now
    return now


# -- when operations are due -----------------------------------------------------------------------------------------


class Arrivals:
    """When the operations of an open loop are due: ``rate`` a second, ``poisson`` or evenly, growing over the ramp.

    With several generators each takes its part: ``offset`` (0 up to 1) keeps even arrivals from coming together.
    """

    def __init__(
        self, rate: float, span: Span, rng: np.random.Generator, *, poisson: bool, offset: float = 0.0
    ) -> None:
        self._rate, self._span, self._rng, self._poisson = rate, span, rng, poisson
        # The first one of all that come evenly is due at the beginning.
        self._passed = 0.0 if poisson else offset - 1

    def __call__(self, count: int) -> list[float]:
        """The next ``count`` times, on `clock`."""
        steps = self._rng.exponential(1.0, count) if self._poisson else np.ones(count)
        passed = self._passed + np.cumsum(steps)
        self._passed = float(passed[-1])
        ramp = self._span.ramp
        # Up to the end of the ramp the rate grows evenly, so half as many come as afterwards in the same time.
        in_ramp = self._rate * ramp / 2
        rising = np.sqrt(2 * ramp * np.minimum(passed, in_ramp) / self._rate)
        times: list[float] = (
            self._span.begin + rising + np.maximum(passed - in_ramp, 0) / self._rate
        ).tolist()
        return times
