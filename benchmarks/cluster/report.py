"""What a run found: a table for people, JSON and Markdown to keep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.cluster.reference import NAME as REFERENCE
from benchmarks.cluster.rows import Row
from benchmarks.cluster.targets import OURS
from slotwise.cli._timing import Figures, ratio, summary

RESULTS = Path(__file__).parents[1] / "results"

_COLUMNS = ("client", "commands/s", "p50 ms", "p99 ms", "CPU µs", "slotwise is")


@dataclass(frozen=True)
class Result:
    """A row measured."""

    row: Row
    #: In the order of the table.
    clients: Sequence[str]
    rounds: Sequence[Mapping[str, Figures]]

    def figures(self, client: str) -> Figures | None:
        """The medians over all rounds; None if the client was not measured."""
        return summary(self.rounds, client) if client in self.clients else None

    def ratio(self, client: str) -> float | None:
        """How many times the rate of `client` slotwise reached; None if one of them was not measured."""
        if {OURS, client} <= set(self.clients) and client != OURS:
            return ratio(self.rounds, OURS, to=client)
        return None

    @property
    def met(self) -> bool | None:
        """Whether slotwise reached the row's targets, as far as they were measured; None if none was."""
        known = [met for target in self.row.targets if (met := target.is_met(self)) is not None]
        return all(known) if known else None

    @property
    def verdicts(self) -> list[str]:
        """What became of the row's targets, in words; empty without targets."""
        if not self.row.can_run:
            return [f"not run: {self.row.needs} is not installed"]
        lines = []
        for word, answer in (("met", True), ("MISSED", False), ("not measured", None)):
            targets = [str(target) for target in self.row.targets if target.is_met(self) is answer]
            if targets:
                lines.append(f"{word}: {', '.join(targets)}")
        return lines

    def cells(self) -> list[tuple[str, ...]]:
        """The figures of each client."""
        return [self._cells(client) for client in self.clients]

    def _cells(self, client: str) -> tuple[str, ...]:
        figures = summary(self.rounds, client)
        times = self.ratio(client)
        return (
            f"{client} {self.row.reference.size}" if client == REFERENCE and self.row.reference else client,
            f"{figures.rate:,.0f}",
            f"{figures.p50 * 1e3:.3f}",
            f"{figures.p99 * 1e3:.3f}",
            "" if figures.cpu is None else f"{figures.cpu * 1e6:.1f}",
            "" if times is None else f"{times:.2f}x",
        )


def heading() -> str:
    """Above the text of all results."""
    return _line(("", *_COLUMNS[1:]))


def text(result: Result) -> str:
    """A row for people: its name, and a line for each client."""
    return "\n".join(
        [result.row.title, *map(_line, result.cells()), *(f"    {verdict}" for verdict in result.verdicts)]
    )


def _line(cells: Sequence[str]) -> str:
    client, *figures = cells
    return f"  {client:30}" + "".join(f"{figure:>12}" for figure in figures)


def save(name: str, machine: Mapping[str, str], results: Sequence[Result]) -> list[Path]:
    """Write results/NAME.json with every round's figures, and results/NAME.md with the table."""
    RESULTS.mkdir(exist_ok=True)
    rows = [
        {
            "name": result.row.name,
            "title": result.row.title,
            "targets": [str(target) for target in result.row.targets],
            "met": result.met,
            "ratios": {client: found for client in result.clients if (found := result.ratio(client))},
            "rounds": [
                {client: asdict(figures) for client, figures in round_.items()} for round_ in result.rounds
            ],
        }
        for result in results
    ]
    lines = [f"# {name}", "", *(f"- {what}: {value}" for what, value in machine.items()), ""]
    for result in results:
        lines += [f"## {result.row.title}", ""]
        lines += [*map(_markdown, [_COLUMNS, ["---"] * len(_COLUMNS), *result.cells()]), ""]
        lines += [*(f"- {verdict}" for verdict in result.verdicts), ""] if result.verdicts else []
    as_json, as_markdown = RESULTS / f"{name}.json", RESULTS / f"{name}.md"
    as_json.write_text(json.dumps({"machine": dict(machine), "rows": rows}, indent=2) + "\n")
    as_markdown.write_text("\n".join(lines))
    return [as_json, as_markdown]


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
