"""What a versioned store costs: beside plain reads, and beside the same script in redis-py's pipeline."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
import redis

import slotwise
import slotwise.asyncio
from benchmarks.cluster.data import KEYS, value_of
from slotwise._versions import seal
from slotwise.cli._in_loop import InLoop
from slotwise.consistency import AsyncVersionedStore, HybridClock, VersionedStore
from slotwise.consistency.scripts import WRITE
from slotwise.local import LocalCluster

Benchmark = Callable[..., Any]

# From all over the slots; plain values beside versioned ones of the same length.
MANY = {f"versioned:{key}": value_of(key) for key in KEYS[:1_000]}
ONE, *_ = MANY
# In the same slot: another node may be slower or faster by half, wherever its process happens to run.
PLAIN = f"plain:{{{ONE}}}"
TASKS, ROUNDS = 50, 100


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[slotwise.RedisCluster]:
    with slotwise.RedisCluster.from_url(cluster.url) as client:
        VersionedStore(client).set_many(MANY)
        client.set(PLAIN, MANY[ONE])
        yield client


# -- many writes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"history": 100}, {"remember": 10_000}], ids=["plain", "history", "remember"]
)
def test_set_many(benchmark: Any, client: slotwise.RedisCluster, options: dict[str, Any]) -> None:
    benchmark.group = "store: set_many of 1,000"
    store = VersionedStore(client, **options)
    assert all(benchmark(store.set_many, MANY).values())


def test_set_many_by_redis_py(benchmark: Any, cluster: LocalCluster) -> None:
    """Its pipelines refuse `register_script`'s own call in a cluster, so the script goes by its name."""
    benchmark.group = "store: set_many of 1,000"
    clock = HybridClock()
    with redis.RedisCluster.from_url(cluster.url) as client:
        script = client.register_script(WRITE.source.decode())
        client.script_load(WRITE.source.decode())

        def set_many() -> Any:
            pipe = client.pipeline()
            for key, value in MANY.items():
                pipe.execute_command("EVALSHA", script.sha, 1, key, seal(clock.now(), 0, value))
            return pipe.execute()

        assert benchmark(set_many) == [1] * len(MANY)


@pytest.mark.benchmark(group="store: get_many of 1,000")
def test_get_many(benchmark: Benchmark, client: slotwise.RedisCluster) -> None:
    assert benchmark(VersionedStore(client).get_many, MANY) == MANY


@pytest.mark.benchmark(group="store: get_many of 1,000")
def test_get_many_by_mget(benchmark: Benchmark, client: slotwise.RedisCluster) -> None:
    """No faster by more than unpacking costs, and MGET says of a list that nothing is there."""
    assert len(benchmark(client.mget_nonatomic, list(MANY))) == len(MANY)


# -- single calls -----------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="store: get")
@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
def test_get(benchmark: Benchmark, client: slotwise.RedisCluster, versioned: bool) -> None:
    get, key = (VersionedStore(client).get, ONE) if versioned else (client.get, PLAIN)
    assert benchmark(get, key) == MANY[ONE]


@pytest.mark.benchmark(group="store: set")
@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
def test_set(benchmark: Benchmark, client: slotwise.RedisCluster, versioned: bool) -> None:
    set_, key = (VersionedStore(client).set, ONE) if versioned else (client.set, PLAIN)
    assert benchmark(set_, key, MANY[ONE])


@pytest.fixture(scope="module")
def looped(cluster: LocalCluster, client: slotwise.RedisCluster) -> Iterator[InLoop]:
    with closing(InLoop(partial(slotwise.asyncio.RedisCluster.from_url, cluster.url))) as looped:
        yield looped


@pytest.mark.parametrize("operation", ["get", "set"])
@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
def test_awaited_by_50_tasks(benchmark: Any, looped: InLoop, operation: str, versioned: bool) -> None:
    benchmark.group = f"store: asyncio, {operation} by 50 tasks, 100 times each"
    of: Any = AsyncVersionedStore(looped.client) if versioned else looped.client
    arguments = (ONE if versioned else PLAIN, *([MANY[ONE]] if operation == "set" else []))
    call = getattr(of, operation)

    async def task() -> None:
        for _ in range(ROUNDS):
            assert await call(*arguments)

    async def together() -> None:
        await asyncio.gather(*(task() for _ in range(TASKS)))

    benchmark(lambda: looped.run(together()))
