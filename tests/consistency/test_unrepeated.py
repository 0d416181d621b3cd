"""A standalone server's replies that are lost: redis-py would send the command again and not tell."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from typing import Any

import pytest
import redis
import redis.asyncio

import slotwise
import slotwise.asyncio
from slotwise.cli._in_loop import InLoop
from slotwise.consistency import AsyncVersionedStore, VersionedStore
from slotwise.local import LocalCluster, StandaloneServer
from tests.consistency.conftest import Awaited

# How a client is made of a server's settings, for threads and for asyncio.
Make = tuple[Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], Any]]
MAKES: dict[str, Make] = {
    "connect": (slotwise.connect, slotwise.asyncio.connect),
    "redis.Redis": (lambda given: redis.Redis(**given), lambda given: redis.asyncio.Redis(**given)),
    "single connection": (
        lambda given: redis.Redis(**given, single_connection_client=True),
        lambda given: redis.asyncio.Redis(**given, single_connection_client=True),
    ),
    "blocking pool": (
        lambda given: redis.Redis(connection_pool=redis.BlockingConnectionPool(**given, **RETRIES[0])),
        lambda given: redis.asyncio.Redis(
            connection_pool=redis.asyncio.BlockingConnectionPool(**given, **RETRIES[1])
        ),
    ),
}
RETRIES = (
    {"retry": redis.retry.Retry(redis.backoff.NoBackoff(), 3)},
    {"retry": redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 3)},
)
Lose = Callable[[Callable[[], object]], None]


@pytest.fixture
def other(standalone: StandaloneServer) -> Iterator[VersionedStore]:
    """A store of somebody else."""
    with slotwise.connect(standalone.url) as client:
        yield VersionedStore(client)


@pytest.fixture(params=["threads", "asyncio"])
def make(request: pytest.FixtureRequest, standalone: StandaloneServer) -> Iterator[Callable[[str], Any]]:
    """``make(how)``: a store over a client with retries."""
    given = {"host": standalone.host, "port": standalone.port, **standalone.client_options}
    with ExitStack() as stack:

        def store(how: str) -> Any:
            if request.param == "threads":
                return VersionedStore(stack.enter_context(MAKES[how][0](given)))

            @asynccontextmanager
            async def connecting() -> AsyncIterator[Any]:
                made = MAKES[how][1](given)
                async with await made if inspect.iscoroutine(made) else made as client:
                    yield client

            looped = stack.enter_context(closing(InLoop(connecting)))
            return Awaited(looped, AsyncVersionedStore(looped.client))

        yield store


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """``lose(act)``: the next reply that a connection reads is lost, and then ``act`` is called."""
    waiting: list[Callable[[], object]] = []

    def loses() -> None:
        if waiting:
            waiting.pop()()
            raise redis.ConnectionError("the reply was lost")

    read, awaited = redis.Connection.read_response, redis.asyncio.Connection.read_response

    def read_response(self: Any, *args: Any, **options: Any) -> Any:
        reply = read(self, *args, **options)
        loses()
        return reply

    async def awaited_read_response(self: Any, *args: Any, **options: Any) -> Any:
        reply = await awaited(self, *args, **options)
        loses()
        return reply

    monkeypatch.setattr(redis.Connection, "read_response", read_response)
    monkeypatch.setattr(redis.asyncio.Connection, "read_response", awaited_read_response)
    return waiting.append


@pytest.mark.parametrize("how", MAKES)
def test_what_was_applied_is_never_told_as_discarded(
    make: Callable[[str], Any], how: str, other: VersionedStore, lose: Lose, key: str
) -> None:
    store = make(how)
    first = store.set(key, b"1").version

    def build_on_it() -> None:
        there = other.get_with_version(key)
        assert there is not None
        assert other.set_if_version(key, there.value + b"!", expected=there.version)

    lose(build_on_it)
    assert store.set_if_version(key, b"2", expected=first).outcome == "unknown"
    assert other.get(key) == b"2!"
    # In a batch as well.
    lose(build_on_it)
    assert store.set_many({key: b"3", "another": b""})[key].outcome == "unknown"
    assert other.get(key) == b"3!"
    assert store.stats.repeated == 3
    # And nothing in between: then the second try tells.
    lose(lambda: None)
    assert store.set(key, b"5").outcome == "applied"


def test_the_client_keeps_its_retries(
    make: Callable[[str], Any], other: VersionedStore, lose: Lose, key: str
) -> None:
    store = make("connect")
    store.set(key, b"1")
    lose(lambda: None)
    assert store.get(key) == b"1"
    lose(lambda: None)
    assert store.get_many([key]) == {key: b"1"}
    lose(lambda: None)
    assert store.sync_history(key) == []
    assert store.stats.repeated == 0


def test_connections_go_back_to_their_pool(standalone: StandaloneServer, key: str) -> None:
    options = {"host": standalone.host, "port": standalone.port, **standalone.client_options}
    with redis.Redis(connection_pool=redis.BlockingConnectionPool(max_connections=1, **options)) as client:
        store = VersionedStore(client)
        for _ in range(3):
            store.set(key, b"1")
            store.set_many({key: b"2"})
            client.rpush(f"{key}:list", "x")
            with pytest.raises(Exception, match="list"):
                store.set(f"{key}:list", b"1")
        del store
        assert client.ping()


def test_a_cluster_client_that_repeats_writes_is_refused(cluster: LocalCluster) -> None:
    message = r" takes {}\.RedisCluster and not redis-py's"
    with (
        redis.RedisCluster.from_url(cluster.url) as client,
        pytest.raises(TypeError, match="VersionedStore" + message.format("slotwise")),
    ):
        VersionedStore(client)
    awaited = redis.asyncio.RedisCluster.from_url(cluster.url)
    with pytest.raises(TypeError, match="AsyncVersionedStore" + message.format(r"slotwise\.asyncio")):
        AsyncVersionedStore(awaited)
