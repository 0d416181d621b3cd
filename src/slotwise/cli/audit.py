"""`slotwise audit`: whether every replica has what its primary has, and whether values are whole."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.connection import parse_url
from redis.exceptions import RedisClusterException, RedisError
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from slotwise import RedisCluster
from slotwise.cli._interrupt import interruptible
from slotwise.cli._output import complain, print_json
from slotwise.consistency.auditing import Progress as Seen
from slotwise.consistency.auditing import audit as run_audit
from slotwise.consistency.auditing import is_cursor
from slotwise.consistency.findings import AuditReport

DIFFERENCES = 1
CANNOT_CONNECT = 2
INTERRUPTED = 130
#: Findings in the table for people.
SHOWN = 50

app = typer.Typer(add_completion=False)


@app.command()
def audit(
    url: Annotated[
        str, typer.Option(help="Any node: redis://[user:password@]host:port; rediss:// for TLS.")
    ] = "redis://127.0.0.1:6379",
    pattern: Annotated[str, typer.Option(help="Only keys that match, as of SCAN.")] = "*",
    sample: Annotated[
        int | None, typer.Option(min=1, help="Look at so many random keys; without it at all.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Keys a second at most.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs: the last write wins.")] = False,
    ttl_tolerance: Annotated[
        float, typer.Option(min=0, help="Seconds that two expiries may be apart.")
    ] = 2.0,
    lag_timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds that a replica has to catch up before it is told as lagging."),
    ] = 5.0,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds a node has for an answer.")] = 5.0,
    show_keys: Annotated[bool, typer.Option("--show-keys", help="Print the keys as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Go on where the audit stopped that left this file, and leave it there when this one stops.",
        ),
    ] = None,
) -> None:
    """Compare every key on its primary with each of its replicas.

    Servers digest their own values, so few bytes travel. A replica that has
    yet to apply writes is told as lagging, not as different.

    Exit code 0 if all is equal, or all was repaired; 1 if there are
    differences or nodes that failed; 2 if the cluster does not answer or the
    options are wrong; 130 after Ctrl-C, with what was found until then.
    """
    if sample is not None and resume is not None:
        raise typer.BadParameter(
            "leave it out with --sample, which looks at random keys", param_hint="--resume"
        )
    cursor = _read(resume)
    with connected(url, timeout, as_json) as client:
        console = Console(stderr=True, highlight=False)
        with _bar(console) as follow, interruptible() as stop:
            report = run_audit(
                client,
                pattern,
                sample,
                repair,
                rate=rate,
                ttl_tolerance=ttl_tolerance,
                lag_timeout=lag_timeout,
                timeout=timeout,
                progress=follow,
                resume=cursor,
                stop=stop,
            )
    if resume is not None:
        if report.cursor is None:
            resume.unlink(missing_ok=True)
        else:
            resume.write_text(json.dumps(report.cursor) + "\n", encoding="utf-8")
    if as_json:
        print_json(report.as_dict(show_keys))
    else:
        _show(report, repair, show_keys)
    if report.stopped:
        raise typer.Exit(INTERRUPTED)
    if not report.mended:
        raise typer.Exit(DIFFERENCES)


@contextmanager
def connected(url: str, timeout: float, as_json: bool, name: str = "--url") -> Iterator[RedisCluster]:
    """A client for the cluster of a URL; exit code 2 if there is none."""
    try:
        if "path" in parse_url(url):
            raise ValueError("the URL of a node begins with redis:// or rediss://")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None
    try:
        client = RedisCluster.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
    except TypeError as error:
        # An option in the URL that no client has.
        raise typer.BadParameter(str(error), param_hint=name) from None
    except (RedisError, RedisClusterException, OSError) as error:
        if as_json:
            print_json({"equal": False, "error": str(error)})
        else:
            complain(str(error))
        raise typer.Exit(CANNOT_CONNECT) from None
    with client:
        yield client


def _read(path: Path | None) -> Any:
    if path is None or not path.exists():
        return None
    try:
        cursor = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--resume") from None
    if not is_cursor(cursor):
        raise typer.BadParameter(f"{path} was not written by an audit", param_hint="--resume")
    return cursor


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[Seen], None]]:
    bar = Progress(
        TextColumn("Auditing"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None, figures="")

    def follow(now: Seen) -> None:
        rate = now.keys / now.seconds if now.seconds else 0.0
        figures = f"{now.keys:,} of {now.total:,} keys, {rate:,.0f}/s, {now.findings:,} findings"
        bar.update(task, total=max(now.total, 1), completed=now.keys, figures=figures)

    with bar:
        yield follow


def _show(report: AuditReport, repair: bool, show_keys: bool) -> None:
    # Keys, addresses and errors may hold brackets, which are no markup here.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if report.findings:
        table = Table("finding", "type", "slot", "node", "replica", "detail", box=box.SIMPLE_HEAD)
        if repair:
            table.add_column("repaired")
        if show_keys:
            table.add_column("key")
        for finding in report.findings[:SHOWN]:
            row = [
                finding.kind,
                finding.type,
                str(finding.slot),
                finding.node,
                finding.replica or "",
                finding.detail,
            ]
            if repair:
                row.append({True: "yes", False: "no", None: ""}[finding.repaired])
            if show_keys:
                row.append(finding.key.decode("utf-8", "backslashreplace"))
            table.add_row(*row)
        console.print(table)
        if report.counts.total() > SHOWN:
            console.print(f"{report.counts.total() - SHOWN:,} more findings are not shown.")
    for kind, number in sorted(report.counts.items()):
        console.print(f"{kind}: {number:,}")
    for lag in report.lag:
        if lag.late or not lag.linked:
            state = "does not catch up" if lag.linked else "is not linked to its primary"
            console.print(
                f"Problem: replica {lag.node} {state}; it was up to {lag.most_bytes:,} bytes behind."
            )
    for failure in report.failures:
        console.print(f"Problem: {failure.node} failed: {failure.error.rstrip('.')}.", style="red")
    console.print(
        f"{report.keys:,} keys and {report.copies:,} copies looked at in {report.seconds:.1f} s "
        f"({report.keys_per_second:,.0f} keys/s); {report.versioned:,} of them versioned."
    )
    if report.moving:
        console.print(f"{report.moving:,} keys in slots on their way were left out.")
    if report.stopped:
        console.print("Stopped before the end.", style="bold")
    elif report.equal:
        console.print("All equal.", style="bold")
    elif report.mended:
        console.print(f"All {report.repaired:,} differences repaired.", style="bold")
    else:
        console.print("Not equal.", style="bold")
