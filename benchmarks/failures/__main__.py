"""``python -m benchmarks.failures``: what callers notice of faults, slotwise beside redis-py.

For each fault and each client there is a new cluster of 3 primaries and 3 replicas and a new process with callers
(`benchmarks.failures.load`), which is watched for some seconds before and after.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy
import typer
from rich.console import Console

from benchmarks.failures import fleet
from benchmarks.failures.faults import FAULTS, Fault, Hit
from benchmarks.failures.fleet import Refreshes
from benchmarks.failures.load import CLIENTS, SHARDS_FIRST
from slotwise.loadtest.machine import describe
from slotwise.local import LocalCluster
from slotwise.testing import Chaos

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
# Seconds before the fault: to get going, and to compare with.
WARM_UP, BEFORE = 1.5, 6.0
# Clients that see the same failover.
FLEET = 1000


@dataclass(frozen=True)
class Outcome:
    """What the callers of one client noticed of one fault."""

    fault: str
    client: str
    errors: int
    kinds: str
    #: cluster-node-timeout of the servers, in seconds.
    node_timeout: float
    #: Whether no caller is to see an error.
    silent: bool
    #: The longest time without an answer from one of the shards that were hit, in seconds.
    silence: float
    #: How long the servers took to make a replica the primary, in seconds; None where they need not.
    election: float | None
    #: p99 of the other shards in milliseconds, before and during the fault; not a number where all were hit.
    before: float
    during: float
    twice: int
    lost: int
    mixed_up: int
    topology_calls: int
    seconds: float


def run(fault: Fault, client: str, node_timeout: float) -> Outcome:
    """One fault, and one client's callers."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(3, 1, node_timeout_ms=round(node_timeout * 1000)) as cluster,
        Chaos(cluster, proxied=fault.proxied) as chaos,
    ):
        file = Path(folder, "seen.npz")
        command = [sys.executable, "-m", "benchmarks.failures.load", client, chaos.url, str(file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as callers:
            assert callers.stdout is not None
            if callers.stdout.readline() != "ready\n":
                raise RuntimeError(f"the callers of {client} did not begin")
            time.sleep(WARM_UP + BEFORE)
            asked = topology_calls(cluster)
            began = time.monotonic()
            with ThreadPoolExecutor(initializer=give_way) as drivers:
                elected = drivers.submit(election, cluster, began) if fault.elects else None
                hit = drivers.submit(fault.run, chaos).result()
                time.sleep(fault.watched)
                ended = time.monotonic()
            # A node that was restarted counts from 0 again.
            asked = sum(max(0, n - asked.get(port, 0)) for port, n in topology_calls(cluster).items())
            callers.communicate("")
        with numpy.load(file) as seen:
            calls, kinds = seen["calls"], ", ".join(seen["errors"])
            totals = {name: int(seen[name]) for name in ("twice", "lost", "mixed_up")}
    before = calls[(calls["began"] >= began - BEFORE) & (calls["began"] < began)]
    during = calls[(calls["began"] + calls["took"] >= began) & (calls["began"] < ended)]
    here = among(during, hit)
    return Outcome(
        fault=fault.name,
        client=client,
        node_timeout=node_timeout,
        silent=fault.silent,
        errors=int((~during["answered"]).sum()),
        kinds=kinds,
        silence=max(silence(calls, began, ended) for calls in by_shard(during[here])),
        election=elected.result() if elected is not None else None,
        before=p99(before[~among(before, hit)]),
        during=p99(during[~here]),
        topology_calls=asked,
        seconds=ended - began,
        **totals,
    )


def give_way() -> None:
    """Of a thread that brings a fault about or watches it: the callers come first on a machine that all of them share."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def election(cluster: LocalCluster, began: float) -> float:
    """Seconds until a replica calls itself a primary, of what the servers do without any client."""
    replicas = [node for node in cluster.nodes if node.role == "replica"]
    while not any(node.call("ROLE")[0] == "master" for node in replicas):
        if time.monotonic() - began > 60:
            raise RuntimeError("no replica has taken over")
        time.sleep(0.02)
    return time.monotonic() - began


def among(calls: Any, hit: Hit) -> Any:
    """Which calls went to slots that were hit."""
    return numpy.any([(calls["slot"] >= part.start) & (calls["slot"] < part.stop) for part in hit], axis=0)


def by_shard(calls: Any) -> list[Any]:
    """The calls to each shard that got any; callers stay on the shard that they began with."""
    shard = numpy.searchsorted(SHARDS_FIRST, calls["slot"], side="right")
    return [calls[shard == number] for number in numpy.unique(shard)]


def silence(calls: Any, began: float, ended: float) -> float:
    """The longest time without an answer, in seconds."""
    ends = numpy.sort((calls["began"] + calls["took"])[calls["answered"]])
    return float(numpy.diff([began, *ends[ends < ended], ended]).max())


def p99(calls: Any) -> float:
    return float(numpy.percentile(calls["took"], 99) * 1000) if len(calls) else float("nan")


def topology_calls(cluster: LocalCluster) -> dict[int, int]:
    """CLUSTER SLOTS and CLUSTER SHARDS that each node has answered; nobody but clients sends them."""
    found = {}
    for node in cluster.nodes:
        if node.state == "running":
            text = node.call("INFO", "commandstats")
            lines = [
                line
                for line in text.splitlines()
                if line.startswith(("cmdstat_cluster|slots:", "cmdstat_cluster|shards:"))
            ]
            found[node.port] = sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)
    return found


def missed(outcome: Outcome) -> list[str]:
    """Which of slotwise's promises did not hold."""
    bars = {
        "no errors": not outcome.silent or outcome.errors == 0,
        f"silence <= {outcome.node_timeout + 2:g} s": outcome.silence <= outcome.node_timeout + 2,
        "other shards' p99 <= 1.5x": not outcome.during > outcome.before * 1.5,
        "applied twice": outcome.twice == 0,
        "mixed up": outcome.mixed_up == 0,
        "one CLUSTER call a second": outcome.topology_calls <= outcome.seconds + 1,
    }
    return [bar for bar, met in bars.items() if not met]


HEAD = (
    "client",
    "errors",
    "longest silence",
    "other shards' p99: before, during",
    "applied twice",
    "replies mixed up",
    "CLUSTER calls",
    "promises",
)


def cells(outcome: Outcome) -> list[str]:
    alone = outcome.during != outcome.during
    return [
        outcome.client,
        f"{outcome.errors:,}" + (f" ({outcome.kinds})" if outcome.errors else ""),
        f"{outcome.silence:.2f} s"
        + (f", of which the election {outcome.election:.2f} s" if outcome.election is not None else ""),
        "all were hit" if alone else f"{outcome.before:.1f}, {outcome.during:.1f} ms",
        f"{outcome.twice:,}",
        f"{outcome.mixed_up:,}",
        f"{outcome.topology_calls:,} in {outcome.seconds:.0f} s",
        ("; ".join(missed(outcome)) or "kept") if outcome.client.startswith("slotwise") else "",
    ]


def page(outcomes: Sequence[Outcome], fleets: Mapping[str, Refreshes], machine: dict[str, str]) -> str:
    """docs/failures.md."""
    lines = [
        "# What callers notice of faults",
        "",
        "Made by `python -m benchmarks.failures --save`, one cluster of 3 primaries and 3 replicas for each fault and client,",
        f"node time-out {outcomes[0].node_timeout:g} s, clients with all their defaults. 18 threads, or 51 tasks under asyncio, each of which stays",
        "on one shard and calls every 10 ms: a GET of a value that carries its key, and an INCR of a counter of its own.",
        "",
        "- **errors**: exceptions that callers saw, by class. `UnknownOutcomeError` is what slotwise says of a write that was sent",
        "  and not answered; redis-py sends it once more.",
        "- **longest silence**: without an answer from one of the shards that were hit, and how long the servers took to make a",
        "  replica the primary, where they had to find that out: no client can be faster.",
        "- **other shards**: those that the fault has nothing to do with; a reshard hits the one that gives slots away and the",
        "  one that takes them.",
        "- **applied twice**: INCRs that were executed once more than they were called, as the replies tell.",
        "- **CLUSTER calls**: CLUSTER SHARDS and CLUSTER SLOTS that the servers have counted.",
        "- **promises**: no silence longer than the node time-out and 2 s; p99 of the other shards at most 1.5 times what it",
        "  was before; nothing applied twice or mixed up; at most one CLUSTER call a second; no error when slots move, a",
        "  replica is promoted by hand, or all nodes restart one after the other. Those that were not kept are named.",
        "",
    ]
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        lines += [
            f"## {fault[0].upper()}{fault[1:]}",
            "",
            f"| {' | '.join(HEAD)} |",
            "|" + "---|" * len(HEAD),
        ]
        lines += [f"| {' | '.join(cells(outcome))} |" for outcome in outcomes if outcome.fault == fault]
        lines.append("")
    lines += [
        f"## {FLEET:,} clients see one failover",
        "",
        "On a cluster played by `slotwise.testing`, in one process with all clients, whose time-outs are 60 s therefore; each",
        f"begins at a random moment within {fleet.WITHIN:g} s to read ten keys whose node answers MOVED.",
        "",
        "| client | asked for the topology | within |",
        "|---|---|---|",
        *(f"| {name} | {seen.asked:,} times | {seen.spread:.1f} s |" for name, seen in fleets.items()),
        "",
    ]
    lines += ["## The machine", "", *(f"- {name}: {what}" for name, what in machine.items())]
    return "\n".join(lines) + "\n"


def main(
    faults: Annotated[
        str | None, typer.Option(help="Words that the names of the wanted ones begin with.")
    ] = None,
    clients: Annotated[str | None, typer.Option(help=f"Comma-separated, of {', '.join(CLIENTS)}.")] = None,
    node_timeout: Annotated[float, typer.Option(help="cluster-node-timeout of the servers, in seconds.")] = 1,
    save: Annotated[bool, typer.Option("--save", help="Write docs/failures.md.")] = False,
) -> None:
    """Show what callers notice of faults, slotwise beside redis-py."""
    wanted = [fault for fault in FAULTS if faults is None or fault.name.startswith(tuple(faults.split(",")))]
    names = list(CLIENTS) if clients is None else clients.split(",")
    unknown = [name for name in names if name not in CLIENTS]
    if unknown or not wanted:
        raise typer.BadParameter(
            f"clients are {', '.join(CLIENTS)}; faults {', '.join(f.name for f in FAULTS)}"
        )
    console = Console(highlight=False, markup=False)
    machine = describe()
    outcomes = []
    for fault in wanted:
        console.print(f"\n{fault.name}", soft_wrap=True)
        for client in names:
            outcomes.append(run(fault, client, node_timeout))
            console.print(
                "  "
                + "; ".join(f"{head}: {cell}" for head, cell in zip(HEAD, cells(outcomes[-1]), strict=True)),
                soft_wrap=True,
            )
    if save:
        fleets = {
            name: fleet.run(import_module(CLIENTS[name]).RedisCluster, FLEET)
            for name in names
            if name.endswith("asyncio")
        }
        PAGE.write_text(page(outcomes, fleets, machine))


if __name__ == "__main__":
    typer.run(main)
