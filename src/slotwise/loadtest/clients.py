"""The clients that can be put under load, behind one set of calls.

Each is used as its own documentation shows it, with its defaults. A call that a client has under the same name and with
the same arguments is bound here, not wrapped, so that all of them run through equally little.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

from redis.connection import parse_url

from slotwise.loadtest.workload import KINDS, Family

#: A command of a pipeline: its name and its arguments, as the method of that name takes them.
Command = tuple[str, tuple[Any, ...]]


class UnsuitableClientError(ValueError):
    """A client that is not installed, or cannot do what is asked of it; the text says what to do."""


class RedisPyLike:
    """redis-py's cluster client, or one that has its interface, for threads or for asyncio."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.get = client.get
        self.set = self.setex = client.set
        self.delete = client.delete
        self.incr = client.incr
        self.hgetall = client.hgetall
        self.mget = client.mget_nonatomic

    def hset(self, key: str, fields: Mapping[str, bytes]) -> Any:
        return self._client.hset(key, mapping=fields)

    def zadd(self, key: str, members: Mapping[str, float]) -> Any:
        return self._client.zadd(key, members)

    def zrangebyscore(self, key: str, first: float, count: int) -> Any:
        return self._client.zrangebyscore(key, first, "+inf", 0, count)

    def pipeline(self, commands: Sequence[Command]) -> Any:
        pipeline = self._client.pipeline()
        for name, arguments in commands:
            if name == "hset":
                pipeline.hset(arguments[0], mapping=arguments[1])
            else:
                getattr(pipeline, "set" if name == "setex" else name)(*arguments)
        return pipeline.execute()


class Slotwise(RedisPyLike):
    """slotwise's own client, and versioned values over it."""

    def __init__(self, client: Any, store: Any) -> None:
        super().__init__(client)
        self.vget = store.get
        self.vset = store.set


class _Alike:
    """What valkey-glide and coredis call alike."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.get = client.get
        self.set = client.set
        self.incr = client.incr
        self.hgetall = client.hgetall
        self.mget = client.mget
        self.hset = client.hset
        self.zadd = client.zadd

    def delete(self, key: str) -> Any:
        return self._client.delete([key])


class Glide(_Alike):
    """valkey-glide's cluster client, for threads or for asyncio; ``api`` is its package."""

    def __init__(self, client: Any, api: Any) -> None:
        super().__init__(client)
        self._api = api

    def setex(self, key: str, value: bytes, seconds: int) -> Any:
        api = self._api
        return self._client.set(key, value, expiry=api.ExpirySet(api.ExpiryType.SEC, seconds))

    def zrangebyscore(self, key: str, first: float, count: int) -> Any:
        api = self._api
        infinity = api.InfBound.POS_INF
        return self._client.zrange(
            key, api.RangeByScore(api.ScoreBoundary(first), infinity, api.Limit(0, count))
        )

    def pipeline(self, commands: Sequence[Command]) -> Any:
        api = self._api
        batch = api.ClusterBatch(is_atomic=False)
        for name, arguments in commands:
            if name == "delete":
                batch.delete([arguments[0]])
            elif name == "setex":
                key, value, seconds = arguments
                batch.set(key, value, expiry=api.ExpirySet(api.ExpiryType.SEC, seconds))
            else:
                getattr(batch, name)(*arguments)
        return self._client.exec(batch, raise_on_error=True)


class Coredis(_Alike):
    """coredis' cluster client."""

    def setex(self, key: str, value: bytes, seconds: int) -> Any:
        return self._client.set(key, value, ex=seconds)

    def zrangebyscore(self, key: str, first: float, count: int) -> Any:
        return self._client.zrangebyscore(key, first, float("inf"), offset=0, count=count)

    async def pipeline(self, commands: Sequence[Command]) -> Any:
        async with self._client.pipeline() as pipeline:
            replies = []
            for name, arguments in commands:
                if name == "delete":
                    replies.append(pipeline.delete([arguments[0]]))
                elif name == "setex":
                    replies.append(pipeline.set(arguments[0], arguments[1], ex=arguments[2]))
                else:
                    replies.append(getattr(pipeline, name)(*arguments))
        return [await reply for reply in replies]


# -- connecting ----------------------------------------------------------------------------------------------------


@contextmanager
def _slotwise(url: str) -> Iterator[Any]:
    from slotwise.consistency import VersionedStore
    from slotwise.sync.cluster import RedisCluster

    with RedisCluster.from_url(url) as client:
        yield Slotwise(client, VersionedStore(client))


