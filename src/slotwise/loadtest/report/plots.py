"""The plots of a report. matplotlib and the histograms' library come with ``pip install 'slotwise[load-test]'``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from slotwise.loadtest.report import svg
from slotwise.loadtest.report.grids import Run
from slotwise.loadtest.report.numbers import compact, count, duration, total
from slotwise.loadtest.report.svg import Color
from slotwise.loadtest.result import FaultReport, Part, Result, Second

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Value = TypeVar("_Value")

_SERIES = (
    Color.SERIES_1,
    Color.SERIES_2,
    Color.SERIES_3,
    Color.SERIES_4,
    Color.SERIES_5,
    Color.SERIES_6,
)
#: Lengths of stroke and gap. A second mark beside the colour, for those who do not see it.
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
#: With more shards than this only those that stand out get a colour.
_COLORED_SHARDS = 6
#: What a busy shard should stay under, over the mean.
_TOLERANCE = 1.2
#: Units between a figure's edge and its axes; all plots over time have the same, so that they line up.
_LEFT, _RIGHT, _BOTTOM, _TOP = 62, 14, 24, 10
_LABEL_ROW = 15
#: For ``10923-16383`` on the left.
_SLOTS_LEFT = 88
#: Mean width of a letter, on the safe side.
_LETTER = 6.7


@dataclass(frozen=True)
class Style:
    color: Color
    dashes: tuple[float, ...] = ()
    width: float = 1.6
    #: A bar or a span instead of a line.
    filled: bool = False

    def line(self) -> dict[str, Any]:
        """As matplotlib's lines take it."""
        style = (0, tuple(length * 1.0 for length in self.dashes)) if self.dashes else "solid"
        return {"color": self.color.value, "linewidth": self.width, "linestyle": style}


@dataclass(frozen=True)
class Plot:
    title: str
    #: What the lines are: beside the plot, as the page's own text.
    legend: list[tuple[str, Style]]
    svg: str


@dataclass(frozen=True)
class _Panel:
    """One run in plots of its own, beside the same ones of other runs."""

    run: Run
    #: Ends of the plots' ids and titles, which name the run where there are several.
    id: str
    of_run: str
    #: Of each shard.
    styles: Sequence[Style]

    @property
    def result(self) -> Result:
        return self.run.result


@dataclass
class _Drawn:
    """A plot in the making."""

    axes: Axes
    legend: list[tuple[str, Style]] = field(default_factory=list)
    svg: str = ""


def plots(runs: Sequence[Run]) -> list[list[Plot]]:
    """All plots in the order in which they are shown, those together that are looked at together.

    Raises `MissingPlotsError`.
    """
    if len(runs) == 1:
        panels = [_Panel(runs[0], "", "", _single_styles(runs[0].result))]
        return [
            [_percentiles(runs), *_balance(panels)],
            [_throughput(runs), _latency(runs)],
            [*_shard_throughput(panels), *_shard_latency(panels)],
        ]
    panels = [
        _Panel(run, f"-{index}", f" of {run.name}", _compared_styles(run.result, style.color))
        for index, (run, style) in enumerate(zip(runs, _styles(), strict=False))
    ]
    return [
        [_percentiles(runs), _errors(runs)],
        [_throughput(runs), _latency(runs)],
        list(_shard_throughput(panels)),
        list(_shard_latency(panels)),
        list(_balance(panels)),
    ]


# -- the frame ------------------------------------------------------------------------------------


@contextmanager
def _plot(name: str, label: str, height: float, above: float = 0, left: float = _LEFT) -> Iterator[_Drawn]:
    with svg.drawing(name):
        height += above
        figure = svg.figure(height)
        axes = figure.add_axes(
            (
                left / svg.WIDTH,
                _BOTTOM / height,
                1 - (left + _RIGHT) / svg.WIDTH,
                1 - (_BOTTOM + _TOP + above) / height,
            )
        )
        drawn = _Drawn(axes)
        yield drawn
        drawn.svg = svg.inline(figure, name, label)


@contextmanager
def _over_time(name: str, label: str, runs: Sequence[Run]) -> Iterator[_Drawn]:
    """With seconds to the right and the faults marked."""
    length = max(max(run.result.duration, len(run.result.seconds)) for run in runs) or 1
    faults = _marks(runs)
    places = _places([fault.kind for fault in faults], [fault.began for fault in faults], length)
    rows = max((row for *_, row in places), default=-1) + 1
    with _plot(name, label, height=210, above=rows * _LABEL_ROW) as drawn:
        axes = drawn.axes
        axes.set_xlim(0, length)
        axes.xaxis.set_major_locator(_whole_numbers(8))
        axes.xaxis.set_major_formatter(lambda value, _: f"{count(value)} s")
        axes.grid(visible=False, axis="x")
        for fault, (text, x, row) in zip(faults, places, strict=True):
            axes.axvspan(fault.began, fault.ended, facecolor=Color.FAULT.value, alpha=0.13, linewidth=0)
            axes.axvline(fault.began, color=Color.FAULT.value, linewidth=1)
            axes.annotate(
                text,
                (x, 1),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, 5 + row * _LABEL_ROW),
                textcoords="offset points",
                color=Color.FAULT.value,
                fontsize=svg.FONT_SIZE,
            )
        yield drawn


