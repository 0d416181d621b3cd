"""`slotwise compare`: whether two clusters hold the same keys."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from slotwise.cli._interrupt import interruptible
from slotwise.cli._output import print_json
from slotwise.cli.audit import DIFFERENCES, INTERRUPTED, SHOWN, connected
from slotwise.consistency.comparison import ComparisonReport
from slotwise.consistency.comparison import compare as run_compare
from slotwise.consistency.comparison import reconcile as run_reconcile

app = typer.Typer(add_completion=False)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="URL_A", help="Any node of one cluster: redis://host:port.")],
    b: Annotated[str, typer.Argument(metavar="URL_B", help="Any node of the other.")],
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Merge both ways: of versioned values the newer one wins.")
    ] = False,
    prefer: Annotated[
        str | None,
        typer.Option(help="a or b: with --reconcile, who is right where no version says so."),
    ] = None,
    ttl_tolerance: Annotated[
        float, typer.Option(min=0, help="Seconds that two expiries may be apart.")
    ] = 2.0,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds a node has for an answer.")] = 5.0,
    show_keys: Annotated[bool, typer.Option("--show-keys", help="Print the keys as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Compare all keys of two clusters, slot by slot.

    Sums of digests are compared first, so that equal slots cost almost
    nothing on the wire.

    Exit code 0 if they are equal, or all was reconciled; 1 if there are
    differences, nodes that failed, or slots on their way; 2 if a cluster does
    not answer or the options are wrong; 130 after Ctrl-C, with what was found
    until then.
    """
    if prefer not in (None, "a", "b"):
        raise typer.BadParameter(f"{prefer!r} is neither a nor b", param_hint="--prefer")
    if prefer is not None and not reconcile:
        raise typer.BadParameter("goes with --reconcile", param_hint="--prefer")
    console = Console(stderr=True, highlight=False)
    with (
        connected(a, timeout, as_json, "URL_A") as one,
        connected(b, timeout, as_json, "URL_B") as other,
        _bar(console) as follow,
        interruptible() as stop,
    ):
        if reconcile:
            report = run_reconcile(
                one,
                other,
                prefer="a" if prefer == "a" else "b" if prefer == "b" else None,
                ttl_tolerance=ttl_tolerance,
                timeout=timeout,
                progress=follow,
                stop=stop,
            )
        else:
            report = run_compare(
                one, other, ttl_tolerance=ttl_tolerance, timeout=timeout, progress=follow, stop=stop
            )
    if as_json:
        print_json(report.as_dict(show_keys))
    else:
        _show(report, reconcile, show_keys)
    if report.stopped:
        raise typer.Exit(INTERRUPTED)
    if not report.mended:
        raise typer.Exit(DIFFERENCES)


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    bar = Progress(
        TextColumn("Comparing"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} slots"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=16_384)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(report: ComparisonReport, reconcile: bool, show_keys: bool) -> None:
    # Keys, addresses and errors may hold brackets, which are no markup here.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if report.differences:
        table = Table("difference", "type", "slot", "newer", box=box.SIMPLE_HEAD)
        if reconcile:
            table.add_column("reconciled")
        if show_keys:
            table.add_column("key")
        for difference in report.differences[:SHOWN]:
            row = [difference.kind, difference.type, str(difference.slot), difference.newer or ""]
            if reconcile:
                row.append({True: "yes", False: "no", None: ""}[difference.reconciled])
            if show_keys:
                row.append(difference.key.decode("utf-8", "backslashreplace"))
            table.add_row(*row)
        console.print(table)
        if report.counts.total() > SHOWN:
            console.print(f"{report.counts.total() - SHOWN:,} more differences are not shown.")
    for kind, number in sorted(report.counts.items()):
        console.print(f"{kind}: {number:,}")
    for failure in report.failures:
        console.print(f"Problem: {failure.node} failed: {failure.error.rstrip('.')}.", style="red")
    console.print(f"{report.keys_a:,} and {report.keys_b:,} keys compared in {report.seconds:.1f} s.")
    if report.moving:
        console.print(
            f"{report.moving:,} slots were on their way and not looked at as a whole: compare again later.",
            style="red",
        )
    if report.stopped:
        console.print("Stopped before the end.", style="bold")
    elif report.equal:
        console.print("All equal.", style="bold")
    elif report.mended:
        console.print(f"All {report.reconciled:,} differences reconciled.", style="bold")
    else:
        console.print("Not equal.", style="bold")
