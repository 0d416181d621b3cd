"""The tables of a report, as words: `html` and `table` print the same ones.

Each takes the runs that stand beside one another; of a single run the column that names it is left out.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slotwise.loadtest.report.numbers import NONE, count, figure, rate, share, times, total
from slotwise.loadtest.result import FaultReport, Part, Result


@dataclass(frozen=True)
class Column:
    name: str
    #: Of the numbers in it; empty for words and counts.
    unit: str = ""
    #: Words stand on the left, numbers on the right.
    words: bool = False
    #: Left out where there is little room.
    minor: bool = False


@dataclass(frozen=True)
class Row:
    cells: Sequence[str]
    #: ``good``, ``bad``, or ``other`` for what differs from run to run.
    tone: str = ""


@dataclass(frozen=True)
class Grid:
    title: str
    columns: Sequence[Column]
    #: As many cells in each as there are columns.
    rows: Sequence[Row]


@dataclass(frozen=True)
class Run:
    """A result and the name it goes by beside others."""

    name: str
    result: Result


def named(results: Sequence[Result]) -> list[Run]:
    """The runs by their clients, numbered where one client ran twice. ValueError without any result."""
    if not results:
        raise ValueError("there is no report without a result")
    clients = [result.client for result in results]
    return [
        Run(
            client if clients.count(client) == 1 else f"{client} {clients[: index + 1].count(client)}", result
        )
        for index, (client, result) in enumerate(zip(clients, results, strict=True))
    ]


def _beside(runs: Sequence[Run]) -> list[Column]:
    return [Column("run", words=True)] if len(runs) > 1 else []


def _run_cell(runs: Sequence[Run], run: Run) -> list[str]:
    return [run.name] if len(runs) > 1 else []


# -- figures --------------------------------------------------------------------------------------


#: Of a shard that did not answer again.
_NEVER = "not in this run"
_LATENCIES = (
    Column("mean", "ms", minor=True),
    Column("p50", "ms"),
    Column("p90", "ms", minor=True),
    Column("p99", "ms"),
    Column("p99.9", "ms"),
    Column("p99.99", "ms", minor=True),
    Column("max", "ms"),
)


def _latencies(part: Part) -> list[str]:
    found = part.latency
    return [
        figure(value)
        for value in (found.mean, found.p50, found.p90, found.p99, found.p999, found.p9999, found.max)
    ]


def comparison(runs: Sequence[Run]) -> Grid:
    """The main figures of all runs, with ratios against the first."""
    columns = [Column("", words=True), Column(runs[0].name)]
    for run in runs[1:]:
        columns += [Column(run.name), Column("ratio")]

    parts = [run.result.total for run in runs]
    rows = [
        _compared(name, values, [write(value) for value in values])
        for name, write, values in (
            ("operations a second", rate, [part.rate for part in parts]),
            ("p50, ms", figure, [part.latency.p50 for part in parts]),
            ("p99, ms", figure, [part.latency.p99 for part in parts]),
            ("p99.9, ms", figure, [part.latency.p999 for part in parts]),
            ("max, ms", figure, [part.latency.max for part in parts]),
            ("errors", count, [float(total(part.errors)) for part in parts]),
        )
    ]
    for name, found in _same_faults(runs):
        recovered = [None if fault is None else fault.recovered_after for fault in found]
        words = [
            _NEVER if fault is not None and fault.recovered_after is None else figure(seconds)
            for fault, seconds in zip(found, recovered, strict=True)
        ]
        rows.append(_compared(f"recovered from {name}, s", recovered, words))
    return Grid("Side by side", columns, rows)


def _compared(name: str, values: Sequence[float | None], words: Sequence[str]) -> Row:
    cells = [name, words[0]]
    for value, word in zip(values[1:], words[1:], strict=True):
        cells += [word, times(value, values[0])]
    return Row(cells)


def operations(runs: Sequence[Run]) -> Grid:
    """What was answered and how fast, by kind of operation; all of them last where there are several kinds."""
    kinds = list(dict.fromkeys(part.name for run in runs for part in run.result.operations))
    rows = [
        Row([kind, *_run_cell(runs, run), *_part_cells(part)])
        for kind in kinds
        for run in runs
        for part in run.result.operations
        if part.name == kind
    ]
    if len(kinds) != 1:
        rows += [Row(["all", *_run_cell(runs, run), *_part_cells(run.result.total)]) for run in runs]
    columns = [
        Column("operation", words=True),
        *_beside(runs),
        Column("answered"),
        Column("rate", "/s"),
        Column("keys", minor=True),
        Column("errors"),
        *_LATENCIES,
    ]
    return Grid("Operations", columns, rows)


def _part_cells(part: Part) -> list[str]:
    return [
        count(part.operations),
        rate(part.rate),
        count(part.keys),
        count(total(part.errors)),
        *_latencies(part),
    ]


def shards(runs: Sequence[Run]) -> Grid:
    """Where the operations went, by the slots that a primary served when the run began."""
    rows = []
    for run in runs:
        nodes = {shard.slots: shard.node for shard in run.result.shards}
        parts = run.result.by_shard
        mean = sum(part.rate for part in parts) / len(parts) if parts else 0.0
        rows += [
            Row(
                [
                    part.name,
                    *_run_cell(runs, run),
                    nodes.get(part.name, NONE),
                    count(part.operations),
                    rate(part.rate),
                    times(part.rate, mean),
                    count(total(part.errors)),
                    *_latencies(part),
                ]
            )
            for part in parts
        ]
    columns = [
        Column("slots", words=True),
        *_beside(runs),
        Column("primary", words=True),
        Column("answered", minor=True),
        Column("rate", "/s"),
        Column("of mean"),
        Column("errors"),
        *_LATENCIES,
    ]
    return Grid("Shards", columns, rows)


def errors(runs: Sequence[Run]) -> Grid | None:
    """Failed operations by exception; None where none failed."""
    rows = []
    for run in runs:
        result = run.result
        attempts = result.total.operations + total(result.total.errors)
        for name, number in sorted(result.total.errors.items(), key=lambda item: -item[1]):
            where = ", ".join(
                f"{part.name} {count(part.errors[name])}" for part in result.operations if name in part.errors
            )
            rows.append(
                Row([name, *_run_cell(runs, run), count(number), share(number, attempts), where or NONE])
            )
    columns = [
        Column("exception", words=True),
        *_beside(runs),
        Column("operations"),
        Column("of all"),
        Column("kinds", words=True),
    ]
    return Grid("Errors", columns, rows) if rows else None


# -- faults ---------------------------------------------------------------------------------------

#: Beside one another in one table, so that it fits a page.
_FAULTS_IN_A_ROW = 3


def faults(runs: Sequence[Run]) -> Iterator[Grid]:
    """What callers noticed: the faults of one run beside one another, or one fault in the runs that had it."""
    if len(runs) == 1:
        result = runs[0].result
        for begin in range(0, len(result.faults), _FAULTS_IN_A_ROW):
            some = result.faults[begin : begin + _FAULTS_IN_A_ROW]
            yield _fault_grid(
                "Faults" if begin == 0 else "More faults", [(each.name, result, each) for each in some]
            )
        return
    for name, found in _same_faults(runs):
        beside = [
            (run.name, run.result, fault) for run, fault in zip(runs, found, strict=True) if fault is not None
        ]
        yield _fault_grid(f"Fault {name}", beside)


def _same_faults(runs: Sequence[Run]) -> list[tuple[str, list[FaultReport | None]]]:
    """Faults by name, as each run had them. A name that is there twice is two faults."""
    keyed = []
    for run in runs:
        names = [fault.name for fault in run.result.faults]
        keyed.append(
            {
                (name, names[:index].count(name)): fault
                for index, (name, fault) in enumerate(zip(names, run.result.faults, strict=True))
            }
        )
    keys = dict.fromkeys(key for faults_of_run in keyed for key in faults_of_run)
    return [(key[0], [faults_of_run.get(key) for faults_of_run in keyed]) for key in keys]


def _fault_grid(title: str, found: Sequence[tuple[str, Result, FaultReport]]) -> Grid:
    lines: list[tuple[str, Callable[[Result, FaultReport], str]]] = [
        ("hit", lambda result, fault: _hit(result, fault)),
        ("began, ended", lambda _, fault: f"{figure(fault.began)} s, {figure(fault.ended)} s"),
        ("replica elected after", lambda _, fault: _after(fault.elected_after, NONE)),
        ("noticed by a caller after", lambda _, fault: _after(fault.noticed_after, "never")),
        ("answered again after", lambda _, fault: _after(fault.recovered_after, _NEVER)),
        ("longest silence of the shard", lambda _, fault: _silence(fault)),
        ("failed operations", lambda _, fault: _by_exception(fault.errors)),
        ("lost: surely did not take place", lambda _, fault: count(fault.lost)),
        ("unknown: may have taken place", lambda _, fault: count(fault.unknown)),
        ("p99 of other shards before", lambda _, fault: _ms(fault.others_p99_before)),
        ("p99 of other shards meanwhile", lambda _, fault: _ms(fault.others_p99_during)),
    ]
    rows = [
        Row(
            [name, *(write(result, fault) for _, result, fault in found)],
            "bad"
            if write is lines[4][1] and any(fault.recovered_after is None for *_, fault in found)
            else "",
        )
        for name, write in lines
    ]
    return Grid(title, [Column("", words=True), *(Column(name, words=True) for name, *_ in found)], rows)


def _hit(result: Result, fault: FaultReport) -> str:
    return "all shards" if fault.shard is None else result.shards[fault.shard].slots


def _after(seconds: float | None, never: str) -> str:
    return never if seconds is None else f"{figure(seconds)} s"


def _silence(fault: FaultReport) -> str:
    if fault.silence is None:
        return "under 0.1 s"
    if fault.silence.ended is None:
        return f"from {figure(fault.silence.began)} s to the end"
    return f"{figure(fault.silence.ended - fault.silence.began)} s"


def _by_exception(found: dict[str, int]) -> str:
    if len(found) < 2:
        return "".join(f"{count(number)} {name}" for name, number in found.items()) or "0"
    names = ", ".join(f"{count(number)} {name}" for name, number in found.items())
    return f"{count(total(found))}: {names}"


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{figure(value)} ms"


# -- expectations, and what was run ---------------------------------------------------------------


_RELATIONS = {"<=": "\N{LESS-THAN OR EQUAL TO}", ">=": "\N{GREATER-THAN OR EQUAL TO}"}


def expectations(runs: Sequence[Run]) -> Grid | None:
    """What was asked for and whether it is there; None where nothing was asked for."""
    rows = [
        Row(
            [
                expected.name,
                *_run_cell(runs, run),
                f"{_RELATIONS[expected.relation]} {_with_unit(expected.bound, expected.unit)}",
                NONE if expected.measured is None else _with_unit(expected.measured, expected.unit),
                "met" if expected.met else "missed",
            ],
            "good" if expected.met else "bad",
        )
        for run in runs
        for expected in run.result.expectations
    ]
    columns = [
        Column("figure", words=True),
        *_beside(runs),
        Column("expected"),
        Column("measured"),
        Column("", words=True),
    ]
    return Grid("Expectations", columns, rows) if rows else None


def _with_unit(value: float, unit: str) -> str:
    number = count(value) if value == int(value) else figure(value)
    return f"{number} {unit}".rstrip()


def what_was_run(runs: Sequence[Run]) -> Grid:
    """All that is needed to run it again."""
    facts: list[tuple[str, Callable[[Result], str]]] = [
        ("command", lambda result: shlex.join(result.command)),
        ("began", lambda result: result.began),
        ("measured", lambda result: f"{result.duration:,g} s"),
        ("loop", lambda result: result.loop),
        ("seed", lambda result: str(result.seed)),
        ("server", lambda result: result.server),
        ("imbalance", imbalance),
        ("unanswered", unanswered),
        ("held up", held_up),
        ("generator", generator),
    ]
    lines = [(name, [write(run.result) for run in runs]) for name, write in facts]
    return _side_by_side("What was run", runs, lines)


def imbalance(result: Result) -> str:
    """How busy the busiest shard was, in words."""
    ratio = figure(result.imbalance)
    return NONE if ratio == NONE else f"the busiest shard has {ratio} times the mean of all shards' keys"


def unanswered(result: Result) -> str:
    """What of an open loop's operations was never answered, in words."""
    if result.due is None or result.unanswered is None:
        return NONE
    return (
        f"{count(result.unanswered)} of {count(result.due)} operations that were due"
        f" ({share(result.unanswered, result.due)}); they are in no latency"
    )


