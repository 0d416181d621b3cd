"""Client-side caching: what was read once is served here, until somebody writes it. redis-py's asyncio client has none."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
from redis.cache import CacheConfig, CacheEntryStatus, CacheKey

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.asyncio.loops import run

PATIENCE = 10.0
INVALIDATE_A = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n"


@contextlib.asynccontextmanager
async def two(
    cluster: LocalCluster | ScriptedCluster, **options: Any
) -> AsyncIterator[tuple[RedisCluster, RedisCluster]]:
    """A client that keeps replies, and another one."""
    async with (
        RedisCluster.from_url(cluster.url, cache_config=CacheConfig(), **options) as caching,
        RedisCluster.from_url(cluster.url) as other,
    ):
        yield caching, other


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


async def reads(client: RedisCluster, key: str, value: Any) -> None:
    async def same() -> bool:
        return bool(await client.get(key) == value)

    await eventually(same)


async def gets_served(client: RedisCluster, key: str) -> int:
    """How many GET the server of ``key`` has answered."""
    stats = await client.info("commandstats", target_nodes=client.get_node_from_key(key))
    return int(stats.get("cmdstat_get", {}).get("calls", 0))


def kept(client: RedisCluster) -> int:
    assert client._reply_cache is not None
    return int(client._reply_cache.cache.size)


# -- hits and invalidations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 3])
def test_hit_does_not_reach_the_server(cluster: LocalCluster, connections: int) -> None:
    async def main() -> None:
        async with two(cluster, connections_per_node=connections) as (caching, other):
            await other.set("aio:hit", "value")
            assert await caching.get("aio:hit") == b"value"
            before = await gets_served(other, "aio:hit")
            for _ in range(50):
                assert await caching.get("aio:hit") == b"value"
            assert await gets_served(other, "aio:hit") == before

    run(main)


def test_missing_key_is_not_kept(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.delete("aio:missing")
            assert await caching.get("aio:missing") is None
            await other.set("aio:missing", "there")
            assert await caching.get("aio:missing") == b"there"

    run(main)


@pytest.mark.parametrize("connections", [1, 3])
def test_write_of_another_client_invalidates(cluster: LocalCluster, connections: int) -> None:
    async def main() -> None:
        async with two(cluster, connections_per_node=connections) as (caching, other):
            for n in range(20):
                await other.set("aio:shared", n)
                await reads(caching, "aio:shared", b"%d" % n)

    run(main)


def test_expiry_invalidates(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with two(cluster) as (caching, other):
            # Over a connection that is open already.
            assert await caching.get("{aio:brief}other") is None
            await other.set("aio:brief", "value", px=100)
            assert await caching.get("aio:brief") == b"value"
            await reads(caching, "aio:brief", None)

    run(main)


@pytest.mark.parametrize("flush", ["FLUSHALL", "FLUSHDB"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "another client's"])
def test_flush_empties_the_cache(cluster: LocalCluster, flush: str, own: bool) -> None:
    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.set("aio:flushed", "value")
            assert await caching.get("aio:flushed") == b"value"
            await (caching if own else other).execute_command(flush, target_nodes="primaries")
            if own:
                assert await caching.get("aio:flushed") is None
            await reads(caching, "aio:flushed", None)

    run(main)


WRITES: dict[str, Callable[[RedisCluster, str, int], Awaitable[Any]]] = {
    "command": lambda client, key, n: client.set(key, n),
    "several keys": lambda client, key, n: client.mset_nonatomic({key: n, key + "'": n}),
    "pipeline": lambda client, key, n: client.pipeline().set(key, n).execute(),
    "transaction": lambda client, key, n: client.pipeline(transaction=True).set(key, n).execute(),
    "script": lambda client, key, n: client.eval("redis.call('SET', KEYS[1], ARGV[1])", 1, key, n),
}


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_own_write_is_read_back_at_once(cluster: LocalCluster, write: Any, connections: int) -> None:
    """Also while the server's word of it waits behind the replies of many other tasks."""

    async def main() -> None:
        async with two(cluster, connections_per_node=connections) as (caching, _):

            async def work(key: str) -> None:
                for n in range(5):
                    await write(caching, key, n)
                    assert await caching.get(key) == b"%d" % n

            await asyncio.gather(*(work(f"aio:own:{i}") for i in range(100)))

    run(main)


