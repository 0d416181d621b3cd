"""Callers: when they begin, how they wait, what they write down, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from slotwise.loadtest.generator import Arrivals, Callers, Feed, Span, clock, closed, opened
from slotwise.loadtest.stream import SIZE, Chunk
from slotwise.loadtest.tally import Tally, Totals
from slotwise.loadtest.workload import Workload
from tests.loadtest.streams import NAMED, SHARDS, stream

GETS = Workload({"get": 1}, keys=1000)


def feed_of(
    call: Callable[..., Any], tally: Tally | None = None, due: Callable[[int], list[float]] | None = None
) -> Feed:
    return Feed(stream(GETS, dict.fromkeys(NAMED, call)), tally, due)


def tally_of(span: Span) -> Tally:
    return Tally(1, SHARDS, [False], span.begin + span.ramp, span.end - span.begin - span.ramp)


def due_at(*times: float) -> Callable[[int], list[float]]:
    """Operations at these times, and none afterwards."""
    left = list(times)
    return lambda count: [left.pop(0) if left else float("inf") for _ in range(count)]


def arrivals(
    rate: float, span: Span, *, poisson: bool = False, seed: int = 1, offset: float = 0.0
) -> Arrivals:
    return Arrivals(rate, span, np.random.default_rng(seed), poisson=poisson, offset=offset)


def ended(feed: Feed) -> list[tuple[Chunk, int]]:
    return [(chunk, n) for chunk in feed.chunks for n, at in enumerate(chunk.ended) if at]


def summed(tally: Tally, feed: Feed) -> Totals:
    feed.count()
    totals = Totals(1, SHARDS, 1)
    totals.add(0, tally.finish(clock()))
    return totals


class UnderWay:
    """Counts the calls that are under way at once; each takes one turn of the loop, or a release of the GIL."""

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0
        self._lock = threading.Lock()

    def _begin(self) -> None:
        with self._lock:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)

    def _end(self) -> None:
        with self._lock:
            self.now -= 1

    async def awaited(self, key: str) -> None:
        self._begin()
        await asyncio.sleep(0)
        self._end()

    def blocking(self, key: str) -> None:
        self._begin()
        time.sleep(0)
        self._end()


# -- closed loop ----------------------------------------------------------------------------------


def test_callers_of_a_closed_loop_wait_for_their_replies() -> None:
    calls = UnderWay()
    feed = feed_of(calls.awaited)
    span = Span(clock(), clock() + 0.1)
    asyncio.run(closed(feed, 7, span))
    assert calls.most == 7
    assert calls.now == 0
    assert len(ended(feed)) == calls.calls > 100
    took = [chunk.took[number] for chunk, number in ended(feed)]
    # All of the time of seven callers is somebody's, up to the last one's end.
    last = max(chunk.ended[number] for chunk, number in ended(feed))
    assert sum(took) == pytest.approx(7 * (last - span.begin), rel=0.1)


def test_threads_of_a_closed_loop_wait_for_their_replies() -> None:
    calls = UnderWay()
    feeds = [feed_of(calls.blocking) for _ in range(3)]
    span = Span(clock(), clock() + 0.1)
    callers = Callers(feeds, span, open_loop=False)
    callers.start()
    callers.join()
    assert not callers.busy
    assert calls.most <= 3
    assert sum(len(ended(feed)) for feed in feeds) == calls.calls > 100


def test_a_ramp_adds_caller_after_caller() -> None:
    first: dict[object, float] = {}

    async def call(key: str) -> None:
        first.setdefault(asyncio.current_task(), clock())
        await asyncio.sleep(0)

    span = Span(clock(), clock() + 0.6, ramp=0.4)
    asyncio.run(closed(feed_of(call), 4, span))
    assert len(first) == 4
    # A machine that does something else may let one begin late, and lets none begin early.
    for number, at in enumerate(sorted(first.values())):
        assert 0.1 * number - 0.01 <= at - span.begin < 0.6


def test_an_error_is_written_down_and_its_caller_goes_on() -> None:
    calls = 0

    async def call(key: str) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ConnectionResetError("lost")

    span = Span(clock(), clock() + 0.2)
    tally = tally_of(span)
    feed = feed_of(call, tally)
    asyncio.run(closed(feed, 1, span))
    errors = summed(tally, feed).errors
    assert {key[3] for key in errors} == {"ConnectionResetError"}
    # Who is refused at once pauses for 10 ms; more would be a storm.
    assert 2 <= errors.total() <= 20
    assert calls == pytest.approx(2 * errors.total(), abs=2)


# -- open loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("poisson", [False, True])
def test_operations_begin_when_they_are_due(poisson: bool) -> None:
    span = Span(clock() + 0.05, clock() + 0.55)
    begun: list[float] = []

    async def call(key: str) -> None:
        begun.append(clock())

    due = arrivals(1000, span, poisson=poisson)(SIZE)
    feed = feed_of(call, due=arrivals(1000, span, poisson=poisson))
    asyncio.run(opened(feed, 100, span))
    expected = [at for at in due if at < span.end]
    assert len(begun) == len(expected)
    for at, intended in zip(begun, expected, strict=True):
        assert at >= intended
    # A machine that does something else may be late at times, and is on time mostly.
    late = np.array(begun) - np.array(expected)
    assert np.median(late) < 0.002
    written = [chunk.late[number] for chunk, number in ended(feed)]
    assert written == pytest.approx(late.tolist(), abs=0.02)


def test_latency_counts_from_the_intended_start() -> None:
    """The loop stands still for 0.2 s, in which ten operations were due."""
    now = clock()
    span = Span(now, now + 0.4)

    async def call(key: str) -> None:
        if not ended(feed):
            time.sleep(0.2)

    feed = feed_of(call, due=due_at(*(now + 0.05 + 0.01 * number for number in range(10))))
    asyncio.run(opened(feed, 100, span))
    took = [chunk.took[number] for chunk, number in ended(feed)]
    assert took == pytest.approx([0.2 - 0.01 * number for number in range(10)], abs=0.05)
    late = [chunk.late[number] for chunk, number in ended(feed)]
    assert late[1:] == pytest.approx(took[1:], abs=0.02)


def test_threads_of_an_open_loop_count_from_the_intended_start_too() -> None:
    now = clock()
    calls = 0

    def call(key: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            time.sleep(0.2)

    feed = feed_of(call, due=due_at(*(now + 0.05 + 0.01 * number for number in range(10))))
    callers = Callers([feed], Span(now, now + 0.4), open_loop=True)
    callers.start()
    callers.join()
    took = [chunk.took[number] for chunk, number in ended(feed)]
    assert took == pytest.approx([0.2 - 0.01 * number for number in range(10)], abs=0.05)


def test_most_under_way_bounds_an_open_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers: so many tasks wait, and the next operations are not even drawn."""
    monkeypatch.setattr("slotwise.loadtest.generator.GRACE", 0.05)
    waiting: set[object] = set()

    async def main() -> Feed:
        gate = asyncio.Event()

        async def call(key: str) -> None:
            waiting.add(asyncio.current_task())
            await gate.wait()

        span = Span(clock(), clock() + 0.2)
        feed = feed_of(call, due=arrivals(1_000_000, span))
        await opened(feed, 50, span)
        return feed

    feed = asyncio.run(main())
    assert len(waiting) == 50
    assert len(feed.chunks) == 1