def held_up(result: Result) -> str:
    """How long an open loop could begin nothing that was due, in words."""
    if result.held_s is None:
        return NONE
    return f"for {figure(result.held_s)} s as much was under way as may be, and what was due waited, on all shards"


def generator(result: Result) -> str:
    """What the load test itself took, in words."""
    took = (
        f"{figure(result.overhead_us)} \N{MICRO SIGN}s of processor time for each operation, "
        f"{share(result.overhead_share, 1)} of the time between two"
    )
    if result.late_p99_ms is None:
        return took
    return f"{took}; 99 % of operations began at most {figure(result.late_p99_ms)} ms late"


def options(runs: Sequence[Run]) -> Grid:
    """Every option with its value."""
    return _side_by_side("Options", runs, _facts([run.result.options for run in runs]))


def machine(runs: Sequence[Run]) -> Grid:
    """The machine and the versions."""
    return _side_by_side("Machine and versions", runs, _facts([run.result.machine for run in runs]))


def _facts(found: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for facts in found for name in facts)
    return [(name, [_word(facts.get(name)) for facts in found]) for name in names]


def _word(value: Any) -> str:
    if value is None or value == []:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)


def _side_by_side(title: str, runs: Sequence[Run], lines: Sequence[tuple[str, list[str]]]) -> Grid:
    """One column where all runs agree on everything, so that nothing is said twice."""
    if all(len(set(values)) == 1 for _, values in lines):
        columns = [Column("", words=True), Column("", words=True)]
        return Grid(title, columns, [Row([name, values[0]]) for name, values in lines])
    columns = [Column("", words=True), *(Column(run.name, words=True) for run in runs)]
    rows = [Row([name, *values], "other" if len(set(values)) > 1 else "") for name, values in lines]
    return Grid(title, columns, rows)
