"""What is done: presets as published, units as people write them, and no bad input without a way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slotwise.loadtest.keys import MOST_KEYS
from slotwise.loadtest.units import number_of, seconds_of
from slotwise.loadtest.workload import KINDS, PRESETS, Family, Workload, mix

#: https://github.com/brianfrankcooper/YCSB/wiki/Core-Workloads, and ours.
SHARES = {
    "ycsb-a": {"hgetall": 0.5, "hset": 0.5},
    "ycsb-b": {"hgetall": 0.95, "hset": 0.05},
    "ycsb-c": {"hgetall": 1.0},
    "ycsb-d": {"hgetall": 0.95, "insert": 0.05},
    "ycsb-e": {"scan": 0.95, "insert": 0.05},
    "ycsb-f": {"hgetall": 0.5, "rmw": 0.5},
    "read-heavy": {"get": 0.9, "set": 0.1},
    "write-heavy": {"get": 0.2, "set": 0.8},
    "session": {"get": 0.75, "set": 0.25},
    "cache": {"cached": 1.0},
}


@pytest.mark.parametrize("preset", SHARES)
def test_presets(preset: str) -> None:
    found = PRESETS[preset].workload.mix
    assert {name: share / sum(found.values()) for name, share in found.items()} == pytest.approx(
        SHARES[preset]
    )


def test_no_preset_is_left_out() -> None:
    assert PRESETS.keys() == SHARES.keys()


@pytest.mark.parametrize("letter", "abcdef")
def test_records_of_ycsb(letter: str) -> None:
    workload = PRESETS[f"ycsb-{letter}"].workload
    assert workload.distribution == ("latest:0.99" if letter == "d" else "zipf:0.99")
    assert workload.value_size == "100"
    assert workload.families == [Family.HASH]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": {}}, "no operation at all: there are get, set"),
        ({"mix": {"get": 1, "getx": 1}}, "no operation getx: there are get, set"),
        ({"mix": {"get": 0}}, "above 0; leave out"),
        ({"mix": {"get": -1}}, "above 0; leave out"),
        ({"mix": {"get": float("nan")}}, "above 0; leave out"),
        ({"mix": {"get": float("inf")}}, "above 0; leave out"),
        ({"keys": 0}, f"the number of keys is 1 to {MOST_KEYS:,}"),
        ({"keys": MOST_KEYS + 1}, f"the number of keys is 1 to {MOST_KEYS:,}"),
        ({"ttl": -1}, "a TTL is a number of seconds, 0 for none"),
        ({"pipeline": 0}, "a pipeline has 1 to 100,000"),
        ({"mget_keys": 100_001}, "a mget has 1 to 100,000"),
        ({"mix": {"mget": 1, "get": 1}, "pipeline": 2}, "mget cannot be part of a pipeline: --pipeline 1"),
        ({"mix": {"cached": 1}}, "--ttl SECONDS"),
        ({"prefix": ""}, "keys need a prefix"),
        ({"distribution": "even"}, "no distribution of keys: uniform"),
        ({"value_size": "big"}, "no size of values: bytes such as 100"),
    ],
)
def test_what_cannot_be_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRESETS["read-heavy"].workload, **change)


def test_a_file_of_values_is_looked_at_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Workload({"set": 1}, value_size=f"file:{tmp_path}/nowhere")
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(ValueError, match="has no lines to take values from"):
        Workload({"set": 1}, value_size=f"file:{path}")


def test_families() -> None:
    assert Workload({"incr": 1, "get": 1}).families == [Family.STRING, Family.COUNTER]
    assert {kind.family for kind in KINDS.values()} == set(Family)


def test_mix() -> None:
    assert mix("get=90, set=10.5") == {"get": 90, "set": 10.5}
    for text in ("get", "get=", "get=x", ""):
        with pytest.raises(ValueError, match="such as get=90,set=10"):
            mix(text)
    with pytest.raises(ValueError, match="get has two shares of the operations: leave out one"):
        mix("get=1,set=2,get=3")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250us", 250e-6), ("10ms", 0.01), ("1.5s", 1.5), ("10m", 600), ("1h", 3600), ("10", 10), (" 2 s ", 2)],
)
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "number"), [("100000", 1e5), ("100k", 1e5), ("1.5M", 1.5e6), ("1_000", 1000), ("0.5", 0.5)]
)
def test_numbers(text: str, number: float) -> None:
    assert number_of(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "x", "-1", "1d", "1 000", "1e5", "nan", "inf", "1.2.3"])
def test_what_is_no_number_and_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: such as 250us, 10ms"):
        seconds_of(text)
    with pytest.raises(ValueError, match="is no number: such as 100000, 100k"):
        number_of(text)