@contextmanager
def _redis_py(url: str) -> Iterator[Any]:
    from redis.cluster import RedisCluster

    with RedisCluster.from_url(url) as client:
        yield RedisPyLike(client)


@contextmanager
def _glide(url: str) -> Iterator[Any]:
    import glide_sync

    client = glide_sync.GlideClusterClient.create(_glide_configuration(glide_sync, url))
    try:
        yield Glide(client, glide_sync)
    finally:
        client.close()


@asynccontextmanager
async def _async_slotwise(url: str) -> AsyncIterator[Any]:
    from slotwise.asyncio import RedisCluster
    from slotwise.consistency import AsyncVersionedStore

    async with RedisCluster.from_url(url) as client:
        yield Slotwise(client, AsyncVersionedStore(client))


@asynccontextmanager
async def _async_redis_py(url: str) -> AsyncIterator[Any]:
    from redis.asyncio.cluster import RedisCluster

    async with RedisCluster.from_url(url) as client:
        yield RedisPyLike(client)


@asynccontextmanager
async def _async_glide(url: str) -> AsyncIterator[Any]:
    import glide

    client = await glide.GlideClusterClient.create(_glide_configuration(glide, url))
    try:
        yield Glide(client, glide)
    finally:
        await client.close()


@asynccontextmanager
async def _async_coredis(url: str) -> AsyncIterator[Any]:
    import coredis
    from coredis.connection import TCPLocation

    found = _plain(url, "coredis")
    who = {name: found[name] for name in ("username", "password") if found.get(name)}
    nodes = [TCPLocation(found["host"], found["port"])]
    async with coredis.RedisCluster(startup_nodes=nodes, **who) as client:
        yield Coredis(client)


def _glide_configuration(api: Any, url: str) -> Any:
    found = _plain(url, "valkey-glide")
    who = None
    if found.get("password"):
        who = api.ServerCredentials(found["password"], found.get("username"))
    return api.GlideClusterClientConfiguration(
        [api.NodeAddress(found["host"], found["port"])], credentials=who
    )


def _plain(url: str, client: str) -> dict[str, Any]:
    """What a URL says. Raises `UnsuitableClientError` for TLS."""
    _refuse_tls(url, client)
    return {"host": "localhost", "port": 6379, **parse_url(url)}


def _refuse_tls(url: str, client: str) -> None:
    # Each of them wants it configured in its own way.
    if url.startswith("rediss:"):
        raise UnsuitableClientError(
            f"load-test drives {client} without TLS only: take slotwise or redis-py, or redis://"
        )


SYNC: Mapping[str, Callable[[str], AbstractContextManager[Any]]] = {
    "slotwise": _slotwise,
    "redis-py": _redis_py,
    "valkey-glide": _glide,
}
ASYNCIO: Mapping[str, Callable[[str], AbstractAsyncContextManager[Any]]] = {
    "slotwise": _async_slotwise,
    "redis-py": _async_redis_py,
    "valkey-glide": _async_glide,
    "coredis": _async_coredis,
}

# What has to be importable, by client, for threads and for asyncio, and how to install it.
_PACKAGES = {"valkey-glide": ("glide_sync", "glide"), "coredis": ("coredis", "coredis")}


def check(client: str, *, threads: bool, url: str = "", kinds: Iterable[str] = ()) -> None:
    """Raises `UnsuitableClientError` when a client cannot be used on threads, or under asyncio, for a URL, or for
    operations of these ``kinds``."""
    from importlib.util import find_spec

    if client not in ASYNCIO:
        raise UnsuitableClientError(f"no client {client!r}: there are {', '.join(ASYNCIO)}")
    if threads and client not in SYNC:
        raise UnsuitableClientError(f"{client} has no client for threads: leave out --threads")
    versioned = [kind for kind in kinds if KINDS[kind].family is Family.VERSIONED]
    if versioned and client != "slotwise":
        raise UnsuitableClientError(
            f"{client} has no versioned values: leave out {', '.join(versioned)}, or take slotwise"
        )
    package = _PACKAGES.get(client, ("redis", "redis"))[not threads]
    if find_spec(package) is None:
        name = "valkey-glide-sync" if package == "glide_sync" else client
        raise UnsuitableClientError(f"{client} is not installed: pip install {name}")
    if client in _PACKAGES:
        _refuse_tls(url, client)
