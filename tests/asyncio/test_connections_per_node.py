"""Several shared connections per node, which take turns."""

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.errors import DataError, TimeoutError, UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run

NAME = "aio-several"


async def at_the_server(observer: RedisCluster, key: str) -> list[dict[str, Any]]:
    """The connections of the observed client that the primary of ``key`` has, apart from redis-py's own."""
    found = await observer.client_list(target_nodes=observer.get_node_from_key(key))
    # Redis 6.2 does not say which of CLUSTER's commands it was.
    return [entry for entry in found if entry["name"] == NAME and entry["cmd"][:7] != "cluster"]


@pytest.mark.parametrize("options", [{}, {"connections_per_node": 1}, {"connections_per_node": 4}])
def test_as_many_as_asked(cluster: LocalCluster, options: dict[str, int]) -> None:
    number = options.get("connections_per_node", 1)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as observer:
            async with RedisCluster.from_url(cluster.url, client_name=NAME, **options) as client:
                keys = [f"aio:several:{i}" for i in range(60)]
                # The first calls open the connections, one after the other or all at once.
                for key in keys:
                    assert await client.set(key, key)
                await asyncio.gather(*(client.set(key, key) for key in keys * 20))
                assert await asyncio.gather(*map(client.get, keys)) == [key.encode() for key in keys]
                await client.pipeline().get(keys[0]).get(keys[1]).execute()
                for key in keys[:10]:
                    assert len(await at_the_server(observer, key)) == number
            for key in keys[:10]:
                # A server notices when its turn comes.
                while await at_the_server(observer, key):
                    await asyncio.sleep(0.01)

    run(main)


def test_a_url_may_name_the_number(cluster: LocalCluster) -> None:
    async def main() -> None:
        query = "&" if "?" in cluster.url else "?"
        async with RedisCluster.from_url(f"{cluster.url}{query}connections_per_node=2") as client:
            await client.set("aio:several", 1)
            assert [len(shard[0].links) for shard in client._engine.table.shards] == [2] * 3

    run(main)


@pytest.mark.parametrize("number", [0, -1, 1.5, "many", "0", True, None])
def test_other_numbers_are_refused(number: Any) -> None:
    with pytest.raises(DataError, match=r"connections_per_node must be an integer of at least 1, not .*"):
        RedisCluster(host="127.0.0.1", port=1, connections_per_node=number)


def test_commands_take_turns() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("GET").often().reply(b"")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, connections_per_node=3) as client:
                for _ in range(3):
                    await client.get("key")
                before = len(node.reads)
                await asyncio.gather(*(client.get("key") for _ in range(300)))
                for _ in range(300):
                    await client.get("key")
                counts: Counter[int] = Counter()
                for read in node.reads[before:]:
                    counts[read.connection] += len(read.commands)
                assert sorted(counts.values()) == [200, 200, 200]

        run(main)


def test_a_lost_connection_is_opened_again_alone(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with (
            RedisCluster.from_url(cluster.url) as observer,
            RedisCluster.from_url(cluster.url, client_name=NAME, connections_per_node=3) as client,
        ):
            for _ in range(6):
                await client.set("aio:several", 1)
            before = {entry["id"] for entry in await at_the_server(observer, "aio:several")}
            assert len(before) == 3
            victim = min(before)
            node = observer.get_node_from_key("aio:several")
            await observer.client_kill_filter(_id=victim, target_nodes=node)
            for _ in range(12):
                assert await client.get("aio:several") == b"1"
            after = {entry["id"] for entry in await at_the_server(observer, "aio:several")}
            assert len(after) == 3
            assert before - after == {victim}

    run(main)


def test_a_time_out_retires_one_connection_only() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("INCRBY", "slow").until(release).reply(1)
        node.expect("GET").often().reply(b"value")

        async def main() -> None:
            async with RedisCluster.from_url(
                cluster.url, connections_per_node=2, socket_timeout=0.3
            ) as client:
                for _ in range(2):
                    await client.get("key")
                links = list(client._engine.table[0][0].links)
                with pytest.raises(UnknownOutcomeError) as caught:
                    await client.incr("slow")
                assert isinstance(caught.value, TimeoutError)
                for _ in range(10):
                    assert await client.get("key") == b"value"
                now = client._engine.table[0][0].links
                assert sum(mine is other for mine, other in zip(links, now, strict=True)) == 1
                assert sum(link.retired for link in links) == 1
                release.set()

        run(main)


def test_a_full_connection_has_no_turn() -> None:
    """One is stuck under large values: the other takes all commands meanwhile."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("SET").until(release).reply("OK")
        node.expect("SET").often().reply("OK")
        node.expect("GET").often().reply(b"")

        async def main() -> None:
            async with RedisCluster.from_url(
                cluster.url, connections_per_node=2, socket_timeout=60
            ) as client:
                for _ in range(2):
                    await client.get("key")
                stuck = client._engine.table[0][0].link
                large = asyncio.create_task(client.set("key", b"x" * 64_000_000))
                while not stuck.full:
                    await asyncio.sleep(0.001)
                # All in one turn: once the node has read the large value, that connection has room again.
                calls = [*(client.get("key") for _ in range(50)), client.pipeline().get("key").execute()]
                replies = await asyncio.wait_for(asyncio.gather(*calls), 10)
                assert replies == [*[b""] * 50, [b""]]
                assert not large.done()
                release.set()
                assert await large

        run(main)


def test_bursts_and_pipelines_beyond_the_room(cluster: LocalCluster) -> None:
    count = 36_000

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, connections_per_node=2, socket_timeout=60) as client:
            await client.delete("aio:several:n")
            replies = await asyncio.gather(*(client.incr("aio:several:n") for _ in range(count)))
            assert sorted(replies) == list(range(1, count + 1))
            pipe = client.pipeline()
            for _ in range(count):
                pipe.incr("aio:several:n")
            # One batch goes over one connection, in its order.
            assert await pipe.execute() == list(range(count + 1, 2 * count + 1))

    run(main)


def test_the_connections_of_a_node_that_left_are_closed() -> None:
    with ScriptedCluster(2) as cluster:
        stays, leaves = cluster.nodes
        key = next(key for key in map(str, range(100)) if key_slot(key) >= 8192)
        leaves.expect("GET", key).often().reply(b"there")
        stays.expect("GET", key).often().reply(b"here")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, connections_per_node=3) as client:
                assert [await client.get(key) for _ in range(3)] == [b"there"] * 3
                links = list(client._engine.table[key_slot(key)][0].links)
                assert not any(link.closed for link in links)
                cluster.slots = [(0, 16383, [stays])]
                await client.nodes_manager.initialize()
                assert all(link.closed for link in links)
                assert await client.get(key) == b"here"

        run(main)
