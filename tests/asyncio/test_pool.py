"""Connections of one's own: blocking commands, transactions and pub/sub take them from a pool that waits."""

import asyncio
import time
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from slotwise.asyncio import RedisCluster
from slotwise.errors import MaxConnectionsError, UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.routing.topology import Address
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.asyncio.loops import run


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


# -- transactions and pub/sub, over redis-py's connections -----------------------------------------------------------


async def increment(client: Any, key: str) -> int:
    """WATCH, GET, MULTI, SET, EXEC until it succeeds: how often it took."""
    tries = 0
    async with client.pipeline(transaction=True) as pipe:
        while True:
            tries += 1
            try:
                await pipe.watch(key)
                value = int(await pipe.get(key) or 0)
                pipe.multi()
                pipe.set(key, value + 1)
                await pipe.execute()
                return tries
            except redis.WatchError:
                continue


async def wait_behind_a_watch(owner: Any, url: str) -> Any:
    """What a transaction gives while another one holds the only connection, and then lets it go."""
    async with owner.from_url(url, max_connections=1, retry=Retry(NoBackoff(), 0)) as client:
        await client.delete("aio:pool:n")
        async with client.pipeline(transaction=True) as holder:
            await holder.watch("aio:pool:n")
            waiting = asyncio.create_task(client.pipeline(transaction=True).incr("aio:pool:n").execute())
            await asyncio.wait({waiting}, timeout=0.1)
        return await waiting


def test_a_transaction_waits_for_a_connection(cluster: LocalCluster) -> None:
    assert run(wait_behind_a_watch, RedisCluster, cluster.url) == [1]
    # redis-py 8.1 does not wait.
    with pytest.raises(MaxConnectionsError):
        asyncio.run(wait_behind_a_watch(redis.asyncio.RedisCluster, cluster.url))


def test_many_transactions_over_few_connections(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, max_connections=2) as client:
            await client.delete("aio:pool:n")
            work = asyncio.gather(*(increment(client, "aio:pool:n") for _ in range(20)))
            await asyncio.wait_for(work, 30)
            assert await client.get("aio:pool:n") == b"20"

    run(main)


def test_a_transaction_waits_no_longer_than_the_pool_says(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, max_connections=1) as client:
            await client.set("{aio-pool}n", 1)
            pool = client.nodes_manager.endpoint_for(client.keyslot("{aio-pool}n")).pool
            pool._pool_timeout = 0.5
            async with client.pipeline(transaction=True) as holder:
                await holder.watch("{aio-pool}n")
                began = time.monotonic()
                with pytest.raises(MaxConnectionsError, match="raise max_connections"):
                    await client.pipeline(transaction=True).incr("{aio-pool}n").execute()
                with pytest.raises(MaxConnectionsError):
                    await client.blpop("{aio-pool}list", timeout=1)
                # Once, and not once more for every retry.
                assert 0.9 < time.monotonic() - began < 3
            assert await client.pipeline(transaction=True).incr("{aio-pool}n").execute() == [2]

    run(main)


def test_all_kinds_together_stay_within_the_bound(cluster: LocalCluster) -> None:
    """Blocking commands, transactions and pub/sub take turns on three connections."""
    bound = 3

    async def main() -> None:
        async with (
            RedisCluster.from_url(cluster.url) as observer,
            RedisCluster.from_url(cluster.url, client_name="aio-bound", max_connections=bound) as client,
        ):
            node = observer.get_node_from_key("{aio-pool}")
            most = 0
            over = False

            async def watch() -> None:
                nonlocal most
                while not over:
                    entries = await observer.client_list(target_nodes=node)
                    # Beside them the shared one, and redis-py's own that asks for the topology.
                    # Redis 6.2 does not say which of CLUSTER's commands it was.
                    mine = [e for e in entries if e["name"] == "aio-bound" and e["cmd"][:7] != "cluster"]
                    most = max(most, len(mine) - 1)

            async def block(i: int) -> None:
                key = f"{{aio-pool}}list:{i}"
                popped = asyncio.create_task(client.blpop(key, timeout=20))
                await client.rpush(key, "x")
                assert await popped == (key.encode(), b"x")

            async def listen(i: int) -> None:
                async with client.pubsub(node=client.get_node_from_key("{aio-pool}")) as pubsub:
                    await pubsub.subscribe(f"channel:{i}")
                    await pubsub.get_message(timeout=5)
                if int(cluster.server_version.split(".")[0]) < 7:
                    # It has no sharded channels.
                    return
                async with client.pubsub() as pubsub:
                    await pubsub.ssubscribe(f"{{aio-pool}}shard:{i}")
                    await pubsub.get_sharded_message(timeout=5)

            watching = asyncio.create_task(watch())
            kinds = (block, listen, lambda i: increment(client, f"{{aio-pool}}{i}"))
            await asyncio.wait_for(asyncio.gather(*(kind(i) for i in range(30) for kind in kinds)), 60)
            over = True
            await watching
            assert most == bound
            pool = client.nodes_manager.endpoint_for(client.keyslot("{aio-pool}")).pool
            assert pool._taken == 0, "every place was left"

    run(main)


