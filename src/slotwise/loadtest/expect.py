"""Figures that a load test has to reach: ``--expect ops=100000,p50=1ms,p99=10ms``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from slotwise.loadtest.result import Expectation, FaultReport, Part
from slotwise.loadtest.units import number_of, seconds_of

# By name: of which share of the operations a latency says something.
_SHARES = {"mean": 1.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "p9999": 0.9999, "max": 1.0}
#: How a name is written besides.
_ALIASES = {"p99.9": "p999", "p99.99": "p9999"}


@dataclass(frozen=True)
class Wish:
    """One of them. ``unit`` is of the bound: ``ms``, ``s`` or nothing."""

    name: str
    bound: float
    unit: str = ""

    @property
    def relation(self) -> str:
        return ">=" if self.name == "ops" else "<="


def parse(text: str) -> list[Wish]:
    """Raises ValueError that says what is allowed."""
    wishes = []
    for part in text.split(","):
        name, equals, bound = part.strip().partition("=")
        name = _ALIASES.get(name, name)
        if name in _SHARES and equals:
            wishes.append(Wish(name, seconds_of(bound) * 1e3, "ms"))
        elif name == "recovery" and equals:
            wishes.append(Wish(name, seconds_of(bound), "s"))
        elif name in ("ops", "errors", "imbalance") and equals:
            wishes.append(Wish(name, number_of(bound)))
        else:
            raise ValueError(
                f"{part!r} is nothing to expect: ops=100000 (at least), p50=1ms, p90, p99, p99.9, p99.99, mean, max, "
                "errors=0, imbalance=1.2, recovery=4s (at most)"
            )
    return wishes


def judge(
    wishes: Sequence[Wish],
    total: Part,
    imbalance: float,
    faults: Sequence[FaultReport],
    unanswered: float = 0.0,
) -> list[Expectation]:
    """What became of them. What could not be measured is missed: percentiles among it that the share of operations that
    was never answered, the slowest of all, reaches into.
    """
    figures: Mapping[str, Callable[[], float | None]] = {
        "ops": lambda: total.rate,
        "errors": lambda: float(sum(total.errors.values())),
        "imbalance": lambda: imbalance,
        "recovery": lambda: _recovery(faults),
        **{name: partial(_latency, total, name, unanswered) for name in _SHARES},
    }
    judged = []
    for wish in wishes:
        measured = figures[wish.name]()
        if measured is None or measured != measured:
            judged.append(Expectation(wish.name, wish.relation, wish.bound, wish.unit, None, False))
            continue
        met = measured >= wish.bound if wish.relation == ">=" else measured <= wish.bound
        judged.append(Expectation(wish.name, wish.relation, wish.bound, wish.unit, measured, met))
    return judged


def _latency(total: Part, name: str, unanswered: float) -> float | None:
    found: float = getattr(total.latency, name)
    return found if unanswered <= 1 - _SHARES[name] else None


def _recovery(faults: Sequence[FaultReport]) -> float | None:
    """The longest; None when there was no fault, or one that nobody recovered from."""
    found = [fault.recovered_after for fault in faults]
    known = [after for after in found if after is not None]
    return max(known) if known and len(known) == len(found) else None
