"""More work than a link takes: callers wait, in order, and nobody else does."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run

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


def test_a_pipeline_cancelled_halfway_is_sent_no_further() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET", "a").until(release).reply(b"of a")
        node.expect("GET", "a").often().reply(b"of a")
        node.expect("GET", "b").often().reply(b"of b")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
                pipe = client.pipeline()
                for _ in range(3 * MAX_COMMANDS):
                    pipe.get("a")
                first = asyncio.create_task(pipe.execute())
                while not node.count("GET", "a"):
                    await asyncio.sleep(0.001)
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
                assert len(pipe) == 0
                second = asyncio.create_task(pipe.get("b").get("b").execute())
                await asyncio.sleep(0)
                release.set()
                assert await second == [b"of b", b"of b"]

        run(main)
        assert node.count("GET", "a") == MAX_COMMANDS, "what was encoded by then"


def test_a_pipeline_executed_twice_at_once(cluster: LocalCluster) -> None:
    """The first to end empties the pipeline, while commands of the second wait to be encoded."""

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
            await client.set("aio:twice", "x" * 100)
            pipe = client.pipeline()
            for _ in range(3 * MAX_COMMANDS):
                pipe.get("aio:twice")
            first, second = await asyncio.gather(pipe.execute(), pipe.execute())
            assert first == second == [b"x" * 100] * (3 * MAX_COMMANDS)
            assert len(pipe) == 0

    run(main)


def test_a_burst_takes_the_short_way(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers beyond the room wait with a future and nothing else: the way through `_converse` costs five times as much."""
    long_ways = 0

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal long_ways
        long_ways += 1
        return await original(*args, **options)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
            # Opens the links.
            await asyncio.gather(*(client.set(f"aio:short:{i}", i) for i in range(100)))
            monkeypatch.setattr(RedisCluster, "_converse", counted)
            await asyncio.gather(*(client.get("aio:short:1") for _ in range(3 * MAX_COMMANDS)))

    original = RedisCluster._converse
    run(main)
    assert long_ways == 0


def test_many_tasks_do_not_set_the_garbage_collector_off(cluster: LocalCluster) -> None:
    """10,000 tasks at the rate of 200: what slowed them down was a collection for every 500 commands."""
    tasks, each = 10_000, 10

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
            keys = [f"aio:many:{i}" for i in range(100)]
            await asyncio.gather(*(client.set(key, key) for key in keys))
            begun = 0

            async def task(number: int) -> None:
                nonlocal begun
                begun += 1
                key = keys[number % 100]
                while begun < tasks:
                    # Their creation makes objects that stay.
                    await client.get(key)
                if count not in gc.callbacks:
                    gc.callbacks.append(count)
                for _ in range(each):
                    assert await client.get(key) == key.encode()

            await asyncio.gather(*map(task, range(tasks)))

    collections = 0

    def count(phase: str, _: Any) -> None:
        nonlocal collections
        collections += phase == "start"

    try:
        run(main)
    finally:
        gc.callbacks.remove(count)
    assert collections < tasks * each / 2000


CALLS: dict[str, Callable[[RedisCluster], Any]] = {
    "call": lambda client: client.get("a"),
    "pipeline": lambda client: client.pipeline().get("a").get("a").execute(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_cancelled_caller_in_line_sends_nothing(call: Callable[[RedisCluster], Any]) -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET", "stuck").until(release).reply(b"")
        node.expect("SET", "large").reply("OK")
        node.expect("GET", "b").reply(b"of b")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=60) as client:
                # Larger than the sockets take while the node reads nothing.
                stuck = asyncio.create_task(client.get("stuck"))
                while not node.count("GET"):
                    await asyncio.sleep(0.001)
                large = asyncio.create_task(client.set("large", b"x" * 20_000_000))
                await asyncio.sleep(0)
                first = asyncio.ensure_future(call(client))
                second = asyncio.create_task(client.get("b"))
                await asyncio.sleep(0.01)
                assert client._engine.table[0][0].link.commands == 2
                first.cancel()
                release.set()
                assert await stuck == b""
                assert await large is True
                assert await second == b"of b"
                with pytest.raises(asyncio.CancelledError):
                    await first

        run(main)
        assert node.count("GET", "a") == 0


@pytest.mark.parametrize("how", ["time-out", "lost"])
def test_who_waits_for_a_link_that_ends_goes_to_the_next_one(how: str) -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        expected = node.expect("GET", "stuck").until(release)
        if how == "lost":
            expected.close()
        node.expect("INCRBY", "n").often().reply(1)
        node.expect("GET", "stuck").often().reply(b"0")

        async def main() -> None:
            client = RedisCluster.from_url(cluster.url, socket_timeout=0.3 if how == "time-out" else 60)
            async with client:
                stuck = asyncio.create_task(client.get("stuck"))
                while not node.count("GET"):
                    await asyncio.sleep(0.001)
                large = asyncio.create_task(client.set("large", b"x" * 20_000_000))
                await asyncio.sleep(0)
                behind = [asyncio.create_task(client.incr("n")) for _ in range(100)]
                pipe = asyncio.create_task(client.pipeline().incr("n").incr("n").execute())
                await asyncio.sleep(0.01)
                assert client._engine.table[0][0].link.commands == 2
                if how == "lost":
                    release.set()
                with pytest.raises(UnknownOutcomeError):
                    await large
                assert await asyncio.gather(*behind) == [1] * 100, "writes: sent once, and that surely"
                assert await pipe == [1, 1]
                assert await stuck == b"0", "a read is repeated"
                release.set()

        run(main)
        assert node.count("INCRBY") == 102
