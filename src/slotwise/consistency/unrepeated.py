"""A standalone server's client that sends each command once.

redis-py's clients send a command again when its reply was lost, ten times by default, and say nothing of it. A write that
was applied then meets what somebody has made of it since, and is told as one that was not.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AwaitedRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

T = TypeVar("T")


def unrepeated(client: T) -> T:
    """A client like ``client`` and over the same connections, which repeats nothing. Of a cluster it is the client itself."""
    if not isinstance(client, (redis.Redis, redis.asyncio.Redis)):
        return client
    sender: Any = copy.copy(client)
    awaited = isinstance(client, redis.asyncio.Redis)
    sender.connection_pool = (_AwaitedPool if awaited else _Pool)(client.connection_pool)
    # What only one may have, and close, stays with ``client``.
    sender.connection = None
    sender.auto_close_connection_pool = False
    setattr(sender, "single_connection_client" if awaited else "_single_connection_client", False)
    once: T = sender
    return once


class _Lender:
    """Connections of another pool. They repeat nothing until they are given back; connecting has been tried by then."""

    _once: Any

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._retries: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def _lent(self, connection: Any) -> Any:
        self._retries[connection], connection.retry = connection.retry, self._once
        return connection

    def _returned(self, connection: Any) -> Any:
        connection.retry = self._retries.pop(connection)
        return connection


class _Pool(_Lender):
    _once = Retry(NoBackoff(), 0)

    def get_connection(self) -> Any:
        return self._lent(self._pool.get_connection())

    def release(self, connection: Any) -> None:
        self._pool.release(self._returned(connection))


class _AwaitedPool(_Lender):
    _once = AwaitedRetry(NoBackoff(), 0)

    async def get_connection(self) -> Any:
        return self._lent(await self._pool.get_connection())

    async def release(self, connection: Any) -> None:
        await self._pool.release(self._returned(connection))
