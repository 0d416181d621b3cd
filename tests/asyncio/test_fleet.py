"""Many clients see the same failover: a hundred, or with SLOTWISE_STRESS=1 a thousand."""

from __future__ import annotations

import os

from benchmarks.failures.fleet import see_failover

from slotwise.asyncio import RedisCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run

CLIENTS = 1000 if os.environ.get("SLOTWISE_STRESS") else 100


def test_each_asks_for_the_topology_once() -> None:
    """Though it meets many MOVED, some of which come when it knows already; and not all in the same moment."""

    async def main(scripted: ScriptedCluster) -> None:
        # On a busy machine a node that is slow to answer is not to be asked twice.
        patient = {"socket_timeout": 60, "topology_refresh_timeout": 60}
        seen = await see_failover(RedisCluster, CLIENTS, scripted, **patient)
        assert seen.asked == CLIENTS
        # Put off at random by 20 ms for each of the three nodes.
        assert seen.spread > 0.02

    with ScriptedCluster(2, others=1) as scripted:
        run(main, scripted)
