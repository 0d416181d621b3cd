"""What only nodes with addresses of their own show: other addresses outside than inside, a cable cut, a new address."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import redis

import slotwise.asyncio
from slotwise import RedisCluster, key_slot
from slotwise.local.view import SLOTS
from slotwise.testing import Call, History
from tests.asyncio.loops import run
from tests.local.processes import wait_until
from tests.sync.threads import PATIENCE, background

if TYPE_CHECKING:  # it needs testcontainers, which the fixtures ask for
    from tests.containers.cluster import ContainerCluster, ContainerNode

# -- outside: the containers' addresses lead nowhere, mapped ports do --------------------------------------------------


@pytest.fixture(scope="module")
def one_key_per_slot() -> list[str]:
    keys: dict[int, str] = {}
    numbers = count()
    while len(keys) < SLOTS:
        key = f"k{next(numbers)}"
        keys.setdefault(key_slot(key), key)
    return [keys[slot] for slot in range(SLOTS)]


def outside(cluster: ContainerCluster) -> dict[str, Any]:
    """Keywords of a client that knows the mapped ports only. An address that is not translated raises KeyError."""
    host, port = cluster.nodes[0].mapped
    return {"host": host, "port": port, "address_remap": cluster.mapped.__getitem__}


def away(cluster: ContainerCluster, slot: int) -> ContainerNode:
    """A primary that does not serve ``slot``."""
    owner = cluster.owner_of(slot)
    return next(node for node in cluster.primaries if node is not owner)


def test_mapped_ports_from_threads(containers: ContainerCluster, one_key_per_slot: list[str]) -> None:
    mapped = containers.mapped
    with RedisCluster(**outside(containers)) as client, RedisCluster(**outside(containers)) as other:
        assert {(node.host, node.port) for node in client.get_nodes()} <= set(mapped.values())
        pipe = client.pipeline()
        for key in one_key_per_slot:
            pipe.set(key, key)
        assert pipe.execute() == [True] * SLOTS
        for key in one_key_per_slot[::16]:
            assert client.get(key) == key.encode()

        key = one_key_per_slot[100]
        target = away(containers, 100)
        move = containers.slot_move([100], target)
        move.open()
        move.move_keys()
        assert client.append(key, "+ask") == len(key) + 4
        move.close()
        assert client.append(key, "+moved") == len(key) + 10
        found = client.get_node_from_key(key)
        assert (found.host, found.port) == target.mapped

        with client.pubsub() as pubsub:
            pubsub.subscribe("news")
            pubsub.ssubscribe(key)  # in the slot that has moved
            assert pubsub.get_message(timeout=PATIENCE)["type"] == "subscribe"
            assert pubsub.get_sharded_message(timeout=PATIENCE)["type"] == "ssubscribe"
            other.publish("news", "1")
            other.spublish(key, "2")
            assert pubsub.get_message(timeout=PATIENCE)["data"] == b"1"
            assert pubsub.get_sharded_message(timeout=PATIENCE)["data"] == b"2"


def test_mapped_ports_from_tasks(containers: ContainerCluster, one_key_per_slot: list[str]) -> None:
    mapped = containers.mapped

    async def main() -> None:
        async with (
            slotwise.asyncio.RedisCluster(**outside(containers)) as client,
            slotwise.asyncio.RedisCluster(**outside(containers)) as other,
        ):
            assert {(node.host, node.port) for node in client.get_nodes()} <= set(mapped.values())
            pipe = client.pipeline()
            for key in one_key_per_slot:
                pipe.set(key, key)
            assert await pipe.execute() == [True] * SLOTS
            some = one_key_per_slot[::16]
            assert await asyncio.gather(*map(client.get, some)) == [key.encode() for key in some]

            key = one_key_per_slot[200]
            target = away(containers, 200)
            move = containers.slot_move([200], target)
            move.open()
            move.move_keys()
            assert await client.append(key, "+ask") == len(key) + 4
            move.close()
            assert await client.append(key, "+moved") == len(key) + 10
            found = client.get_node_from_key(key)
            assert found is not None
            assert (found.host, found.port) == target.mapped

            async with client.pubsub() as pubsub:
                await pubsub.subscribe("news")
                await pubsub.ssubscribe(key)  # in the slot that has moved
                assert (await pubsub.get_message(timeout=PATIENCE))["type"] == "subscribe"
                assert (await pubsub.get_sharded_message(timeout=PATIENCE))["type"] == "ssubscribe"
                await other.publish("news", "1")
                await other.spublish(key, "2")
                assert (await pubsub.get_message(timeout=PATIENCE))["data"] == b"1"
                assert (await pubsub.get_sharded_message(timeout=PATIENCE))["data"] == b"2"

    run(main)


# -- inside: faults under a little load --------------------------------------------------------------------------------

#: What callers may meet while a node is away.
TROUBLE = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ClusterDownError)
#: Seconds before a fault, in which a replica may not have got yet what its primary has acknowledged.
REPLICATION = 1.0


class Load:
    """A thread and a task for every shard, which count, each with a counter of its own."""

    def __init__(self, cluster: ContainerCluster) -> None:
        self.history = History()
        #: What keys of a shard have in common.
        self.tags: dict[ContainerNode, str] = {}
        for name in map(str, count()):
            self.tags.setdefault(cluster.owner_of(key_slot(name)), name)
            if len(self.tags) == len(cluster.primaries):
                break
        host, port = cluster.nodes[0].address
        self._at = {"host": host, "port": port}
        self._run = time.monotonic_ns()  # the cluster keeps the keys of the tests before
        self._stop = threading.Event()

    def keys(self, node: ContainerNode) -> list[str]:
        """The counters that ``node`` had when this began."""
        return [f"{{{self.tags[node]}}}{world}:{self._run}" for world in ("thread", "task")]

    def threads(self) -> None:
        with RedisCluster(**self._at) as client:

            def work(key: str) -> None:
                while not self._stop.wait(0.01):
                    try:
                        with self.history.add(key) as call:
                            call.result = client.incr(key)
                    except TROUBLE:
                        pass

            workers = [background(work, self.keys(node)[0]) for node in self.tags]
            for worker in workers:
                worker.result()

    def tasks(self) -> None:
        async def main() -> None:
            async with slotwise.asyncio.RedisCluster(**self._at) as client:

                async def work(key: str) -> None:
                    while not self._stop.is_set():
                        await asyncio.sleep(0.01)
                        try:
                            with self.history.add(key) as call:
                                call.result = await client.incr(key)
                        except TROUBLE:
                            pass

                await asyncio.gather(*(work(self.keys(node)[1]) for node in self.tags))

        run(main)

    def wait_answered(self) -> None:
        """Return when every counter was counted by a call that has begun from now on."""
        now = time.monotonic()
        keys = {key for node in self.tags for key in self.keys(node)}
        wait_until(lambda: keys == {call.key for call in self.answered() if call.invoked > now}, PATIENCE)

    def stop(self) -> None:
        self._stop.set()

    def answered(self) -> list[Call]:
        return [call for call in list(self.history.calls) if call.outcome == "ok"]

    def silence(self, node: ContainerNode) -> float:
        """Seconds for which a counter of this shard had no answer, at the most."""
        longest = 0.0
        for key in self.keys(node):
            times = [call.returned for call in self.answered() if call.key == key]
            longest = max(longest, *(later - earlier for earlier, later in pairwise(times)))
        return longest


@contextmanager
def loaded(cluster: ContainerCluster) -> Iterator[Load]:
    """Meanwhile both clients count, and before the end every counter has been counted again."""
    load = Load(cluster)
    running = [background(load.threads), background(load.tasks)]
    try:
        load.wait_answered()
        yield load
        load.wait_answered()
    finally:
        load.stop()
        for each in running:
            each.result(PATIENCE)


@pytest.mark.parametrize("fault", ["kill", "cut_off"])
def test_primary_goes_and_comes_back(inside: ContainerCluster, fault: str) -> None:
    """Its replica takes over. What it acknowledged last may be lost, and nothing is counted twice."""
    with loaded(inside) as load:
        hit, *others = load.tags
        (replica,) = inside.replicas_of(hit)
        began = time.monotonic()
        getattr(hit, fault)()
        ended = time.monotonic()
        load.wait_answered()
        assert replica.call("ROLE")[0] == "master"
        inside.heal()
    # While slots have no owner the whole cluster is down. Who waits for the dead node on all shards shows here.
    assert max(map(load.silence, others)) < load.silence(hit)
    lost = [
        call
        for call in load.answered()
        if call.key in load.keys(hit) and call.returned > began - REPLICATION and call.invoked < ended
    ]
    assert load.history.violations(lost) == []


def test_primary_comes_back_with_another_address(inside: ContainerCluster) -> None:
    """Nobody takes its place, so that both clients have to find it: nothing is lost, and nothing is counted twice."""
    with loaded(inside) as load:
        hit, *_ = load.tags
        (replica,) = inside.replicas_of(hit)
        replica.call("CONFIG", "SET", "cluster-replica-no-failover", "yes")
        try:
            old = hit.host
            hit.move_to(next(inside.unused_addresses()))
            load.wait_answered()
            inside.wait_ready()  # or the replica would still take its place
        finally:
            replica.call("CONFIG", "SET", "cluster-replica-no-failover", "no")
        assert hit.host != old
        assert hit.call("ROLE")[0] == "master"
    assert load.history.violations() == []
