"""``python -m benchmarks.harness``: whether the load test's figures are to be believed, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks.cluster.async_clients import UVLOOP
from benchmarks.cluster.data import KEYS, fill
from benchmarks.cluster.report import RESULTS
from benchmarks.cluster.rows import ROWS
from benchmarks.harness.memory import Memory
from benchmarks.harness.wire import Capture
from slotwise.loadtest import Options, Workload, run
from slotwise.loadtest.machine import describe
from slotwise.local import LocalCluster

TARGET_MISSED = 1
PAGE = RESULTS / "load-test" / "harness.md"
#: How much slower than the bare loop, and how far from what others have counted.
MOST_OVERHEAD = 0.15
MOST_ERROR = 0.01
#: How much the generator's memory grows after the first tenth of the time.
MOST_GROWTH = 0.05

_GETS = Workload({"get": 1}, keys=len(KEYS))
_BARE = next(row for row in ROWS if row.name == "uv-get-50")


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    title: str
    lines: Sequence[str]
    #: Whether it is as it should be.
    met: bool


def beside_bare_loop(cluster: LocalCluster, seconds: float, turns: int) -> Finding:
    """How much slower it is than the loop of ``python -m benchmarks`` that does the same."""
    bare, tested = [], []
    fill(cluster)
    with closing(UVLOOP["slotwise"](cluster)) as client:
        stretch = _BARE.stretch(client)
        stretch(1.0)
        for turn in range(turns):
            for part in ("bare", "tested") if turn % 2 else ("tested", "bare"):
                if part == "bare":
                    bare.append(stretch(seconds).rate)
                else:
                    tested.append(run(Options(cluster.url, _GETS, duration=seconds)).total.rate)
    shares = [ours / theirs for ours, theirs in zip(tested, bare, strict=True)]
    slower = 1 - median(shares)
    return Finding(
        f"GET by 50 tasks on uvloop, {turns} turns of {seconds:g} s",
        [
            f"the bare loop of python -m benchmarks: {median(bare):,.0f}/s",
            f"the load test: {median(tested):,.0f}/s",
            f"slower by {slower:.1%} (turns: {1 - max(shares):.1%} to {1 - min(shares):.1%})",
        ],
        slower <= MOST_OVERHEAD,
    )


def beside_servers(cluster: LocalCluster, seconds: float) -> Finding:
    """Whether the servers have executed what it counts."""
    before = _gets_executed(cluster)
    counted = run(Options(cluster.url, _GETS, duration=seconds, warmup=0)).total.operations
    executed = _gets_executed(cluster) - before
    return Finding(
        "GETs by 50 tasks, without a warm-up",
        [
            f"the load test has counted {counted:,}",
            f"the servers have executed {executed:,} (INFO commandstats)",
        ],
        abs(counted - executed) <= MOST_ERROR * executed,
    )


def beside_packets(cluster: LocalCluster, seconds: float) -> Finding:
    """Whether the network has seen what it counts, and how much of a latency lies there."""
    with Capture([node.port for node in cluster.nodes]) as capture:
        total = run(Options(cluster.url, _GETS, callers=1, duration=seconds)).total
    seen = capture.gets()
    # The run has ended with its last reply; what came before its beginning was the warm-up.
    tooks = seen[seen[:, 0] > seen[-1, 0] - seconds, 1] * 1e3
    p50, p99 = np.percentile(tooks, (50, 99))
    return Finding(
        "GETs by one task, and their packets on the loopback interface",
        [
            f"the load test has counted {total.operations:,}: p50 {total.latency.p50:.3f} ms, p99 {total.latency.p99:.3f} ms",
            f"tcpdump has seen {len(tooks):,} and their replies: p50 {p50:.3f} ms, p99 {p99:.3f} ms",
        ],
        abs(total.operations - len(tooks)) <= MOST_ERROR * len(tooks) and p50 <= total.latency.p50,
    )


def memory(cluster: LocalCluster, seconds: float) -> Finding:
    """Whether it takes more and more memory."""
    look = Memory(every=seconds / 60)
    total = run(Options(cluster.url, Workload({"get": 90, "set": 10}), duration=seconds), progress=look).total
    early, late = look.seen[len(look.seen) // 10], look.seen[-1]
    return Finding(
        f"{seconds:g} s of 90 % GET and 10 % SET at full rate",
        [
            f"{total.operations:,} operations, {total.rate:,.0f}/s",
            *(
                f"after {at:,.0f} s: the generator {generator:.1f} MB, the process that adds up {adding:.1f} MB"
                for at, generator, adding in (look.seen[0], early, late)
            ),
        ],
        late[1] <= early[1] * (1 + MOST_GROWTH),
    )


def _gets_executed(cluster: LocalCluster) -> int:
    told = [str(node.call("INFO", "commandstats")) for node in cluster.nodes]
    lines = [line for each in told for line in each.splitlines() if line.startswith("cmdstat_get:")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


def findings(cluster: LocalCluster, seconds: float, turns: int, soak: float) -> Iterator[Finding]:
    """One after the other."""
    yield beside_bare_loop(cluster, seconds, turns)
    yield beside_servers(cluster, seconds)
    if Capture.can_run():
        yield beside_packets(cluster, seconds)
    if soak:
        yield memory(cluster, soak)


def page(found: Sequence[Finding], command: str, machine: Mapping[str, str]) -> str:
    """benchmarks/results/load-test/harness.md."""
    lines = ["# The load test itself", "", f"Made by `{command}`.", ""]
    for each in found:
        lines += [f"## {each.title}", "", *(f"- {line}" for line in each.lines), ""]
    lines += ["## The machine", "", *(f"- {name}: {what}" for name, what in machine.items())]
    return "\n".join(lines) + "\n"


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Of each run.")] = 5,
    turns: Annotated[int, typer.Option(min=1, help="Of the load test beside the bare loop.")] = 6,
    soak: Annotated[
        float, typer.Option(min=0, help="Seconds of a run whose memory is watched; 0 for none.")
    ] = 0,
    save: Annotated[
        bool, typer.Option("--save", help="Write benchmarks/results/load-test/harness.md.")
    ] = False,
) -> None:
    """Compare the load test with a bare loop, with what servers count, and with packets.

    Packets only where tcpdump may listen. Exit code 1 if it is more than 15 %
    slower than the bare loop, counts 1 % more or less than the others, or if
    its memory grows by 5 % after the first tenth of the soak.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    machine = describe()
    found = []
    with LocalCluster(3, 1) as cluster:
        machine["server"] = f"{cluster.server_name} {cluster.server_version}, 3 primaries and 3 replicas"
        console.print("\n".join(f"{name}: {what}" for name, what in machine.items()))
        for each in findings(cluster, seconds, turns, soak):
            found.append(each)
            console.print("\n".join(["", each.title, *(f"  {line}" for line in each.lines)]))
            if not each.met:
                console.print("  MISSED")
    if save:
        command = f"python -m benchmarks.harness --seconds {seconds:g} --turns {turns} --soak {soak:g} --save"
        PAGE.write_text(page(found, command, machine))
    if not all(each.met for each in found):
        raise typer.Exit(TARGET_MISSED)


if __name__ == "__main__":
    typer.run(main)
