"""How keys, bytes and work lie on the primaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.cluster import ClusterNode

if TYPE_CHECKING:
    from slotwise.sync.cluster import RedisCluster


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """One primary: its keys, the bytes of its data set, and the operations that it served a second lately."""

    node: ClusterNode
    slots: int
    keys: int
    bytes: int
    ops: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """All primaries, in the order of their names."""

    nodes: tuple[NodeLoad, ...]

    @property
    def imbalance(self) -> float:
        """Keys of the fullest primary over the mean, 1.0 being even; balanced when below 1.2. 1.0 without keys."""
        keys = [load.keys for load in self.nodes]
        return max(keys) * len(keys) / sum(keys) if any(keys) else 1.0

    @property
    def balanced(self) -> bool:
        """True when the fullest primary is less than 20 % above the mean."""
        return self.imbalance < 1.2


def measure(client: RedisCluster) -> Distribution:
    """Asks every primary (DBSIZE, INFO memory and stats), all at once."""
    primaries = sorted(client.get_primaries(), key=lambda node: node.name)
    keys = _each(client, primaries, "DBSIZE")
    memory = _each(client, primaries, "INFO", "memory")
    stats = _each(client, primaries, "INFO", "stats")
    slots: dict[str, int] = {}
    table = client.nodes_manager.engine.table
    for first, last, index in table.ranges():
        name = table.shards[index][0].node.name
        slots[name] = slots.get(name, 0) + last - first + 1
    return Distribution(
        tuple(
            NodeLoad(
                node=node,
                slots=slots.get(node.name, 0),
                keys=keys[node.name],
                bytes=memory[node.name]["used_memory_dataset"],
                ops=stats[node.name]["instantaneous_ops_per_sec"],
            )
            for node in primaries
        )
    )


def _each(client: RedisCluster, nodes: list[ClusterNode], *args: Any) -> dict[str, Any]:
    dispatcher = client._dispatcher
    return dispatcher.on_nodes(nodes, args, {}, dispatcher.plan(args[0]))
