"""How keys lie on the primaries, as the client tells it."""

from __future__ import annotations

import pytest

from slotwise import RedisCluster, key_slot
from slotwise.local import LocalCluster
from slotwise.sync.distribution import Distribution


def test_group_by_node(client: RedisCluster, cluster: LocalCluster) -> None:
    keys = [f"group{n}" for n in range(300)]
    groups = client.group_by_node(keys)
    assert {node.port for node in groups} == {node.port for node in cluster.primaries}
    assert sorted(key for members in groups.values() for key in members) == sorted(keys)
    for node, members in groups.items():
        assert members == sorted(members, key=keys.index), "in their order"
        owner = next(n for n in cluster.nodes if n.port == node.port)
        for key in members:
            owner.call("GET", key)  # a wrong owner would answer MOVED
    assert client.group_by_node([]) == {}
    # Keys of every type, each given back as it came.
    odd = [b"\xff\x00", 5, 1.5, "ü"]
    assert sorted(map(repr, (k for ks in client.group_by_node(odd).values() for k in ks))) == sorted(
        map(repr, odd)
    )


def test_distribution(client: RedisCluster, cluster: LocalCluster) -> None:
    client.flushall(target_nodes="primaries")
    empty = client.distribution()
    assert empty.imbalance == 1.0
    assert empty.balanced
    for n in range(600):
        client.set(f"spread{n}", "x" * 100)
    spread = client.distribution()
    counts = {load.node.port: load.keys for load in spread.nodes}
    assert counts == {node.port: node.call("DBSIZE") for node in cluster.primaries}
    assert sum(counts.values()) == 600
    assert sum(load.slots for load in spread.nodes) == 16384
    assert spread.imbalance == pytest.approx(max(counts.values()) * 3 / 600)
    assert spread.balanced == (spread.imbalance < 1.2)
    assert all(load.bytes > 0 and load.ops >= 0 for load in spread.nodes)
    for n in range(2000):
        client.set(f"{{one}}{n}", "x")
    loads = {load.node.name: load for load in client.distribution().nodes}
    fullest = max(loads.values(), key=lambda load: load.keys)
    assert fullest.node == client.get_node_from_key("{one}")
    assert not Distribution(tuple(loads.values())).balanced
    client.flushall(target_nodes="primaries")


def test_get_node_from_key(client: RedisCluster, cluster: LocalCluster) -> None:
    owner = cluster.owner_of(key_slot("a"))
    assert client.get_node_from_key("a").port == owner.port
    replica = client.get_node_from_key("a", replica=True)
    assert replica is not None
    assert replica.port in {node.port for node in cluster.replicas_of(owner)}
