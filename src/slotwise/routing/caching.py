"""Client-side caching without the I/O: replies kept in the process until the server says that their key changed.

A reply may only be kept if no invalidation came between sending its command and reading it. So an entry is put into the
cache before the command is sent; an invalidation deletes it; the reply is stored only where the entry still stands.
An entry belongs to the shared link that the server tracks it on (CLIENT TRACKING), and is worth nothing without it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from redis._parsers import Encoder
from redis.cache import CacheEntry, CacheEntryStatus, CacheInterface, CacheKey
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from slotwise.routing.plan import Plan, changed_by

_COMING = b""


class KeptReplies:
    """redis-py's cache, and which entry may be believed. ``guard`` is held at every look into the cache."""

    def __init__(self, cache: CacheInterface, encoder: Encoder, guard: AbstractContextManager[Any]) -> None:
        self.cache = cache
        self.guard = guard
        self._encoder = encoder
        # As redis-py's own entries are: text stays text, and is found again by its UTF-8.
        self._as_given = (str, bytes) if encoder.encoding.lower() in ("utf-8", "utf8") else (bytes,)
        # Names of commands whose replies may be kept.
        self._allowed: dict[Any, bool] = {}
        # Entries by the bytes of their keys: redis-py looks through the whole cache at every invalidation.
        self._index: dict[bytes, set[CacheKey]] = {}
        # Names of entries that the cache has evicted stay in it until it has grown to this.
        self._index_limit = 1024

    def key_of(self, args: tuple[Any, ...], options: dict[str, Any]) -> CacheKey | None:
        """What the reply to this call is kept under; None when it may not be kept."""
        keys = options.get("keys")
        if not keys or NEVER_DECODE in options or EMPTY_RESPONSE in options:
            return None
        name = args[0]
        allowed = self._allowed.get(name)
        if allowed is None:
            with self.guard:
                allowed = self.cache.is_cachable(CacheKey(name, (), ()))
            if allowed:
                # What is no command may be any text, and is not remembered.
                self._allowed[name] = True
        if not allowed:
            return None
        return CacheKey(name, tuple(map(self._hashable, keys)), tuple(map(self._hashable, args)))

    def find(self, key: CacheKey) -> CacheEntry | None:
        """The entry that stands under ``key``: a reply, or one that is on its way."""
        with self.guard:
            return self.cache.get(key)

    def begin(self, key: CacheKey, link: Any) -> CacheEntry:
        """The entry of a reply that is to be asked for over ``link``."""
        entry = CacheEntry(key, _COMING, CacheEntryStatus.IN_PROGRESS, link)
        with self.guard:
            self.cache.set(entry)
            self._add_to_index(key)
            if len(self._index) > self._index_limit:
                self._reindex()
        return entry

    def finish(self, entry: CacheEntry, reply: Any, *, tracked: bool) -> None:
        """Keeps ``reply`` where nothing was invalidated meanwhile; ``tracked``: the link that was asked still stands."""
        with self.guard:
            if reply is None or not tracked:
                self.drop(entry)
            elif self.cache.get(entry.cache_key) is entry:
                entry.cache_value = _copied(reply)
                entry.status = CacheEntryStatus.VALID

    def drop(self, entry: CacheEntry) -> None:
        """Takes the entry out, unless another has taken its place."""
        with self.guard:
            if self.cache.get(entry.cache_key) is entry:
                self.cache.delete_by_cache_keys([entry.cache_key])

    def pushed(self, message: list[Any]) -> None:
        """A message that the server sent by itself."""
        if len(message) == 2 and message[0] in (b"invalidate", "invalidate"):
            self.invalidate(message[1])

    def invalidate(self, names: Iterable[Any] | None) -> None:
        """These keys changed, or (None) everything may have."""
        with self.guard:
            if names is None:
                self.cache.flush()
                self._index.clear()
                return
            for name in names:
                keys = self._index.pop(self._bytes_of(name), None)
                if keys:
                    self.cache.delete_by_cache_keys(list(keys))

    def wrote(self, args: tuple[Any, ...]) -> None:
        """This client may have changed what the call names: the server's word may come later than its reply."""
        self.invalidate(changed_by(args))

    def value(self, plan: Plan, reply: Any, options: dict[str, Any]) -> Any:
        """redis-py's value of a reply, the caller's to change."""
        reply = _copied(reply)
        if plan.callback is None:
            return reply
        return plan.callback(reply, **{name: option for name, option in options.items() if name != "keys"})

    def _hashable(self, arg: Any) -> Any:
        # 1 and 1.0 are equal to Python and different to the server.
        return arg if type(arg) in self._as_given else self._bytes_of(arg)

    def _bytes_of(self, arg: Any) -> bytes:
        return bytes(self._encoder.encode(arg))

    def _add_to_index(self, key: CacheKey) -> None:
        for name in key.redis_keys:
            self._index.setdefault(self._bytes_of(name), set()).add(key)

    def _reindex(self) -> None:
        self._index.clear()
        for key in self.cache.collection:
            self._add_to_index(key)
        self._index_limit = 1024 + 2 * len(self._index)


def _copied(reply: Any) -> Any:
    return reply if type(reply) in (bytes, str, int) else copy.deepcopy(reply)
