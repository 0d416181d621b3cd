"""What slotwise's callers did and saw while real clusters had real faults, judged as a history.

By default two faults; SLOTWISE_STRESS=1 makes it all of them::

    SLOTWISE_STRESS=1 pytest --timeout=600 tests/testing/test_faults.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from benchmarks.failures.faults import FAULTS, Fault

from slotwise import RedisCluster, key_slot
from slotwise.asyncio import RedisCluster as AsyncRedisCluster
from slotwise.local import LocalCluster, ServerBinary
from slotwise.testing import Chaos, History
from slotwise.testing.chaos import can_be_proxied
from slotwise.testing.history import Call
from tests.sync.threads import background

STRESS = os.environ.get("SLOTWISE_STRESS") == "1"
WORKERS = 12
# Seconds before a crash in which a primary may have acknowledged what its replica did not get.
UNREPLICATED = 0.5


def keys_of(worker: int) -> tuple[str, str]:
    """A register and a counter that four workers share, on one of the three shards that a cluster begins with."""
    shard = worker % 3
    tag = next(tag for tag in map(str, range(1000)) if key_slot(tag) * 3 // 16384 == shard)
    return f"{{{tag}}}register", f"{{{tag}}}counter"


def work(url: str, worker: int, history: History, stop: Callable[[], bool]) -> None:
    """One client's thread."""
    register, counter = keys_of(worker)
    with RedisCluster.from_url(url, socket_timeout=1) as client:
        for number in iter(lambda: -1 if stop() else len(history.calls), -1):
            with contextlib.suppress(redis.RedisError):
                with history.write(register, f"{worker}:{number}"):
                    client.set(register, f"{worker}:{number}")
                with history.add(counter) as call:
                    call.result = client.incr(counter)
            with contextlib.suppress(redis.RedisError), history.read(register) as call:
                value = client.get(register)
                call.result = value and value.decode()
            time.sleep(0.005)


async def work_async(url: str, worker: int, history: History, stop: Callable[[], bool]) -> None:
    """One client's task."""
    register, counter = keys_of(worker)
    async with AsyncRedisCluster.from_url(url, socket_timeout=1) as client:
        for number in iter(lambda: -1 if stop() else len(history.calls), -1):
            with contextlib.suppress(redis.RedisError):
                with history.write(register, f"{worker}:{number}"):
                    await client.set(register, f"{worker}:{number}")
                with history.add(counter) as call:
                    call.result = await client.incr(counter)
            with contextlib.suppress(redis.RedisError), history.read(register) as call:
                value = await client.get(register)
                call.result = value and value.decode()
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def threads(url: str, history: History) -> Iterator[None]:
    stop = threading.Event()
    workers = [background(work, url, worker, history, stop.is_set) for worker in range(WORKERS)]
    yield
    stop.set()
    for worker in workers:
        worker.result(30)


@contextlib.contextmanager
def tasks(url: str, history: History) -> Iterator[None]:
    stop = threading.Event()

    async def main() -> None:
        await asyncio.gather(*(work_async(url, worker, history, stop.is_set) for worker in range(WORKERS)))

    running = background(lambda: asyncio.run(main()))
    yield
    stop.set()
    running.result(30)


def some(clients: str) -> list[object]:
    """The fault that is tried with these clients by default, and the others."""
    default = {"threads": "kill", "tasks": "reshard"}[clients]
    unless = pytest.mark.skipif(
        not STRESS, reason="all of them take four minutes; SLOTWISE_STRESS=1 runs them"
    )
    return [
        pytest.param(
            fault,
            clients,
            id=f"{fault.name}-{clients}",
            marks=() if fault.name.startswith(default) else unless,
        )
        for fault in FAULTS
    ]


@pytest.mark.parametrize(("fault", "clients"), [*some("threads"), *some("tasks")])
def test_no_write_is_lost_or_executed_twice(fault: Fault, clients: str, server: ServerBinary) -> None:
    if fault.proxied and not can_be_proxied(server):
        pytest.skip("Redis 6.2 cannot announce another port while it runs")
    history = History()
    with (
        LocalCluster(3, 1, node_timeout_ms=1000, server=server.command) as cluster,
        Chaos(cluster, proxied=fault.proxied) as chaos,
    ):
        with {"threads": threads, "tasks": tasks}[clients](chaos.url, history):
            time.sleep(1)
            before = len(history.calls)
            began = time.monotonic()
            fault.run(chaos)
            time.sleep(fault.watched)
            ended = time.monotonic()
        after = [call for call in history.calls if call.outcome == "ok" and call.invoked > ended - 1]
    assert before > 100
    # All shards answer again.
    assert {call.key for call in after} == {key for worker in range(3) for key in keys_of(worker)}
    assert history.violations(lost_by_the_server(history, began) if fault.elects else ()) == []


def lost_by_the_server(history: History, began: float) -> list[Call]:
    """Writes that a primary acknowledged in its last moment."""
    return [call for call in history.calls if began - UNREPLICATED < call.returned < began + UNREPLICATED]
