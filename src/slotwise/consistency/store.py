"""Versioned stores: for threads and for asyncio, one surface, one set of steps.

The shells send what the steps ask for. Only `get` and `get_with_version`, the commonest calls, do without a generator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from slotwise._versions import TOMBSTONE, NotSealed, Version, unseal
from slotwise.consistency.errors import VersionDriftError
from slotwise.consistency.lost import LostWrite
from slotwise.consistency.requests import OnNodes, Request, Steps
from slotwise.consistency.results import HistoryEntry, Versioned, WriteResult
from slotwise.consistency.steps import Core, Seconds, not_a_value
from slotwise.errors import RedisClusterException, RedisError, ResponseError

T = TypeVar("T")

# What a call or a pipeline may raise of the cluster and its nodes.
_ERRORS = (RedisError, RedisClusterException)


class VersionedStore(Core):
    """Values that know how old they are, over a client for threads: a write never overwrites a newer one.

    ``client``: slotwise's ``RedisCluster``, or what `slotwise.connect` gives for a standalone server. Writes do without its
    retries, which would not tell what became of the first try. The store closes nothing, and threads may share it.

    - ``clock``: the `HybridClock` of the versions; a store makes its own, and one for all stores of a process is best.
    - ``codec``: "raw" (default) takes and gives bytes, as text from a client that decodes; "msgpack" takes what msgpack does.
      Reading goes by what is stored.
    - ``compress_above``: payloads of more bytes are compressed with LZ4, if that makes them smaller. None (default): never.
    - ``tombstone_ttl``: seconds (or a timedelta, as all times) that a deletion is remembered, default 7 days.
    - ``foreign``: "refuse" (default) raises `ForeignValueError` for strings that no store has written; with "adopt" they
      are read as they are, and are older than every version.
    - ``history``: how many writes of each key `sync_history` keeps, for ``history_ttl`` seconds (default 7 days) after the
      last; 0 (default): none.
    - ``wait_replicas``: how many replicas to wait for after each write, ``wait_timeout`` seconds at most (default 1; less
      than the client's ``socket_timeout``). The result says how many have it.
    - ``remember``: how many of the last written keys `lost_writes` looks at (default 0), with their values as long as those
      are ``remember_bytes`` together (default 64 MiB).

    Writes raise `ForeignValueError`, `UnknownFormatError`, `DamagedValueError`, `NotAValueError` or `VersionDriftError` for what
    they find, and the client's own errors; nothing was written then. Reads raise the same, but for the last. Calls for many
    keys raise one `BatchError` at their end, which has the results of the other keys.
    """

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of ``key``; ``default`` where there is none, or it was deleted."""
        try:
            stored = self._fetch(key)
            if stored is None:
                return default
            # The steps of `_value` for the commonest case, which is spared a call.
            version, flags, payload = unseal(stored)
            self._observe(version)
            if not flags and self._plain:
                return payload
        except ResponseError as error:
            raise not_a_value(error) from None
        except NotSealed as error:
            return self._foreign(stored, error)
        except VersionDriftError:
            self._count("drifted")
        return default if flags & TOMBSTONE else self._values.open(flags, payload)

    def get_with_version(self, key: Any) -> Versioned | None:
        """The value with its version; of a tombstone ``deleted`` is true. None: nothing is there."""
        try:
            return self._versioned(self._fetch(key))
        except ResponseError as error:
            raise not_a_value(error) from None

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """The values of those keys that have one, in one batch over all nodes."""
        return self._run(self._get_many(keys))

    def sync_history(self, key: Any) -> list[HistoryEntry]:
        """The last writes of ``key`` by stores that keep a history, the newest first."""
        return self._run(self._sync_history(key))

    # -- writing -----------------------------------------------------------------------------------------------------

    def set(self, key: Any, value: Any, ttl: Seconds | None = None) -> WriteResult:
        """Writes ``value`` with a new version, to expire after ``ttl`` seconds (default None: never)."""
        return self._run(self._set(key, value, ttl))

    def set_many(self, mapping: Mapping[Any, Any], ttl: Seconds | None = None) -> dict[Any, WriteResult]:
        """Writes all values, each with a version of its own, in one batch over all nodes; not atomic."""
        return self._run(self._set_many(mapping, ttl))

    def delete(self, key: Any) -> WriteResult:
        """Leaves a tombstone: no older write brings the key back, as long as it lasts."""
        return self._run(self._delete(key))

    def delete_many(self, keys: Iterable[Any]) -> dict[Any, WriteResult]:
        """Leaves tombstones, in one batch over all nodes; not atomic."""
        return self._run(self._delete_many(keys))

    def set_if_newer(self, key: Any, value: Any, version: Version, ttl: Seconds | None = None) -> WriteResult:
        """Writes ``value`` with a version from elsewhere, unless what is there is newer.

        One from the far future raises `VersionDriftError` before anything is sent.
        """
        return self._run(self._set_if_newer(key, value, version, ttl))

    def set_if_version(
        self, key: Any, value: Any, expected: Version | None, ttl: Seconds | None = None
    ) -> WriteResult:
        """Writes ``value`` with a new version if ``expected`` is there, that of a tombstone for instance; None: if nothing is."""
        return self._run(self._set_if_version(key, value, expected, ttl))

    # -- lost writes -------------------------------------------------------------------------------------------------

    def lost_writes(self, rewrite: bool = False) -> list[LostWrite]:
        """The keys, of those that the store remembers, whose acknowledged writes the cluster has forgotten.

        With ``rewrite`` they are written again, by their versions: what is newer stays. Raises `BatchError` when keys
        could not be read or written, and ``ValueError`` for a store without ``remember``.
        """
        return self._run(self._lost_writes(rewrite))

    # -- the driver --------------------------------------------------------------------------------------------------

    def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                request = steps.send(self._answer(request))
        except StopIteration as end:
            value: T = end.value
            return value

    def _answer(self, request: Request) -> list[Any]:
        if isinstance(request, OnNodes):
            return self._on_nodes(request)
        client = self._through(request)
        if isinstance(request, list) and len(request) == 1:
            try:
                return [client.execute_command(*request[0], **self._options)]
            except _ERRORS as error:
                return [error]
        pipe = client.pipeline(transaction=False)
        count = self._queue(pipe, request)
        try:
            replies: list[Any] = pipe.execute(raise_on_error=False)
        except _ERRORS as error:
            return [error] * count
        return replies

    def _on_nodes(self, request: OnNodes) -> list[tuple[Sequence[Any], list[Any]]]:
        return [
            (keys, self._on_node(node, request.commands(keys))) for node, keys in self._by_node(request.keys)
        ]

    def _on_node(self, node: Any, commands: list[Any]) -> list[Any]:
        client = self.client if node is None else self.client.get_redis_connection(node)
        pipe = client.pipeline(transaction=False)
        self._queue(pipe, commands)
        try:
            replies: list[Any] = pipe.execute(raise_on_error=False)
        except _ERRORS as error:
            return [error] * len(commands)
        return replies


class AsyncVersionedStore(Core):
    """`VersionedStore` over a client for asyncio: every method is awaited."""

    _awaited = True

    __doc__ = (VersionedStore.__doc__ or "").replace("for threads", "for asyncio").replace("threads", "tasks")

    async def get(self, key: Any, default: Any = None) -> Any:
        """The value of ``key``; ``default`` where there is none, or it was deleted."""
        try:
            stored = await self._fetch(key)
            if stored is None:
                return default
            # The steps of `_value` for the commonest case, which is spared a call.
            version, flags, payload = unseal(stored)
            self._observe(version)
            if not flags and self._plain:
                return payload
        except ResponseError as error:
            raise not_a_value(error) from None
        except NotSealed as error:
            return self._foreign(stored, error)
        except VersionDriftError:
            self._count("drifted")
        return default if flags & TOMBSTONE else self._values.open(flags, payload)

    async def get_with_version(self, key: Any) -> Versioned | None:
        """The value with its version; of a tombstone ``deleted`` is true. None: nothing is there."""
        try:
            return self._versioned(await self._fetch(key))
        except ResponseError as error:
            raise not_a_value(error) from None

    async def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """The values of those keys that have one, in one batch over all nodes."""
        return await self._run(self._get_many(keys))

    async def sync_history(self, key: Any) -> list[HistoryEntry]:
        """The last writes of ``key`` by stores that keep a history, the newest first."""
        return await self._run(self._sync_history(key))

    async def set(self, key: Any, value: Any, ttl: Seconds | None = None) -> WriteResult:
        """Writes ``value`` with a new version, to expire after ``ttl`` seconds (default None: never)."""
        return await self._run(self._set(key, value, ttl))

    async def set_many(
        self, mapping: Mapping[Any, Any], ttl: Seconds | None = None
    ) -> dict[Any, WriteResult]:
        """Writes all values, each with a version of its own, in one batch over all nodes; not atomic."""
        return await self._run(self._set_many(mapping, ttl))

    async def delete(self, key: Any) -> WriteResult:
        """Leaves a tombstone: no older write brings the key back, as long as it lasts."""
        return await self._run(self._delete(key))

    async def delete_many(self, keys: Iterable[Any]) -> dict[Any, WriteResult]:
        """Leaves tombstones, in one batch over all nodes; not atomic."""
        return await self._run(self._delete_many(keys))

    async def set_if_newer(
        self, key: Any, value: Any, version: Version, ttl: Seconds | None = None
    ) -> WriteResult:
        """Writes ``value`` with a version from elsewhere, unless what is there is newer.

        One from the far future raises `VersionDriftError` before anything is sent.
        """
        return await self._run(self._set_if_newer(key, value, version, ttl))

    async def set_if_version(
        self, key: Any, value: Any, expected: Version | None, ttl: Seconds | None = None
    ) -> WriteResult:
        """Writes ``value`` with a new version if ``expected`` is there, that of a tombstone for instance; None: if nothing is."""
        return await self._run(self._set_if_version(key, value, expected, ttl))

    async def lost_writes(self, rewrite: bool = False) -> list[LostWrite]:
        """The keys, of those that the store remembers, whose acknowledged writes the cluster has forgotten.

        With ``rewrite`` they are written again, by their versions: what is newer stays. Raises `BatchError` when keys
        could not be read or written, and ``ValueError`` for a store without ``remember``.
        """
        return await self._run(self._lost_writes(rewrite))

    # -- the driver --------------------------------------------------------------------------------------------------

    async def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._answer(request))
        except StopIteration as end:
            value: T = end.value
            return value

    async def _answer(self, request: Request) -> list[Any]:
        if isinstance(request, OnNodes):
            return await self._on_nodes(request)
        client = self._through(request)
        if isinstance(request, list) and len(request) == 1:
            try:
                return [await client.execute_command(*request[0], **self._options)]
            except _ERRORS as error:
                return [error]
        pipe = client.pipeline(transaction=False)
        count = self._queue(pipe, request)
        try:
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        except _ERRORS as error:
            return [error] * count
        return replies

    async def _on_nodes(self, request: OnNodes) -> list[tuple[Sequence[Any], list[Any]]]:
        groups = self._by_node(request.keys)
        replies = await asyncio.gather(
            *(self._on_node(node, request.commands(keys)) for node, keys in groups)
        )
        return [(keys, some) for (_, keys), some in zip(groups, replies, strict=True)]

    async def _on_node(self, node: Any, commands: list[Any]) -> list[Any]:
        try:
            if node is None:
                pipe = self.client.pipeline(transaction=False)
                self._queue(pipe, commands)
                replies: list[Any] = await pipe.execute(raise_on_error=False)
                return replies
            from redis.asyncio.cluster import PipelineCommand

            queued = [PipelineCommand(i, *command, **self._options) for i, command in enumerate(commands)]
            await node.execute_pipeline(queued)
        except _ERRORS as error:
            return [error] * len(commands)
        return [command.result for command in queued]


__all__ = ["AsyncVersionedStore", "VersionedStore"]
