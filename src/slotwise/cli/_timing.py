"""Clients timed in turns, so that the machine's noise hits all of them alike.

Every client runs through the same loop; what the loop adds to a call is one clock reading and
the keeping of one number.
"""

import asyncio
import threading
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

#: The call being timed, its like under asyncio, and the arguments of one call to it.
Call = Callable[..., Any]
AsyncCall = Callable[..., Awaitable[Any]]
Arguments = Sequence[tuple[Any, ...]]

# More calls a second than one thread can make to a server; bounds the array of latencies.
_MOST_CALLS = 400_000


@dataclass(frozen=True)
class Figures:
    """How fast one client did one piece of work."""

    #: Commands (or keys) a second.
    rate: float
    #: Seconds that half of the calls, and all but the slowest percent, took at most.
    p50: float
    p99: float
    #: Seconds of this process' processor time for one command; None if another process does the work.
    cpu: float | None = field(default=None, compare=False)


#: Works for about so many seconds and says how fast it was.
Stretch = Callable[[float], Figures]


def timed(call: Call, arguments: Arguments, *, threads: int = 1, commands: int = 1) -> Stretch:
    """Repeat `call` over `arguments`, from their start again when they end.

    `commands` is what one call counts for in the rate: a pipeline of 100 counts for 100. With
    several threads each makes its own calls, starting at another place of `arguments`.
    """

    def stretch(seconds: float) -> Figures:
        before = process_time()
        if threads == 1:
            runs = [_repeat(call, arguments, seconds)]
        else:
            runs = _repeat_on_threads(call, arguments, seconds, threads)
        return _figures(runs, commands, process_time() - before)

    return stretch


def timed_in_tasks(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    call: AsyncCall,
    arguments: Arguments,
    *,
    tasks: int = 1,
    commands: int = 1,
) -> Stretch:
    """The like of `timed` for a call that is awaited: by so many tasks of one event loop.

    `run` has the client's event loop run a coroutine to its end.
    """

    def stretch(seconds: float) -> Figures:
        before = process_time()
        done = run(_repeat_in_tasks(call, arguments, seconds, tasks))
        return _figures([done], commands, process_time() - before)

    return stretch


@dataclass(frozen=True)
class _Run:
    start: float
    end: float
    latencies: "np.ndarray[Any, np.dtype[np.float64]]"


def _figures(runs: Sequence[_Run], commands: int, cpu: float) -> Figures:
    latencies = np.concatenate([run.latencies for run in runs])
    elapsed = max(run.end for run in runs) - min(run.start for run in runs)
    p50, p99 = np.percentile(latencies, (50, 99))
    done = len(latencies) * commands
    return Figures(done / elapsed, float(p50), float(p99), cpu / done)


def _repeat(call: Call, arguments: Arguments, seconds: float) -> _Run:
    most = int(seconds * _MOST_CALLS) + 1
    latencies = array("d", bytes(8 * most))
    done = 0
    clock = perf_counter
    before = start = clock()
    deadline = start + seconds
    for done, each in zip(range(1, most + 1), cycle(arguments), strict=False):
        call(*each)
        now = clock()
        latencies[done - 1] = now - before
        before = now
        if now >= deadline:
            break
    return _Run(start, before, np.frombuffer(latencies)[:done])


def _repeat_on_threads(call: Call, arguments: Arguments, seconds: float, threads: int) -> list[_Run]:
    together = threading.Barrier(threads)

    def run(first: int) -> _Run:
        mine = [*arguments[first:], *arguments[:first]]
        together.wait()
        return _repeat(call, mine, seconds)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, [len(arguments) * thread // threads for thread in range(threads)]))


async def _repeat_in_tasks(call: AsyncCall, arguments: Arguments, seconds: float, tasks: int) -> _Run:
    # Appending to a list takes a third of the time that storing into an array takes.
    latencies: list[float] = []
    store = latencies.append
    clock = perf_counter
    # Every task takes what comes next.
    coming = cycle(arguments)
    # Opens when all tasks are there: making 10,000 of them takes a while.
    gate: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def repeat() -> float:
        deadline = await gate
        before = clock()
        for each in coming:
            await call(*each)
            now = clock()
            store(now - before)
            before = now
            if now >= deadline:
                break
        return before

    running = [asyncio.create_task(repeat()) for _ in range(tasks)]
    await asyncio.sleep(0)
    start = clock()
    gate.set_result(start + seconds)
    ends = await asyncio.gather(*running)
    return _Run(start, max(ends), np.array(latencies))


def in_turns(stretches: Mapping[str, Stretch], seconds: float, rounds: int) -> Iterator[dict[str, Figures]]:
    """Run all stretches once a round; yields each round's figures.

    `seconds` is what each stretch gets over all rounds. Whoever is first in one round is last
    in the next. An untimed stretch before lets clients open connections and fill their tables.
    """
    share = seconds / rounds
    for stretch in stretches.values():
        stretch(min(share, 0.1))
    names = list(stretches)
    for _ in range(rounds):
        yield {name: stretches[name](share) for name in names}
        names.reverse()


def summary(rounds: Sequence[Mapping[str, Figures]], name: str) -> Figures:
    """One client's figures: the median over all rounds."""
    mine = [figures[name] for figures in rounds]
    return Figures(
        median(figures.rate for figures in mine),
        median(figures.p50 for figures in mine),
        median(figures.p99 for figures in mine),
        median(known) if (known := [figures.cpu for figures in mine if figures.cpu is not None]) else None,
    )


def ratio(rounds: Sequence[Mapping[str, Figures]], name: str, to: str) -> float:
    """How many times the rate of `to` the client `name` reached: the median over all rounds.

    Each ratio is taken within a round, seconds apart at most, because the machine's speed
    changes from round to round more than from turn to turn.
    """
    return median(figures[name].rate / figures[to].rate for figures in rounds)


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`items` in groups of `size`; the last ones that fill no group are left out.

    With fewer items than `size`, one group that repeats them.
    """
    if len(items) < size:
        return [list(islice(cycle(items), size))]
    return [items[first : first + size] for first in range(0, len(items) - size + 1, size)]
