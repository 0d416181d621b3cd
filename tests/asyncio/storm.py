"""The storm: 500 tasks, of whose commands a tenth is cancelled at a random point and a tenth runs into a time-out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import threading
from collections import Counter
from typing import Any

from slotwise.asyncio import RedisCluster
from slotwise.errors import TimeoutError, UnknownOutcomeError
from tests.asyncio.loops import run

TASKS = 500
KEYS = 1000
# Seconds that a reply may take; servers that pause for longer let whole links time out.
SOCKET_TIMEOUT = 0.25


async def _storm(url: str, commands: int, pauses: bool, seen: Counter[str]) -> None:
    files = _files()
    async with RedisCluster.from_url(url, socket_timeout=SOCKET_TIMEOUT if pauses else 60) as client:
        names = [f"storm:{number}" for number in range(KEYS)]
        await asyncio.gather(*(client.set(name, name) for name in names))

        def answer(call: str, right: bool) -> None:
            """Every value names its key: anything else was meant for somebody else."""
            seen[call] += 1
            seen["wrong"] += not right

        async def once(dice: random.Random) -> None:
            name, other = dice.choice(names), dice.choice(names)
            lot = dice.random()
            if lot < 0.6:
                answer("get", await client.get(name) == name.encode())
            elif lot < 0.7:
                answer("set", await client.set(name, name) is True)
            elif lot < 0.8:
                answer("strlen", await client.strlen(name) == len(name))
            elif lot < 0.9:
                answer("mget", await client.mget_nonatomic(name, other) == [name.encode(), other.encode()])
            else:
                values = await client.pipeline().get(name).strlen(other).get(other).execute()
                answer("pipeline", values == [name.encode(), len(other), other.encode()])

        async def cancelled(dice: random.Random) -> None:
            call = asyncio.ensure_future(once(dice))
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError:
                seen["cancelled"] += 1

        async def timed_out(dice: random.Random) -> None:
            seconds = dice.random() ** 2 * 0.01
            try:
                if sys.version_info >= (3, 11) and dice.random() < 0.5:
                    async with asyncio.timeout(seconds):
                        await once(dice)
                else:
                    await asyncio.wait_for(once(dice), seconds)
            except asyncio.TimeoutError:
                seen["timed out"] += 1

        async def task(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(commands // TASKS):
                lot = dice.random()
                try:
                    await (cancelled if lot < 0.1 else timed_out if lot < 0.2 else once)(dice)
                except (TimeoutError, UnknownOutcomeError):
                    seen["no reply in time"] += 1

        pausing = asyncio.create_task(_pause(client)) if pauses else None
        await asyncio.gather(*map(task, range(TASKS)))
        if pausing is not None:
            pausing.cancel()
            await asyncio.gather(pausing, return_exceptions=True)
            await asyncio.sleep(2 * SOCKET_TIMEOUT)
        # As if nothing had happened.
        seen["wrong"] += await asyncio.gather(*map(client.get, names)) != [name.encode() for name in names]
        for shard in client._engine.table.shards:
            link = shard[0].link
            seen["left in a link"] += link is not None and link.commands
    for _ in range(100):
        # uvloop closes sockets some turns later.
        await asyncio.sleep(0)
    seen["files left"] = len(_files() - files)


async def _pause(client: RedisCluster) -> None:
    """Has one server after the other answer nothing for longer than a reply may take."""
    dice = random.Random(0)
    while True:
        with contextlib.suppress(TimeoutError, UnknownOutcomeError):
            await client.client_pause(
                int(1500 * SOCKET_TIMEOUT), target_nodes=dice.choice(client.get_primaries())
            )
        await asyncio.sleep(dice.random())


def _files() -> set[str]:
    """The sockets of this process; uvloop keeps a file open for itself."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        # All but the one that listed them.
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket")}


def storm(url: str, commands: int, pauses: bool = False, uvloop: bool = False) -> dict[str, Any]:
    """How often what was seen, in an event loop of its own; fails for a task left or anything reported to the loop."""
    if uvloop:
        import uvloop as loops

        loops.install()
    seen: Counter[str] = Counter()
    run(_storm, url, commands, pauses, seen)
    seen["threads left"] = threading.active_count() - 1
    return seen
