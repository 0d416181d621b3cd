"""Changes to a published slot table; a table's shards are tuples of endpoints, the primary's first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from slotwise._slots import SlotTable
from slotwise.routing.topology import Address, Topology

T = TypeVar("T")


class Change(NamedTuple):
    """What a MOVED makes of a table; ``demoted`` is the endpoint whose replica took its place, None without a failover."""

    table: SlotTable
    demoted: Any


def table_of(topology: Topology, endpoint_of: Callable[[Any], Any]) -> SlotTable:
    """The table of a whole topology; ``endpoint_of`` gives a node's endpoint by its address."""
    shards = [tuple(map(endpoint_of, (shard.primary, *shard.replicas))) for shard in topology.shards]
    return SlotTable(topology.ranges, shards)


def moved(table: SlotTable, slot: int, endpoint: Any) -> Change | None:
    """The table after ``endpoint`` took over ``slot``; None when it has it already.

    A replica that took its primary's place takes the shard's other nodes with it; other slots follow with their own
    MOVED. Who is primary elsewhere brings its replicas; who is new to the table starts a shard.
    """
    shards = list(table.shards)
    owner = table.index(slot)
    for index, shard in enumerate(shards):
        if shard[0] is endpoint:
            return None if index == owner else Change(table.with_slot(slot, index, shards), None)
    old: tuple[Any, ...] = shards[owner] if owner is not None else ()
    demoted = old[0] if endpoint in old else None
    if demoted is None:
        shards.append((endpoint,))
    else:
        shards.append((endpoint, *(other for other in old[1:] if other is not endpoint), demoted))
    return Change(table.with_slot(slot, len(shards) - 1, shards), demoted)


def promoted(table: SlotTable, primary: Any, replica: Any) -> SlotTable:
    """The table after ``replica`` took the place of ``primary``, which did not answer and is left out."""
    shards = [
        (replica, *(other for other in shard[1:] if other is not replica))
        if shard[0] is primary and replica in shard
        else shard
        for shard in table.shards
    ]
    return SlotTable(table.ranges(), shards)


def serves(table: SlotTable, slot: int | None, address: Address) -> bool:
    """True when the node at ``address`` is one of the shard of ``slot``, as far as is known; None for any slot."""
    return slot is None or any(endpoint.node == address for endpoint in table[slot] or ())


def by_slot(table: SlotTable, node_of: Callable[[Any], T]) -> dict[int, list[T]]:
    """Slot to its nodes, the primary first, as redis-py keeps them; ``node_of`` gives an endpoint's node."""
    lists = [[node_of(endpoint) for endpoint in shard] for shard in table.shards]
    return {slot: lists[index] for first, last, index in table.ranges() for slot in range(first, last + 1)}
