"""Callers of a cluster, in a process of their own: ``python -m benchmarks.failures.load CLIENT URL FILE``.

Each caller stays on one shard: it reads a value that carries its key, and adds to a counter that is its own, in turns, a
few milliseconds apart. So a shard that is away keeps its own callers waiting and no others, and every reply says whether
it is the caller's, and whether the addition before was executed once. Ends with the input, and writes what it saw.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy

from slotwise import key_slot

SHARDS = 3
THREADS = 18
TASKS = 51
# Between two calls of a caller, in seconds: the machine is not to be busy.
PAUSE = 0.01

#: One call: when it began, how long it took, the slot, and whether it was answered.
CALL = numpy.dtype([("began", "f8"), ("took", "f8"), ("slot", "u2"), ("answered", "?")])
CLIENTS = {
    "slotwise": "slotwise",
    "redis-py": "redis.cluster",
    "slotwise asyncio": "slotwise.asyncio",
    "redis-py asyncio": "redis.asyncio.cluster",
}


class Caller:
    """What one caller does and sees."""

    def __init__(self, number: int) -> None:
        first = SHARDS_FIRST[number % SHARDS]
        tag = next(
            t for t in map(str, range(100_000)) if first <= key_slot(f"{{{t}:{number}}}") < first + 5461
        )
        self.value, self.counter = f"{{{tag}:{number}}}value", f"{{{tag}:{number}}}counter"
        self.slot = key_slot(self.value)
        self.calls: list[tuple[float, float, int, bool]] = []
        self.errors: dict[str, int] = {}
        #: Replies that are another call's; additions that were executed twice, and acknowledged ones that are gone.
        self.mixed_up = self.twice = self.lost = 0
        self._last = 0
        self._unknown = 0

    def rounds(self) -> Iterator[tuple[str, str]]:
        """What to call next: a command and its key. Each is told of by `answered` or `failed`."""
        while True:
            yield "get", self.value
            yield "incr", self.counter

    def answered(self, began: float, command: str, reply: Any) -> None:
        self.calls.append((began, time.monotonic() - began, self.slot, True))
        if command == "get":
            self.mixed_up += reply is not None and reply != self.value.encode()
        elif type(reply) is not int:
            self.mixed_up += 1
        else:
            extra = reply - self._last - 1
            # Of additions that ended in an error nobody knows; what is beyond them was executed twice.
            self.twice += max(0, extra - self._unknown)
            self.lost += max(0, -extra)
            self._last, self._unknown = reply, 0

    def failed(self, began: float, command: str, error: Exception) -> None:
        self.calls.append((began, time.monotonic() - began, self.slot, False))
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1
        self._unknown += command == "incr"


#: The first slot of each of three even shards.
SHARDS_FIRST = (0, 5461, 10923)


def work(client: Any, caller: Caller, stop: threading.Event) -> None:
    """A thread's part."""
    for command, key in caller.rounds():
        if stop.wait(PAUSE):
            return
        began = time.monotonic()
        try:
            reply = getattr(client, command)(key)
        except Exception as error:
            caller.failed(began, command, error)
        else:
            caller.answered(began, command, reply)


async def work_async(client: Any, caller: Caller, stop: asyncio.Event) -> None:
    """A task's part."""
    for command, key in caller.rounds():
        await asyncio.sleep(PAUSE)
        if stop.is_set():
            return
        began = time.monotonic()
        try:
            reply = await getattr(client, command)(key)
        except Exception as error:
            caller.failed(began, command, error)
        else:
            caller.answered(began, command, reply)


def threads(kind: Any, url: str) -> list[Caller]:
    """Callers on threads, until the input ends."""
    callers = [Caller(number) for number in range(THREADS)]
    client = kind.from_url(url)
    for caller in callers:
        client.set(caller.value, caller.value)
    stop = threading.Event()
    running = [threading.Thread(target=work, args=(client, caller, stop), daemon=True) for caller in callers]
    for thread in running:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in running:
        thread.join(30)
    client.close()
    return callers


async def tasks(kind: Any, url: str) -> list[Caller]:
    """Callers in tasks, until the input ends."""
    callers = [Caller(number) for number in range(TASKS)]
    async with kind.from_url(url) as client:
        for caller in callers:
            await client.set(caller.value, caller.value)
        stop = asyncio.Event()
        running = [asyncio.create_task(work_async(client, caller, stop)) for caller in callers]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
        await asyncio.wait(running, timeout=30)
    return callers


def main(client: str, url: str, file: str) -> None:
    kind = import_module(CLIENTS[client]).RedisCluster
    callers = asyncio.run(tasks(kind, url)) if client.endswith("asyncio") else threads(kind, url)
    errors: dict[str, int] = {}
    for caller in callers:
        for name, times in caller.errors.items():
            errors[name] = errors.get(name, 0) + times
    numpy.savez(
        file,
        calls=numpy.array([call for caller in callers for call in caller.calls], CALL),
        mixed_up=sum(caller.mixed_up for caller in callers),
        twice=sum(caller.twice for caller in callers),
        lost=sum(caller.lost for caller in callers),
        errors=[f"{times} {name}" for name, times in sorted(errors.items())],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
