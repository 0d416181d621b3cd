"""Versions beside Python and numpy.

Targets: 1,000,000 pairs >= 100 times a Python loop over the same bytes and >= 0.5 times numpy; a version of the clock
within 200 ns or >= 10 times the same clock in Python; a value of 100 bytes opened within 0.8 us.
"""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from slotwise._versions import Version, compare, newest, seal, unseal
from slotwise.consistency import HybridClock

COUNT = 1_000_000
_chance = numpy.random.default_rng(1)


def _column() -> Any:
    """Versions of three writers within a minute, as two nodes might hold them."""
    column = numpy.zeros(COUNT, dtype=[("milliseconds", ">u8"), ("writer", ">u8")])
    column["milliseconds"] = (1_700_000_000_000 + _chance.integers(0, 60_000, COUNT)) << 16
    column["writer"] = _chance.choice(_chance.integers(0, 2**63, 3), COUNT)
    return column.view(numpy.uint8).reshape(-1, 16)


def _pairs(kind: str) -> tuple[Any, Any]:
    left, right = _column(), _column()
    if kind == "equal but for 1 %":
        # What an audit finds: nearly all versions are the same everywhere.
        same = _chance.random(COUNT) > 0.01
        right[same] = left[same]
    return left, right


KINDS = ["equal but for 1 %", "random"]
PAIRS = {kind: _pairs(kind) for kind in KINDS}


# -- peers of compare -----------------------------------------------------------------------------


def python_compare(left: bytes, right: bytes) -> list[int]:
    orders = []
    for start in range(0, len(left), 16):
        a, b = left[start : start + 16], right[start : start + 16]
        orders.append((a > b) - (a < b))
    return orders


def python_compare_lists(left: list[bytes], right: list[bytes]) -> list[int]:
    """What is left of it when every version is an object already."""
    return [(a > b) - (a < b) for a, b in zip(left, right, strict=True)]


def numpy_compare(left: Any, right: Any) -> Any:
    """Two numbers a version, in the machine's own order of bytes: the fastest of what numpy can do."""
    a, b = left.view(">u8").astype("u8"), right.view(">u8").astype("u8")
    (high, low), (other_high, other_low) = (a[:, 0], a[:, 1]), (b[:, 0], b[:, 1])
    same = high == other_high
    greater = (high > other_high) | (same & (low > other_low))
    less = (high < other_high) | (same & (low < other_low))
    return greater.view(numpy.int8) - less.view(numpy.int8)


def numpy_text_compare(left: Any, right: Any) -> Any:
    """As byte strings: shorter to write, and right as long as all are of one length."""
    a, b = left.view("S16").ravel(), right.view("S16").ravel()
    return (a > b).view(numpy.int8) - (a < b).view(numpy.int8)


COMPARES: dict[str, Callable[[Any, Any], Any]] = {
    "Python": python_compare,
    "Python, lists": python_compare_lists,
    "numpy, numbers": numpy_compare,
    "numpy, S16": numpy_text_compare,
    "slotwise": compare,
}


# -- peers of newest ------------------------------------------------------------------------------


def python_newest(left: bytes, right: bytes) -> tuple[list[int], bytes]:
    winners, versions = [], []
    for start in range(0, len(left), 16):
        a, b = left[start : start + 16], right[start : start + 16]
        newer = b > a
        winners.append(int(newer))
        versions.append(b if newer else a)
    return winners, b"".join(versions)


def numpy_newest(left: Any, right: Any) -> tuple[Any, Any]:
    a, b = left.view(">u8").astype("u8"), right.view(">u8").astype("u8")
    newer = (b[:, 0] > a[:, 0]) | ((b[:, 0] == a[:, 0]) & (b[:, 1] > a[:, 1]))
    return newer.view(numpy.uint8), numpy.where(newer[:, None], right, left)


NEWESTS: dict[str, Callable[[Any, Any], Any]] = {
    "Python": python_newest,
    "numpy, numbers": numpy_newest,
    "slotwise": newest,
}


