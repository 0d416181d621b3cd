"""The highest rate at which the p99 stays within a bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotwise.loadtest.result import Result
from slotwise.loadtest.runner import LoadTestError, Options, Progress, clean_up, connected, run

if TYPE_CHECKING:
    from slotwise.testing import Chaos

#: Where a search begins, in operations a second, and how exact it is in the end.
FIRST = 1000.0
PRECISION = 0.05
# Of the operations that were due: more that were not answered would belong to the slowest hundredth, and that is judged.
_UNANSWERED = 0.01


@dataclass(frozen=True)
class Step:
    """A rate that was tried."""

    rate: float
    #: Answered a second; in milliseconds.
    reached: float
    p99: float
    met: bool


def search(
    options: Options,
    p99: float,
    *,
    chaos: Chaos | None = None,
    say: Callable[[str], object] = lambda text: None,
    progress: Callable[[Progress], object] = lambda progress: None,
    after: Callable[[Step], object] = lambda step: None,
) -> Result:
    """The run with the highest rate whose p99 is ``p99`` milliseconds at the most, of open loops of `Options.duration` each.

    The rate doubles from `Options.rate` on until it is missed, and is halved between the two then. Raises
    `LoadTestError` when the first is missed already.
    """
    rate = options.rate or FIRST
    best: Result | None = None
    least, most = 0.0, float("inf")
    # The keys are stored once, and deleted by the last one.
    step = dataclasses.replace(options, keep=True)
    first = say
    with connected(options.url) as client:
        try:
            while most / max(least, 1e-9) > 1 + PRECISION:
                settings = {**options.settings, "rate": rate} if options.settings else {}
                step = dataclasses.replace(step, rate=rate, settings=settings)
                found = run(step, chaos=chaos, say=first, progress=progress)
                step = dataclasses.replace(step, workload=dataclasses.replace(step.workload, preload=False))
                first = lambda text: None  # noqa: E731
                met = _keeps_up(found) and found.total.latency.p99 <= p99
                after(Step(rate, found.total.rate, found.total.latency.p99, met))
                if met:
                    least, best = rate, found
                    rate = rate * 2 if most == float("inf") else (rate + most) / 2
                elif best is None:
                    raise LoadTestError(
                        f"{rate:,.0f} operations a second are too many for a p99 of {p99:g} ms: --rate with less"
                    )
                else:
                    most = rate
                    rate = (least + rate) / 2
        finally:
            if not options.keep:
                clean_up(client, options.workload, say)
    assert best is not None
    return best


def _keeps_up(found: Result) -> bool:
    """Whether what was due was answered, all of it well."""
    return not found.total.errors and (found.unanswered or 0) <= _UNANSWERED * (found.due or 0)
