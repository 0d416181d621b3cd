"""``python -m benchmarks``: slotwise beside other clients on a local cluster."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.cluster.reference import NAME as REFERENCE
from benchmarks.cluster.report import heading, save, text
from benchmarks.cluster.rows import ROWS
from benchmarks.cluster.run import Contest
from slotwise.loadtest.machine import describe
from slotwise.local import LocalCluster

TARGET_MISSED = 1

ROW_NAMES = [row.name for row in ROWS]
CLIENT_NAMES = [*dict.fromkeys(client.split()[0] for row in ROWS for client in row.clients), REFERENCE]


def main(
    rows: Annotated[
        str | None, typer.Option(help=f"Comma-separated, of {', '.join(ROW_NAMES)}; else all.")
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated, of {', '.join(CLIENT_NAMES)}; else all that are installed."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="What each client gets for each row.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="In how many turns it gets them.")] = 6,
    name: Annotated[
        str | None, typer.Option("--save", metavar="NAME", help="Keep the run as results/NAME.json and .md.")
    ] = None,
) -> None:
    """Show how fast slotwise is beside other clients, on 3 primaries and 3 replicas.

    The clients take turns. Figures are medians over the turns, and so are
    the ratios, each taken within one turn.

    Exit code 1 if a target is missed.
    """
    chosen_rows = _chosen(rows, ROW_NAMES, "--rows")
    chosen_clients = _chosen(clients, CLIENT_NAMES, "--clients")
    console = Console(highlight=False, markup=False)
    machine = describe()
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    say = partial(console.print, soft_wrap=True)
    results = []
    with bars, LocalCluster(3, 1) as cluster, Contest(cluster, chosen_clients) as contest:
        machine["server"] = (
            f"{cluster.server_name} {cluster.server_version}, 3 primaries and 3 replicas on loopback"
        )
        machine["each client"] = f"{seconds:g} s for each row, in {rounds} turns"
        for what, value in machine.items():
            say(f"{what}: {value}")
        say(f"\n{heading()}")
        task = bars.add_task("", total=len(chosen_rows) * rounds)
        for row in ROWS:
            if row.name in chosen_rows:
                bars.update(task, description=row.title)
                results.append(contest.measure(row, seconds, rounds, lambda: bars.advance(task)))
                say(text(results[-1]))
    if contest.absent:
        say(f"Not installed: {', '.join(sorted(contest.absent))}.")
    if name is not None:
        for path in save(name, machine, results):
            say(f"Saved {path}")
    missed = [result.row.title for result in results if result.met is False]
    if missed:
        say(f"Missed: {'; '.join(missed)}.")
        raise typer.Exit(TARGET_MISSED)


def _chosen(text: str | None, names: Sequence[str], option: str) -> Sequence[str]:
    """The names in a comma-separated text; all of them without one."""
    if text is None:
        return names
    chosen = [part.strip() for part in text.split(",")]
    if unknown := set(chosen) - set(names):
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}: not among {', '.join(names)}", param_hint=option
        )
    return chosen


if __name__ == "__main__":
    typer.run(main)
