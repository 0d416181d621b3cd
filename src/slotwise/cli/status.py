"""`slotwise status`: the state of any cluster, for people and for scripts."""

from dataclasses import asdict
from typing import Annotated

import typer
from redis.exceptions import RedisError
from rich import box
from rich.console import Console
from rich.table import Table

from slotwise.cli._output import complain, print_json
from slotwise.cli._survey import Node, Survey, survey

NOT_HEALTHY = 1
CANNOT_CONNECT = 2

app = typer.Typer(add_completion=False)


@app.command()
def status(
    url: Annotated[
        str, typer.Option(help="Any node: redis://[user:password@]host:port; rediss:// for TLS.")
    ] = "redis://127.0.0.1:6379",
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds a node has for an answer.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show a cluster's nodes: slots, keys, memory, load, replication, health.

    A cluster is healthy when all its nodes answer and find it so, all slots
    are served, and all replicas are linked to their primaries.

    Exit code 0 if it is healthy, 1 if not, 2 if the node of the URL does not
    answer.
    """
    try:
        found = survey(url, timeout)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    except (RedisError, OSError) as error:
        if as_json:
            print_json({"healthy": False, "error": str(error)})
        else:
            complain(str(error))
        raise typer.Exit(CANNOT_CONNECT) from None
    if as_json:
        print_json({"healthy": found.healthy, "imbalance": found.imbalance, **asdict(found)})
    else:
        _show(found)
    if not found.healthy:
        raise typer.Exit(NOT_HEALTHY)


def _show(found: Survey) -> None:
    # Addresses and errors may hold brackets, which are no markup here.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table("node", "server", box=box.SIMPLE_HEAD, collapse_padding=True)
    for column in ("slots", "keys", "memory", "ops/s", "lag"):
        table.add_column(column, justify="right")
    table.add_column("state")
    for node in found.nodes:
        table.add_row(*_cells(node), style="red" if node.problem else None)
    console.print(table)
    if found.imbalance is not None:
        console.print(f"Imbalance: the fullest primary holds {found.imbalance:.2f} times the mean of keys.")
    for note in found.notes:
        console.print(f"Note: {note}.")
    for problem in found.problems:
        console.print(f"Problem: {problem}.", style="red")
    console.print("Healthy." if found.healthy else "Not healthy.", style="bold")


def _cells(node: Node) -> list[str]:
    replica = node.role == "replica"
    limit = f"/{node.max_memory_bytes / 1e6:.0f}" if node.max_memory_bytes else ""
    return [
        f"  {node.address}" if replica else node.address,
        node.version or "",
        f"{node.slots:,}" if node.role == "primary" else node.role,
        "" if node.keys is None else f"{node.keys:,}",
        "" if node.memory_bytes is None else f"{node.memory_bytes / 1e6:.1f}{limit} MB",
        "" if node.ops is None else f"{node.ops:,}",
        "" if node.lag_bytes is None else f"{node.lag_bytes:,} B",
        "well" if node.problem is None else "problem",
    ]