def test_a_cancelled_transaction_gives_its_place_on(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, max_connections=1) as client:
            await client.set("{aio-pool}n", 0)
            for i in range(100):
                tasks = [asyncio.create_task(increment(client, "{aio-pool}n")) for _ in range(3)]
                for _ in range(i % 25):
                    await asyncio.sleep(0)
                for task in tasks[:2]:
                    task.cancel()
                await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
                assert not tasks[2].exception()
            pool = client.nodes_manager.endpoint_for(client.keyslot("{aio-pool}n")).pool
            assert pool._taken == 0

    run(main)


def test_a_transaction_uses_its_connection_again(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:

            async def connection() -> int:
                pipe = client.pipeline(transaction=True)
                pipe.set("{aio-pool}n", 1)
                await pipe.execute()
                pool = client.nodes_manager.endpoint_for(client.keyslot("{aio-pool}n")).pool
                assert len(pool._connections) == 1
                return id(pool._connections[0])

            assert len({await connection() for _ in range(10)}) == 1

    run(main)


def test_a_transaction_outlives_a_reconnect(cluster: LocalCluster) -> None:
    """Its connection goes back to the pool that gave it, and is closed there: the node has another pool by then."""

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.set("{aio-pool}n", 0)
            endpoint = client.nodes_manager.endpoint_for(client.keyslot("{aio-pool}n"))
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch("{aio-pool}n")
                pipe.multi()
                pipe.incr("{aio-pool}n")
                connection = pipe._execution_strategy._transaction_connection
                client.nodes_manager.reconnect(endpoint.node)
                assert client.nodes_manager.endpoint_of(endpoint.node).pool is not endpoint.pool
                assert await pipe.execute() == [1]
            assert endpoint.pool._taken == 0
            assert not endpoint.pool.node._free
            assert not connection.is_connected

    run(main)


# -- a lost connection ends a transaction ----------------------------------------------------------------------------


def play_transaction(node: ScriptedNode, *exec_replies: Any) -> None:
    """The node's part in transactions of one INCR; an EXEC closes the connection where its reply is None."""
    node.expect("WATCH").often().reply("OK")
    node.expect("UNWATCH").often().reply("OK")
    node.expect("MULTI").often().reply("OK")
    node.expect("INCRBY").often().reply("QUEUED")
    for reply in exec_replies:
        if reply is None:
            node.expect("EXEC").close()
        else:
            node.expect("EXEC").reply(reply)


def test_a_transaction_whose_reply_was_lost_is_not_sent_again() -> None:
    """redis-py 8.1 executes it once more."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        play_transaction(node, None, [2])

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                pipe = client.pipeline(transaction=True)
                with pytest.raises(UnknownOutcomeError):
                    await pipe.incr("a").execute()
                assert node.count("EXEC") == 1
                # The pipeline can be used again.
                assert await pipe.incr("a").execute() == [2]

        run(main)


def test_a_transaction_that_could_not_be_sent_is_sent_again() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        play_transaction(node, [1])

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                node.expect("HELLO").close()
                assert await client.pipeline(transaction=True).incr("a").execute() == [1]

        run(main)


def test_an_idle_connection_that_the_server_closed_costs_no_transaction() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        play_transaction(node, [1], [2])

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                assert await client.pipeline(transaction=True).incr("a").execute() == [1]
                idle = client._engine.table[0][0].pool._connections[0]
                node.drop_connections()
                while not idle._reader.at_eof():
                    await asyncio.sleep(0.001)
                assert await client.pipeline(transaction=True).incr("a").execute() == [2]

        run(main)


def test_a_lost_connection_loses_the_watch() -> None:
    """On a new connection nobody watches: executing there would overwrite what others have written."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        play_transaction(node)

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url) as client,
                client.pipeline(transaction=True) as pipe,
            ):
                await pipe.watch("a")
                node.drop_connections()
                pipe.multi()
                pipe.incr("a")
                with pytest.raises((redis.WatchError, redis.ConnectionError)):
                    await pipe.execute()

        run(main)
        assert node.count("EXEC") == 0


