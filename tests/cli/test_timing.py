"""The loop that times clients."""

import asyncio
import threading
from functools import partial
from itertools import accumulate, cycle

import pytest

from slotwise.cli import _timing
from slotwise.cli._timing import Figures, batches, in_turns, ratio, summary, timed, timed_in_tasks


def clock(monkeypatch: pytest.MonkeyPatch, *steps: float) -> None:
    """Each look at the clock finds it so many seconds further on, from the first step again after the last."""
    monkeypatch.setattr(_timing, "perf_counter", partial(next, accumulate(cycle(steps))))


def test_every_call_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.125)
    seen: list[int] = []
    figures = timed(seen.append, [(1,), (2,), (3,)], commands=10)(1.0)
    assert seen == [1, 2, 3, 1, 2, 3, 1, 2]
    assert figures == Figures(80.0, 0.125, 0.125)


def test_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, *[0.001] * 97, *[0.5] * 3)
    figures = timed(str, [(1,)])(10.0)
    assert figures.p50 == pytest.approx(0.001)
    assert figures.p99 == pytest.approx(0.5)


def test_threads_share_the_work_and_start_apart() -> None:
    starts: dict[int, int] = {}
    figures = timed(
        lambda n: starts.setdefault(threading.get_ident(), n), [(n,) for n in range(10)], threads=4
    )(0.02)
    assert sorted(starts.values()) == [0, 2, 5, 7]
    assert figures.rate > 0


def test_more_threads_than_arguments() -> None:
    assert timed(str, [(1,)], threads=4)(0.01).rate > 0


def test_an_error_of_a_call_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        timed(lambda: 1 / 0, [()], threads=2)(0.01)


def test_tasks_share_the_work() -> None:
    seen: dict[object, list[int]] = {}

    async def call(n: int) -> None:
        seen.setdefault(asyncio.current_task(), []).append(n)
        await asyncio.sleep(0)

    figures = timed_in_tasks(asyncio.run, call, [(n,) for n in range(1_000_000)], tasks=4, commands=10)(0.02)
    assert len(seen) == 4
    assert sorted(n for mine in seen.values() for n in mine) == list(range(sum(map(len, seen.values()))))
    assert max(map(len, seen.values())) - min(map(len, seen.values())) <= 1
    assert 0 < figures.p50 <= figures.p99


def test_every_awaited_call_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.125)
    seen: list[int] = []

    async def call(n: int) -> None:
        seen.append(n)

    figures = timed_in_tasks(asyncio.run, call, [(1,), (2,), (3,)], commands=10)(1.0)
    assert seen == [1, 2, 3, 1, 2, 3, 1]
    # The task looks at the clock once more, when it begins.
    assert figures == Figures(70 / 1.0, 0.125, 0.125)


def test_an_error_of_an_awaited_call_comes_out() -> None:
    async def call() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        timed_in_tasks(asyncio.run, call, [()], tasks=2)(0.01)


@pytest.mark.parametrize("commands", [1, 10])
def test_processor_time(monkeypatch: pytest.MonkeyPatch, commands: int) -> None:
    clock(monkeypatch, 0.25)
    monkeypatch.setattr(_timing, "process_time", partial(next, iter([5.0, 7.0])))
    assert timed(str, [(1,)], commands=commands)(1.0).cpu == 2.0 / (4 * commands)


def test_turns_change() -> None:
    order: list[tuple[str, float]] = []

    def stretch(name: str, rate: float):  # type: ignore[no-untyped-def]
        def run(seconds: float) -> Figures:
            order.append((name, seconds))
            return Figures(rate, 0.0, 0.0)

        return run

    rounds = list(in_turns({"a": stretch("a", 6.0), "b": stretch("b", 3.0)}, seconds=4.0, rounds=2))
    assert order == [("a", 0.1), ("b", 0.1), ("a", 2.0), ("b", 2.0), ("b", 2.0), ("a", 2.0)]
    assert ratio(rounds, "a", to="b") == 2.0


def test_median_of_the_rounds() -> None:
    rounds = [
        {"a": Figures(10, 1, 7), "b": Figures(10, 0, 0)},
        {"a": Figures(30, 2, 9), "b": Figures(10, 0, 0)},
        {"a": Figures(50, 3, 8), "b": Figures(1, 0, 0)},
    ]
    assert summary(rounds, "a") == Figures(30, 2, 8)
    assert ratio(rounds, "a", to="b") == 3.0  # of 1, 3 and 50


def test_batches() -> None:
    assert batches(range(7), 3) == [range(3), range(3, 6)]
    assert batches("ab", 5) == [list("ababa")]
