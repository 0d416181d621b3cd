"""One door for clusters and standalone servers."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import slotwise
from slotwise import RedisCluster, connect
from slotwise.local import LocalCluster, StandaloneServer


def test_cluster_by_url(cluster: LocalCluster) -> None:
    client = connect(cluster.url)
    assert type(client) is RedisCluster
    client.set("a", 1)
    assert client.get("a") == b"1"
    client.close()


def test_standalone_by_url(standalone: StandaloneServer) -> None:
    client = connect(standalone.url)
    assert type(client) is redis.Redis
    client.set("a", 1)
    assert client.get("a") == b"1"
    client.close()


@pytest.mark.parametrize("node", range(6))
def test_cluster_by_any_node(cluster: LocalCluster, node: int) -> None:
    client = connect(cluster.nodes[node].url)
    assert len(client.get_primaries()) == 3
    client.close()


def test_options_reach_the_client(cluster: LocalCluster, standalone: StandaloneServer) -> None:
    for url in (cluster.url, standalone.url):
        client = connect(url, decode_responses=True, protocol=2)
        client.set("a", "ä")
        assert client.get("a") == "ä"
        client.close()
    query = "&" if "?" in cluster.url else "?"
    client = connect(f"{cluster.url}{query}decode_responses=true")
    assert client.get("a") == "ä"
    client.close()


def test_settings_as_a_mapping(cluster: LocalCluster, standalone: StandaloneServer) -> None:
    node = cluster.nodes[1]
    settings = {"host": node.host, "port": node.port, "decode_responses": True, **node.client_options}
    before = dict(settings)
    client = connect(settings, decode_responses=False)
    assert type(client) is RedisCluster
    client.set("a", 1)
    assert client.get("a") == b"1", "options win over settings"
    client.close()
    assert settings == before
    client = connect({"host": standalone.host, "port": standalone.port, "db": 3, **standalone.client_options})
    assert type(client) is redis.Redis
    assert client.connection_pool.connection_kwargs["db"] == 3
    client.close()


@pytest.mark.parametrize(
    "options",
    [
        {"read_from_replicas": True},
        {"require_full_coverage": False, "reinitialize_steps": 1},
        {"cluster_error_retry_attempts": 2},
        {"load_balancing_strategy": slotwise.LoadBalancingStrategy.RANDOM},
        {"address_remap": lambda address: address},
        {"max_connections": 5, "timeout": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_cluster_client(cluster: LocalCluster, options: dict[str, Any]) -> None:
    """What only the cluster client takes does not trouble the question which server it is."""
    client = connect(cluster.url, **options)
    assert type(client) is RedisCluster
    assert client.ping() is True
    client.close()
    node = cluster.nodes[0]
    client = connect({"host": node.host, "port": node.port, **node.client_options, **options})
    assert client.ping() is True
    client.close()


@pytest.mark.parametrize("settings", [None, 5, ["redis://127.0.0.1"], b"redis://127.0.0.1", object()])
def test_anything_else_is_refused(settings: Any) -> None:
    with pytest.raises(redis.DataError, match="URL such as redis://localhost:6379 or a mapping"):
        connect(settings)


def test_wrong_url() -> None:
    with pytest.raises(ValueError, match="scheme"):
        connect("localhost:6379")


def test_wrong_keyword(cluster: LocalCluster) -> None:
    with pytest.raises(TypeError, match="hots"):
        connect(cluster.url, hots="x")


def test_unreachable() -> None:
    with pytest.raises(redis.ConnectionError):
        connect("redis://127.0.0.1:1", socket_connect_timeout=1)


def test_wrong_password(cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    wrong = {**node.client_options, "username": "nobody", "password": "wrong"}
    with pytest.raises(redis.AuthenticationError):
        connect({"host": node.host, "port": node.port, **wrong})
