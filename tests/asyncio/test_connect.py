"""One door for clusters and standalone servers, under asyncio."""

from typing import Any

import pytest
import redis
import redis.asyncio

from slotwise.asyncio import RedisCluster, connect
from slotwise.local import LocalCluster, StandaloneServer
from tests.asyncio.loops import run


def test_both_kinds_by_url(cluster: LocalCluster, standalone: StandaloneServer) -> None:
    async def main() -> None:
        for url, kind in ((cluster.url, RedisCluster), (standalone.url, redis.asyncio.Redis)):
            client = await connect(url, decode_responses=True)
            assert type(client) is kind
            assert await client.set("aio:door", "ä") is True
            assert await client.get("aio:door") == "ä"
            await client.aclose()

    run(main)


def test_settings_as_a_mapping(cluster: LocalCluster, standalone: StandaloneServer) -> None:
    async def main() -> None:
        node = cluster.nodes[1]
        settings = {"host": node.host, "port": node.port, **node.client_options}
        client = await connect({**settings, "decode_responses": True}, decode_responses=False)
        assert type(client) is RedisCluster
        await client.set("aio:door", 1)
        assert await client.get("aio:door") == b"1", "options win over settings"
        await client.aclose()
        settings = {"host": standalone.host, "port": standalone.port, **standalone.client_options}
        client = await connect({**settings, "db": 3})
        assert type(client) is redis.asyncio.Redis
        assert client.connection_pool.connection_kwargs["db"] == 3
        await client.aclose()

    run(main)


@pytest.mark.parametrize(
    "options",
    [
        {"read_from_replicas": True},
        {"require_full_coverage": False},
        {"address_remap": lambda address: address},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_cluster_client(
    cluster: LocalCluster, standalone: StandaloneServer, options: dict[str, Any]
) -> None:
    async def main() -> None:
        for url in (cluster.url, standalone.url):
            client = await connect(url, **options)
            assert await client.ping() is True
            await client.aclose()

    run(main)


def test_what_is_refused(cluster: LocalCluster) -> None:
    async def main() -> None:
        for settings in (None, 5, b"redis://127.0.0.1"):
            with pytest.raises(redis.DataError, match="URL such as redis://localhost:6379 or a mapping"):
                await connect(settings)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="scheme"):
            await connect("localhost:6379")
        with pytest.raises(redis.ConnectionError):
            await connect("redis://127.0.0.1:1", socket_connect_timeout=1)
        node = {"host": cluster.nodes[0].host, "port": cluster.nodes[0].port, **cluster.client_options}
        with pytest.raises(redis.AuthenticationError):
            await connect({**node, "username": "nobody", "password": "wrong"})

    run(main)


def test_groups_and_distribution(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.flushall(target_nodes="primaries")
            keys = [f"aio:group:{number}" for number in range(300)]
            groups = client.group_by_node(keys)
            assert sorted(key for members in groups.values() for key in members) == sorted(keys)
            for node, members in groups.items():
                owner = next(each for each in cluster.nodes if each.port == node.port)
                for key in members:
                    owner.call("GET", key)  # a wrong owner would answer MOVED
            await client.mset_nonatomic(dict.fromkeys(keys, "x"))
            spread = await client.distribution()
            assert {load.node.port: load.keys for load in spread.nodes} == {
                node.port: len(members) for node, members in groups.items()
            }
            assert sum(load.slots for load in spread.nodes) == 16384
            assert spread.imbalance == max(map(len, groups.values())) * 3 / 300

    run(main)
