"""A connection on which nothing comes any more while its node is well is left long before the time-out."""

from __future__ import annotations

import asyncio
import time

import pytest

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.errors import ClosedClientError, UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.testing import Chaos
from slotwise.testing.chaos import can_be_proxied
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run

# Seconds: far more than any of it takes.
PATIENCE = 60


def test_a_half_open_link_is_left(faulty_cluster: LocalCluster) -> None:
    if not can_be_proxied(faulty_cluster.binary):
        pytest.skip("Redis 6.2 cannot announce another port while it runs")

    async def main(chaos: Chaos) -> None:
        async with RedisCluster.from_url(faulty_cluster.url, socket_timeout=PATIENCE) as client:
            assert await client.set("a", 1)
            began = time.monotonic()
            await asyncio.to_thread(chaos.freeze, chaos.owner_of("a"))
            read = asyncio.create_task(client.get("a"))
            write = asyncio.create_task(client.incr("a"))
            assert await read == b"1", "over a new connection"
            with pytest.raises(UnknownOutcomeError, match="half-open"):
                await write
            assert time.monotonic() - began < PATIENCE / 2
            assert await client.get("a") == b"1"

    with Chaos(faulty_cluster) as chaos:
        run(main, chaos)


def test_a_node_that_is_paused_is_waited_for(faulty_cluster: LocalCluster) -> None:
    """It answers others, and owes the write."""

    async def main() -> None:
        async with RedisCluster.from_url(faulty_cluster.url, socket_timeout=PATIENCE) as client:
            assert await client.set("a", 1)
            faulty_cluster.owner_of(key_slot("a")).call("CLIENT", "PAUSE", 3000, "WRITE")
            began = time.monotonic()
            assert await client.incr("a") == 2
            assert time.monotonic() - began > 2

    run(main)


def test_a_closed_client_looks_into_nothing() -> None:
    """Its node does not say whether it has answered all."""

    async def main(cluster: ScriptedCluster) -> None:
        (node,) = cluster.nodes
        node.expect("HELLO").often().reply({b"server": b"scripted", b"proto": 3, b"id": 7})
        node.expect("CLIENT", "LIST").often()
        node.expect("GET").often()
        client = RedisCluster.from_url(cluster.url, socket_timeout=PATIENCE)
        await client.initialize()
        call = asyncio.create_task(client.get("a"))
        while not node.count("CLIENT", "LIST"):
            await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(ClosedClientError):
            await call
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with ScriptedCluster(1) as cluster:
        run(main, cluster)