# -- what is never answered -----------------------------------------------------------------------


def unfinished(run: Callable[[Feed, Span], Awaitable[None]], due: bool) -> Totals:
    async def main() -> Totals:
        gate = asyncio.Event()

        async def call(key: str) -> None:
            await gate.wait()

        span = Span(clock(), clock() + 0.1)
        tally = tally_of(span)
        feed = feed_of(call, tally, arrivals(100, span) if due else None)
        await run(feed, span)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return summed(tally, feed)

    return asyncio.run(main())


def test_what_is_under_way_at_the_end_counts_as_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotwise.loadtest.generator.GRACE", 0.05)
    totals = unfinished(lambda feed, span: closed(feed, 5, span), due=False)
    assert totals.errors.total() == 5
    totals = unfinished(lambda feed, span: opened(feed, 100, span), due=True)
    assert totals.errors.total() == pytest.approx(10, abs=1)
    for _, _, _, name, unknown in totals.errors:
        assert (name, unknown) == ("Unfinished", False)


@pytest.mark.parametrize("open_loop", [False, True])
def test_a_thread_that_hangs_is_left_behind(open_loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotwise.loadtest.generator.GRACE", 0.05)
    gate = threading.Event()
    now = clock()
    # So long may a busy machine take to start three threads.
    span = Span(now, now + 0.5)
    tally = tally_of(span)
    feeds = [feed_of(lambda key: gate.wait(), due=due_at(now) if open_loop else None) for _ in range(3)]
    callers = Callers(feeds, span, open_loop=open_loop)
    callers.start()
    callers.join()
    callers.count(tally)
    totals = Totals(1, SHARDS, 1)
    totals.add(0, tally.finish(clock()))
    assert [key[3] for key in totals.errors.elements()] == ["Unfinished"] * 3
    assert callers.busy
    gate.set()
    for thread in callers._threads:
        thread.join(5)
    assert not callers.busy


@pytest.mark.parametrize("open_loop", [False, True])
def test_cancelled_it_leaves_no_task(open_loop: bool) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        began = asyncio.Event()

        async def call(key: str) -> None:
            began.set()
            await gate.wait()

        span = Span(clock(), clock() + 60)
        feed = feed_of(call, due=arrivals(1000, span))
        work = opened(feed, 10, span) if open_loop else closed(feed, 10, span)
        running = asyncio.create_task(work)
        await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# -- memory ---------------------------------------------------------------------------------------


def chunks_alive() -> int:
    gc.collect()
    return sum(type(each) is Chunk for each in gc.get_objects())


def test_chunks_are_released_while_it_runs() -> None:
    before = chunks_alive()
    alive: list[int] = []
    calls = 0

    async def call(key: str) -> None:
        nonlocal calls
        calls += 1
        if calls % (20 * SIZE) == 0:
            alive.append(chunks_alive() - before)

    span = Span(clock(), clock() + 60)
    tally = tally_of(span)
    feed = Feed(stream(GETS, dict.fromkeys(NAMED, call)), tally, most=100 * SIZE)
    asyncio.run(closed(feed, 10, span))
    assert calls == 100 * SIZE
    assert len(alive) == 5
    # The one that is being used, and the one before it.
    assert max(alive) <= 3


def test_chunks_of_threads_are_released_while_they_run() -> None:
    before = chunks_alive()
    span = Span(clock(), clock() + 60)
    tally = tally_of(span)
    calls = dict.fromkeys(NAMED, lambda key: None)
    feeds = [Feed(stream(GETS, calls, number=n, streams=2), most=50 * SIZE) for n in range(2)]
    callers = Callers(feeds, span, open_loop=False)
    callers.start()
    while callers.busy:
        callers.count(tally)
    callers.join()
    callers.count(tally)
    totals = Totals(1, SHARDS, 1)
    totals.add(0, tally.finish(clock()))
    assert sum(cell.operations for cell in totals.places.values()) == 100 * SIZE
    assert chunks_alive() - before == 0


# -- arrivals -------------------------------------------------------------------------------------


def test_constant_arrivals() -> None:
    span = Span(100.0, 200.0)
    found = np.array(arrivals(500, span)(5000))
    assert np.diff(found) == pytest.approx(1 / 500)
    # As many in each second as are asked for, from the first one on.
    assert found[0] == 100
    assert np.count_nonzero(found < 101) == 500


def test_poisson_arrivals() -> None:
    found = np.array(arrivals(500, Span(0.0, 1e9), poisson=True, seed=4)(200_000))
    between = np.diff(found)
    assert between.mean() == pytest.approx(1 / 500, rel=0.02)
    assert between.std() == pytest.approx(1 / 500, rel=0.02)
    counts = np.bincount(found.astype(int))[:-1]
    # As many as a Poisson distribution has: the variance is the mean.
    assert counts.mean() == pytest.approx(500, rel=0.02)
    assert counts.var() == pytest.approx(500, rel=0.3)


@pytest.mark.parametrize("poisson", [False, True])
def test_arrivals_go_on_from_chunk_to_chunk(poisson: bool) -> None:
    several, one = (arrivals(100, Span(0.0, 100.0, ramp=5.0), poisson=poisson) for _ in range(2))
    parts = several(300) + several(1) + several(699)
    if poisson:
        assert np.all(np.diff(parts) > 0)
    else:
        assert parts == pytest.approx(one(1000))


@pytest.mark.parametrize("poisson", [False, True])
def test_a_ramp_of_arrivals_grows_evenly(poisson: bool) -> None:
    found = np.array(arrivals(1000, Span(50.0, 100.0, ramp=10.0), poisson=poisson, seed=2)(20_000)) - 50
    for second in range(10):
        number = np.sum((found >= second) & (found < second + 1))
        assert number == pytest.approx(1000 * (second + 0.5) / 10, abs=2 if not poisson else 140)
    # So many are drawn up to the fifteenth second and beyond it.
    for second in range(10, 20):
        number = np.sum((found >= second) & (found < second + 1))
        assert number == pytest.approx(1000, abs=1 if not poisson else 160)


def test_generators_take_turns() -> None:
    span = Span(0.0, 100.0)
    found = sorted(at for n in range(4) for at in arrivals(100 / 4, span, offset=n / 4)(250))
    assert np.diff(found[4:-4]) == pytest.approx(1 / 100)


# -- feeds ----------------------------------------------------------------------------------------


def test_a_feed_ends_when_it_is_told() -> None:
    feed = feed_of(partial(print, end=""))
    taken = [next(feed.operations) for _ in range(3)]
    assert [number for number, *_ in taken] == [0, 1, 2]
    feed.stop()
    assert sum(1 for _ in feed.operations) == SIZE - 3
