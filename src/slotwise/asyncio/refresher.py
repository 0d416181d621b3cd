"""Asks for the topology in the background: a task, at most one at a time, begun by a timer of the client's loop.

The same as `slotwise.sync.refresher` without threads; `slotwise.routing.refresh` says when. The timer keeps no client
alive.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import Protocol

from slotwise.asyncio.waking import wake
from slotwise.routing.inquiry import logged
from slotwise.routing.refresh import WATCH_INTERVAL, Schedule
from slotwise.routing.topology import Address


class Refreshable(Protocol):
    """Who knows nodes and asks them; see `slotwise.asyncio.nodes.NodesManager`."""

    async def refresh(self, told: set[Address], failed: set[Address]) -> None: ...

    async def look_for_successor(self, failed: set[Address]) -> bool: ...

    def silent_nodes(self) -> set[Address]: ...

    def leave(self, silent: set[Address]) -> set[Address]: ...

    def count_nodes(self) -> int: ...


class Refresher:
    """The refreshes of one client in its loop; see `Schedule` for the numbers."""

    def __init__(self, client: Refreshable, interval: float | None, min_interval: float) -> None:
        self.interval = interval
        self.min_interval = min_interval
        # Nodes that told the news, and so know more; nodes that did not answer. Of the next refresh.
        self.told: set[Address] = set()
        self.failed: set[Address] = set()
        self._client = weakref.ref(client)
        self._renew()

    def _renew(self) -> None:
        self.schedule = Schedule(self.interval, self.min_interval)
        # Between `start` and `end`: what a call wishes that outlives its client is nobody's.
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        # When it goes off: uvloop's do not tell if that is at once.
        self._timer_due = 0.0
        self._task: asyncio.Task[None] | None = None
        # Nodes that owe replies and send nothing, and when to look for them next.
        self._silent: set[Address] = set()
        self._watch_due = 0.0
        # Who waits for the end of the next refresh.
        self._waiting: list[asyncio.Future[None]] = []

    def start(self) -> None:
        """Begins the regular refreshes: the client was just asked for."""
        if not self._running:
            self._running = True
            now = asyncio.get_running_loop().time()
            self.schedule.end(now)
            self._watch_due = now + WATCH_INTERVAL
            self._arm()

    def want(self, failed: Address | None = None, told: Address | None = None) -> None:
        """Asks for a refresh and does not wait for it. Next to nothing when one is wanted already."""
        if failed is not None:
            self.failed.add(failed)
        if told is not None:
            self.told.add(told)
        client = self._client()
        if client is None or not self._running:
            return
        news = self.schedule.want(asyncio.get_running_loop().time(), client.count_nodes())
        # A task arms the timer at its end.
        if self._task is None and (news or failed is not None):
            self._arm()

    async def want_and_wait(self, failed: Address | None, seconds: float) -> None:
        """Asks for a refresh and waits for its end, for ``seconds`` at the most."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.want(failed)
        try:
            if self._running:
                await asyncio.wait([done], timeout=seconds)
        finally:
            # Not when it is over: to look for it takes the longer, the more wait. It may be about to be woken.
            if not done.done():
                with suppress(ValueError):
                    self._waiting.remove(done)

    async def end(self) -> None:
        """Ends the refreshes; `start` or a wish begins anew."""
        if self._timer is not None:
            self._timer.cancel()
        task = self._task
        self._tell()
        self._renew()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def forget(self) -> None:
        """The loop is gone, and all that was in it."""
        self._renew()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        when = min(self.schedule.look_due(now, failed=bool(self.failed)), self._watch_due)
        if self._timer is not None:
            if self._timer_due <= when:
                # It looks for itself what is due.
                return
            self._timer.cancel()
        self._timer = loop.call_at(when, _begin, weakref.ref(self))
        self._timer_due = when

    def begin(self) -> None:
        """A timer's part: the refresh, if it is due."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        client = self._client()
        if client is None:
            return
        if now >= self._watch_due:
            self._watch_due = now + WATCH_INTERVAL
            self._silent = client.silent_nodes()
        if self._silent:
            self.failed |= self._silent
            self.schedule.want(now, client.count_nodes())
        if now >= self.schedule.due:
            self.schedule.begin(now)
            self._task = asyncio.create_task(self._refresh())
        elif self.schedule.wanted and self.failed:
            self._task = asyncio.create_task(self._look())
        else:
            self._arm()

    async def _look(self) -> None:
        client = self._client()
        try:
            with logged():
                if client is not None and await client.look_for_successor(set(self.failed)):
                    # The refresh follows when it is due.
                    self._tell()
                    self._silent = client.leave(self._silent)
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._arm()

    async def _refresh(self) -> None:
        client = self._client()
        told, self.told = self.told, set()
        failed, self.failed = self.failed, set()
        try:
            with logged():
                if client is not None:
                    await client.refresh(told, failed)
                    self._silent = client.leave(self._silent)
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self.schedule.end(asyncio.get_running_loop().time())
                self._tell()
                if self._silent:
                    # Nobody has taken over yet: go on looking, and not only from the next watch on.
                    self.failed |= self._silent
                    self.want()
                self._arm()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        wake(waiting)


def _begin(reference: weakref.ref[Refresher]) -> None:
    refresher = reference()
    if refresher is not None:
        with suppress(RuntimeError):  # the loop is about to end
            refresher.begin()
