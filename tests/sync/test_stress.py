"""Many threads, random time-outs, exceptions raised into waiting threads: no reply in the wrong hands.

By default 16 threads with 1,000 commands each; SLOTWISE_STRESS=1 makes it 20,000, and lengthens other tests too::

    SLOTWISE_STRESS=1 pytest tests/sync/test_stress.py

Under AddressSanitizer, in a virtual environment of its own (the assertions of hiredis and CPython's allocator stay out of
the way: leaks at the interpreter's exit are not ours)::

    SLOTWISE_BUILD=asan pip install --no-build-isolation .
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONMALLOC=malloc \\
        LD_PRELOAD=$(gcc -print-file-name=libasan.so) SLOTWISE_STRESS=1 pytest tests/sync
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from slotwise import RedisCluster
from slotwise.local import LocalCluster
from tests.sync.conftest import MakeClient
from tests.sync.threads import background

STRESS = os.environ.get("SLOTWISE_STRESS") == "1"
THREADS = 16
ROUNDS = 20_000 if STRESS else 1_000
KEYS = 40
# Connections per node beside the shared one.
PLACES = 30


class Jolt(Exception):
    """Raised into a thread at any place."""


class Worker:
    """One thread's keys, and what it knows of them."""

    def __init__(self, client: RedisCluster, number: int) -> None:
        self.client = client
        self.name = f"stress{number}"
        self.random = random.Random(number)
        self.rounds = 0
        self.ident = 0
        # No jolt may be sent: one is on its way, or could not be caught.
        self.pending = True
        self.jolts = 0
        self.failures = 0
        # The private counter lies between what was acknowledged and what may have been executed.
        self.acknowledged = 0
        self.unknown = 0
        self.wrong: list[Any] = []
        self.calls: list[Callable[[str], None]] = [
            self.read,
            self.read,
            self.read,
            self.write,
            self.write,
            self.count,
            self.many,
            self.hash,
            self.pipe,
            self.echo,
            self.block,
            self.transact,
        ]

    # Every reply names its key; anything else was meant for somebody else.

    def check(self, right: bool, *reply: Any) -> None:
        if not right:
            self.wrong.append((self.name, *reply))

    def belongs(self, value: Any, key: str) -> bool:
        return value is None or value.startswith(key.encode() + b"=")

    def read(self, key: str) -> None:
        value = self.client.get(key)
        self.check(self.belongs(value, key), key, value)

    def write(self, key: str) -> None:
        reply = self.client.set(key, f"{key}={self.rounds}" + "x" * self.random.randrange(0, 3000))
        self.check(reply is True, key, reply)

    def count(self, _: str) -> None:
        self.unknown += 1
        value = self.client.incr(f"{self.name}:count")
        self.check(self.acknowledged < value <= self.acknowledged + self.unknown, value)
        self.unknown -= value - self.acknowledged
        self.acknowledged = value

    def many(self, key: str) -> None:
        keys = [f"{{{key}}}{n}" for n in range(3)]
        self.client.mset({k: f"{k}={self.rounds}" for k in keys})
        values = self.client.mget(keys)
        self.check(len(values) == 3 and all(map(self.belongs, values, keys)), keys, values)

    def hash(self, key: str) -> None:
        self.client.hset(f"{key}:h", mapping={key: self.rounds})
        value = self.client.hgetall(f"{key}:h")
        self.check(list(value) == [key.encode()], key, value)

    def pipe(self, key: str) -> None:
        keys = [f"{self.name}:{n}" for n in self.random.sample(range(KEYS), 8)]
        pipe = self.client.pipeline()
        for k in keys:
            pipe.get(k).strlen(k)
        values = pipe.execute()
        self.check(all(map(self.belongs, values[::2], keys)), keys, values)

    def echo(self, key: str) -> None:
        value = self.client.echo(f"{key}={self.rounds}", target_nodes=self.client.get_node_from_key(key))
        self.check(value == f"{key}={self.rounds}".encode(), key, value)

    def block(self, key: str) -> None:
        self.client.rpush(f"{key}:q", f"{key}={self.rounds}")
        popped = self.client.blpop(f"{key}:q", 0.1)
        self.check(popped is None or self.belongs(popped[1], key), key, popped)

    def transact(self, key: str) -> None:
        with self.client.pipeline(transaction=True) as pipe:
            pipe.set(f"{key}:t", f"{key}={self.rounds}").get(f"{key}:t")
            values = pipe.execute()
        self.check(self.belongs(values[1], key), key, values)

    def run(self) -> None:
        """Works off all rounds, whatever is raised meanwhile."""
        self.ident = threading.get_ident()
        while self.ident:
            try:
                # From here on a jolt may come, one at a time.
                self.pending = False
                self.work()
                self.ident = 0
                # One that was sent before that arrives here.
                time.sleep(0.05)
            except Jolt:
                self.jolts += 1

    def work(self) -> None:
        while self.rounds < ROUNDS:
            self.rounds += 1
            key = f"{self.name}:{self.random.randrange(KEYS)}"
            try:
                self.random.choice(self.calls)(key)
            except (redis.ConnectionError, redis.TimeoutError, redis.WatchError):
                self.failures += 1

    def jolt(self) -> None:
        if self.ident and not self.pending:
            self.pending = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(Jolt))


