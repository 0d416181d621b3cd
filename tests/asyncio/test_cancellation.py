"""Callers that stop waiting: the link stays in step, late replies are dropped, nobody else notices."""

import asyncio
import threading
import time

import pytest

from slotwise.asyncio import RedisCluster
from slotwise.errors import TimeoutError, UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run


def test_a_cancelled_command_is_dropped_in_its_place() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET", "a").until(release).reply(b"of a")
        node.expect("GET", "b").reply(b"of b")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                first, second = asyncio.create_task(client.get("a")), asyncio.create_task(client.get("b"))
                while not node.count("GET", "a"):
                    await asyncio.sleep(0.001)
                accepted = node.accepted
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
                release.set()
                assert await second == b"of b"
                assert node.accepted == accepted

        run(main)


def test_a_cancelled_pipeline_is_dropped_in_its_place() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET", "a").until(release).reply(b"of a")
        node.expect("GET", "b").often().reply(b"of b")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                first = asyncio.create_task(client.pipeline().get("a").get("b").execute())
                while not node.count("GET", "a"):
                    await asyncio.sleep(0.001)
                second = asyncio.create_task(client.pipeline().get("b").get("b").execute())
                await asyncio.sleep(0)
                first.cancel()
                release.set()
                assert await second == [b"of b", b"of b"]
                with pytest.raises(asyncio.CancelledError):
                    await first

        run(main)


def test_a_time_out_replaces_the_link() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("INCRBY", "slow").until(release).reply(1)
        node.expect("GET", "next").reply(b"its own")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=0.2) as client:
                before = time.monotonic()
                with pytest.raises(UnknownOutcomeError, match="time-out") as caught:
                    await client.incr("slow")
                assert isinstance(caught.value, TimeoutError)
                assert 0.19 < time.monotonic() - before < 4
                assert await client.get("next") == b"its own"
                slow, following = (
                    read.connection for read in node.reads if read.commands[0][0] in (b"INCRBY", b"GET")
                )
                assert slow != following
                release.set()

        run(main)


def test_one_timer_per_link(cluster: LocalCluster) -> None:
    class Counting(asyncio.SelectorEventLoop):
        timers = 0

        def call_at(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            self.timers += 1
            return super().call_at(*args, **kwargs)

    async def main() -> int:
        async with RedisCluster.from_url(cluster.url) as client:
            await asyncio.gather(*(client.set(f"aio:timer:{i}", i) for i in range(100)))
            before = loop.timers
            await asyncio.gather(*(client.get(f"aio:timer:{i % 100}") for i in range(5000)))
            return loop.timers - before

    loop = Counting()
    try:
        assert loop.run_until_complete(main()) <= 6
    finally:
        loop.close()
