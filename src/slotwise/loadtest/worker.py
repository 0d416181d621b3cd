"""A generator's process: connects its client, runs the callers, and tells twice a second what it has counted."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from slotwise.loadtest import clients
from slotwise.loadtest.generator import Arrivals, Callers, Feed, Span, clock, closed, opened
from slotwise.loadtest.steps import awaited, blocking
from slotwise.loadtest.stream import SIZE, Material, Stream, calls_of
from slotwise.loadtest.tally import Counts, Tally
from slotwise.loadtest.workload import KINDS, Workload

# Seconds between two messages.
_EVERY = 0.5
# Keys, and operations if each has one, by which the generator's own part is measured.
_IDLE_KEYS = 20_000
# Seconds after which a generator that was told to stop ends, even if a call of its client hangs.
_STOPPED_WITHIN = 2.0


@dataclass(frozen=True)
class Plan:
    """What the generators do; each gets it with its ``number``."""

    client: str
    url: str
    workload: Workload
    #: Threads or tasks of each generator.
    callers: int
    threads: bool
    #: ``uvloop`` or ``asyncio``; of no meaning for threads.
    loop: str
    processes: int
    seed: int
    #: Seconds: measured; before that, and before that with a growing number of callers or rate.
    duration: float
    warmup: float
    ramp: float
    #: Operations a second of all generators together; None in a closed loop.
    rate: float | None
    poisson: bool
    #: Operations under way at once in each generator of an open loop.
    most_under_way: int
    #: The shard of each slot, as runs: first slot, last slot, shard.
    ranges: tuple[tuple[int, int, int], ...]
    shards: int


@dataclass(frozen=True)
class Ready:
    """The client is connected; the generator's own part is so many seconds of processor time an operation."""

    overhead: float


@dataclass(frozen=True)
class Done:
    """All is counted."""


@dataclass(frozen=True)
class Failed:
    """The generator could not do its work, in words."""

    reason: str


#: What a generator says.
Message = Ready | Counts | Done | Failed


def main(connection: Connection, plan: Plan, number: int) -> None:
    """Runs in a process of its own; ends with its connection, whatever has become of who started it."""
    # Ctrl-C reaches the whole group of processes; whoever started this one tells what is to be done, and held it back
    # until now.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        _Generator(connection, plan, number).run()
    except (BrokenPipeError, EOFError, asyncio.CancelledError):
        sys.exit(1)
    except Exception as error:
        with suppress(OSError):
            connection.send(Failed(f"{type(error).__name__}: {error}"))


