"""Client-side caching for threads: before a kept reply is given, its link is read for invalidations that have come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from redis._parsers import Encoder
from redis.cache import CacheEntry, CacheEntryStatus, CacheKey

from slotwise._engine import Endpoint
from slotwise.routing.caching import KeptReplies
from slotwise.routing.plan import Plan
from slotwise.sync.forks import remember
from slotwise.sync.nodes import NodesManager


class ReplyCache(KeptReplies):
    """redis-py's cache of replies, on the shared links."""

    def __init__(self, nodes: NodesManager, encoder: Encoder) -> None:
        assert nodes._cache is not None  # or nobody makes this object
        super().__init__(nodes._cache, encoder, threading.RLock())
        remember(self)

    def get(
        self,
        key: CacheKey,
        options: dict[str, Any],
        keepers: Sequence[Endpoint],
        ask: Callable[[CacheEntry], Any],
        plan: Plan,
    ) -> Any:
        """The reply that one of the ``keepers`` has given and that was kept, or the one that ``ask`` gets from a server,
        which tells the entry over which link it came; as redis-py's value."""
        entry = self.find(key)
        if entry is not None and entry.status is CacheEntryStatus.VALID:
            link = entry.connection_ref
            kept = any(endpoint.link is link for endpoint in keepers)
            if kept and link.poll_pushes() and not link.retired:
                if self.find(key) is entry:
                    return self.value(plan, entry.cache_value, options)
            else:
                self.drop(entry)
        mine = self.begin(key, None)
        try:
            reply = ask(mine)
        except BaseException:
            self.drop(mine)
            raise
        link = mine.connection_ref
        self.finish(mine, reply, tracked=link is not None and not link.retired)
        return self.value(plan, reply, options)

    def forget(self) -> None:
        """In a child process: a new lock. What is kept belongs to links that the child does not have."""
        self.guard = threading.RLock()
