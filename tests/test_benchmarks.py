"""``python -m benchmarks``: that it runs, and how it judges."""

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.cluster.report import Result, text
from benchmarks.cluster.rows import ROWS, Row, Target

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
    assert done.stdout.count("\n  redis-py  ") == len(ROWS)
    assert "processor: " in done.stdout
    assert ("Missed: " in done.stdout) == (done.returncode == 1)


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
    assert result(Target(2, "redis-py"), slotwise=20.0, redis_py=10.0).met is True
    assert result(Target(2, "redis-py"), slotwise=19.9, redis_py=10.0).met is False


def test_a_rate_is_a_target() -> None:
    assert result(Target(100), slotwise=100.0).met is True
    assert result(Target(100), slotwise=99.0).met is False


def test_one_target_is_enough() -> None:
    targets = (Target(100), Target(0.5, "redis-benchmark"))
    assert result(*targets, slotwise=50.0, redis_benchmark=100.0).met is True
    assert result(*targets, slotwise=49.0, redis_benchmark=100.0).met is False


def test_what_was_not_measured_is_not_judged() -> None:
    assert result(Target(2, "redis-py"), slotwise=20.0).met is None
    assert result(slotwise=20.0).met is None


def test_text() -> None:
    shown = text(result(Target(2, "redis-py"), slotwise=2_000.0, redis_py=500.0))
    assert shown.splitlines() == [
        "a row  target >= 2x redis-py: met",
        "  slotwise                             2,000       1.000       2.000            ",
        "  redis-py                               500       1.000       2.000       4.00x",
    ]
