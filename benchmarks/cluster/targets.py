"""How fast slotwise has to be: what a row can demand, and whether a measurement shows it.

A target is anything with `is_met`, and its demand in words as `str`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from slotwise.cli._timing import Figures

OURS = "slotwise"


class Measured(Protocol):
    """What was found out about a row's clients."""

    def figures(self, client: str) -> Figures | None:
        """None if the client was not measured."""

    def ratio(self, client: str) -> float | None:
        """How many times the rate of `client` slotwise reached; None if one of them was not measured."""


class Target(Protocol):
    def is_met(self, measured: Measured) -> bool | None:
        """None if what it takes to say so was not measured."""


@dataclass(frozen=True)
class Times:
    """At least so many times the rate of another client."""

    least: float
    client: str

    def is_met(self, measured: Measured) -> bool | None:
        reached = measured.ratio(self.client)
        return None if reached is None else reached >= self.least

    def __str__(self) -> str:
        return f">= {self.least:.2g}x {self.client}"


@dataclass(frozen=True)
class Rate:
    """At least so many commands a second."""

    least: float

    def is_met(self, measured: Measured) -> bool | None:
        ours = measured.figures(OURS)
        return None if ours is None else ours.rate >= self.least

    def __str__(self) -> str:
        return f">= {self.least:,.0f}/s"


@dataclass(frozen=True)
class Latency:
    """Half of the calls, and all but the slowest percent, in less than so many seconds."""

    p50: float
    p99: float

    def is_met(self, measured: Measured) -> bool | None:
        ours = measured.figures(OURS)
        return None if ours is None else ours.p50 < self.p50 and ours.p99 < self.p99

    def __str__(self) -> str:
        return f"p50 < {self.p50 * 1e3:g} ms and p99 < {self.p99 * 1e3:g} ms"


@dataclass(frozen=True)
class AnyOf:
    """One of them is enough."""

    targets: Sequence[Target]

    def is_met(self, measured: Measured) -> bool | None:
        known = [met for target in self.targets if (met := target.is_met(measured)) is not None]
        return any(known) if known else None

    def __str__(self) -> str:
        return " or ".join(map(str, self.targets))
