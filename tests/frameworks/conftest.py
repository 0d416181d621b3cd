"""Libraries made for redis-py's cluster client, run over it and over slotwise alike."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.cluster

import slotwise
import slotwise.asyncio
from slotwise.local import LocalCluster

CLASSES = [
    pytest.param(redis.RedisCluster, id="redis-py"),
    pytest.param(slotwise.RedisCluster, id="slotwise"),
]

ASYNC_CLASSES = [
    pytest.param(redis.asyncio.RedisCluster, id="redis-py"),
    pytest.param(slotwise.asyncio.RedisCluster, id="slotwise"),
]

_PATCHED = (
    redis.Redis,
    redis.client.Pipeline,
    redis.RedisCluster,
    redis.cluster.ClusterPipeline,
    redis.asyncio.Redis,
    redis.asyncio.client.Pipeline,
    redis.asyncio.RedisCluster,
    redis.asyncio.cluster.ClusterPipeline,
)


@contextmanager
def classes_restored() -> Iterator[None]:
    """Undo at the end what a tracer has replaced in redis-py's classes."""
    before = [(kind, dict(vars(kind))) for kind in _PATCHED]
    try:
        yield
    finally:
        for kind, members in before:
            for name, member in list(vars(kind).items()):
                if name not in members:
                    delattr(kind, name)
                elif members[name] is not member:
                    setattr(kind, name, members[name])


def empty(reader: redis.RedisCluster) -> None:
    """Leave neither keys nor scripts."""
    reader.flushall(target_nodes="primaries")
    reader.script_flush()


@pytest.fixture
def reader(cluster: LocalCluster) -> Iterator[redis.RedisCluster]:
    """redis-py's client, to read what was stored; the cluster is empty at first."""
    with redis.RedisCluster(startup_nodes=cluster.startup_nodes) as reader:
        empty(reader)
        yield reader


@pytest.fixture(params=CLASSES)
def client_class(request: pytest.FixtureRequest) -> type:
    """redis-py's class, which shows what a library does, and slotwise's, which must do the same."""
    return request.param


@pytest.fixture(params=ASYNC_CLASSES)
def async_class(request: pytest.FixtureRequest) -> Any:
    """As `client_class`, for asyncio."""
    return request.param


@pytest.fixture
def connect(cluster: LocalCluster, reader: redis.RedisCluster) -> Iterator[Callable[..., Any]]:
    """Makes clients of a class, closed after the test; the cluster is empty at first."""
    clients: list[Any] = []

    def connect(kind: type, **options: Any) -> Any:
        clients.append(kind(startup_nodes=cluster.startup_nodes, **options))
        clients[-1].get("connected")
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(client_class: type, connect: Callable[..., Any]) -> Any:
    return connect(client_class)
