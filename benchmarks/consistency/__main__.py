"""``python -m benchmarks.consistency``: what an audit costs, and what it finds.

The audit runs in a process of its own, whose memory is measured; a client runs beside it in another, whose latencies
are (`benchmarks.consistency.process`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.consistency.faults import LASTING, MENDABLE, Injector, fill
from slotwise import RedisCluster
from slotwise.consistency.auditing import audit
from slotwise.loadtest.machine import describe
from slotwise.local import LocalCluster

TARGET_MISSED = 1
#: Bytes that the process of an audit may take.
MEMORY = 200_000_000
#: Of each fault.
FAULTS = 5


@dataclass(frozen=True)
class Cost:
    """One audit, as its process tells it."""

    keys: int
    seconds: float
    memory: int
    equal: bool


def run_audit(url: str, rate: float | None) -> Cost:
    command = [sys.executable, "-m", "benchmarks.consistency.process", "audit", url]
    command += [] if rate is None else [str(rate)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Cost(*json.loads(run.stdout))


class Beside:
    """A client in a process of its own while the block runs; then `p50` and `p99` in ms."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.p50 = self.p99 = 0.0
        self.calls = 0

    def __enter__(self) -> Beside:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.consistency.process", "client", self._url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the client did not begin")
        return self

    def __exit__(self, *_: object) -> None:
        output, _errors = self._process.communicate()
        self.p50, self.p99, self.calls = json.loads(output)


def show_faults(console: Console) -> bool:
    """Whether all faults are found and nothing besides, with a table of them."""
    with LocalCluster(3, 1) as cluster, RedisCluster.from_url(cluster.url) as client:
        fill(client, 10_000)
        inject = Injector(cluster, client)
        for name, fault in {**MENDABLE, **LASTING}.items():
            for n in range(FAULTS):
                fault(inject, f"fault:{name}:{n}")
        inject.settle()
        found = inject.found(audit(client))
        expected = set(inject.expected)
        mended = audit(client, repair=True)
        inject.settle()
        again = audit(client)
        left = inject.found(again)
        lasting = {each for each in expected if each.key.split(":")[1] in LASTING}
        with inject.lagging("fault:lagging:0"):
            found |= inject.found(audit(client, lag_timeout=0.5)) - left
        expected |= inject.expected
        injected = Counter(each.key.split(":")[1] for each in expected)
        hit = Counter(each.key.split(":")[1] for each in expected & found)
        console.print(f"{'fault':<24}{'injected':>9}{'found':>7}")
        for name in (*MENDABLE, *LASTING, "lagging"):
            console.print(f"{name:<24}{injected[name]:>9}{hit[name]:>7}")
        console.print(f"{'false alarms':<33}{len(found - expected):>7}")
        console.print(
            f"{mended.repaired} repaired. A second audit finds {again.different}, of which {len(lasting)} have no good copy."
        )
        return found == expected and left == lasting


def main(
    keys: Annotated[int, typer.Option(min=10_000, help="How many the cluster holds.")] = 1_000_000,
    rate: Annotated[float, typer.Option(help="Keys a second of the slower audit.")] = 20_000,
) -> None:
    """Show what an audit of 3 primaries and 3 replicas costs, and what it finds.

    Exit code 1 if the process that audits takes 200 MB or more, if a fault is
    not found, or if there is a false alarm.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    machine = describe()
    console.print(", ".join(f"{name}: {value}" for name, value in machine.items()))
    with LocalCluster(3, 1) as cluster:
        with RedisCluster.from_url(cluster.url) as client:
            fill(client, keys)
            for node in cluster.primaries:
                node.call("WAIT", 1, 60_000)
        quiet = run_audit(cluster.url, None)
        with Beside(cluster.url) as before:
            time.sleep(10)
        with Beside(cluster.url) as during:
            full = run_audit(cluster.url, None)
        with Beside(cluster.url) as gently:
            slow = run_audit(cluster.url, rate)
    console.print(f"{'':<34}{'keys/s':>10}{'keys':>11}{'MB':>6}{'p50 ms':>8}{'p99 ms':>8}")
    for name, cost, client_there in (
        ("audit alone", quiet, None),
        ("client alone", None, before),
        ("audit, client beside", full, during),
        (f"audit at {rate:,.0f} keys/s, client beside", slow, gently),
    ):
        line = f"{name:<34}"
        line += (
            f"{cost.keys / cost.seconds:>10,.0f}{cost.keys:>11,}{cost.memory / 1e6:>6.0f}"
            if cost
            else " " * 27
        )
        line += f"{client_there.p50:>8.2f}{client_there.p99:>8.2f}" if client_there else ""
        console.print(line)
    sound = show_faults(console)
    costs = (quiet, full, slow)
    if not sound or any(cost.memory >= MEMORY or not cost.equal for cost in costs):
        raise typer.Exit(TARGET_MISSED)


if __name__ == "__main__":
    typer.run(main)
