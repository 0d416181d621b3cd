"""The clock as users have it: its defaults, its errors, and what a fork does to it."""

import copy
import math
import os
import pickle
import time
from collections.abc import Callable

import pytest
import redis

from slotwise import _versions
from slotwise.consistency import HybridClock, Version, VersionDriftError

WALL = 1_700_000_000_000


def test_defaults() -> None:
    clock = HybridClock()
    assert clock.max_drift == 60.0
    assert clock.clock is time.time_ns
    assert (clock.refused, clock.ahead) == (0, 0)
    before = time.time_ns() // 1_000_000
    version = clock.now()
    assert before <= version.milliseconds <= time.time_ns() // 1_000_000
    assert version.writer == clock.writer


def test_now_and_observe_are_the_compiled_ones() -> None:
    assert HybridClock.now is _versions.HybridClock.now
    assert HybridClock.observe is _versions.HybridClock.observe
    assert type(HybridClock().now()) is Version is _versions.Version


def test_writers_are_drawn() -> None:
    writers = {HybridClock().writer for _ in range(1000)}
    assert len(writers) == 1000
    # Each of the 64 bits is sometimes there and sometimes not.
    assert all(0 < sum(writer >> bit & 1 for writer in writers) < 1000 for bit in range(64))


def test_a_writer_may_be_given() -> None:
    assert HybridClock(5).now().writer == 5
    assert HybridClock(writer=0).writer == 0
    with pytest.raises(ValueError, match="writer -1 is not within"):
        HybridClock(-1)


def test_drift_is_an_error_of_consistency() -> None:
    clock = HybridClock(max_drift=1.5, clock=lambda: WALL * 1_000_000)
    clock.observe(Version(WALL + 1500, 0, 0))
    with pytest.raises(VersionDriftError) as refusal:
        clock.observe(Version(WALL + 3_600_000, 0, 0))
    assert str(refusal.value) == (
        "a version is 3600 s ahead of the wall clock here, more than the max_drift of 1.5 s: "
        "compare the clocks of the hosts"
    )
    assert isinstance(refusal.value, redis.RedisError)
    assert clock.refused == 1
    assert clock.ahead == 1500
    assert clock.now() == Version(WALL + 1500, 1, clock.writer)


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0, 0), (0.0004, 0), (0.29, 290), (60, 60_000)])
def test_drift_is_given_in_seconds(seconds: float, milliseconds: int) -> None:
    clock = HybridClock(max_drift=seconds, clock=lambda: WALL * 1_000_000)
    assert clock.max_drift == milliseconds / 1000
    clock.observe(Version(WALL + milliseconds, 0, 0))
    with pytest.raises(VersionDriftError):
        clock.observe(Version(WALL + milliseconds + 1, 0, 0))


def test_drift_without_a_bound() -> None:
    clock = HybridClock(max_drift=math.inf)
    clock.observe(Version(2**48 - 1, 0, 0))
    assert clock.now() == Version(2**48 - 1, 1, clock.writer)


@pytest.mark.parametrize("drift", [-1, -0.001, math.nan])
def test_drift_that_makes_no_sense(drift: float) -> None:
    with pytest.raises(ValueError, match=r"max_drift is .* s and cannot be less than 0"):
        HybridClock(max_drift=drift)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_clock_cannot_be_copied(copied: Callable[[HybridClock], object]) -> None:
    with pytest.raises(TypeError, match="a clock cannot be copied"):
        copied(HybridClock())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("writer", [None, 7])
def test_every_child_process_has_a_writer_of_its_own(writer: int | None) -> None:
    # With a wall clock that stands, the writer is all that tells versions apart.
    clock = HybridClock(writer, clock=lambda: WALL * 1_000_000)
    last = clock.now()
    told = []
    for _ in range(3):
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(into, bytes(clock.now()))
            finally:
                os._exit(0)
        os.close(into)
        told.append(Version.from_bytes(os.read(out, 100)))
        os.close(out)
        os.waitpid(child, 0)
    mine = clock.now()
    assert mine.writer == last.writer
    assert len({version.writer for version in [*told, mine]}) == 4
    # The children go on where the parent was.
    assert {(version.milliseconds, version.counter) for version in [*told, mine]} == {(WALL, 1)}