def test_a_cancelled_transaction_ends_at_once() -> None:
    """With WATCH, at a node that answers nothing more."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        play_transaction(node)
        node.expect("EXEC").half_open()

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url, socket_timeout=5) as client,
                client.pipeline(transaction=True) as pipe,
            ):
                await pipe.watch("a")
                pipe.multi()
                pipe.incr("a")
                task = asyncio.create_task(pipe.execute())
                while not node.count("EXEC"):
                    await asyncio.sleep(0.001)
                began, accepted = time.monotonic(), node.accepted
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - began < 2
                assert node.accepted == accepted, "a closed connection watches nothing"
                assert client.nodes_manager.endpoint_for(0).pool._taken == 0

        run(main)
        assert node.count("UNWATCH") == 0


def test_a_transaction_that_times_out_is_told_as_unknown() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        play_transaction(node)
        node.expect("EXEC").half_open()

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url, socket_timeout=0.2) as client,
                client.pipeline(transaction=True) as pipe,
            ):
                await pipe.watch("a")
                pipe.multi()
                pipe.incr("a")
                with pytest.raises(UnknownOutcomeError):
                    await pipe.execute()

        run(main)
        assert node.count("EXEC") == 1


@pytest.mark.parametrize("ends", ["lost", "cancelled"])
def test_what_ends_the_connection_ends_the_watch(ends: str) -> None:
    """Whoever goes on all the same does not execute over a new connection, on which nobody watches."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        play_transaction(node)
        append = node.expect("APPEND")
        if ends == "lost":
            append.close()

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url) as client,
                client.pipeline(transaction=True) as pipe,
            ):
                await pipe.watch("a")
                task = asyncio.create_task(pipe.append("a", "more"))
                while not node.count("APPEND"):
                    await asyncio.sleep(0.001)
                if ends == "cancelled":
                    task.cancel()
                with pytest.raises((UnknownOutcomeError, asyncio.CancelledError)):
                    await task
                pipe.multi()
                pipe.incr("a")
                with pytest.raises(redis.WatchError, match="begin again"):
                    await pipe.execute()

        run(main)
        assert node.count("EXEC") == 0


def test_an_unwatch_that_is_not_answered_is_no_error() -> None:
    """The end of its connection ends the WATCH as well."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("WATCH").reply("OK")
        node.expect("UNWATCH").half_open()

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=0.2) as client:
                async with client.pipeline(transaction=True) as pipe:
                    await pipe.watch("a")
                assert client.nodes_manager.endpoint_for(0).pool._taken == 0

        run(main)


def test_a_slot_that_moved_after_watch() -> None:
    with ScriptedCluster(2) as cluster:
        other, owner = cluster.nodes
        play_transaction(owner)
        play_transaction(other, [1])

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client:
                async with client.pipeline(transaction=True) as pipe:
                    await pipe.watch("a")
                    # Another task met a MOVED.
                    await client.nodes_manager.moved(client.keyslot("a"), Address("127.0.0.1", other.port))
                    pipe.multi()
                    pipe.incr("a")
                    with pytest.raises(redis.WatchError):
                        await pipe.execute()
                assert owner.count("EXEC") == other.count("EXEC") == 0
                assert await client.pipeline(transaction=True).incr("a").execute() == [1]

        run(main)