def test_value_never_goes_back(cluster: LocalCluster) -> None:
    """Invalidations meet reads in the middle; afterwards every reader sees the last value."""
    keys = [f"aio:raced{n}" for n in range(4)]

    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.delete(*keys)
            over = False

            async def read() -> None:
                seen: dict[str, int] = {}
                while not over:
                    for key in keys:
                        value = int(await caching.get(key) or 0)
                        assert value >= seen.get(key, 0)
                        seen[key] = value
                    await asyncio.sleep(0)

            readers = [asyncio.create_task(read()) for _ in range(8)]
            for n in range(1, 300):
                await asyncio.gather(*(other.set(key, n) for key in keys))
            over = True
            await asyncio.gather(*readers)
            for key in keys:
                await reads(caching, key, b"299")

    run(main)


# -- shapes ----------------------------------------------------------------------------------------------------------


def test_mget_and_other_shapes(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.delete("{aio:m}h", "{aio:m}s", "{aio:m}3")
            await other.mset({"{aio:m}1": "one", "{aio:m}2": "two"})
            await other.hset("{aio:m}h", mapping={"f": "v"})
            await other.sadd("{aio:m}s", "member")
            keys = ["{aio:m}1", "{aio:m}2", "{aio:m}3"]
            for _ in range(3):
                assert await caching.mget(keys) == [b"one", b"two", None]
                assert await caching.hgetall("{aio:m}h") == {b"f": b"v"}
                assert await caching.smembers("{aio:m}s") == {b"member"}
                assert await caching.strlen("{aio:m}1") == 3
            assert kept(caching) == 4
            await other.set("{aio:m}2", "zwei")

            async def changed() -> bool:
                return bool(await caching.mget(keys) == [b"one", b"zwei", None])

            await eventually(changed)

    run(main)


def test_several_names_of_one_key(cluster: LocalCluster) -> None:
    """Every spelling that means the same bytes is invalidated; 1 and 1.0 mean others."""
    spellings: list[Any] = ["1", b"1", 1, bytearray(b"1"), memoryview(b"1")]

    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.set("1.0", "float")
            for value in (b"old", b"new"):
                await other.set("1", value)
                for name in spellings:
                    await reads(caching, name, value)
                    assert await caching.get(1.0) == b"float"

    run(main)


def test_decoded_replies_and_another_encoding(cluster: LocalCluster) -> None:
    async def main() -> None:
        for encoding in ("utf-8", "latin-1"):
            async with (
                RedisCluster.from_url(
                    cluster.url, cache_config=CacheConfig(), decode_responses=True, encoding=encoding
                ) as caching,
                RedisCluster.from_url(cluster.url, encoding=encoding) as other,
            ):
                for value in ("früh", "spät"):
                    await other.set("aio:schlüssel", value)
                    await reads(caching, "aio:schlüssel", value)

    run(main)


def test_keys_that_are_no_text(cluster: LocalCluster) -> None:
    """News of them come between replies, and must not be taken for one that cannot be decoded."""
    odd = b"{aio:odd}\xff"

    async def main() -> None:
        async with two(cluster, decode_responses=True) as (caching, other):
            await other.delete("{aio:odd}h", "{aio:odd}s", "{aio:odd}z", "{aio:odd}b")
            await other.hset("{aio:odd}h", "f", "v")
            await other.sadd("{aio:odd}s", "member")
            await other.zadd("{aio:odd}z", {"scored": 1.5})
            await other.set("{aio:odd}b", b"\xff")

            async def write() -> None:
                for n in range(300):
                    await other.set(odd, n)

            async def read() -> None:
                while not writing.done():
                    assert int(await caching.get(odd) or 0) >= 0
                    assert await caching.ttl("{aio:odd}h") == -1

            writing = asyncio.create_task(write())
            await asyncio.gather(*(read() for _ in range(5)))
            await reads(caching, odd, "299")
            assert await caching.hgetall("{aio:odd}h") == {"f": "v"}
            assert await caching.smembers("{aio:odd}s") == {"member"}
            assert await caching.zrange("{aio:odd}z", 0, -1, withscores=True) == [("scored", 1.5)]
            with pytest.raises(UnicodeDecodeError):
                await caching.get("{aio:odd}b")
            # Commands whose replies are never decoded.
            assert isinstance(await caching.dump("{aio:odd}h"), bytes)

    run(main)


def test_kept_value_is_nobodys_to_change(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.delete("aio:list")
            await other.rpush("aio:list", "a", "b")
            lists = await asyncio.gather(*(caching.lrange("aio:list", 0, -1) for _ in range(3)))
            lists.append(await caching.lrange("aio:list", 0, -1))
            for found in lists:
                assert found == [b"a", b"b"]
                found.append(b"mine")
            assert await caching.lrange("aio:list", 0, -1) == [b"a", b"b"]

    run(main)


def test_error_is_not_kept(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.delete("aio:typed")
            await other.lpush("aio:typed", 1)
            with pytest.raises(redis.ResponseError):
                await caching.get("aio:typed")
            await other.delete("aio:typed")
            await other.set("aio:typed", "now")
            assert await caching.get("aio:typed") == b"now"

    run(main)


def test_size_of_the_cache_is_bounded(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig(max_size=10)) as caching:
            assert caching._reply_cache is not None
            keys = [f"aio:bounded{n}" for n in range(2000)]
            await caching.mset_nonatomic(dict.fromkeys(keys, "x"))
            for key in keys:
                assert await caching.get(key) == b"x"
            assert kept(caching) == 10
            assert len(caching._reply_cache._index) <= 1024
            # The oldest are gone, the last are there, and still invalidated.
            newest = CacheKey("GET", (keys[-1],), ("GET", keys[-1]))
            found = caching._reply_cache.cache.get(newest)
            assert found is not None
            assert (found.cache_value, found.status) == (b"x", CacheEntryStatus.VALID)
            await caching.set(keys[-1], "y")
            assert await caching.get(keys[-1]) == b"y"

    run(main)


def test_cache_that_two_clients_share(cluster: LocalCluster) -> None:
    """What one has read is not told to the other, which asks for itself."""
    from redis.cache import CacheFactory

    cache = CacheFactory(CacheConfig()).get_cache()

    async def main() -> None:
        async with (
            RedisCluster.from_url(cluster.url, cache=cache) as first,
            RedisCluster.from_url(cluster.url, cache=cache) as second,
        ):
            for n in range(5):
                await first.set("aio:both", n)
                for client in (first, second, first):
                    await reads(client, "aio:both", b"%d" % n)
            await first.aclose()
            await second.set("aio:both", "last")
            assert await second.get("aio:both") == b"last"

    run(main)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_nothing_is_kept_for_another_event_loop(cluster: LocalCluster) -> None:
    client = RedisCluster.from_url(cluster.url, cache_config=CacheConfig())

    async def main(value: bytes) -> None:
        server = next(n for n in cluster.nodes if n.port == cluster.owner_of(key_slot("aio:loop")).port)
        server.call("SET", "aio:loop", value)
        assert await asyncio.gather(*(client.get("aio:loop") for _ in range(5))) == [value] * 5

    for value in (b"first", b"second"):
        run(main, value)
    run(client.aclose)


def test_caching_needs_resp3(cluster: LocalCluster) -> None:
    with pytest.raises(redis.RedisError, match="RESP version 3"):
        RedisCluster.from_url(cluster.url, cache_config=CacheConfig(), protocol=2)


def test_reads_from_replicas_are_kept_and_invalidated(cluster: LocalCluster) -> None:
    async def main() -> None:
        from redis.cluster import LoadBalancingStrategy

        strategy = LoadBalancingStrategy.RANDOM_REPLICA
        async with two(cluster, load_balancing_strategy=strategy) as (caching, other):
            for n in range(5):
                await other.set("aio:replica", n)
                await reads(caching, "aio:replica", b"%d" % n)
                replica = caching.nodes_manager.get_node_from_slot(key_slot("aio:replica"), True, strategy)
                before = (await other.info("commandstats", target_nodes=replica))["cmdstat_get"]["calls"]
                assert await caching.get("aio:replica") == b"%d" % n
                after = (await other.info("commandstats", target_nodes=replica))["cmdstat_get"]["calls"]
                assert before == after

    run(main)


# -- many tasks ------------------------------------------------------------------------------------------------------


def test_tasks_that_ask_at_once_share_one_command() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET", "a").until(release).reply(b"value")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig()) as client:
                tasks = [asyncio.create_task(client.get("a")) for _ in range(100)]
                await sent(node, "GET")
                # One that stops waiting costs nobody the reply.
                tasks[50].cancel()
                release.set()
                values = await asyncio.gather(*tasks, return_exceptions=True)
                assert isinstance(values.pop(50), asyncio.CancelledError)
                assert values == [b"value"] * 99

        run(main)
        assert node.count("GET") == 1


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_the_one_that_asks_for_others_ends_alone(end: str) -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        first = node.expect("GET", "a").until(release)
        if end == "failed":
            first.error("ERR not this time")
        else:
            first.reply(b"value")
        node.expect("GET", "a").often().reply(b"value")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig()) as client:
                asking = asyncio.create_task(client.get("a"))
                await sent(node, "GET")
                others = [asyncio.create_task(client.get("a")) for _ in range(10)]
                await asyncio.sleep(0)
                if end == "cancelled":
                    asking.cancel()
                release.set()
                assert await asyncio.gather(*others) == [b"value"] * 10
                with pytest.raises((asyncio.CancelledError, redis.ResponseError)):
                    await asking
                assert await client.get("a") == b"value"

        run(main)


async def sent(node: ScriptedNode, *words: str) -> None:
    while not node.count(*words):
        await asyncio.sleep(0.001)


# -- races, told by scripted nodes -----------------------------------------------------------------------------------


def test_invalidation_between_command_and_reply() -> None:
    """The reply was read before the write and arrives after the news of it: it must not be kept."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("GET", "a").send(INVALIDATE_A).reply(b"old")
        node.expect("GET", "a").reply(b"new")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig()) as client:
                assert [await client.get("a") for _ in range(3)] == [b"old", b"new", b"new"]

        run(main)
        assert node.count("GET") == 2


def test_who_asks_after_an_invalidation_does_not_get_the_earlier_reply() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        told, release = threading.Event(), threading.Event()
        node.expect("GET", "a").send(INVALIDATE_A).then(told).until(release).reply(b"old")
        node.expect("GET", "a").reply(b"new")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig()) as client:
                assert client._reply_cache is not None
                first = asyncio.create_task(client.get("a"))
                while not (told.is_set() and client._reply_cache.cache.size == 0):
                    await asyncio.sleep(0.001)
                second = asyncio.create_task(client.get("a"))
                await asyncio.sleep(0)
                release.set()
                assert await first == b"old"
                assert await second == b"new"
                assert await client.get("a") == b"new"

        run(main)
        assert node.count("GET") == 2


def test_odd_push_messages_do_no_harm() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        for key in ("a", "b"):
            node.expect("GET", key).reply(key.encode())

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig()) as client:
                assert await client.get("a") == b"a"
                for message in (
                    [b"invalidate"],
                    [b"news"],
                    [],
                    [b"invalidate", b"x"],
                    [5, 6],
                    [b"message", b"a"],
                ):
                    node.push(*message)
                assert await client.get("b") == b"b"
                assert await client.get("a") == b"a"

        run(main)


def test_lost_link_loses_what_was_read_through_it() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("GET", "a").reply(b"old")
        node.expect("GET", "a").reply(b"new")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig()) as client:
                assert [await client.get("a") for _ in range(3)] == [b"old"] * 3
                link = client._engine.table[0][0].link
                node.drop_connections()
                while not link.closed:
                    await asyncio.sleep(0.001)
                assert [await client.get("a") for _ in range(3)] == [b"new"] * 3

        run(main)
        assert node.count("GET") == 2


def test_reply_over_a_link_that_timed_out_meanwhile_is_not_kept() -> None:
    """The link is retired with replies under way: nobody will hear of changes there soon."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("INCRBY", "slow").until(release).reply(1)
        node.expect("GET", "a").often().reply(b"value")

        async def main() -> None:
            async with RedisCluster.from_url(
                cluster.url, cache_config=CacheConfig(), socket_timeout=0.2
            ) as client:
                slow = asyncio.create_task(client.incr("slow"))
                await sent(node, "INCRBY")
                await asyncio.sleep(0.15)
                # Behind the slow one, on the same link.
                late = asyncio.create_task(client.get("a"))
                with pytest.raises(redis.TimeoutError):
                    await slow
                release.set()
                assert await late == b"value"
                before = node.count("GET")
                assert await client.get("a") == b"value"
                assert node.count("GET") == before + 1

        run(main)


def test_slot_that_moves_takes_its_keys_out_of_the_cache() -> None:
    with ScriptedCluster(2) as cluster:
        other, owner = cluster.nodes
        owner.expect("GET", "a").reply(b"old")
        owner.expect("INCRBY", "{a}n").error(f"MOVED {key_slot('a')} {other.address}")
        other.expect("INCRBY", "{a}n").reply(1)
        other.expect("GET", "a").reply(b"new")

        async def main() -> None:
            async with RedisCluster.from_url(
                cluster.url, reinitialize_steps=0, cache_config=CacheConfig()
            ) as client:
                assert await client.get("a") == b"old"
                # Another key of the slot meets the MOVED: nobody tells of writes to this one any more.
                await client.incr("{a}n")
                assert await client.get("a") == b"new"
                assert await client.get("a") == b"new"

        run(main)


def test_reply_behind_asking_is_not_kept() -> None:
    """It came over a lane, which no invalidation comes over."""
    with ScriptedCluster(2) as cluster:
        new, old = cluster.nodes
        old.expect("GET", "a").often().error(f"ASK {key_slot('a')} {new.address}")
        new.expect("ASKING").often().reply("OK")
        new.expect("GET", "a").often().reply(b"there")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, cache_config=CacheConfig()) as client:
                assert [await client.get("a") for _ in range(3)] == [b"there"] * 3

        run(main)
        assert new.count("GET") == 3


# -- a real cluster that loses connections and nodes -----------------------------------------------------------------


def test_connections_killed_by_the_server(cluster: LocalCluster) -> None:
    """Nobody tells of writes between the loss and the next connection."""

    async def main() -> None:
        async with two(cluster) as (caching, other):
            await other.set("aio:tracked", "old")
            assert await caching.get("aio:tracked") == b"old"
            port = other.get_node_from_key("aio:tracked").port
            server = next(node for node in cluster.nodes if node.port == port)
            for value in ("new", "newer"):
                server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                server.call("SET", "aio:tracked", value)
                await reads(caching, "aio:tracked", value.encode())

    run(main)


def test_failover(faulty_cluster: LocalCluster) -> None:
    """What was read through the old primary is asked for again, and kept right by the new one."""

    async def main() -> None:
        async with two(faulty_cluster) as (caching, other):
            keys = [f"aio:failover:{n}" for n in range(30)]
            for key in keys:
                await caching.set(key, "before")
                assert await caching.get(key) == b"before"
            await caching.execute_command("WAIT", 1, 5000, target_nodes="primaries")
            faulty_cluster.kill(faulty_cluster.primaries[0])

            async def write(key: str) -> None:
                deadline = time.monotonic() + 30
                while True:
                    try:
                        await caching.set(key, "after")
                        return
                    except redis.RedisError:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.05)

            await asyncio.gather(*map(write, keys))
            for key in keys:
                assert await caching.get(key) == b"after"
                await other.set(key, "later")
            for key in keys:
                await reads(caching, key, b"later")

    run(main)


