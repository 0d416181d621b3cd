"""Client-side caching under asyncio: tasks that ask for the same key at once share one command as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any

from redis._parsers import Encoder
from redis.cache import CacheEntry, CacheEntryStatus, CacheInterface, CacheKey

from slotwise._aioengine import AsyncEndpoint
from slotwise.routing.caching import KeptReplies

# What those who wait for another task's reply get when that task ended without one.
_NONE = object()


class ReplyCache(KeptReplies):
    """redis-py's cache of replies, on the shared links of one client."""

    def __init__(self, cache: CacheInterface, encoder: Encoder) -> None:
        super().__init__(cache, encoder, nullcontext())
        # Entries that a task of this client is asking for.
        self._coming: dict[CacheKey, tuple[CacheEntry, asyncio.Future[Any]]] = {}

    async def get(
        self,
        key: CacheKey,
        keepers: Sequence[AsyncEndpoint],
        join: bool,
        ask: Callable[[CacheEntry], Awaitable[Any]],
    ) -> Any:
        """The reply that one of the ``keepers`` has given and that was kept, or the one that ``ask`` gets, which tells
        the entry over which link it came; ``join``: or the one that another task is asking for."""
        entry = self.find(key)
        if entry is not None and entry.status is CacheEntryStatus.VALID:
            link = entry.connection_ref
            # The slot may have moved away from the node that tells of changes.
            if not link.retired and any(link in endpoint.links for endpoint in keepers):
                return entry.cache_value
            self.drop(entry)
        elif entry is not None and join:
            mine, coming = self._coming.get(key, (None, None))
            # An entry that no longer stands was invalidated: its reply may be too old for who asks now.
            if coming is not None and mine is entry:
                reply = await asyncio.shield(coming)
                if reply is not _NONE:
                    return reply
        entry = self.begin(key, None)
        coming = asyncio.get_running_loop().create_future()
        self._coming[key] = entry, coming
        reply = _NONE
        try:
            reply = await ask(entry)
        finally:
            if reply is _NONE:
                self.drop(entry)
            else:
                link = entry.connection_ref
                self.finish(entry, reply, tracked=link is not None and not link.retired)
            coming.set_result(reply)
            if self._coming.get(key, (None,))[0] is entry:
                del self._coming[key]
        return reply

    def forget(self) -> None:
        """Nothing is kept any more: the links are gone, and maybe their event loop with them."""
        self.invalidate(None)
        self._coming.clear()
