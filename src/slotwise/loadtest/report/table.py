"""A report as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slotwise.loadtest.report import grids
from slotwise.loadtest.report.grids import Grid, Run
from slotwise.loadtest.report.numbers import count, figure, rate, share, total
from slotwise.loadtest.result import Result

#: Characters; a narrower terminal does without the minor columns.
_WIDE = 140
_TONES = {"good": "green", "bad": "red", "other": "", "": ""}


def print_result(console: Console, result: Result) -> None:
    """What one run found."""
    runs = grids.named([result])
    found = result.total
    attempts = found.operations + total(found.errors)
    _say(
        console,
        f"{result.client} on {result.server}, {len(result.shards)} shards, {result.loop} loop,"
        f" {figure(result.duration)} s, seed {result.seed}",
    )
    _say(
        console,
        f"{rate(found.rate)} operations/s, p50 {figure(found.latency.p50)} ms, p99 {figure(found.latency.p99)} ms,"
        f" p99.9 {figure(found.latency.p999)} ms, max {figure(found.latency.max)} ms,"
        f" {count(total(found.errors))} errors ({share(total(found.errors), attempts)})",
        style="bold",
    )
    _print(console, [grids.operations(runs), grids.shards(runs), *_incidents(runs)])
    _say(console, f"Imbalance: {grids.imbalance(result)}.")
    if result.unanswered:
        _say(console, f"Unanswered: {grids.unanswered(result)}.")
    if result.held_s:
        _say(console, f"Held up: {grids.held_up(result)}.")
    _say(console, f"Generator: {grids.generator(result)}.")


def print_comparison(console: Console, results: Sequence[Result]) -> None:
    """Several runs beside one another, with ratios against the first. ValueError without any."""
    runs = grids.named(results)
    for run in runs:
        _say(
            console,
            f"{run.name}: {run.result.server}, {len(run.result.shards)} shards, {run.result.loop} loop,"
            f" {figure(run.result.duration)} s, seed {run.result.seed}",
        )
    _print(console, [grids.comparison(runs), grids.operations(runs), *_incidents(runs)])


def _incidents(runs: Sequence[Run]) -> list[Grid | None]:
    return [grids.errors(runs), *grids.faults(runs), grids.expectations(runs)]


def _say(console: Console, line: str, style: str = "") -> None:
    # Names of servers and exceptions may hold brackets, which are no markup here.
    console.print(Text(line, style), soft_wrap=True, highlight=False)


def _print(console: Console, some: Sequence[Grid | None]) -> None:
    for grid in some:
        if grid is not None:
            console.print()
            console.print(_table(grid, wide=console.width >= _WIDE), highlight=False)


def _table(grid: Grid, wide: bool) -> Table:
    table = Table(
        title=Text(grid.title, "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    shown = [index for index, column in enumerate(grid.columns) if wide or not column.minor]
    for index in shown:
        column = grid.columns[index]
        head = Text(f"{column.name}\n{column.unit}" if column.unit else column.name)
        # Words go on in the next line where there is no room; numbers stay whole.
        table.add_column(
            head, justify="left" if column.words else "right", overflow="fold", no_wrap=not column.words
        )
    for row in grid.rows:
        table.add_row(*(Text(row.cells[index]) for index in shown), style=_TONES[row.tone])
    return table