def _whole_numbers(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10])


def _marks(runs: Sequence[Run]) -> list[FaultReport]:
    """The faults of all runs; one that several had is marked where the first had it."""
    found: dict[str, FaultReport] = {}
    for run in runs:
        for fault in run.result.faults:
            found.setdefault(fault.name, fault)
    return sorted(found.values(), key=lambda fault: fault.began)


def _places(texts: Sequence[str], begins: Sequence[float], length: float) -> list[tuple[str, float, int]]:
    """Text, seconds and row for each label, so that none covers another: each in the lowest row that is free."""
    second = (svg.WIDTH - _LEFT - _RIGHT) / length if length else 1.0
    right_ends: list[float] = []
    places = []
    for text, begin in zip(texts, begins, strict=True):
        width = _LETTER * len(text)
        left = max(0.0, min(begin * second - 1, length * second - width))
        row = next((row for row, end in enumerate(right_ends) if end <= left), len(right_ends))
        right_ends[row : row + 1] = [left + width + _LETTER]
        places.append((text, left / second, row))
    return places


def _line(axes: Axes, xs: Sequence[float], ys: Sequence[float | None], style: Style) -> None:
    """With a gap where there is no value, and a dot where a value has none beside it."""
    values = [math.nan if y is None else y for y in ys]
    # Not cut off at the edge: zero is on it.
    axes.plot(xs, values, **style.line(), clip_on=False)
    alone = [
        index
        for index, value in enumerate(values)
        if value == value and all(math.isnan(each) for each in _neighbours(values, index))
    ]
    if alone:
        axes.plot(
            [xs[index] for index in alone],
            [values[index] for index in alone],
            linestyle="none",
            marker="o",
            markersize=style.width + 1.5,
            color=style.color.value,
            clip_on=False,
        )


def _neighbours(values: Sequence[float], index: int) -> Sequence[float]:
    return [*values[max(0, index - 1) : index], *values[index + 1 : index + 2]]


def _from_zero(axes: Axes, top: float) -> None:
    axes.set_ylim(0, top * 1.08 or 1)
    axes.yaxis.set_major_locator(_whole_numbers(5))
    axes.yaxis.set_major_formatter(lambda value, _: compact(value))


def _milliseconds(axes: Axes, values: Iterable[float | None]) -> None:
    """A logarithmic scale for such values; words where there are none."""
    shown = [value for value in values if value]
    axes.set_yscale("log")
    if shown:
        low, high = min(shown) / 1.15, max(shown) * 1.15
        axes.set_ylim(low, high)
        axes.set_yticks(_ticks(low, high))
    else:
        axes.set_ylim(1, 10)
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "nothing was answered", transform=axes.transAxes, ha="center", color=Color.SOFT.value
        )
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and their double and fivefold where those alone would be few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [
            step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high
        ]
        if len(found) >= 4:
            break
    return found


# -- latency --------------------------------------------------------------------------------------


def _percentiles(runs: Sequence[Run]) -> Plot:
    """Latency over the number of nines: 90 %, 99 %, 99.9 % are equally far from one another."""
    title = "Latency by percentile"
    curves = list(_curves(runs))
    with _plot("percentiles", title, height=240) as drawn:
        axes = drawn.axes
        nines, latencies = 1.0, []
        for name, part, style in curves:
            xs, ys = _percentile_curve(part)
            if xs:
                _line(axes, xs, ys, style)
                drawn.legend.append((name, style))
                nines = max(nines, xs[-1])
                latencies += ys
        axes.set_xlim(0, nines)
        ticks = [math.log10(2), *range(1, math.floor(nines) + 1)] if drawn.legend else []
        axes.set_xticks(ticks, [f"{100 - 10.0 ** (2 - nine):.10g} %" for nine in ticks])
        _milliseconds(axes, latencies)
    return Plot(title, drawn.legend, drawn.svg)


def _curves(runs: Sequence[Run]) -> Iterator[tuple[str, Part, Style]]:
    if len(runs) > 1:
        yield from ((run.name, run.result.total, style) for run, style in zip(runs, _styles(), strict=False))
        return
    parts = runs[0].result.operations
    yield from ((part.name, part, style) for part, style in zip(parts, _styles(), strict=False))
    if len(parts) != 1:
        yield "all", runs[0].result.total, Style(Color.INK, width=2)


