"""Which cases got slower or faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A tenth more or less.
SLOWER, FASTER = 1.10, 0.90


@dataclass(frozen=True)
class Line:
    """One case, in instructions per operation; None where there is no count."""

    case: str
    before: float | None
    now: float | None

    @property
    def ratio(self) -> float | None:
        return self.now / self.before if self.before and self.now is not None else None

    @property
    def verdict(self) -> str:
        """Empty for what stays as it was."""
        if self.ratio is None:
            return "not compared"
        if self.ratio > SLOWER:
            return "SLOWER"
        return "faster" if self.ratio < FASTER else ""


def judge(before: Mapping[str, float], now: Mapping[str, float]) -> list[Line]:
    """A line for each case of either side, today's first and in their order."""
    return [Line(case, before.get(case), now.get(case)) for case in dict.fromkeys([*now, *before])]


def passes(lines: list[Line]) -> bool:
    """Something was compared, all of it was, and nothing is slower."""
    return bool(lines) and all(line.verdict in ("", "faster") for line in lines)


def table(lines: list[Line]) -> str:
    head = f"{'instructions per operation':52} {'before':>10} {'now':>10} {'ratio':>7}"
    return "\n".join(
        [
            head,
            *(f"{line.case:52} {_number(line.before)} {_number(line.now)} {_ratio(line)}" for line in lines),
        ]
    )


def _number(count: float | None) -> str:
    return f"{'-' if count is None else f'{count:,.1f}':>10}"


def _ratio(line: Line) -> str:
    return f"{'-' if line.ratio is None else f'{line.ratio:.2f}x':>7}  {line.verdict}".rstrip()
