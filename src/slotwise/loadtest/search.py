"""The highest rate at which the p99 stays within a bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotwise.loadtest.result import Result
from slotwise.loadtest.runner import LoadTestError, Options, Progress, run

if TYPE_CHECKING:
    from slotwise.testing import Chaos

#: Where a search begins, in operations a second, and how exact it is in the end.
FIRST = 1000.0
PRECISION = 0.05
# Of the operations that were due, this share has to be answered, or the cluster falls behind.
_KEEPS_UP = 0.98


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
    first = True
    while most / max(least, 1e-9) > 1 + PRECISION:
        # The keys are stored once, and deleted by the last one.
        workload = options.workload if first else dataclasses.replace(options.workload, preload=False)
        found = run(
            dataclasses.replace(options, rate=rate, workload=workload, keep=True),
            chaos=chaos,
            say=say if first else lambda text: None,
            progress=progress,
        )
        first = False
        answered = found.total.latency.p99 <= p99 and found.total.rate >= _KEEPS_UP * rate
        met = answered and not found.total.errors
        after(Step(rate, found.total.rate, found.total.latency.p99, met))
        if met:
            least, best = rate, found
            rate = rate * 2 if most == float("inf") else (rate + most) / 2
        else:
            most = rate
            if best is None:
                break
            rate = (least + rate) / 2
    if not options.keep:
        _delete(options)
    if best is None:
        raise LoadTestError(
            f"{rate:,.0f} operations a second are too many for a p99 of {p99:g} ms: --rate with less"
        )
    return best


def _delete(options: Options) -> None:
    from slotwise.loadtest import data
    from slotwise.sync.cluster import RedisCluster

    with RedisCluster.from_url(options.url) as client:
        data.delete(client, options.workload)
