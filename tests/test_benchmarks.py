"""``python -m benchmarks`` and its relatives: that they run, and how they judge."""

import math
import struct
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
from benchmarks.harness.wire import pairs

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


def test_the_load_test_is_compared() -> None:
    command = [sys.executable, "-m", "benchmarks.harness", "--seconds", "1", "--turns", "1", "--soak", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=ROOT)
    # So short a run on a busy machine may miss a bar, and says so by its exit code.
    assert done.returncode in (0, 1), done.stderr
    assert ("MISSED" in done.stdout) == (done.returncode == 1)
    for line in ("the bare loop", "the servers have executed", "the process that adds up"):
        assert line in done.stdout


# -- packets --------------------------------------------------------------------------------------

GET = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
SERVER, CLIENT = 7000, 50_000


def packet(seconds: float, source: int, target: int, payload: bytes, ethernet: bool = True) -> bytes:
    """One of libpcap's, with headers that have options."""
    tcp = struct.pack(">HHIIBBHHH", source, target, 1, 1, 8 << 4, 0x18, 512, 0, 0) + bytes(12)
    ip = struct.pack(
        ">BBHHHBBHII", 0x46, 0, 24 + 32 + len(payload), 1, 0, 64, 6, 0, 0x7F000001, 0x7F000001
    ) + bytes(4)
    whole = bytes(14 if ethernet else 4) + ip + tcp + payload
    kept = whole[:96]
    microseconds = round(seconds * 1e6)
    return (
        struct.pack("<IIII", microseconds // 1_000_000, microseconds % 1_000_000, len(kept), len(whole))
        + kept
    )


def savefile(*packets: bytes, link: int = 1) -> bytes:
    return struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 96, link) + b"".join(packets)


def test_packets_are_paired() -> None:
    found = pairs(
        savefile(
            packet(1.0, CLIENT, SERVER, b""),  # an acknowledgement
            packet(1.5, SERVER, CLIENT, b"+OK\r\n"),  # to what began before
            packet(2.0, CLIENT, SERVER, GET),
            packet(2.0625, SERVER, CLIENT, b""),
            packet(2.125, CLIENT + 1, SERVER, GET),
            packet(2.25, SERVER, CLIENT, b"$200\r\n" + bytes(202)),
            packet(2.5, SERVER, CLIENT + 1, b"$-1\r\n"),
            packet(3.0, CLIENT, SERVER, b"*1\r\n$4\r\nPING\r\n"),
            packet(3.5, SERVER, CLIENT, b"+PONG\r\n"),
        ),
        {SERVER},
    )
    assert found.tolist() == [[2.25, 0.25], [2.5, 0.375]]


def test_packets_of_bsd_are_paired() -> None:
    asked = packet(1.0, CLIENT, SERVER, GET, ethernet=False)
    answered = packet(1.5, SERVER, CLIENT, b"$-1\r\n", ethernet=False)
    assert pairs(savefile(asked, answered, link=0), {SERVER}).tolist() == [[1.5, 0.5]]
    with pytest.raises(ValueError, match="libpcap"):
        pairs(b"no file of packets, whatever", {SERVER})


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
