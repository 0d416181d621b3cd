"""A report as one HTML page that needs nothing else: no network, no scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from slotwise.loadtest.report import grids
from slotwise.loadtest.report.files import write_whole
from slotwise.loadtest.report.grids import Grid, Run
from slotwise.loadtest.report.numbers import count, figure, rate, share, total
from slotwise.loadtest.report.plots import Plot, Style, plots
from slotwise.loadtest.report.style import CSS
from slotwise.loadtest.result import Result


def write_html(path: Path, results: Sequence[Result]) -> None:
    """A page about one result, or one that compares several; the first is what the others are compared with.

    Raises `MissingPlotsError` where the libraries for the plots are not installed, ValueError without any result,
    OSError where the file cannot be written: then it is as it was.
    """
    write_whole(path, page(results))


def page(results: Sequence[Result]) -> str:
    """The page itself."""
    runs = grids.named(results)
    first, *others = (run.name for run in runs)
    title = f"{first} beside {' and '.join(others)}" if others else first
    body = "\n".join([*_head(runs, f"Load test: {title}"), *_body(runs)])
    # The policy keeps the page from loading anything, whatever a server called itself.
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Load test: {escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


_FEW_COLUMNS = 7


# -- the parts ------------------------------------------------------------------------------------


def _head(runs: Sequence[Run], title: str) -> Iterator[str]:
    first = runs[0].result
    yield f"<header>\n<h1>{escape(title)}</h1>"
    yield f'<p class="lead">{escape(_lead(first))}</p>'
    expected = [expectation for run in runs for expectation in run.result.expectations]
    if expected:
        missed = sum(not expectation.met for expectation in expected)
        verdict = f"Expectations missed: {missed} of {len(expected)}" if missed else "All expectations met"
        yield f'<p class="verdict {"bad" if missed else "good"}">{verdict}</p>'
    if len(runs) == 1:
        yield _figures(first)
    yield "</header>"
    if len(runs) > 1:
        yield _section(
            grids.comparison(runs), note=f"Ratios are against {runs[0].name}. Latency is in milliseconds."
        )


def _lead(result: Result) -> str:
    shards = f"{len(result.shards)} shard{'' if len(result.shards) == 1 else 's'}"
    began = result.began.replace("T", " ").partition(".")[0].partition("+")[0].rstrip("Z")
    return f"{result.server}, {shards}. {result.loop.capitalize()} loop, {result.duration:,g} s, {began} UTC."


def _figures(result: Result) -> str:
    part = result.total
    errors = total(part.errors)
    latency = part.latency
    tiles = [
        ("Operations a second", rate(part.rate), ""),
        ("p50", figure(latency.p50), "ms"),
        ("p99", figure(latency.p99), "ms"),
        ("p99.9", figure(latency.p999), "ms"),
        ("Max", figure(latency.max), "ms"),
        ("Errors", count(errors), share(errors, part.operations + errors)),
    ]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{value} <small>{escape(unit)}</small></dd></div>"
        for name, value, unit in tiles
    )
    return f'<dl class="figures">{cells}</dl>'


def _body(runs: Sequence[Run]) -> Iterator[str]:
    expectations, errors = grids.expectations(runs), grids.errors(runs)
    if expectations is not None:
        yield _section(expectations)
    yield "<section>\n<h2>Plots</h2>"
    for group in plots(runs):
        yield '<div class="plots">'
        yield from (_figure(plot) for plot in group)
        yield "</div>"
    yield "</section>"
    for grid in grids.faults(runs):
        yield _section(grid, facts=True)
    yield _section(grids.operations(runs))
    yield _section(grids.shards(runs))
    if errors is not None:
        yield _section(errors)
    yield _section(grids.what_was_run(runs), facts=True)
    yield '<div class="tables">'
    yield _section(grids.options(runs), facts=True)
    yield _section(grids.machine(runs), facts=True)
    yield "</div>"


def _section(grid: Grid, *, facts: bool = False, note: str = "") -> str:
    head = "".join(
        f'<th scope="col"{_words(column.words)}>{escape(column.name)}'
        f"{f'<small>{escape(column.unit)}</small>' if column.unit else ''}</th>"
        for column in grid.columns
    )
    # Facts of one run have nothing to say above their columns.
    named = any(column.name for column in grid.columns)
    rows = "\n".join(
        f"<tr{f' class={row.tone}' if row.tone else ''}>"
        + "".join(
            f'<th scope="row" class="words">{escape(cell)}</th>'
            if index == 0
            else f"<td{_words(column.words)}>{escape(cell)}</td>"
            for index, (column, cell) in enumerate(zip(grid.columns, row.cells, strict=True))
        )
        + "</tr>"
        for row in grid.rows
    )
    return (
        f"<section>\n<h2>{escape(grid.title)}</h2>\n"
        f'<div class="scroll">\n<table{_table_class(grid, facts)}>\n'
        f"{f'<thead><tr>{head}</tr></thead>' if named else ''}\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n"
        f"{f'<p class=note>{escape(note)}</p>' if note else ''}</section>"
    )


def _table_class(grid: Grid, facts: bool) -> str:
    """Many columns take the page's width; few stand close to one another."""
    if facts:
        return ' class="facts"'
    return ' class="wide"' if len(grid.columns) > _FEW_COLUMNS else ""


def _words(words: bool) -> str:
    return ' class="words"' if words else ""


def _figure(plot: Plot) -> str:
    legend = "".join(f"<li>{_swatch(style)}{escape(name)}</li>" for name, style in plot.legend)
    return (
        f'<figure>\n<figcaption><h3>{escape(plot.title)}</h3><ul class="legend">{legend}</ul></figcaption>\n'
        f"{plot.svg}\n</figure>"
    )


def _swatch(style: Style) -> str:
    if style.filled:
        mark = f'<rect x="6" width="12" height="10" rx="2" style="fill: {style.color.css}"/>'
    else:
        # matplotlib's dashes are multiples of the line's width.
        dashes = " ".join(f"{length * style.width:g}" for length in style.dashes) or "none"
        mark = (
            f'<path d="M0 5H24" style="fill: none; stroke: {style.color.css}; stroke-width: {max(style.width, 1.5)}; '
            f'stroke-dasharray: {dashes}"/>'
        )
    return f'<svg viewBox="0 0 24 10" aria-hidden="true">{mark}</svg>'