def trouble(workers: list[Worker], cluster: LocalCluster, stop: threading.Event) -> None:
    """Raises exceptions into the workers' threads, and stalls servers for longer than the time-out."""
    chance = random.Random(0)
    # Soon, and without jolts meanwhile: a fast machine is done with all rounds before many stalls.
    next_stall, calm = time.monotonic() + 0.1, True
    while not stop.is_set():
        time.sleep(0.002)
        chance.choice(workers).jolt()
        if time.monotonic() > next_stall:
            next_stall = time.monotonic() + 1
            chance.choice(cluster.primaries).call("CLIENT", "PAUSE", 400)
            if calm or chance.random() < 0.5:
                # Otherwise each of those who wait is jolted before its time-out.
                time.sleep(0.4)
            calm = False


@pytest.fixture
def jolts_in_finalizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drops them. pytest would keep each until the test's end, and with its frames the connections of some."""
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not Jolt:
            shown(unraisable)

    monkeypatch.setattr(sys, "unraisablehook", hook)


@pytest.mark.timeout(1200 if STRESS else 120)
@pytest.mark.usefixtures("jolts_in_finalizers")
def test_every_reply_reaches_its_caller(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(
        cluster, socket_timeout=0.25, cluster_error_retry_attempts=2, max_connections=PLACES, timeout=5
    )
    workers = [Worker(client, number) for number in range(THREADS)]
    stop = threading.Event()
    troubling = background(trouble, workers, cluster, stop)
    futures = [background(worker.run) for worker in workers]
    try:
        for future in futures:
            future.result(1000 if STRESS else 100)
    finally:
        stop.set()
        troubling.result(30)
        for primary in cluster.primaries:
            primary.call("CLIENT", "UNPAUSE")
    assert [wrong for worker in workers for wrong in worker.wrong] == []
    assert sum(worker.rounds for worker in workers) == THREADS * ROUNDS
    assert sum(worker.jolts for worker in workers) > THREADS
    assert sum(worker.failures for worker in workers) > 0, "some calls timed out"
    # Afterwards the client works as if nothing had happened, at every node and with all its connections.
    for worker in workers:
        count = int(client.get(f"{worker.name}:count") or 0)
        assert worker.acknowledged <= count <= worker.acknowledged + worker.unknown
    for node in client.get_primaries():
        pool = client.get_redis_connection(node).connection_pool
        connections = [pool.get_connection() for _ in range(PLACES)]
        for connection in connections:
            pool.release(connection)
