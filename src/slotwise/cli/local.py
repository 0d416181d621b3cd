"""`slotwise local`: a cluster on this machine that lives until it is taken down."""

import shlex
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from redis.exceptions import ResponseError
from rich.console import Console
from rich.table import Table

from slotwise.cli._output import complain, print_json
from slotwise.local import detached
from slotwise.local.node import LocalNode
from slotwise.local.view import read_view, what_is_missing

# As `systemctl status` has it for a unit that is not running.
NOT_UP = 3

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Start, show and end a cluster on this machine."
)

Name = Annotated[str, typer.Option(help="Which cluster; several may run side by side.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@dataclass
class NodeStatus:
    """What a node says of itself; role is "down" when it does not answer."""

    index: int
    host: str
    port: int
    pid: int
    id: str
    role: str
    #: The port of its primary, for a replica.
    replicates: int | None
    slots: int
    keys: int


@app.command()
def up(
    name: Name = "default",
    primaries: Annotated[int, typer.Option(min=1)] = 3,
    replicas: Annotated[int, typer.Option(min=0, help="For each primary.")] = 1,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=55_535, help="The first of consecutive ports \\[default: free ones]."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Path or command of the server \\[default: found on this machine].")
    ] = None,
    node_timeout_ms: Annotated[
        int, typer.Option("--node-timeout", min=100, help="cluster-node-timeout of the servers, in ms.")
    ] = 2000,
    as_json: AsJson = False,
) -> None:
    """Start a cluster; it stays until `slotwise local down`.

    Exit code 1 if one of this name is running already.
    """
    console = Console(stderr=True)
    with console.status(f"Starting {primaries} primaries and {primaries * replicas} replicas ..."):
        cluster = detached.up(
            name,
            primaries,
            replicas,
            server=shlex.split(server) if server else None,
            port=port,
            node_timeout_ms=node_timeout_ms,
        )
    _show(cluster, as_json)


@app.command()
def status(name: Name = "default", as_json: AsJson = False) -> None:
    """Show a cluster's nodes.

    Exit code 0 if all nodes run and agree and all slots are served, 1 if not, 3 if there is no such cluster.
    """
    cluster = detached.find(name)
    if cluster is None or not cluster.is_up:
        if as_json:
            print_json({"name": name, "up": False})
        else:
            complain(f"no local cluster {name} is running; `slotwise local up` starts one")
        raise typer.Exit(NOT_UP)
    if not _show(cluster, as_json):
        raise typer.Exit(1)


@app.command()
def down(name: Name = "default", as_json: AsJson = False) -> None:
    """End a cluster and remove its data.

    Exit code 3 if there is no such cluster.
    """
    cluster = detached.find(name)
    was_up = cluster is not None and cluster.is_up
    if cluster is not None:
        cluster.down()  # also clears away what a dead one has left
    if as_json:
        print_json({"name": name, "up": False, "was_up": was_up})
    elif was_up:
        print(f"Cluster {name} is down.")
    else:
        complain(f"no local cluster {name} is running")
    if not was_up:
        raise typer.Exit(NOT_UP)


def _show(cluster: detached.DetachedCluster, as_json: bool) -> bool:
    """Print a cluster's state; whether it is ready."""
    missing = what_is_missing(cluster.nodes)
    ports = {node.id: node.port for node in cluster.nodes}
    nodes = [_ask(node, ports) for node in cluster.nodes]
    if as_json:
        facts: dict[str, Any] = {
            "name": cluster.name,
            "up": True,
            "ready": not missing,
            "missing": missing or None,
            "url": cluster.url,
            "server": cluster.server_name,
            "version": cluster.server_version,
            "nodes": [asdict(node) for node in nodes],
        }
        print_json(facts)
        return not missing
    table = Table("node", "process", "role", "replicates", "slots", "keys")
    for column in table.columns:
        column.justify = "right" if column.header in ("process", "slots", "keys") else "left"
    for node in nodes:
        table.add_row(
            f"{node.host}:{node.port}",
            str(node.pid),
            node.role,
            f"{node.host}:{node.replicates}" if node.replicates else "",
            f"{node.slots:,}" if node.slots else "",
            f"{node.keys:,}" if node.role != "down" else "",
            style="red" if node.role == "down" else None,
        )
    console = Console()
    console.print(
        f"Cluster {cluster.name} of {cluster.server_name} {cluster.server_version}: {cluster.url}",
        highlight=False,
    )
    console.print(table)
    console.print("Ready." if not missing else f"Not ready: {missing}.", highlight=False)
    return not missing


def _ask(node: LocalNode, ports: dict[str, int]) -> NodeStatus:
    answer = NodeStatus(node.index, node.host, node.port, node.pid, node.id, "down", None, 0, 0)
    try:
        myself = read_view(node)[node.id]
        answer.keys = node.call("DBSIZE")
    except (OSError, ResponseError):
        return answer
    answer.role = "replica" if myself.primary_id else "primary"
    answer.replicates = ports.get(myself.primary_id)
    answer.slots = len(myself.slots)
    return answer
