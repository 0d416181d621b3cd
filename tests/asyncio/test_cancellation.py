"""Callers that stop waiting: the link stays in step, late replies are dropped, nobody else notices."""

import asyncio
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slotwise.asyncio import RedisCluster
from slotwise.errors import TimeoutError, UnknownOutcomeError
from slotwise.local import LocalCluster
from tests.asyncio.loops import run
from tests.fixtures.scripted import ScriptedCluster


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
                assert 0.19 < time.monotonic() - before < 2
                accepted = node.accepted
                assert await client.get("next") == b"its own"
                assert node.accepted == accepted + 1
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


async def storm(url: str, commands: int) -> None:
    """500 tasks; of their commands a tenth is cancelled at a random point, and a tenth runs into a time-out."""
    async with RedisCluster.from_url(url) as client:
        names = [f"aio:storm:{i}" for i in range(1000)]
        for start in range(0, 1000, 100):
            await asyncio.gather(*(client.set(name, name) for name in names[start : start + 100]))
        cancelled = timed_out = answered = 0

        async def task(seed: int) -> None:
            nonlocal cancelled, timed_out, answered
            dice = random.Random(seed)
            for _ in range(commands // 500):
                name = dice.choice(names)
                lot = dice.random()
                if lot < 0.1:
                    call = asyncio.ensure_future(client.get(name))
                    for _ in range(dice.randrange(4)):
                        await asyncio.sleep(0)
                    call.cancel()
                    try:
                        assert await call == name.encode()
                    except asyncio.CancelledError:
                        cancelled += 1
                elif lot < 0.2:
                    try:
                        assert (
                            await asyncio.wait_for(client.get(name), dice.random() * 0.002) == name.encode()
                        )
                    except asyncio.TimeoutError:
                        timed_out += 1
                elif lot < 0.25:
                    pair = [name, dice.choice(names)]
                    assert await client.pipeline().get(pair[0]).get(pair[1]).execute() == [
                        part.encode() for part in pair
                    ]
                else:
                    assert await client.get(name) == name.encode()
                    answered += 1

        await asyncio.gather(*map(task, range(500)))
        assert cancelled > commands // 50
        assert timed_out > commands // 1000
        assert answered > commands // 2
        assert await asyncio.gather(*map(client.get, names)) == [name.encode() for name in names]


def test_every_reply_belongs_to_its_command(cluster: LocalCluster) -> None:
    run(storm, cluster.url, 100_000)


def test_the_same_in_debug_mode(cluster: LocalCluster) -> None:
    program = (
        "from tests.asyncio.loops import run; from tests.asyncio.test_cancellation import storm; "
        f"run(storm, {cluster.url!r}, 10_000)"
    )
    root = Path(__file__).parents[2]
    python = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=root,
        env={"PYTHONASYNCIODEBUG": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert python.returncode == 0, python.stderr
    quiet = [line for line in python.stderr.splitlines() if "took" not in line]
    assert quiet == [], python.stderr
