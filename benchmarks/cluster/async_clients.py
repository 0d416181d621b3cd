"""The clients of asyncio, behind one set of calls; the rules are those of `clients`.

Each connection to a cluster is an async context manager, and runs under whatever event loop it is
entered in.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol

from benchmarks.cluster.clients import Keys
from slotwise.cli._in_loop import InLoop
from slotwise.local import LocalCluster


class AsyncClient(Protocol):
    """What the rows of asyncio clients call."""

    get: Callable[[str], Awaitable[Any]]
    set: Callable[[str, bytes], Awaitable[Any]]

    async def pipeline(self, keys: Keys) -> Any:
        """The values of keys in any slots, by a pipeline of GET."""


class AsyncRedisPyLike:
    """redis-py's cluster client for asyncio, or one that has its interface."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.get = client.get
        self.set = client.set

    async def pipeline(self, keys: Keys) -> Any:
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.get(key)
        return await pipeline.execute()


class AsyncGlide:
    """valkey-glide's cluster client."""

    def __init__(self, client: Any, batch: Callable[..., Any]) -> None:
        self._client = client
        self._batch = batch
        self.get = client.get
        self.set = client.set

    async def pipeline(self, keys: Keys) -> Any:
        batch = self._batch(is_atomic=False)
        for key in keys:
            batch.get(key)
        return await self._client.exec(batch, raise_on_error=True)


class Coredis:
    """coredis' cluster client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.get = client.get
        self.set = client.set

    async def pipeline(self, keys: Keys) -> Any:
        async with self._client.pipeline() as pipeline:
            replies = [pipeline.get(key) for key in keys]
        return [await reply for reply in replies]


@asynccontextmanager
async def _slotwise(cluster: LocalCluster) -> AsyncIterator[AsyncClient]:
    from slotwise.asyncio import RedisCluster

    async with RedisCluster.from_url(cluster.url) as client:
        yield AsyncRedisPyLike(client)


@asynccontextmanager
async def _redis_py(cluster: LocalCluster) -> AsyncIterator[AsyncClient]:
    from redis.asyncio import RedisCluster

    async with RedisCluster.from_url(cluster.url) as client:
        yield AsyncRedisPyLike(client)


@asynccontextmanager
async def _glide(cluster: LocalCluster) -> AsyncIterator[AsyncClient]:
    from glide import ClusterBatch, GlideClusterClient, GlideClusterClientConfiguration, NodeAddress

    addresses = [NodeAddress(node.host, node.port) for node in cluster.nodes]
    client = await GlideClusterClient.create(GlideClusterClientConfiguration(addresses))
    try:
        yield AsyncGlide(client, ClusterBatch)
    finally:
        await client.close()


@asynccontextmanager
async def _coredis(cluster: LocalCluster) -> AsyncIterator[AsyncClient]:
    from coredis import RedisCluster
    from coredis.connection import TCPLocation

    nodes = [TCPLocation(node.host, node.port) for node in cluster.nodes]
    async with RedisCluster(startup_nodes=nodes) as client:
        yield Coredis(client)


_CLIENTS: Mapping[str, Callable[[LocalCluster], AbstractAsyncContextManager[AsyncClient]]] = {
    "slotwise": _slotwise,
    "redis-py": _redis_py,
    "valkey-glide": _glide,
    "coredis": _coredis,
}


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _connect(
    connecting: Callable[[LocalCluster], AbstractAsyncContextManager[AsyncClient]],
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    cluster: LocalCluster,
) -> InLoop:
    return InLoop(partial(connecting, cluster), new_loop)


#: How to connect each client under asyncio's own event loop, and under uvloop's.
ASYNCIO: Mapping[str, Callable[[LocalCluster], InLoop]] = {
    name: partial(_connect, connecting, asyncio.new_event_loop) for name, connecting in _CLIENTS.items()
}
UVLOOP: Mapping[str, Callable[[LocalCluster], InLoop]] = {
    name: partial(_connect, connecting, _uvloop) for name, connecting in _CLIENTS.items()
}
