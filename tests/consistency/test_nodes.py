"""`Wire`, an audit's connection to a node: closed by the server, it is made anew as whole as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from slotwise import RedisCluster
from slotwise.consistency.digests import EXISTS
from slotwise.consistency.nodes import Wire
from slotwise.local import LocalCluster


@pytest.fixture
def replica(cluster: LocalCluster, raw: RedisCluster, key: str) -> Iterator[Wire]:
    """Of the node that has `key`."""
    raw.set(key, "x")
    owner = cluster.owner_of(raw.keyslot(key))
    owner.call("WAIT", 1, 10_000)
    yield from opened(raw, cluster.replicas_of(owner)[0])


@pytest.fixture
def primary(cluster: LocalCluster, raw: RedisCluster, key: str) -> Iterator[Wire]:
    raw.set(key, "x")
    yield from opened(raw, cluster.owner_of(raw.keyslot(key)))


def opened(client: RedisCluster, node: Any) -> Iterator[Wire]:
    wire = Wire(client, client.get_node(node.host, node.port), 5.0)
    wire.open()
    yield wire
    wire.close()


def close(client: RedisCluster, wire: Wire) -> None:
    """As a server does with those that were idle for its ``timeout``."""
    number = wire.call("CLIENT", "ID")
    host, _, port = wire.name.rpartition(":")
    node = client.get_redis_connection(client.get_node(host, int(port)))
    assert node.execute_command("CLIENT", "KILL", "ID", number) == 1


def test_a_replica_answers_reads_after_its_connection_was_closed(
    raw: RedisCluster, replica: Wire, key: str
) -> None:
    name = key.encode()
    reads = (
        lambda: replica.details([name])[name].letter,
        lambda: replica.on_key("GET", name),
        lambda: replica.run(EXISTS, name),
    )
    told = [read() for read in reads]
    assert told == ["s", b"x", b"1"]
    for read, was in zip(reads, told, strict=True):
        close(raw, replica)
        assert read() == was
    replica.close()
    assert replica.details([name])[name].letter == "s"


def test_a_new_connection_leaves_keys_untouched(raw: RedisCluster, replica: Wire, key: str) -> None:
    def untouched() -> bool:
        flags = replica.call("CLIENT", "INFO").partition(b" flags=")[2].partition(b" ")[0]
        return b"T" in flags

    name = key.encode()
    replica.details([name])
    # Redis 7.2 and later can.
    can = untouched()
    close(raw, replica)
    replica.details([name])
    assert untouched() == can
    close(raw, replica)
    replica.on_key("GET", name)
    assert not untouched()


def test_what_names_a_key_is_not_repeated(raw: RedisCluster, primary: Wire, key: str) -> None:
    """It may be a write, and may have been executed."""
    name = key.encode()
    close(raw, primary)
    primary.send(EXISTS, name, key=name)
    with pytest.raises(ConnectionError):
        primary.receive()
    assert primary.run(EXISTS, name, key=name) == b"1"


def test_a_node_that_was_restarted_is_another(faulty_cluster: LocalCluster) -> None:
    """A cursor of the one that was there leads nowhere."""
    victim = faulty_cluster.replicas[0]
    with RedisCluster.from_url(faulty_cluster.url) as client:
        for wire in opened(client, victim):
            faulty_cluster.kill(victim)
            faulty_cluster.restart(victim)
            faulty_cluster.wait_ready()
            for _ in range(2):
                with pytest.raises(ConnectionError, match="restarted"):
                    wire.call("PING")
