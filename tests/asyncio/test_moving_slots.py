"""Real slots that really move, under load of tasks: no error, and every counter exact; see the sync tests."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
import redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.errors import WatchError
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run
from tests.sync.test_moving_slots import TAGS, atomic, move_about

__all__ = ["atomic"]


async def single_calls(client: RedisCluster, name: str, stop: asyncio.Event) -> dict[str, int]:
    counted: dict[str, int] = {}
    while not stop.is_set():
        for tag in TAGS:
            key = f"{{{tag}}}{name}"
            counted[key] = counted.get(key, 0) + 1
            assert await client.incr(key) == counted[key]
            value = f"{key}={counted[key]}".encode()
            assert await client.mset({f"{key}:1": value, f"{key}:2": value}) is True
            assert await client.mget(f"{key}:1", f"{key}:2") == [value, value]
    return counted


async def pipelines(client: RedisCluster, name: str, stop: asyncio.Event) -> dict[str, int]:
    counted: dict[str, int] = {}
    while not stop.is_set():
        pipe = client.pipeline()
        keys = [f"{{{tag}}}{name}:{n}" for n in range(20) for tag in TAGS]
        for key in keys:
            pipe.incr(key)
            counted[key] = counted.get(key, 0) + 1
        assert await pipe.execute() == [counted[key] for key in keys]
    return counted


async def transactions(client: RedisCluster, name: str, stop: asyncio.Event) -> dict[str, int]:
    counted: dict[str, int] = {}
    while not stop.is_set():
        for tag in TAGS:
            key = f"{{{tag}}}{name}"
            async with client.pipeline(transaction=True) as pipe:
                counted[key] = counted.get(key, 0) + 1
                values = await pipe.incr(key).get(key).execute()
                assert values == [counted[key], str(counted[key]).encode()]
    return counted


async def watched(client: RedisCluster, name: str, stop: asyncio.Event) -> dict[str, int]:
    """Counters that all workers share: an update that is lost shows in the sum."""
    counted: dict[str, int] = {}
    while not stop.is_set():
        for tag in TAGS:
            key = f"{{{tag}}}shared"
            async with client.pipeline(transaction=True) as pipe:
                while True:
                    try:
                        await pipe.watch(key)
                        value = int(await pipe.get(key) or 0)
                        pipe.multi()
                        pipe.set(key, value + 1)
                        await pipe.execute()
                        break
                    except WatchError:
                        await pipe.reset()
            counted[key] = counted.get(key, 0) + 1
    return counted


@pytest.mark.parametrize(
    "work", [single_calls, pipelines, transactions, watched], ids=lambda work: work.__name__
)
def test_slots_move_under_load(faulty_cluster: LocalCluster, work: Any, atomic: bool) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(faulty_cluster.url) as client:
            stop = asyncio.Event()
            workers = [asyncio.create_task(work(client, f"aio:{work.__name__}{n}", stop)) for n in range(4)]
            try:
                moved = await asyncio.to_thread(move_about, faulty_cluster, 2, atomic=atomic)
            finally:
                stop.set()
            counted: Counter[str] = Counter()
            for worker in workers:
                counted.update(await worker)
            assert moved > 0
            assert {key: int(await client.get(key)) for key in counted} == counted

    run(main)


def test_slot_that_stands_half_way(faulty_cluster: LocalCluster) -> None:
    """ASK for what has left, the owner's answer for what has not, TRYAGAIN in between; transactions wait."""
    slot = key_slot("half")
    keys = [f"{{half}}{n}" for n in range(40)]
    values = [key.encode() for key in keys]
    owner = faulty_cluster.owner_of(slot)
    move = faulty_cluster.slot_move([slot], next(n for n in faulty_cluster.primaries if n is not owner))

    async def main() -> None:
        async with RedisCluster.from_url(faulty_cluster.url) as client:
            for key in keys:
                await client.set(key, key)
            move.open()
            move.move_keys(20)
            assert await asyncio.gather(*map(client.get, keys)) == values
            pipe = client.pipeline()
            for key in keys:
                pipe.get(key)
            assert await pipe.execute() == values
            # Keys on both sides: nobody can answer these before the move is over.
            together = asyncio.create_task(client.mget(keys))
            transaction = client.pipeline(transaction=True).execute_command("MGET", *keys)
            done = asyncio.create_task(transaction.execute())
            assert await asyncio.gather(*map(client.get, keys)) == values
            assert client.get_node_from_key("{half}").port == owner.port
            move.move_keys()
            move.close()
            assert await together == values
            assert await done == [values]

    run(main)


@pytest.mark.parametrize("error", ["MOVED", "CLUSTERDOWN The cluster is down", "TRYAGAIN Multiple keys"])
def test_watch_that_was_refused_is_told(error: str) -> None:
    """Another node knows nothing of the WATCH, and a refusal has ended it here: to go on could lose an update."""
    with ScriptedCluster(1, others=1) as cluster:
        node, other = cluster.nodes
        text = "Slot rebalancing" if error == "MOVED" else error.partition(" ")[2]
        error = f"MOVED {key_slot('a')} {other.address}" if error == "MOVED" else error
        node.expect("WATCH", "a").reply("OK")
        node.expect("GET", "a").reply(b"1")
        node.expect("MULTI").reply("OK")
        node.expect("SET", "a").error(error)
        node.expect("EXEC").error("EXECABORT Transaction discarded because of previous errors.")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client:
                pipe = client.pipeline(transaction=True)
                await pipe.watch("a")
                assert await pipe.get("a") == b"1"
                pipe.multi()
                pipe.set("a", 2)
                with pytest.raises(WatchError, match=text):
                    await pipe.execute()
                await pipe.reset()

        run(main)
        assert not other.commands


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("CLUSTERDOWN The cluster is down", redis.exceptions.ClusterDownError),
        ("LOADING Redis is loading the dataset in memory", redis.BusyLoadingError),
        ("TRYAGAIN Multiple keys", redis.exceptions.TryAgainError),
    ],
)
@pytest.mark.parametrize("at", ["GET", "SET"])
def test_transaction_helper_ends_where_nothing_helps(at: str, error: str, kind: type[Exception]) -> None:
    """A node may let pass a WATCH and refuse what comes behind it: it is asked a few times, with pauses."""
    with ScriptedCluster(1) as cluster:
        (node,) = cluster.nodes
        node.expect("WATCH", "a").often().reply("OK")
        node.expect("UNWATCH").often().reply("OK")
        node.expect("MULTI").often().reply("OK")
        if at == "GET":
            node.expect("GET", "a").often().error(error)
        else:
            node.expect("GET", "a").often().reply(b"1")
            node.expect("SET", "a").often().error(error)
            node.expect("EXEC").often().error("EXECABORT Transaction discarded because of previous errors.")

        async def double(pipe: Any) -> None:
            value = int(await pipe.get("a"))
            pipe.multi()
            pipe.set("a", 2 * value)

        async def main() -> None:
            retry = Retry(ConstantBackoff(0.05), 2)
            options: Any = {"retry": retry, "topology_refresh_min_interval": 0.05}
            async with RedisCluster.from_url(cluster.url, **options) as client:
                began = time.monotonic()
                with pytest.raises(kind):
                    await client.transaction(double, "a")
                assert time.monotonic() - began >= 0.1

        run(main)
        assert node.count(at) == 3
