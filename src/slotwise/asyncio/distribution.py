"""How keys, bytes and work lie on the primaries, asked for under asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from slotwise.sync.distribution import Distribution, NodeLoad

if TYPE_CHECKING:
    from slotwise.asyncio.cluster import RedisCluster


async def measure(client: RedisCluster) -> Distribution:
    """Asks every primary (DBSIZE, INFO memory and stats), all at once."""
    await client.initialize()
    primaries = sorted(client.get_primaries(), key=lambda node: node.name)

    async def each(*args: Any) -> list[Any]:
        return await asyncio.gather(*(client._execute_command(node, *args) for node in primaries))

    keys, memory, stats = await asyncio.gather(each("DBSIZE"), each("INFO", "memory"), each("INFO", "stats"))
    slots: dict[str, int] = {}
    table = client.nodes_manager.engine.table
    for first, last, index in table.ranges():
        name = table.shards[index][0].node.name
        slots[name] = slots.get(name, 0) + last - first + 1
    return Distribution(
        tuple(
            NodeLoad(
                node=node,  # type: ignore[arg-type]  # redis-py's class of asyncio, with the same names
                slots=slots.get(node.name, 0),
                keys=keys[index],
                bytes=memory[index]["used_memory_dataset"],
                ops=stats[index]["instantaneous_ops_per_sec"],
            )
            for index, node in enumerate(primaries)
        )
    )
