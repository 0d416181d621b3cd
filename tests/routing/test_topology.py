"""What nodes tell of the cluster as a frozen value, and whom to believe."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from slotwise.routing.topology import (
    Address,
    AmbiguousError,
    Shard,
    Topology,
    from_nodes,
    from_shards,
    from_slots,
    resolve,
)

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)


def node(address: Address) -> list[Any]:
    metadata = [b"ip", b"10.0.0.1"]
    return [address.host.encode(), address.port, b"id of " + address.host.encode(), metadata]


def test_shards_and_ranges() -> None:
    topology = from_slots([[0, 99, node(A), node(C)], [100, 16383, node(B)]], "asked")
    assert topology.shards == (Shard(A, (C,)), Shard(B))
    assert topology.ranges == ((0, 99, 0), (100, 16383, 1))
    assert topology.complete
    assert topology.addresses() == [A, B, C]


def test_ranges_of_one_primary_are_one_shard() -> None:
    topology = from_slots([[0, 5, node(A), node(C)], [6, 7, node(B)], [8, 9, node(A), node(C)]], "asked")
    assert topology.shards == (Shard(A, (C,)), Shard(B))
    assert topology.ranges == ((0, 5, 0), (6, 7, 1), (8, 9, 0))
    assert topology.covered == 10
    assert not topology.complete


@pytest.mark.parametrize("host", ["", None, b"", "?"])
def test_unknown_host_is_the_one_that_was_asked(host: Any) -> None:
    topology = from_slots([[0, 16383, [host, 7000, b"id"]]], "asked")
    assert topology.shards == (Shard(Address("asked", 7000)),)
    assert resolve(host, "7000", "asked", None) == Address("asked", 7000)


def test_primary_and_replica_on_one_host_name() -> None:
    """As managed clouds have them: told apart by their ports only."""
    topology = from_slots([[0, 16383, ["name", 1, b"x"], ["name", 2, b"y"]]], "asked")
    assert topology.shards == (Shard(Address("name", 1), (Address("name", 2),)),)


def test_remap() -> None:
    topology = from_slots([[0, 16383, node(A), node(B)]], "asked", lambda address: ("out", address[1] * 10))
    assert topology.shards == (Shard(Address("out", 10), (Address("out", 20),)),)


def test_no_slots_at_all() -> None:
    assert from_slots([], "asked") == Topology((), ())
    assert not Topology((), ()).complete


def test_frozen() -> None:
    topology = from_slots([[0, 16383, node(A)]], "asked")
    with pytest.raises(FrozenInstanceError):
        topology.shards = ()  # type: ignore[misc]
    assert Address("a", 1).name == "a:1"


# -- CLUSTER SHARDS ------------------------------------------------------------------------------------------------------


def told(address: Address, role: str = "master", health: str = "online", **more: Any) -> dict[bytes, Any]:
    host = address.host.encode()
    node = {b"id": b"id of " + host, b"port": address.port, b"ip": b"10.0.0.1", b"endpoint": host}
    node |= {b"role": role.encode(), b"replication-offset": 1, b"health": health.encode()}
    return node | {name.replace("_", "-").encode(): value for name, value in more.items()}


def shard(slots: list[int], *nodes: dict[bytes, Any]) -> dict[bytes, Any]:
    return {b"slots": slots, b"nodes": list(nodes)}


def flat(value: Any) -> Any:
    """As RESP2 sends it: maps are lists."""
    if isinstance(value, dict):
        return [flat(part) for pair in value.items() for part in pair]
    return [flat(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("shape", [lambda reply: reply, flat], ids=["RESP3", "RESP2"])
def test_shards_of_cluster_shards(shape: Any) -> None:
    reply = [
        shard([100, 16383], told(B)),
        shard([0, 5, 8, 99], told(C, "replica"), told(A)),
        shard([], told(Address("idle", 4))),
    ]
    topology = from_shards(shape(reply), "asked")
    assert topology.shards == (Shard(A, (C,)), Shard(B))
    assert topology.ranges == ((0, 5, 0), (8, 99, 0), (100, 16383, 1))
    assert [owner.id for owner in topology.shards] == ["id of a", "id of b"]


def test_both_commands_tell_the_same() -> None:
    shards = from_shards([shard([0, 99], told(A), told(C, "replica")), shard([100, 16383], told(B))], "asked")
    assert shards == from_slots([[0, 99, node(A), node(C)], [100, 16383, node(B)]], "asked")


@pytest.mark.parametrize("shape", [lambda reply: reply, flat], ids=["RESP3", "RESP2"])
def test_zones(shape: Any) -> None:
    """Of CLUSTER SHARDS in Valkey 9, and where CLUSTER SLOTS has it among the metadata."""
    nodes = [told(A, availability_zone=b"east"), told(B, "replica", availability_zone=b"")]
    assert from_shards(shape([shard([0, 16383], *nodes)]), "asked").zones == {A: "east"}
    nodes = [[*node(A)[:3], {b"availability-zone": b"east"}], [*node(B)[:3], {}]]
    assert from_slots(shape([[0, 16383, *nodes]]), "asked").zones == {A: "east"}


@pytest.mark.parametrize("shape", [lambda reply: reply, flat], ids=["RESP3", "RESP2"])
def test_addresses_at_which_nodes_know_each_other(shape: Any) -> None:
    inside = Address("10.0.0.1", 1)
    tls = shape([shard([0, 16383], told(A, tls_port=7))])
    assert from_shards(tls, "asked").known_as == {inside: A, Address("10.0.0.1", 7): A}
    assert from_shards(tls, "asked", tls=True).known_as[inside] == Address("a", 7)
    assert from_slots(shape([[0, 16383, node(A)]]), "asked").known_as == {inside: A}

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return "out", address[1] * 10

    assert from_slots([[0, 16383, [b"a", 1, b"id"]]], "asked", remap).known_as == {A: Address("out", 10)}
    assert from_slots([[0, 16383, [b"a", 1, b"id", None]]], "asked").known_as == {}


def test_replicas_that_serve_nobody_are_left_out() -> None:
    nodes = [told(A), told(B, "replica", "failed"), told(C, "replica", "loading")]
    assert from_shards([shard([0, 1], *nodes)], "asked").shards == (Shard(A),)


def test_a_primary_that_failed_keeps_its_slots_until_another_takes_them() -> None:
    assert from_shards([shard([0, 1], told(A, health="failed"))], "asked").shards == (Shard(A),)
    nodes = [told(A, health="failed"), told(B)]
    assert from_shards([shard([0, 1], *nodes)], "asked").shards == (Shard(B),)


@pytest.mark.parametrize("nodes", [[told(A), told(B)], [told(C, "replica")]], ids=["two", "none"])
def test_not_one_primary(nodes: list[Any]) -> None:
    with pytest.raises(AmbiguousError):
        from_shards([shard([0, 1], *nodes)], "asked")


def test_endpoints() -> None:
    reply = [shard([0, 1], told(Address("", 7000)), told(Address("?", 7001), "replica"))]
    assert from_shards(reply, "asked").addresses() == [Address("asked", 7000), Address("asked", 7001)]
    out = from_shards(reply, "asked", lambda address: (address[0] + ".out", address[1]))
    assert out.addresses() == [Address("asked.out", 7000), Address("asked.out", 7001)]


def test_tls_port() -> None:
    reply = [shard([0, 1], told(A, tls_port=10)), shard([2, 3], {**told(B, tls_port=20), b"port": None})]
    del reply[1][b"nodes"][0][b"port"]
    assert [a.port for a in from_shards(reply, "asked", tls=True).addresses()] == [10, 20]
    assert [a.port for a in from_shards(reply, "asked").addresses()] == [1, 20]


# -- whom to believe -----------------------------------------------------------------------------------------------------

NODES = b"""\
aa 10.0.0.1:1@2,name myself,master - 0 0 7 connected 0-99 [93->-bb]
bb 10.0.0.2:1@2 master,fail? - 0 0 9 connected 100-16383
cc 10.0.0.3:1@2 slave aa 0 0 7 connected
dd 10.0.0.4:1@2 master - 0 0 0 connected
vars currentEpoch 9 lastVoteEpoch 0
"""


def test_epochs() -> None:
    assert from_nodes(NODES) == ({"aa": 7, "bb": 9, "cc": 7, "dd": 0}, False)
    assert from_nodes(NODES.replace(b",fail?", b""))[1]


def test_most_primaries_fail_to_a_node_that_is_cut_off() -> None:
    lines = ["a h myself,master - 0 0 1 connected 0"]
    lines += [f"{i} h master,{flag} - 0 0 1 disconnected {i}" for i, flag in enumerate(["fail", "fail?"])]
    assert not from_nodes("\n".join(lines))[1]
    assert from_nodes("\n".join([*lines[:2], "x h master - 0 0 1 connected 9"]))[1]
    assert not from_nodes("")[1]


def claims(*epochs: int, ids: str = "ab") -> Topology:
    owners = tuple(Shard(Address(name, 1), (), name, epoch) for name, epoch in zip(ids, epochs, strict=True))
    return Topology(owners, ((0, 99, 0), (100, 16383, 1)))


def test_the_higher_epoch_is_the_newer_claim() -> None:
    assert claims(1, 2).is_older(claims(1, 3))
    assert not claims(1, 3).is_older(claims(1, 2))
    assert not claims(1, 2).is_older(claims(1, 2))
    # Each has news of the other's.
    assert claims(1, 3).is_older(claims(2, 2))
    assert claims(2, 2).is_older(claims(1, 3))


def test_epochs_of_another_cluster_say_nothing() -> None:
    assert not claims(1, 1).is_older(claims(8, 9, ids="xy"))
    assert claims(1, 1).is_older(claims(8, 9, ids="xb"))


def test_a_slot_that_nobody_serves_is_no_old_claim() -> None:
    some = Topology(claims(1, 2).shards, ((0, 99, 0),))
    assert not some.is_older(claims(1, 9))
    assert not claims(1, 2).is_older(some)


def test_epochs_are_put_to_their_nodes_and_no_news() -> None:
    topology = claims(0, 0)
    assert [owner.epoch for owner in topology.with_epochs({"a": 4, "x": 5}).shards] == [4, 0]
    assert topology.with_epochs({"a": 4}) == topology


@pytest.mark.parametrize(
    "ranges", [[(0, 16384)], [(-1, 5)], [(5, 4)], [(0, 10**12)], [(0, 5), (5, 9)], [(0, 16383)] * 3], ids=str
)
def test_slots_that_there_are_not(ranges: list[tuple[int, int]]) -> None:
    """To go on with them could take all memory: a set of 10**12 numbers."""
    with pytest.raises(ValueError, match="slots with two owners, or such as there are none"):
        from_slots([[first, last, node(A)] for first, last in ranges], "asked")
    with pytest.raises(ValueError, match="slots with two owners, or such as there are none"):
        from_shards([shard(list(each), told(A)) for each in ranges], "asked")


@pytest.mark.parametrize("odd", [float("inf"), [[]], None, {}])
def test_no_numbers(odd: Any) -> None:
    with pytest.raises(TypeError):
        from_slots([[0, odd, node(A)]], "asked")
    with pytest.raises(TypeError):
        from_slots([[0, 16383, [b"a", odd, b"id"]]], "asked")
    with pytest.raises(TypeError):
        from_shards([shard([0, odd], told(A))], "asked")


def test_no_text() -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    for parse in (from_nodes, lambda reply: from_slots([[0, 16383, [reply, 1, b"id"]]], "asked")):
        with pytest.raises(TypeError, match="a list in place of text"):
            parse(deep)
