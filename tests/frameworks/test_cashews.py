"""cashews: its classes inherit from redis-py's asyncio cluster client and wrap ``execute_command``."""

import asyncio
import importlib.util
from types import ModuleType
from typing import Any

import pytest
import redis
import redis.asyncio

from slotwise.local import LocalCluster
from tests.asyncio.loops import run

pytest.importorskip("cashews", reason="needs cashews")

import cashews
from cashews.backends.redis import backend
from cashews.exceptions import CacheBackendInteractionError


def _clients_over(kind: Any) -> ModuleType:
    """The library's own module of clients, with ``kind`` as the base of its cluster classes."""
    spec = importlib.util.find_spec("cashews.backends.redis.client")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis.asyncio, "RedisCluster", kind)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def clients(async_class: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    clients = _clients_over(async_class)
    for name in ("RedisCluster", "SafeRedisCluster"):
        assert issubclass(getattr(clients, name), async_class)
        monkeypatch.setattr(backend, name, getattr(clients, name))
    return clients


@pytest.fixture
def cache(clients: ModuleType, cluster: LocalCluster, reader: redis.RedisCluster) -> cashews.Cache:
    cache = cashews.Cache()
    cache.setup(f"{cluster.url}?cluster=1", suppress=False)
    return cache


def test_values_and_counters(cache: cashews.Cache, clients: ModuleType, reader: redis.RedisCluster) -> None:
    async def main() -> None:
        await cache.init()
        [used] = cache._backends.values()
        assert type(used[0]._client if isinstance(used, tuple) else used._client) is clients.RedisCluster
        assert await cache.set("user", {"name": "żółw"}, expire=100)
        assert await cache.get("user") == {"name": "żółw"}
        assert await cache.get("missing", default="none") == "none"
        assert [await cache.incr("n"), await cache.incr("n", 5)] == [1, 6]
        assert await cache.incr("fleeting", expire=100) == 1
        assert await cache.incr_bits("bits", 1, 2) == (1, 1)
        assert await cache.get_bits("bits", 0, 1, 2) == (0, 1, 1)
        assert await cache.slice_incr("slice", 0, 1, maxvalue=5) == 1
        await cache.close()

    run(main)
    assert 0 < reader.ttl("user") <= 100
    assert reader.get("n") == b"6"
    assert 0 < reader.ttl("fleeting") <= 100
    assert reader.zcard("slice") == 1


def test_many_keys_of_any_slots(cache: cashews.Cache, reader: redis.RedisCluster) -> None:
    names = [f"many:{number}" for number in range(30)]

    async def main() -> None:
        await cache.set_many({name: number for number, name in enumerate(names)}, expire=100)
        assert await cache.get_many(*names, "missing") == (*range(30), None)
        assert sorted([name async for name in cache.scan("many:*")]) == sorted(names)
        await cache.delete_many(*names[:10])
        assert [reader.exists(name) for name in names] == [0] * 10 + [1] * 20
        await cache.delete_match("many:*")
        await cache.close()

    run(main)
    assert reader.keys("many:*", target_nodes="primaries") == []


def test_locks_and_decorators(cache: cashews.Cache, reader: redis.RedisCluster) -> None:
    calls = []

    @cache(ttl="1m", key="double:{number}", lock=True)
    async def double(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0.01)
        return number * 2

    async def main() -> None:
        async with cache.lock("work", expire=10):
            assert await cache.is_locked("work")
            assert reader.exists("work") == 1
        assert not await cache.is_locked("work")
        assert [await double(number) for number in (2, 2, 3)] == [4, 4, 6]
        await cache.close()

    run(main)
    assert calls == [2, 3]
    assert reader.get("double:2") == b"4"


def test_errors_pass_its_wrapper(cache: cashews.Cache) -> None:
    """It overrides execute_command and calls super(): the short ways of slotwise must not pass it by."""

    async def main() -> None:
        await cache.set("text", "word")
        with pytest.raises(CacheBackendInteractionError) as caught:
            await cache.incr("text")
        assert isinstance(caught.value.__cause__, redis.ResponseError)
        await cache.close()

    run(main)


def test_suppressed_errors(
    clients: ModuleType, cluster: LocalCluster, reader: redis.RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cashews.Cache()
    cache.setup(f"{cluster.url}?cluster=1", suppress=True)

    async def main() -> None:
        await cache.set("text", "word")
        assert await cache.incr("text") is None
        await cache.close()

    run(main)
    assert "can not execute command: INCRBY" in caplog.text
