"""``python -m benchmarks``: that it runs, and how it judges."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from benchmarks.cluster.report import Result, text
from benchmarks.cluster.rows import ROWS, Row
from benchmarks.cluster.targets import AnyOf, Latency, Rate, Target, Times
from benchmarks.failures.__main__ import Outcome, by_shard, missed, silence
from benchmarks.failures.load import CALL

from slotwise.cli._timing import Figures

ROOT = Path(__file__).parents[1]


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_every_row_runs() -> None:
    done = run("--clients", "slotwise,redis-py", "--seconds", "0.1", "--rounds", "1")
    # So short a run may miss a target, and says so by its exit code.
    assert done.returncode in (0, 1), done.stderr
    for row in ROWS:
        assert row.title in done.stdout
    for name in ("slotwise", "redis-py"):
        able = [row for row in ROWS if name in row.clients and row.can_run]
        assert done.stdout.count(f"\n  {name}  ") == len(able)
    assert "processor: " in done.stdout
    assert ("Missed: " in done.stdout) == (done.returncode == 1)


def test_a_fault_is_watched() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.failures",
        "--faults",
        "manual",
        "--clients",
        "slotwise,redis-py",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "client: slotwise; errors: 0; longest silence: " in done.stdout
    assert "client: redis-py; errors: " in done.stdout


KEPT = Outcome(
    fault="manual failover",
    client="slotwise",
    node_timeout=1.0,
    silent=True,
    errors=0,
    kinds="",
    silence=2.9,
    election=None,
    before=2.0,
    during=3.0,
    twice=0,
    lost=0,
    mixed_up=0,
    topology_calls=6,
    seconds=5.0,
)


@pytest.mark.parametrize(
    ("seen", "broken"),
    [
        ({}, []),
        # All shards were hit: there is no other one.
        ({"before": math.nan, "during": math.nan}, []),
        ({"errors": 1}, ["no errors"]),
        ({"errors": 1, "silent": False}, []),
        ({"silence": 3.1}, ["silence <= 3 s"]),
        ({"silence": 3.1, "node_timeout": 2.0}, []),
        ({"during": 3.1}, ["other shards' p99 <= 1.5x"]),
        ({"twice": 1, "mixed_up": 1}, ["applied twice", "mixed up"]),
        ({"topology_calls": 7}, ["one CLUSTER call a second"]),
    ],
)
def test_broken_promises_are_named(seen: dict[str, Any], broken: list[str]) -> None:
    assert missed(replace(KEPT, **seen)) == broken


def test_the_silence_is_the_longest_of_one_shard() -> None:
    ends = [(10.5, 0), (11.0, 0), (11.9, 0), (10.1, 9000), (11.5, 9000)]
    calls = numpy.array([(end - 0.1, 0.1, slot, True) for end, slot in ends], CALL)
    silences = [silence(one, 10.0, 12.0) for one in by_shard(calls)]
    assert silences == pytest.approx([0.9, 1.4])


@pytest.mark.parametrize("option", ["--rows", "--clients"])
def test_an_unknown_name_is_refused(option: str) -> None:
    done = run(option, "nobody")
    assert done.returncode == 2
    assert "nobody" in done.stderr


def result(*targets: Target, **rates: float) -> Result:
    row = Row("row", "a row", {}, lambda client: None, targets)  # type: ignore[arg-type,return-value]
    clients = [name.replace("_", "-") for name in rates]
    return Result(
        row,
        clients,
        [{name: Figures(rate, 0.001, 0.002) for name, rate in zip(clients, rates.values(), strict=True)}],
    )


def test_a_ratio_is_a_target() -> None:
    assert result(Times(2, "redis-py"), slotwise=20.0, redis_py=10.0).met is True
    assert result(Times(2, "redis-py"), slotwise=19.9, redis_py=10.0).met is False


def test_a_rate_is_a_target() -> None:
    assert result(Rate(100), slotwise=100.0).met is True
    assert result(Rate(100), slotwise=99.0).met is False


@pytest.mark.parametrize(
    ("p50", "p99", "met"), [(2e-3, 3e-3, True), (1e-3, 3e-3, False), (2e-3, 2e-3, False)]
)
def test_latencies_are_a_target(p50: float, p99: float, met: bool) -> None:
    assert result(Latency(p50, p99), slotwise=1.0).met is met


def test_one_of_several_is_enough() -> None:
    either = AnyOf([Rate(100), Times(0.5, "redis-benchmark")])
    assert result(either, slotwise=50.0, redis_benchmark=100.0).met is True
    assert result(either, slotwise=49.0, redis_benchmark=100.0).met is False


def test_all_targets_of_a_row_must_be_met() -> None:
    targets = (Rate(100), Times(2, "redis-py"))
    assert result(*targets, slotwise=100.0, redis_py=50.0).met is True
    assert result(*targets, slotwise=100.0, redis_py=51.0).met is False
    assert result(*targets, slotwise=99.0, redis_py=1.0).met is False


def test_what_was_not_measured_is_not_judged() -> None:
    assert result(Times(2, "redis-py"), slotwise=20.0).met is None
    assert result(Times(2, "redis-py"), Rate(20), slotwise=20.0).met is True
    assert result(slotwise=20.0).met is None


def test_a_row_that_cannot_run_says_why() -> None:
    row = Row("row", "a row", {}, lambda client: None, [Rate(1)], needs="no_such_package")  # type: ignore[arg-type,return-value]
    assert text(Result(row, [], [])).splitlines() == [
        "a row",
        "    not run: no_such_package is not installed",
    ]
    assert Result(row, [], []).met is None


def test_text() -> None:
    targets = (Times(2, "redis-py"), Rate(3_000), Times(7, "valkey-glide"), Latency(2e-3, 10e-3))
    shown = text(result(*targets, slotwise=2_000.0, redis_py=500.0))
    assert shown.splitlines() == [
        "a row",
        "  slotwise                             2,000       1.000       2.000                        ",
        "  redis-py                               500       1.000       2.000                   4.00x",
        "    met: >= 2x redis-py, p50 < 2 ms and p99 < 10 ms",
        "    MISSED: >= 3,000/s",
        "    not measured: >= 7x valkey-glide",
    ]