class _Generator:
    def __init__(self, connection: Connection, plan: Plan, number: int) -> None:
        self._connection, self._plan, self._number = connection, plan, number
        shard_of_slot = np.full(16384, plan.shards)
        for first, last, shard in plan.ranges:
            shard_of_slot[first : last + 1] = shard
        self._shard_of_slot = shard_of_slot
        self._material = Material(plan.workload, plan.seed)
        self._feeds: list[Feed] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        # What is there by now stays: to look through it again and again is not the load's part.
        gc.collect()
        gc.freeze()
        if self._plan.threads:
            self._run_threads()
        elif self._plan.loop == "uvloop":
            import uvloop

            uvloop.run(self._run_tasks())
        else:
            asyncio.run(self._run_tasks())

    # -- the parts that threads and tasks share --------------------------------------------------------------------

    def _stream(self, calls: dict[str, Any], caller: int = 0) -> Stream:
        plan = self._plan
        streams = plan.processes * (plan.callers if plan.threads else 1)
        first = self._number * (plan.callers if plan.threads else 1)
        return Stream(
            self._material,
            calls,
            self._shard_of_slot,
            plan.shards,
            number=first + caller,
            streams=streams,
        )

    def _begin(self, overhead: float) -> tuple[Span, Tally]:
        """Says that all is there, and waits for the moment at which the measured part begins."""
        self._connection.send(Ready(overhead))
        zero: float = self._connection.recv()
        plan = self._plan
        span = Span(zero - plan.warmup - plan.ramp, zero + plan.duration, plan.ramp)
        writes = [KINDS[kind].writes for kind in plan.workload.mix]
        if plan.workload.pipeline > 1:
            # All of them count as the first kind.
            writes = [any(writes)] * len(writes)
        tally = Tally(len(writes), plan.shards, writes, zero, plan.duration, wide=plan.workload.wide)
        return span, tally

    def _arrivals(self, span: Span, caller: int = 0) -> Callable[[int], list[float]] | None:
        plan = self._plan
        if plan.rate is None:
            return None
        generators = plan.processes * (plan.callers if plan.threads else 1)
        number = self._number * (plan.callers if plan.threads else 1) + caller
        rng = np.random.default_rng([plan.seed, number, 1])
        return Arrivals(plan.rate / generators, span, rng, poisson=plan.poisson, offset=number / generators)

    def _listen(self, stop: Callable[[], object]) -> None:
        """Stops when the connection ends, which is all that can be told during the run."""
        with suppress(EOFError, OSError):
            self._connection.recv()
        self._stopped.set()
        for feed in self._feeds:
            feed.stop()
        stop()
        time.sleep(_STOPPED_WITHIN)
        os._exit(1)

    def _start_listening(self, stop: Callable[[], object]) -> None:
        threading.Thread(target=self._listen, args=(stop,), daemon=True).start()

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def _run_tasks(self) -> None:
        plan = self._plan
        async with clients.ASYNCIO[plan.client](plan.url) as client:
            calls = calls_of(client, awaited)
            overhead = await self._measure_tasks()
            span, tally = self._begin(overhead)
            feed = Feed(self._stream(calls), tally, self._arrivals(span))
            self._feeds.append(feed)
            loop, running = asyncio.get_running_loop(), asyncio.current_task()
            assert running is not None
            working = True
            self._start_listening(lambda: working and loop.call_soon_threadsafe(running.cancel))
            telling = asyncio.create_task(self._tell(feed, tally))
            try:
                if plan.rate is None:
                    await closed(feed, plan.callers, span)
                else:
                    await opened(feed, plan.most_under_way, span)
            finally:
                telling.cancel()
            feed.count()
            self._connection.send(tally.finish(clock(), feed.held))
            # From now on the end of the connection is no reason to hurry.
            working = False
            self._connection.send(Done())

    async def _tell(self, feed: Feed, tally: Tally) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            feed.count()
            self._connection.send(tally.take(clock()))

    async def _measure_tasks(self) -> float:
        """The generator's own part: the same loop with calls that do nothing."""

        async def nothing(*arguments: Any) -> None:
            return None

        feed, tally, operations = self._idle_feed(nothing)
        began = time.process_time()
        await closed(feed, 1, Span(clock(), clock() + 60))
        feed.count()
        tally.take(clock())
        return (time.process_time() - began) / operations

    def _idle_feed(self, nothing: Callable[..., Any]) -> tuple[Feed, Tally, int]:
        """Whole chunks, and how many operations those are."""
        kinds = len(self._plan.workload.mix)
        workload = self._plan.workload
        tally = Tally(kinds, self._plan.shards, [False] * kinds, clock(), 60, wide=workload.wide)
        stream = self._stream(dict.fromkeys([*KINDS, "setex", "pipeline"], nothing))
        operations = max(1, _IDLE_KEYS // SIZE) * stream.size
        return Feed(stream, tally, most=operations), tally, operations

    # -- threads ---------------------------------------------------------------------------------------------------

    def _run_threads(self) -> None:
        plan = self._plan
        with ExitStack() as stack:
            client = stack.enter_context(clients.SYNC[plan.client](plan.url))
            calls = calls_of(client, blocking)
            overhead = self._measure_threads()
            span, tally = self._begin(overhead)
            self._feeds = [
                Feed(self._stream(calls, caller), due=self._arrivals(span, caller))
                for caller in range(plan.callers)
            ]
            self._start_listening(lambda: None)
            callers = Callers(self._feeds, span, open_loop=plan.rate is not None)
            callers.start()
            told = clock()
            while callers.busy and clock() < span.end:
                if self._stopped.wait(min(_EVERY / 2, max(0.0, span.end - clock()))):
                    raise EOFError("stopped")
                callers.count(tally)
                if clock() - told >= _EVERY:
                    told = clock()
                    self._connection.send(tally.take(told))
            callers.join()
            callers.count(tally)
            held = [span for feed in self._feeds for span in feed.held]
            self._connection.send(tally.finish(clock(), held))
            self._connection.send(Done())

    def _measure_threads(self) -> float:
        def nothing(*arguments: Any) -> None:
            return None

        feed, tally, operations = self._idle_feed(nothing)
        began = time.process_time()
        callers = Callers([feed], Span(clock(), clock() + 60), open_loop=False)
        callers.start()
        callers.join()
        feed.count()
        tally.take(clock())
        return (time.process_time() - began) / operations
