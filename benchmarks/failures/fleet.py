"""Many clients of one scripted cluster see the same failover: how often they ask for the topology, and when."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.testing.scripted import ErrorReply, ScriptedCluster

# Of the shard that fails over, and all of different slots.
KEYS = [key for key in map(str, range(100)) if key_slot(key) > 8192][:10]
# Seconds in which the clients of `run` begin.
WITHIN = 20.0
# redis-py asks the server for its commands.
COMMANDS = [[b"get", 2, [b"readonly", b"fast"], 1, 1, 1, [], [], [], []]]


@dataclass(frozen=True)
class Refreshes:
    """What ``clients`` asked of the topology after the failover."""

    clients: int
    asked: int
    #: Between the first question and the last, in seconds.
    spread: float


async def see_failover(
    kind: Any, clients: int, scripted: ScriptedCluster, within: float = 0.0, **options: Any
) -> Refreshes:
    """Each of so many asyncio clients of class ``kind`` reads `KEYS`, whose primary says MOVED by now; ``scripted`` has
    two primaries and a third node. They begin at random moments ``within`` so many seconds. ``options`` are the clients'.
    Raises what a caller meets."""
    _, old, new = scripted.nodes
    for node in scripted.nodes:
        node.expect("COMMAND").often().reply(COMMANDS)
        node.expect("GET").often().reply(b"1")
    fleet = [kind.from_url(scripted.url, **options) for _ in range(clients)]
    some = asyncio.Semaphore(20)

    async def begin(client: Any) -> None:
        async with some:
            assert await client.get(KEYS[0]) == b"1"

    await asyncio.gather(*map(begin, fleet))
    before = _asked(scripted)
    old.expectations.clear()
    old.expect("COMMAND").often().reply(COMMANDS)
    old.expect("GET").often().reply(lambda call: ErrorReply(f"MOVED {key_slot(call[1])} {new.address}"))
    scripted.slots[1] = (8192, 16383, [new])

    async def work(client: Any) -> None:
        await asyncio.sleep(within * random.random())
        for key in KEYS:
            assert await client.get(key) == b"1"
        while old.address in {node.name for node in client.get_nodes()}:
            await asyncio.sleep(0.01)

    working = asyncio.gather(*map(work, fleet))
    times: list[float] = []
    asked = before
    while not working.done():
        await asyncio.sleep(0.005)
        if _asked(scripted) != asked:
            asked = _asked(scripted)
            times.append(time.monotonic())
    await working
    await asyncio.gather(*(client.aclose() for client in fleet))
    return Refreshes(clients, _asked(scripted) - before, times[-1] - times[0])


def _asked(scripted: ScriptedCluster) -> int:
    return sum(node.topology_asked for node in scripted.nodes)


def run(kind: Any, clients: int) -> Refreshes:
    """`see_failover` on a cluster of its own. All share one process: without time to work in, nodes would be silent for
    seconds, which clients take for another reason to ask."""
    patience = {"socket_timeout": 60}
    if issubclass(kind, RedisCluster):
        patience["topology_refresh_timeout"] = 60
    with ScriptedCluster(2, others=1) as scripted:
        return asyncio.run(see_failover(kind, clients, scripted, WITHIN, **patience))
