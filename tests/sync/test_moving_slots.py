"""Real slots that really move, under load: no error, and every counter exact."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from slotwise import RedisCluster, key_slot
from slotwise.errors import WatchError
from slotwise.local import LocalCluster
from slotwise.local.slots import moves_atomically
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


def watched(client: RedisCluster, name: str, stop: threading.Event) -> dict[str, int]:
    """Counters that all workers share: an update that is lost shows in the sum."""
    counted: dict[str, int] = {}
    while not stop.is_set():
        for tag in TAGS:
            key = f"{{{tag}}}shared"
            with client.pipeline(transaction=True) as pipe:
                while True:
                    try:
                        pipe.watch(key)
                        value = int(pipe.get(key) or 0)
                        pipe.multi()
                        pipe.set(key, value + 1)
                        pipe.execute()
                        break
                    except WatchError:
                        pipe.reset()
            counted[key] = counted.get(key, 0) + 1
    return counted


def move_about(cluster: LocalCluster, rounds: int, *, atomic: bool = False) -> int:
    """Moves the slots of TAGS from one primary to the next; the number of keys carried over."""
    moved = 0
    for _ in range(rounds):
        for tag in TAGS:
            slot = key_slot(tag)
            owner = cluster.owner_of(slot)
            others = [node for node in cluster.primaries if node is not owner]
            moved += cluster.move_slots([slot], others[0], atomic=atomic)
    return moved


@pytest.fixture(params=["key by key", "atomic"])
def atomic(request: pytest.FixtureRequest, faulty_cluster: LocalCluster) -> bool:
    """How slots move."""
    if request.param == "atomic" and not moves_atomically(faulty_cluster.nodes[0]):
        pytest.skip("slots move atomically in Valkey 9 and later only")
    return bool(request.param == "atomic")


@pytest.mark.parametrize(
    "work", [single_calls, pipelines, transactions, watched], ids=lambda work: work.__name__
)
def test_slots_move_under_load(
    client: RedisCluster, faulty_cluster: LocalCluster, work: Any, atomic: bool
) -> None:
    stop = threading.Event()
    workers = [background(work, client, f"{work.__name__}{n}", stop) for n in range(4)]
    try:
        moved = move_about(faulty_cluster, 2, atomic=atomic)
    finally:
        stop.set()
    counted: Counter[str] = Counter()
    for worker in workers:
        counted.update(worker.result(PATIENCE))
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


def test_transaction_waits_for_a_slot_that_stands_half_way(
    client: RedisCluster, faulty_cluster: LocalCluster
) -> None:
    """No node can execute it: EXEC cannot be asked of the new owner, and the old one has the key no more."""
    slot = key_slot("half")
    client.set("{half}n", 1)
    owner = faulty_cluster.owner_of(slot)
    move = faulty_cluster.slot_move([slot], next(n for n in faulty_cluster.primaries if n is not owner))
    move.open()
    move.move_keys()
    pipe = client.pipeline(transaction=True)
    waiting = background(pipe.incr("{half}n").get("{half}n").execute)
    # Other calls go on meanwhile, and the table still knows who owns the slot.
    assert [client.get("{half}n") for _ in range(20)] == [b"1"] * 20
    assert client.get_node_from_key("{half}").port == owner.port
    move.close()
    assert waiting.result(PATIENCE) == [2, b"2"]


def test_scan_goes_on_while_slots_move(
    client: RedisCluster, faulty_cluster: LocalCluster, atomic: bool
) -> None:
    """Every key of the slots that stay is seen; of those that move one node may have been left and the other not
    yet reached, which SCAN does not tell."""
    moving = {key_slot(tag) for tag in TAGS}
    keys = {f"scan:{n}".encode() for n in range(2000)} | {
        f"{{{tag}}}:{n}".encode() for tag in TAGS for n in range(50)
    }
    pipe = client.pipeline()
    for key in keys:
        pipe.set(key, 1)
    pipe.execute()
    mover = background(move_about, faulty_cluster, 1, atomic=atomic)
    scans = 0
    while not mover.done() or not scans:
        seen = set(client.scan_iter(count=50))
        scans += 1
        assert {key for key in keys if key_slot(key) not in moving} <= seen <= keys
    assert mover.result(PATIENCE) >= 150
    assert set(client.scan_iter()) == keys


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


def test_atomic_move_needs_a_server_that_can(faulty_cluster: LocalCluster) -> None:
    slot = key_slot("all at once")
    target = next(node for node in faulty_cluster.primaries if node is not faulty_cluster.owner_of(slot))
    faulty_cluster.owner_of(slot).call("SET", "all at once", 1)
    if moves_atomically(target):
        assert faulty_cluster.move_slots([slot], target, atomic=True) == 1
        assert target.call("GET", "all at once") == "1"
    else:
        with pytest.raises(ValueError, match="needs Valkey 9"):
            faulty_cluster.move_slots([slot], target, atomic=True)
