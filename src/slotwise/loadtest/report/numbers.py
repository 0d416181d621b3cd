"""Numbers as people read them. Units stand beside them: in the head of a column, or after them in a line."""

from __future__ import annotations

from collections.abc import Mapping

#: In the place of a figure that there is not.
NONE = "\N{EN DASH}"


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def figure(value: float | None) -> str:
    """Three figures or more, as many as are before the point; for milliseconds and seconds. nan is none."""
    if value is None or value != value:
        return NONE
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.{0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3}f}"


def rate(value: float) -> str:
    """Something a second: whole from ten on."""
    return f"{value:,.0f}" if value >= 9.995 or value == 0 else f"{value:.2f}"


def share(part: float, whole: float) -> str:
    """Per cent, and never 0 % of what there is some, nor 100 % of what there is not all."""
    if not whole:
        return NONE
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.99 < percent < 100:
        return "> 99.99 %"
    return f"{percent:.{0 if percent in (0, 100) else 2 if percent < 10 or percent > 99 else 1}f} %"


def times(value: float | None, first: float | None) -> str:
    """How many times `first` it is."""
    if value is None or not first or value != value or first != first:
        return NONE
    ratio = value / first
    return f"{ratio:,.0f}x" if ratio >= 99.5 else f"{ratio:.2f}x"


def total(errors: Mapping[str, int]) -> int:
    return sum(errors.values())


def compact(value: float) -> str:
    """For the ticks of an axis: 500, 20,000, 1.5M."""
    return f"{value / 1e6:,.10g}M" if value >= 1e6 else f"{value:,.10g}"


def duration(milliseconds: float) -> str:
    """For the ticks of an axis, with the unit: 20 µs, 0.5 ms, 20 ms, 5 s."""
    if milliseconds >= 1e3:
        return f"{milliseconds / 1e3:,.10g} s"
    if milliseconds < 0.1:
        return f"{milliseconds * 1e3:.10g} \N{MICRO SIGN}s"
    return f"{milliseconds:.10g} ms"
