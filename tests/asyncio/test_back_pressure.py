"""More work than a link takes: callers wait, in order, and nobody else does."""

import asyncio
import gc
import threading
import time
from pathlib import Path

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.local import LocalCluster
from tests.asyncio.loops import run
from tests.fixtures.scripted import ScriptedCluster

MAX_COMMANDS = 16384


def test_a_burst_of_many_tasks(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
            await client.set("aio:burst", 0)
            replies = await asyncio.gather(*(client.incr("aio:burst") for _ in range(100_000)))
            assert replies == list(range(1, 100_001)), "in the order of the calls"

    run(main)


def test_who_waits_is_not_overtaken() -> None:
    """A link filled by tasks that come back with every reply has room for another one soon."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("GET").often().reply(b"")
        node.expect("EXISTS").often().reply(1)

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
                await client.get("key")
                rounds = [0] * MAX_COMMANDS
                over = False

                async def busy(number: int) -> None:
                    while not over:
                        await client.get("key")
                        rounds[number] += 1

                tasks = [asyncio.create_task(busy(number)) for number in range(MAX_COMMANDS)]
                await asyncio.sleep(0)
                assert client._engine.table[0][0].link.commands == MAX_COMMANDS
                assert await client.exists("key") == 1
                turns = max(rounds)
                over = True
                await asyncio.gather(*tasks)
                assert turns <= 2, "it waited for one round of the others, not for many"

        run(main)


def test_a_slow_node_holds_up_no_other() -> None:
    with ScriptedCluster(2) as cluster:
        slow, quick = cluster.nodes
        release = threading.Event()
        slow.expect("SET").until(release).reply("OK")
        slow.expect("SET").often().reply("OK")
        quick.expect("GET").often().reply(b"quick")
        key = next(key for key in map(str, range(100)) if key_slot(key) < 8192)
        other = next(key for key in map(str, range(100)) if key_slot(key) >= 8192)

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
                value = b"x" * 1_000_000
                many = [asyncio.create_task(client.set(key, value)) for _ in range(64)]
                while not slow.count("SET"):
                    await asyncio.sleep(0.001)
                link = client._engine.table[0][0].link
                assert link.full
                assert link.commands < len(many), "the others wait outside"
                began = time.monotonic()
                for _ in range(100):
                    assert await client.get(other) == b"quick"
                assert time.monotonic() - began < 5
                assert not any(task.done() for task in many)
                release.set()
                assert await asyncio.gather(*many) == [True] * len(many)

        run(main)


def test_large_values(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
            values = {f"aio:large:{i}": bytes([i]) * (20_000_000 + i) for i in range(4)}
            await asyncio.gather(*(client.set(key, value) for key, value in values.items()))
            assert await asyncio.gather(*map(client.get, values)) == list(values.values())
            pipe = client.pipeline()
            for key in values:
                pipe.strlen(key)
            assert await pipe.execute() == list(map(len, values.values()))
            await client.delete(*values)

    run(main)


def test_a_pipeline_larger_than_the_room(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
            pipe = client.pipeline()
            count = 3 * MAX_COMMANDS
            for _ in range(count):
                pipe.incr("aio:pipe")
            await client.delete("aio:pipe")
            running = asyncio.create_task(pipe.execute())
            # Others get their turns meanwhile.
            while not running.done():
                await client.get("aio:pipe")
            assert await running == list(range(1, count + 1))

    run(main)


def test_memory_of_commands_in_flight() -> None:
    """Less than 1 KiB each: what a caller of many commands holds beside their values."""
    count = 100_000
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET", "first").until(release).reply(b"")
        node.expect("GET").often().reply(b"")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
                first = asyncio.create_task(client.get("first"))
                await asyncio.sleep(0.01)
                gc.collect()
                before = _resident()
                # Sent without tasks: those are the caller's.
                pipe = client.pipeline()
                for _ in range(count):
                    pipe.get("key")
                running = asyncio.create_task(pipe.execute())
                futures = []
                while (future := client._engine.keyed(("GET", "key"), 1)) is not None:
                    futures.append(future)
                await asyncio.sleep(0)
                in_flight = count + len(futures)
                used = (_resident() - before) / in_flight
                release.set()
                await asyncio.gather(first, running, *futures)
                assert used < 1024, f"{used:.0f} bytes a command"

        run(main)


def test_memory_is_where_it_was(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            keys = [f"aio:rss:{i}" for i in range(1000)]

            async def rounds(n: int) -> None:
                for _ in range(n):
                    await asyncio.gather(*map(client.get, keys))

            await rounds(20)
            gc.collect()
            before = _resident()
            await rounds(150)
            gc.collect()
            # 150,000 commands: a leak of one small object each would be ten times as much.
            assert _resident() - before < 1_500_000

    run(main)


def _resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
