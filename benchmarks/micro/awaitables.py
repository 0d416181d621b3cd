"""What ``client.get(key)`` gives back, and what that costs: ``python -m benchmarks.micro.awaitables``.

Three ways to give the same reply of the same connection, taken in turns against a local cluster: a coroutine, which is
what slotwise gives; an awaitable of one's own, which begins when it is awaited; and the future itself, which has begun
already. CPU time of this process per call, so that the server and the machine's other work count little.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from slotwise._aiolink import Unusual
from slotwise.asyncio import RedisCluster
from slotwise.local import LocalCluster

KEYS = [f"key:{number}" for number in range(1000)]
TASKS = 50
ROUNDS = 9
CALLS = 20_000

Get = Callable[[str], Awaitable[Any]]


class Call:
    """An awaitable that sends when it is awaited. It may be awaited once."""

    __slots__ = ("_call", "_submit")

    def __init__(self, submit: Callable[[tuple[str, str]], asyncio.Future[Any]], key: str) -> None:
        self._submit = submit
        self._call = ("GET", key)

    def __await__(self) -> Generator[Any, None, Any]:
        reply = yield from self._submit(self._call).__await__()
        if type(reply) is Unusual:
            raise RuntimeError(reply.what)
        return reply


def ways(client: RedisCluster) -> dict[str, Get]:
    """The ways to compare; the first is the one that the others are held against."""
    submit = client._submit
    return {
        "coroutine": client.get,
        "awaitable of one's own": lambda key: Call(submit, key),
        # What a redirect or a lost connection needs has no place here.
        "plain future": lambda key: submit(("GET", key)),
    }


async def in_loops(get: Get) -> None:
    """Each task awaits one reply after the other, as web handlers do."""

    async def task(first: int) -> None:
        for number in range(first, CALLS, TASKS):
            await get(KEYS[number % len(KEYS)])

    await asyncio.gather(*(task(first) for first in range(TASKS)))


async def in_bursts(get: Get) -> None:
    """Gathers of 1,000 calls."""
    for _ in range(CALLS // len(KEYS)):
        await asyncio.gather(*map(get, KEYS))


async def main(url: str) -> None:
    async with RedisCluster.from_url(url) as client:
        await client.mset_nonatomic(dict.fromkeys(KEYS, "x" * 100))
        for work in (in_loops, in_bursts):
            spent: dict[str, list[float]] = {name: [] for name in ways(client)}
            for _ in range(ROUNDS):
                for name, get in ways(client).items():
                    before = time.process_time()
                    await work(get)
                    spent[name].append((time.process_time() - before) / CALLS * 1e6)
            base = next(iter(spent.values()))
            print((work.__doc__ or "").strip())
            for name, times in spent.items():
                ratio = statistics.median(one / other for one, other in zip(times, base, strict=True))
                print(f"  {name:24} {statistics.median(times):6.2f} us CPU a call   {ratio:5.2f} x")


if __name__ == "__main__":
    with LocalCluster(3, 0) as cluster:
        asyncio.run(main(cluster.url))
