"""Connections of one's own: blocking commands take them from a pool that waits."""

import asyncio

import pytest

from slotwise.asyncio import RedisCluster
from slotwise.errors import MaxConnectionsError
from slotwise.local import LocalCluster
from tests.asyncio.loops import run
from tests.fixtures.scripted import ScriptedCluster


def test_a_full_pool_waits(cluster: LocalCluster) -> None:
    """redis-py 8.1 raises MaxConnectionsError at once."""

    async def main() -> None:
        size = 3
        async with RedisCluster.from_url(cluster.url, max_connections=size) as client:
            keys = [f"{{aio-pool}}{i}" for i in range(size + 1)]
            blocked = [asyncio.create_task(client.blpop(key, timeout=20)) for key in keys]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in blocked)
            for key in keys:
                await client.rpush(key, "x")
            found = await asyncio.wait_for(asyncio.gather(*blocked), 10)
            assert [value for _, value in found] == [b"x"] * len(keys)

    run(main)


def test_waiting_is_bounded(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, max_connections=1) as client:
            await client.get("{aio-pool}none")
            for endpoint in client._engine.table.shards:
                endpoint[0].pool._pool_timeout = 0.05
            first = asyncio.create_task(client.blpop("{aio-pool}none", timeout=5))
            await asyncio.sleep(0.05)
            with pytest.raises(MaxConnectionsError, match="raise max_connections"):
                await client.blpop("{aio-pool}none", timeout=5)
            await client.rpush("{aio-pool}none", "x")
            assert await first == (b"{aio-pool}none", b"x")

    run(main)


def test_a_cancelled_wait_gives_its_place_on(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, max_connections=1) as client:
            # A key each: the server may still serve a caller that has just gone.
            keys = [f"{{aio-pool}}cancelled:{i}" for i in range(3)]
            for _ in range(20):
                holder, waiter, last = (asyncio.create_task(client.blpop(key, timeout=20)) for key in keys)
                await asyncio.sleep(0.01)
                holder.cancel()
                # In the moment in which the place is passed on to it.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                waiter.cancel()
                await client.rpush(keys[2], "x")
                assert await asyncio.wait_for(last, 5) == (keys[2].encode(), b"x")
                await asyncio.gather(holder, waiter, return_exceptions=True)

    run(main)


def test_blocked_callers_do_not_hold_up_the_shared_link(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            blocked = asyncio.create_task(client.blpop("{aio-pool}x", timeout=20))
            for _ in range(50):
                await client.set("{aio-pool}y", 1)
            assert not blocked.done()
            await client.rpush("{aio-pool}x", 1)
            assert await blocked == (b"{aio-pool}x", b"1")

    run(main)


def test_a_connection_is_used_again() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("BLPOP").often().reply(None)
        node.expect("GET").often().reply(b"1")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                await client.blpop("key", timeout=1)
                await client.get("key")
                opened = node.accepted
                for _ in range(20):
                    await client.blpop("key", timeout=1)
                    await client.get("key")
                assert node.accepted == opened

        run(main)
