"""Asks primaries how far replication has come: in the background, and only while reads depend on it.

The same as `slotwise.sync.offsets` without threads: a task for each time, begun by a timer, which keeps no client alive.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from redis._parsers.helpers import parse_info

from slotwise._aioengine import AsyncEndpoint
from slotwise._aiolink import Unusual
from slotwise.routing.inquiry import FAILURES
from slotwise.routing.replicas import ANSWER_TIMEOUT, LINGER

if TYPE_CHECKING:
    from slotwise.asyncio.nodes import NodesManager


class Offsets:
    """The questions of one client to its primaries, every so many seconds."""

    def __init__(self, nodes: NodesManager, every: float) -> None:
        self._nodes = weakref.ref(nodes)
        self._every = every
        # When somebody last wanted to know.
        self._wanted = 0.0
        self.forget()

    def forget(self) -> None:
        """The loop is gone, and all that was in it."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def want(self, now: float) -> None:
        """Somebody wants to know, and does not wait. Next to nothing while primaries are asked anyway."""
        self._wanted = now
        if self._timer is None and self._task is None:
            self._arm(0.0)

    async def end(self) -> None:
        """Asks nobody any more; a wish begins anew."""
        timer, task = self._timer, self._task
        self.forget()
        if timer is not None:
            timer.cancel()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, _begin, weakref.ref(self))

    def begin(self) -> None:
        """A timer's part: asks every primary once, if somebody still wants to know."""
        self._timer = None
        if time.monotonic() - self._wanted <= LINGER:
            self._task = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        began = time.monotonic()
        nodes = self._nodes()
        try:
            if nodes is not None:
                shards = {shard[0].node: shard for shard in nodes.engine.table.shards if len(shard) > 1}
                await asyncio.gather(*(self._ask_one(nodes, shard) for shard in shards.values()))
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._arm(max(0.0, began + self._every - time.monotonic()))

    async def _ask_one(self, nodes: NodesManager, shard: tuple[AsyncEndpoint, ...]) -> None:
        endpoint, readers = shard[0], nodes.readers
        assert readers is not None, "or nobody would want to know"
        asked = time.monotonic()
        with suppress(*FAILURES, asyncio.TimeoutError):
            reply = await asyncio.wait_for(self._question(nodes, endpoint), ANSWER_TIMEOUT)
            if type(reply) is not Unusual and not readers.replicated(shard, asked, parse_info(reply)):
                nodes.refresher.want()

    async def _question(self, nodes: NodesManager, endpoint: AsyncEndpoint) -> object:
        place, link = endpoint.next()
        if link is None or link.retired:
            link = await endpoint.pool.shared(endpoint, place)
        reply: object = await link.execute(("INFO", "replication"), True, nodes.engine.encoding)
        return reply


def _begin(reference: weakref.ref[Offsets]) -> None:
    offsets = reference()
    if offsets is not None:
        with suppress(RuntimeError):  # the loop is about to end
            offsets.begin()
