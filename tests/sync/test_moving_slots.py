"""Real slots that really move, under load: no error, and every counter exact."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from slotwise import RedisCluster, key_slot
from slotwise.local import LocalCluster
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background

# Three slots that move, with their keys, while threads work on them.
TAGS = ["a", "b", "c"]


@pytest.fixture
def client(faulty_cluster: LocalCluster, make_client: MakeClient) -> RedisCluster:
    return make_client(faulty_cluster)


def single_calls(client: RedisCluster, name: str, stop: threading.Event) -> dict[str, int]:
    counted: dict[str, int] = {}
    while not stop.is_set():
        for tag in TAGS:
            key = f"{{{tag}}}{name}"
            counted[key] = counted.get(key, 0) + 1
            assert client.incr(key) == counted[key]
            value = f"{key}={counted[key]}".encode()
            assert client.mset({f"{key}:1": value, f"{key}:2": value}) is True
            assert client.mget(f"{key}:1", f"{key}:2") == [value, value]
    return counted


def pipelines(client: RedisCluster, name: str, stop: threading.Event) -> dict[str, int]:
    counted: dict[str, int] = {}
    while not stop.is_set():
        pipe = client.pipeline()
        keys = [f"{{{tag}}}{name}:{n}" for n in range(20) for tag in TAGS]
        for key in keys:
            pipe.incr(key)
            counted[key] = counted.get(key, 0) + 1
        assert pipe.execute() == [counted[key] for key in keys]
    return counted


def transactions(client: RedisCluster, name: str, stop: threading.Event) -> dict[str, int]:
    counted: dict[str, int] = {}
    while not stop.is_set():
        for tag in TAGS:
            key = f"{{{tag}}}{name}"
            with client.pipeline(transaction=True) as pipe:
                counted[key] = counted.get(key, 0) + 1
                assert pipe.incr(key).get(key).execute() == [counted[key], str(counted[key]).encode()]
    return counted


def move_about(cluster: LocalCluster, rounds: int) -> int:
    """Moves the slots of TAGS from one primary to the next; the number of keys carried over."""
    moved = 0
    for _ in range(rounds):
        for tag in TAGS:
            slot = key_slot(tag)
            owner = cluster.owner_of(slot)
            others = [node for node in cluster.primaries if node is not owner]
            moved += cluster.move_slots([slot], others[0])
    return moved


@pytest.mark.parametrize("work", [single_calls, pipelines, transactions], ids=lambda work: work.__name__)
def test_slots_move_under_load(client: RedisCluster, faulty_cluster: LocalCluster, work: Any) -> None:
    stop = threading.Event()
    workers = [background(work, client, f"{work.__name__}{n}", stop) for n in range(4)]
    try:
        moved = move_about(faulty_cluster, 2)
    finally:
        stop.set()
    counted: dict[str, int] = {}
    for worker in workers:
        counted |= worker.result(PATIENCE)
    assert moved > 0
    assert {key: int(client.get(key)) for key in counted} == counted


def test_slot_that_stands_half_way(client: RedisCluster, faulty_cluster: LocalCluster) -> None:
    """ASK for what has left, the owner's answer for what has not, TRYAGAIN in between."""
    keys = [f"{{half}}{n}" for n in range(40)]
    slot = key_slot("half")
    for key in keys:
        client.set(key, key)
    owner = faulty_cluster.owner_of(slot)
    target = next(node for node in faulty_cluster.primaries if node is not owner)
    move = faulty_cluster.slot_move([slot], target)
    move.open()
    move.move_keys(20)
    values = [key.encode() for key in keys]
    assert [client.get(key) for key in keys] == values
    pipe = client.pipeline()
    for key in keys:
        pipe.get(key)
    assert pipe.execute() == values
    # A new key goes to the new owner; the others are left alone.
    assert client.set("{half}new", "new") is True
    assert client.get("{half}new") == b"new"
    # Keys on both sides: nobody can answer this before the move is over.
    together = background(client.mget, keys)
    move.move_keys()
    move.close()
    assert together.result(PATIENCE) == values
    assert client.mget(keys) == values


def test_failover_under_load(client: RedisCluster, faulty_cluster: LocalCluster) -> None:
    """A manual failover hands over without losing a write: no error, counters exact."""
    stop = threading.Event()
    workers = [background(single_calls, client, f"failover{n}", stop) for n in range(4)]
    try:
        owner = faulty_cluster.owner_of(key_slot("a"))
        faulty_cluster.failover(faulty_cluster.replicas_of(owner)[0])
    finally:
        stop.set()
    counted: dict[str, int] = {}
    for worker in workers:
        counted |= worker.result(PATIENCE)
    assert {key: int(client.get(key)) for key in counted} == counted
