"""What one call of the client costs, round trip included, beside redis-py's.

The two run one after the other here; ``python -m benchmarks`` has them take turns.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio

import slotwise
import slotwise.asyncio
from benchmarks.cluster.data import KEYS, value_of
from slotwise.cli._in_loop import InLoop
from slotwise.local import LocalCluster

Benchmark = Callable[..., Any]

# From all over the slots.
MANY = KEYS[:1_000]


@pytest.fixture(
    scope="session", params=[slotwise.RedisCluster, redis.RedisCluster], ids=["slotwise", "redis-py"]
)
def client(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[Any]:
    with request.param.from_url(cluster.url) as client:
        client.mset_nonatomic({key: value_of(key) for key in MANY})
        yield client


@pytest.mark.benchmark(group="client: GET")
def test_get(benchmark: Benchmark, client: Any) -> None:
    assert benchmark(client.get, MANY[0]) == value_of(MANY[0])


@pytest.mark.benchmark(group="client: SET")
def test_set(benchmark: Benchmark, client: Any) -> None:
    assert benchmark(client.set, MANY[0], value_of(MANY[0]))


@pytest.mark.benchmark(group="client: MGET of 100 keys over all slots")
def test_mget(benchmark: Benchmark, client: Any) -> None:
    keys = MANY[:100]
    assert benchmark(client.mget_nonatomic, keys) == [value_of(key) for key in keys]


@pytest.mark.parametrize("keys", [MANY[:100], MANY], ids=["100", "1000"])
def test_pipeline(benchmark: Any, client: Any, keys: Sequence[str]) -> None:
    benchmark.group = f"client: pipeline of {len(keys)} GET"

    def call() -> Any:
        pipeline = client.pipeline()
        for key in keys:
            pipeline.get(key)
        return pipeline.execute()

    assert benchmark(call) == [value_of(key) for key in keys]


@pytest.fixture(
    scope="session",
    params=[slotwise.asyncio.RedisCluster, redis.asyncio.RedisCluster],
    ids=["slotwise", "redis-py"],
)
def looped(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[InLoop]:
    with closing(InLoop(partial(request.param.from_url, cluster.url))) as looped:
        looped.run(looped.client.mset_nonatomic({key: value_of(key) for key in MANY}))
        yield looped


# Starting and stopping the event loop is in the figures of both.
@pytest.mark.parametrize("tasks", [1, 50])
def test_awaited_get(benchmark: Any, looped: InLoop, tasks: int) -> None:
    benchmark.group = f"asyncio client: GET from {tasks} task{'s' * (tasks > 1)}"
    keys = MANY[:tasks]

    async def together() -> list[Any]:
        return await asyncio.gather(*map(looped.client.get, keys))

    assert benchmark(lambda: looped.run(together())) == [value_of(key) for key in keys]


@pytest.mark.benchmark(group="asyncio client: pipeline of 100 GET")
def test_awaited_pipeline(benchmark: Benchmark, looped: InLoop) -> None:
    keys = MANY[:100]

    async def call() -> Any:
        pipeline = looped.client.pipeline()
        for key in keys:
            pipeline.get(key)
        return await pipeline.execute()

    assert benchmark(lambda: looped.run(call())) == [value_of(key) for key in keys]
