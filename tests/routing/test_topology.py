"""A node's answer to CLUSTER SLOTS as a frozen value."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from slotwise.routing.topology import Address, Shard, Topology, from_slots, resolve

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)


def node(address: Address) -> list[Any]:
    return [address.host.encode(), address.port, b"id of " + address.host.encode(), []]


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
