"""Callers that read, write and queue until they are told to stop, and what they saw; as threads and as tasks."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import slotwise
import slotwise.asyncio
from slotwise.testing.history import History
from tests.sync.threads import PATIENCE, background

SHELLS = ("threads", "tasks")
_CALLERS = {"threads": 6, "tasks": 30}


class Load:
    """``client`` belongs to the callers; ``errors`` are all that they got."""

    def __init__(self, shell: str) -> None:
        self.shell = shell
        self.history = History()
        self.errors: list[Exception] = []
        #: Turns of each caller: an INCRBY, a GET, a pipeline and a transaction.
        self.turns = [0] * _CALLERS[shell]
        self._tag = secrets.token_hex(4)
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def running(self, make: Callable[[Any], Any]) -> Iterator[None]:
        """Around what happens meanwhile; ``make(kind)`` makes the client, of class ``kind``."""
        work = self._threads if self.shell == "threads" else lambda make: asyncio.run(self._tasks(make))
        end = background(work, make)
        try:
            self.go_on()
            yield
            self.go_on()
        finally:
            self._stop.set()
            end.result(PATIENCE)

    def go_on(self, turns: int = 5) -> None:
        """Returns when every caller has made so many more turns."""
        goal = [turn + turns for turn in self.turns]
        deadline = time.monotonic() + PATIENCE
        while any(turn < wanted for turn, wanted in zip(self.turns, goal, strict=True)):
            assert time.monotonic() < deadline, f"callers hang at turns {self.turns}, errors {self.errors}"
            time.sleep(0.005)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls what the client's shell calls: a function, or a coroutine function in the event loop of the tasks."""
        if self.shell == "threads":
            return function(*args)
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(function(*args), self._loop).result(PATIENCE)

    def violations(self, client: slotwise.RedisCluster) -> list[str]:
        """What was lost or executed twice, once the callers have ended."""
        for key in sorted({call.key for call in self.history.calls}):
            with self.history.read(key) as call:
                call.result = client.get(key)
        return [str(violation) for violation in self.history.violations()]

    def _threads(self, make: Callable[[Any], Any]) -> None:
        with make(slotwise.RedisCluster) as client:
            callers = [background(self._thread, client, number) for number in range(len(self.turns))]
            for caller in callers:
                caller.result(PATIENCE * 2)

    def _thread(self, client: slotwise.RedisCluster, number: int) -> None:
        alone, queued, atomic, missing = self._keys(number)
        while not self._stop.is_set():
            with self._noted(), self.history.add(alone) as call:
                call.result = client.incr(alone)
            with self._noted():
                assert client.get(missing) is None
            with self._noted(), self.history.add(queued) as call:
                call.result = client.pipeline().get(missing).incr(queued).execute()[1]
            with self._noted(), self.history.add(atomic) as call:
                call.result = client.pipeline(transaction=True).incr(atomic).execute()[0]
            self.turns[number] += 1

    async def _tasks(self, make: Callable[[Any], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        async with make(slotwise.asyncio.RedisCluster) as client:
            await asyncio.gather(*(self._task(client, number) for number in range(len(self.turns))))

    async def _task(self, client: slotwise.asyncio.RedisCluster, number: int) -> None:
        alone, queued, atomic, missing = self._keys(number)
        while not self._stop.is_set():
            with self._noted(), self.history.add(alone) as call:
                call.result = await client.incr(alone)
            with self._noted():
                assert await client.get(missing) is None
            with self._noted(), self.history.add(queued) as call:
                call.result = (await client.pipeline().get(missing).incr(queued).execute())[1]
            with self._noted(), self.history.add(atomic) as call:
                call.result = (await client.pipeline(transaction=True).incr(atomic).execute())[0]
            self.turns[number] += 1

    def _keys(self, number: int) -> list[str]:
        """For a caller's single calls, pipelines, transactions; and one that has no value."""
        return [f"{name}{number}:{self._tag}" for name in ("alone", "queued", "atomic", "missing")]

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.errors.append(error)
