"""``python -m benchmarks.consistency``: what an audit costs, and what it finds.

The audit runs in a process of its own, whose memory is measured; a client runs beside it in another, whose latencies
are.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks.consistency.faults import LASTING, MENDABLE, Expected, Injector, fill
from slotwise import RedisCluster
from slotwise.consistency.auditing import audit
from slotwise.loadtest.machine import describe
from slotwise.local import LocalCluster

TARGET_MISSED = 1
#: Bytes that the process of an audit may take.
MEMORY = 200_000_000
#: Of each fault.
FAULTS = 5
# Pauses of the client that runs beside: what it notices is the servers' doing, not its own haste.
_PAUSE = 0.0005


@dataclass(frozen=True)
class Cost:
    """One audit, as its process tells it."""

    keys: int
    seconds: float
    memory: int
    equal: bool


def audit_here(url: str, rate: float | None) -> None:
    """The part of the process that audits."""
    with RedisCluster.from_url(url) as client:
        report = audit(client, rate=rate)
    # Linux tells kilobytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps([report.keys, report.seconds, memory, report.equal]))


def beside(url: str) -> None:
    """The part of the process that has a client run: latencies in ms, until its input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    latencies = []
    with RedisCluster.from_url(url) as client:
        print("ready", flush=True)
        n = 0
        while not ended.is_set():
            began = time.perf_counter()
            client.get(f"key:{n * 7919 % 1_000_000}")
            latencies.append(time.perf_counter() - began)
            n += 1
            time.sleep(_PAUSE)
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    print(json.dumps([p50, p99, len(latencies)]))


def run_audit(url: str, rate: float | None) -> Cost:
    command = [sys.executable, "-m", "benchmarks.consistency", "--audit-here", url]
    command += [] if rate is None else ["--rate", str(rate)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(*json.loads(run.stdout))


class Beside:
    """A client in a process of its own while the block runs; then `p50` and `p99` in ms."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.p50 = self.p99 = 0.0
        self.calls = 0

    def __enter__(self) -> Beside:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.consistency", "--beside", self._url],
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
        with inject.lagging("fault:lagging:0"):
            # The lagging replica is late for whatever is found of its copies: it is told as lagging.
            found = inject.found(audit(client, lag_timeout=0.5))
        late = {key for key in inject.expected if Expected("lagging", key.key, True) in found}
        wanted = {Expected("lagging", each.key, True) if each in late else each for each in inject.expected}
        by_name = Counter(each.key.split(":")[1] for each in wanted)
        hit = Counter(each.key.split(":")[1] for each in wanted & found)
        console.print(f"{'fault':<24}{'injected':>9}{'found':>7}")
        for name, number in by_name.items():
            console.print(f"{name:<24}{number:>9}{hit[name]:>7}")
        false = found - wanted
        console.print(f"{'false alarms':<24}{'':>9}{len(false):>7}")
        cluster.wait_ready()
        mended = audit(client, repair=True)
        inject.settle()
        again = audit(client)
        left = {each.key.split(":")[1] for each in inject.found(again)}
        console.print(
            f"{mended.repaired} repaired; a second audit finds {again.different}, all of what has no good copy."
            if left <= set(LASTING)
            else f"A second audit finds {again.counts}."
        )
        return found == wanted and left <= set(LASTING)


def main(
    keys: Annotated[int, typer.Option(min=1_000, help="How many the cluster holds.")] = 1_000_000,
    rate: Annotated[float, typer.Option(help="Keys a second of the slower audit.")] = 20_000,
    audit_of: Annotated[str | None, typer.Option("--audit-here", hidden=True)] = None,
    client_of: Annotated[str | None, typer.Option("--beside", hidden=True)] = None,
) -> None:
    """Show what an audit of 3 primaries and 3 replicas costs, and what it finds.

    Exit code 1 if the process that audits takes 200 MB or more, if a fault is
    not found, or if there is a false alarm.
    """
    if audit_of is not None:
        audit_here(audit_of, None if rate == 20_000 and "--rate" not in sys.argv else rate)
        return
    if client_of is not None:
        beside(client_of)
        return
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