def arguments(way: str, kind: str) -> tuple[Any, Any]:
    """Arrays for numpy and slotwise, bytes or lists of bytes for Python: made before the clock runs."""
    left, right = PAIRS[kind]
    if way == "Python":
        return left.tobytes(), right.tobytes()
    if way == "Python, lists":
        return [row.tobytes() for row in left], [row.tobytes() for row in right]
    return left, right


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", COMPARES)
def test_compare(benchmark: BenchmarkFixture, way: str, kind: str) -> None:
    benchmark.group = f"compare of {COUNT:,} pairs, {kind}"
    orders = benchmark(COMPARES[way], *arguments(way, kind))
    assert numpy.array_equal(orders, compare(*PAIRS[kind]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", NEWESTS)
def test_newest(benchmark: BenchmarkFixture, way: str, kind: str) -> None:
    benchmark.group = f"newest of {COUNT:,} pairs, {kind}"
    winners, _ = benchmark(NEWESTS[way], *arguments(way, kind))
    assert numpy.array_equal(winners, newest(*PAIRS[kind])[0])


# -- the clock ------------------------------------------------------------------------------------


class PythonClock:
    """The same in Python, without a lock: that of one thread."""

    def __init__(self, writer: int) -> None:
        self.last = 0
        self.writer = writer

    def now(self) -> bytes:
        self.last = max(self.last + 1, time.time_ns() // 1_000_000 << 16)
        return (self.last << 64 | self.writer).to_bytes(16, "big")

    def observe(self, version: bytes) -> None:
        high = int.from_bytes(version[:8], "big")
        if high > self.last:
            if (high >> 16) - time.time_ns() // 1_000_000 > 60_000:
                raise ValueError(version)
            self.last = high


CLOCKS: dict[str, Callable[[int], Any]] = {"Python": PythonClock, "slotwise": HybridClock}


@pytest.mark.parametrize("way", [*CLOCKS, "slotwise, as bytes"])
def test_now(benchmark: BenchmarkFixture, way: str) -> None:
    benchmark.group = "a version of the clock"
    clock = CLOCKS[way.partition(",")[0]](7)
    call = (lambda: bytes(clock.now())) if way == "slotwise, as bytes" else clock.now
    # Many calls a round: one is shorter than a look at the clock.
    benchmark.pedantic(call, iterations=1000, rounds=300, warmup_rounds=1)


@pytest.mark.parametrize("way", CLOCKS)
def test_observe(benchmark: BenchmarkFixture, way: str) -> None:
    benchmark.group = "a version of the past observed"
    clock = CLOCKS[way](7)
    version = clock.now()
    benchmark.pedantic(clock.observe, (version,), iterations=1000, rounds=300, warmup_rounds=1)


# -- the stored form ------------------------------------------------------------------------------


def python_seal(version: bytes, flags: int, payload: bytes) -> bytes:
    covered = version + bytes((flags,)) + payload
    return b"\xc1SW\x01" + hashlib.sha1(covered, usedforsecurity=False).digest()[:4] + covered


def python_unseal(value: bytes) -> tuple[bytes, int, bytes]:
    if value[:4] != b"\xc1SW\x01" or len(value) < 25:
        raise ValueError(value)
    if hashlib.sha1(memoryview(value)[8:], usedforsecurity=False).digest()[:4] != value[4:8]:
        raise ValueError(value)
    return value[8:24], value[24], value[25:]


SIZES = [0, 100, 400, 1000, 10_000]
VERSION = Version(1_700_000_000_000, 1, 7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["Python", "slotwise"])
def test_seal(benchmark: BenchmarkFixture, way: str, size: int) -> None:
    benchmark.group = f"seal of {size} bytes"
    call = partial(python_seal, bytes(VERSION)) if way == "Python" else partial(seal, VERSION)
    benchmark.pedantic(call, (0, bytes(size)), iterations=1000, rounds=100, warmup_rounds=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["Python", "slotwise"])
def test_unseal(benchmark: BenchmarkFixture, way: str, size: int) -> None:
    benchmark.group = f"unseal of {size} bytes"
    stored = seal(VERSION, 0, bytes(size))
    call = python_unseal if way == "Python" else unseal
    benchmark.pedantic(call, (stored,), iterations=1000, rounds=100, warmup_rounds=1)