def test_slot_that_really_moves(faulty_cluster: LocalCluster) -> None:
    async def main() -> None:
        async with two(faulty_cluster) as (caching, other):
            await other.set("aio:moves", "before")
            assert await caching.get("aio:moves") == b"before"
            slot = key_slot("aio:moves")
            owner = faulty_cluster.owner_of(slot)
            target = next(node for node in faulty_cluster.primaries if node.port != owner.port)
            await asyncio.to_thread(faulty_cluster.move_slots, [slot], target)
            for value in ("after", "later"):
                await other.set("aio:moves", value)
                await reads(caching, "aio:moves", value.encode())

    run(main)


def test_random_writes_under_churn(cluster: LocalCluster) -> None:
    """Links are lost again and again; in the end nothing stale is left."""
    keys = [f"aio:churn:{n}" for n in range(20)]

    async def main() -> None:
        async with two(cluster, connections_per_node=2) as (caching, other):
            over = False

            async def read() -> None:
                while not over:
                    with contextlib.suppress(redis.ConnectionError):
                        await caching.get(random.choice(keys))
                    await asyncio.sleep(0)

            readers = [asyncio.create_task(read()) for _ in range(10)]
            for n in range(100):
                await asyncio.gather(*(other.set(key, n) for key in keys))
                if n % 10 == 0:
                    for shard in caching._engine.table.shards:
                        shard[0].links[0] and shard[0].links[0].close()
            over = True
            await asyncio.gather(*readers)
            for key in keys:
                await reads(caching, key, b"99")

    run(main)
