"""Client-side caching: replies kept in the process until the server says that their key changed (CLIENT TRACKING).

A reply may only be kept if no invalidation came between sending its command and reading it. So an entry is put into the
cache before the command is sent; an invalidation deletes it; the reply is stored only where the entry still stands.
An entry belongs to the shared link that the server tracks it on, and dies with that link. Before a kept reply is
given, the link is read for invalidations that have come.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from typing import Any

from redis.cache import CacheEntry, CacheEntryStatus, CacheKey

from slotwise.routing.plan import Plan
from slotwise.sync.forks import remember
from slotwise.sync.nodes import NodesManager

_COMING = b""


class ReplyCache:
    """redis-py's cache of replies, on the shared links."""

    def __init__(self, nodes: NodesManager) -> None:
        self._nodes = nodes
        assert nodes._cache is not None  # or nobody makes this object
        self._cache = nodes._cache
        self._lock = threading.RLock()
        remember(self)

    def takes(self, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """True when the reply to this call may be kept."""
        with self._lock:
            return bool(options.get("keys")) and self._cache.is_cachable(CacheKey(args[0], (), ()))

    def get(
        self,
        args: tuple[Any, ...],
        options: dict[str, Any],
        slot: int,
        ask: Callable[[], Any],
        plan: Plan,
    ) -> Any:
        """The kept reply, or the one that ``ask`` gets from the server; as redis-py's value."""
        key = CacheKey(args[0], tuple(options["keys"]), args)
        options = {k: v for k, v in options.items() if k not in ("keys", "NEVER_DECODE")}
        endpoint = self._nodes.endpoint_for(slot)
        link = self._nodes.shared_link(endpoint)
        entry = self._entry(key)
        if entry is not None and entry.status is CacheEntryStatus.VALID:
            if entry.connection_ref is link and link.poll_pushes() and not link.retired:
                entry = self._entry(key)
                if entry is not None and entry.status is CacheEntryStatus.VALID:
                    return _shaped(plan, copy.deepcopy(entry.cache_value), options)
            else:
                self._drop(key)
        mine = CacheEntry(key, _COMING, CacheEntryStatus.IN_PROGRESS, link)
        with self._lock:
            self._cache.set(mine)
        try:
            reply = ask()
        except BaseException:
            self._drop(key)
            raise
        with self._lock:
            # Kept only if the link that tracks it is the one that was asked, still, and nothing was invalidated.
            same = endpoint.link is link and not link.retired
            if reply is None or not same or self._cache.get(key) is not mine:
                if self._cache.get(key) is mine:
                    self._drop(key)
            else:
                mine.cache_value = copy.deepcopy(reply)
                mine.status = CacheEntryStatus.VALID
        return _shaped(plan, reply, options)

    def invalidate(self, keys: Iterable[Any] | None) -> None:
        """The server's message: these keys changed, or (None) everything may have."""
        with self._lock:
            if keys is None:
                self._cache.flush()
            else:
                self._cache.delete_by_redis_keys(list(keys))

    def forget(self) -> None:
        """In a child process: a new lock. What is kept belongs to links that the child does not have."""
        self._lock = threading.RLock()

    def _entry(self, key: CacheKey) -> CacheEntry | None:
        with self._lock:
            return self._cache.get(key)

    def _drop(self, key: CacheKey) -> None:
        with self._lock:
            self._cache.delete_by_cache_keys([key])


def _shaped(plan: Plan, reply: Any, options: dict[str, Any]) -> Any:
    return reply if plan.callback is None else plan.callback(reply, **options)