def _styles() -> Iterator[Style]:
    """Styles for lines that are told apart by colour and dashes."""
    index = 0
    while True:
        yield Style(_SERIES[index % len(_SERIES)], _DASHES[(index + index // len(_SERIES)) % len(_DASHES)])
        index += 1


def _percentile_curve(part: Part) -> tuple[list[float], list[float]]:
    """Nines and milliseconds; empty where nothing was answered."""
    if not part.operations:
        return [], []
    try:
        from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise svg.MissingPlotsError("hdrhistogram") from error
    histogram = HdrHistogram.decode(part.histogram)
    # The last point is the slowest operation.
    end = math.log10(max(histogram.get_total_count(), 2))
    steps = math.ceil(end * 40)
    nines = [end * step / steps for step in range(steps + 1)]
    percentiles = [*(100 - 10 ** (2 - nine) for nine in nines[:-1]), 100.0]
    found = histogram.get_percentile_to_value_dict(percentiles)
    return nines, [found[percentile] / 1e6 for percentile in percentiles]


# -- over time ------------------------------------------------------------------------------------


def _middles(result: Result) -> list[float]:
    return [second.second + 0.5 for second in result.seconds]


def _rate(operations: int, second: int, result: Result) -> float:
    """Of a second; the last one may be shorter."""
    length = result.duration - second
    return operations / length if 0 < length < 1 else float(operations)


def _throughput(runs: Sequence[Run]) -> Plot:
    return _counted("throughput", "Throughput, operations a second", runs, lambda second: second.operations)


def _errors(runs: Sequence[Run]) -> Plot:
    return _counted("errors", "Errors a second", runs, lambda second: total(second.errors))


def _counted(name: str, title: str, runs: Sequence[Run], number: Callable[[Second], int]) -> Plot:
    with _over_time(name, title, runs) as drawn:
        top = 0.0
        for run, style in zip(runs, _styles(), strict=False):
            result = run.result
            rates = [_rate(number(second), second.second, result) for second in result.seconds]
            _line(drawn.axes, _middles(result), rates, style)
            top = max(top, *rates, 0.0)
            if len(runs) > 1:
                drawn.legend.append((run.name, style))
        _from_zero(drawn.axes, top)
    return Plot(title, drawn.legend, drawn.svg)


def _latency(runs: Sequence[Run]) -> Plot:
    title = "Latency of each second"
    with _over_time("latency", title, runs) as drawn:
        lines: list[tuple[str, Style, Result, Callable[[Any], float | None]]]
        if len(runs) == 1:
            result = runs[0].result
            lines = [
                ("max", Style(Color.OTHER, width=1.2), result, lambda second: second.max_ms),
                ("p99", Style(Color.SERIES_1), result, lambda second: second.p99_ms),
                ("p50", Style(Color.SERIES_3, _DASHES[1]), result, lambda second: second.p50_ms),
            ]
        else:
            lines = []
            for run, style in zip(runs, _styles(), strict=False):
                thin = Style(style.color, _DASHES[2], 0.9)
                lines.append((f"{run.name} p99", style, run.result, lambda second: second.p99_ms))
                lines.append((f"{run.name} max", thin, run.result, lambda second: second.max_ms))
        everything = []
        for name, style, result, value in lines:
            values = [value(second) for second in result.seconds]
            _line(drawn.axes, _middles(result), values, style)
            drawn.legend.append((name, style))
            everything += values
        _milliseconds(drawn.axes, everything)
    return Plot(title, drawn.legend, drawn.svg)


# -- shards ---------------------------------------------------------------------------------------


def _hit(result: Result) -> list[int]:
    return sorted({fault.shard for fault in result.faults if fault.shard is not None})


def _single_styles(result: Result) -> list[Style]:
    """Hit shards stand out. Where none was, all do if they are few, or the busiest one does."""
    few = len(result.shards) <= _COLORED_SHARDS
    standing_out = _hit(result) or (list(range(len(result.shards))) if few else _busiest(result))
    return _standing_out(result, dict(zip(standing_out, _styles(), strict=False)))


def _compared_styles(result: Result, color: Color) -> list[Style]:
    """Hit shards, or the busiest one, have the run's own colour."""
    standing_out = _hit(result) or _busiest(result)
    return _standing_out(
        result,
        {shard: Style(color, _DASHES[index % len(_DASHES)]) for index, shard in enumerate(standing_out)},
    )


def _busiest(result: Result) -> list[int]:
    rates = [part.rate for part in result.by_shard]
    return [rates.index(max(rates))] if rates else []


def _standing_out(result: Result, styles: dict[int, Style]) -> list[Style]:
    return [styles.get(shard, Style(Color.OTHER, width=1)) for shard in range(len(result.shards))]


def _shard_legend(panel: _Panel, filled: bool = False) -> list[tuple[str, Style]]:
    hit = _hit(panel.result)
    legend = [
        (_short(shard.slots) + (" (hit)" if index in hit else ""), replace(style, filled=filled))
        for index, (shard, style) in enumerate(zip(panel.result.shards, panel.styles, strict=True))
        if style.color is not Color.OTHER
    ]
    if len(legend) < len(panel.styles):
        legend.append(("other shards", Style(Color.OTHER, width=1, filled=filled)))
    return legend


def _short(slots: str) -> str:
    """The slots of a shard, or the first of them."""
    first, comma, _ = slots.partition(",")
    return f"{first}, \N{HORIZONTAL ELLIPSIS}" if comma else first


def _shard_rate(result: Result, second: Second, shard: int) -> float:
    return _rate(second.shards[shard].operations, second.second, result)


def _of_all_shards(panels: Sequence[_Panel], value: Callable[[Result, Second, int], _Value]) -> list[_Value]:
    """What all panels of a kind show, which have the same scale."""
    return [
        value(panel.result, second, shard)
        for panel in panels
        for second in panel.result.seconds
        for shard in range(len(second.shards))
    ]


def _shard_throughput(panels: Sequence[_Panel]) -> Iterator[Plot]:
    top = max(_of_all_shards(panels, _shard_rate), default=0.0)
    for panel in panels:
        title = f"Throughput by shard{panel.of_run}, operations a second"
        with _over_time(f"shards{panel.id}", title, [panel.run]) as drawn:
            _shard_lines(drawn, panel, _shard_rate)
            _from_zero(drawn.axes, top)
        yield Plot(title, drawn.legend, drawn.svg)


def _shard_latency(panels: Sequence[_Panel]) -> Iterator[Plot]:
    def p99(_: Result, second: Second, shard: int) -> float | None:
        return second.shards[shard].p99_ms

    everything = _of_all_shards(panels, p99)
    for panel in panels:
        title = f"p99 by shard{panel.of_run}"
        with _over_time(f"shard-p99{panel.id}", title, [panel.run]) as drawn:
            _shard_lines(drawn, panel, p99)
            _milliseconds(drawn.axes, everything)
        yield Plot(title, drawn.legend, drawn.svg)


def _shard_lines(drawn: _Drawn, panel: _Panel, value: Callable[[Result, Second, int], float | None]) -> None:
    """Those that stand out last, so that no other covers them."""
    result = panel.result
    for shard, style in sorted(enumerate(panel.styles), key=lambda each: each[1].color is not Color.OTHER):
        values = [value(result, second, shard) for second in result.seconds]
        _line(drawn.axes, _middles(result), values, style)
    drawn.legend += _shard_legend(panel)


def _balance(panels: Sequence[_Panel]) -> Iterator[Plot]:
    """How busy each shard was over the whole run, as bars."""
    mean_style, bound_style = Style(Color.INK, width=1.2), Style(Color.INK, _DASHES[1], 1)
    all_rates = [[part.rate for part in panel.result.by_shard] for panel in panels]
    means = [sum(rates) / max(len(rates), 1) for rates in all_rates]
    top = max(
        *means, *(mean * _TOLERANCE for mean in means), *(rate for rates in all_rates for rate in rates)
    )
    for panel, rates, mean in zip(panels, all_rates, means, strict=True):
        title = f"Balance of the shards{panel.of_run}, operations a second"
        bar = max(6.0, min(26.0, 320 / max(len(rates), 1)))
        height = bar * max(len(rates), 2) + _TOP + _BOTTOM
        with _plot(f"balance{panel.id}", title, height, left=_SLOTS_LEFT) as drawn:
            axes = drawn.axes
            axes.barh(
                range(len(rates)), rates, height=0.66, color=[style.color.value for style in panel.styles]
            )
            axes.axvline(mean, **mean_style.line())
            axes.axvline(mean * _TOLERANCE, **bound_style.line())
            axes.set_xlim(0, top * 1.06 or 1)
            axes.set_ylim(max(len(rates), 1) - 0.5, -0.5)
            every = math.ceil(_LABEL_ROW / bar)
            slots = [_short(part.name) for part in panel.result.by_shard]
            axes.set_yticks(range(0, len(rates), every), slots[::every])
            axes.xaxis.set_major_locator(_whole_numbers(5))
            axes.xaxis.set_major_formatter(lambda value, _: compact(value))
            axes.grid(visible=False, axis="y")
        lines = [("mean", mean_style), ("20 % above the mean", bound_style)]
        yield Plot(title, [*_shard_legend(panel, filled=True), *lines], drawn.svg)
