"""What the client holds in memory, measured in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from slotwise.asyncio import RedisCluster
from tests.asyncio.loops import run

VALUE = b"x" * 100


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def _in_flight(url: str, count: int, traced: bool) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    measure: Callable[[], int] = (lambda: tracemalloc.get_traced_memory()[0]) if traced else resident
    async with RedisCluster.from_url(url, socket_timeout=600) as client:
        keys = [f"{{flight}}:{number}" for number in range(count)]
        # Links, and the memory of a first time.
        await asyncio.gather(*(client.set(key, VALUE) for key in keys[:1000]))

        async def held(make: Callable[[str], Awaitable[Any]]) -> tuple[float, list[asyncio.Future[Any]]]:
            gc.collect()
            before = measure()
            tasks = [asyncio.ensure_future(make(key)) for key in keys]
            # Once around: each has begun, and what fits is sent.
            await asyncio.sleep(0.1)
            return (measure() - before) / count, tasks

        async def bare(_: str) -> None:
            await loop.create_future()

        # What tasks cost that wait for a future each, and have nothing to do with a client.
        of_tasks, tasks = await held(bare)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        del tasks, task
        (primary,) = {
            client.get_node_from_key(key).name: client.get_node_from_key(key) for key in keys[:1]
        }.values()
        await client.client_pause(600_000, all=False, target_nodes=primary)
        with_tasks, tasks = await held(lambda key: client.set(key, VALUE))
        assert not any(task.done() for task in tasks)
        await client.client_unpause(target_nodes=primary)
        assert all(await asyncio.gather(*tasks))
    return {"with its task": with_tasks, "a task alone": of_tasks}


def in_flight(url: str, count: int, traced: bool) -> dict[str, float]:
    """Bytes a command while ``count`` are in flight, by tracemalloc or as the system sees it."""
    if traced:
        tracemalloc.start()
    return run(_in_flight, url, count, traced)


async def _growth(url: str, commands: int) -> list[int]:
    async with RedisCluster.from_url(url) as client:
        keys = [f"memory:{number}" for number in range(1000)]

        async def rounds(count: int) -> None:
            for _ in range(count):
                await asyncio.gather(*(client.set(key, key) for key in keys))
                await asyncio.gather(*map(client.get, keys))
                await client.mget_nonatomic(keys)
                some = [asyncio.ensure_future(client.get(key)) for key in keys]
                await asyncio.sleep(0)
                for call in some[::10]:
                    call.cancel()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.gather(*some, return_exceptions=True), 0.002)

        # 4,000 commands each.
        await rounds(30)
        sizes = []
        for _ in range(3):
            gc.collect()
            sizes.append(resident())
            await rounds(commands // 8000)
        return sizes


def growth(url: str, commands: int) -> list[int]:
    """Bytes held before, after a half and after all of so many commands, some cancelled and some timed out."""
    return run(_growth, url, commands)


async def _large(url: str, size: int) -> dict[str, dict[str, float]]:
    async with RedisCluster.from_url(url, socket_timeout=60) as client:
        other = next(
            key
            for key in map(str, range(100))
            if client.get_node_from_key(key) != client.get_node_from_key("large")
        )
        await client.set(other, "v")
        value: bytes = bytes(size)
        before = resident()
        found: dict[str, dict[str, float]] = {}
        for name, call in (("SET", lambda: client.set("large", value)), ("GET", lambda: client.get("large"))):
            running = asyncio.ensure_future(call())
            gap = peak = 0.0
            answered = 0
            last = time.monotonic()
            while not running.done():
                assert await client.get(other) == b"v"
                answered += 1
                gap, last = max(gap, time.monotonic() - last), time.monotonic()
                peak = max(peak, resident() - before)
            reply = await running
            assert reply is True or reply == value
            del running, reply
            found[name] = {"gap": gap, "of others": answered, "peak": peak}
        await client.delete("large")
    return found


def large(url: str, size: int) -> dict[str, dict[str, float]]:
    """One value of ``size`` bytes there and back, beside calls to another node: their number, the longest of them in
    seconds, and the bytes held meanwhile above the value itself."""
    return run(_large, url, size)
