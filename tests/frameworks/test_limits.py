"""limits: rate limits in a cluster."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from slotwise.local import LocalCluster

pytest.importorskip("limits", reason="needs limits")

from limits import parse
from limits.storage import RedisClusterStorage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

LIMIT = parse("5/minute")


@pytest.fixture
def storage(
    cluster: LocalCluster, client_class: type, reader: redis.RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> RedisClusterStorage:
    """The library's own cluster storage; it takes the client's class from redis-py's module."""
    monkeypatch.setattr(redis.cluster, "RedisCluster", client_class)
    addresses = ",".join(f"{node.host}:{node.port}" for node in cluster.startup_nodes)
    storage = storage_from_string(f"redis+cluster://{addresses}", max_connections=20)
    assert isinstance(storage, RedisClusterStorage)
    assert type(storage.storage) is client_class
    return storage


@pytest.mark.parametrize(
    "strategy", [FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter]
)
def test_a_limit_holds(strategy: Callable[..., Any], storage: RedisClusterStorage) -> None:
    limiter = strategy(storage)

    allowed = [limiter.hit(LIMIT, "user", "one") for _ in range(7)]

    assert allowed == [True] * 5 + [False] * 2
    assert limiter.test(LIMIT, "user", "two")
    assert limiter.get_window_stats(LIMIT, "user", "one").remaining == 0
    assert limiter.get_window_stats(LIMIT, "user", "two").remaining == 5

    limiter.clear(LIMIT, "user", "one")

    assert limiter.hit(LIMIT, "user", "one", cost=5)
    assert not limiter.hit(LIMIT, "user", "one")


def test_what_is_stored(storage: RedisClusterStorage, reader: redis.RedisCluster) -> None:
    FixedWindowRateLimiter(storage).hit(LIMIT, "user", "fixed", cost=3)
    MovingWindowRateLimiter(storage).hit(LIMIT, "user", "moving", cost=2)

    fixed = "LIMITS:" + LIMIT.key_for("user", "fixed")
    moving = "LIMITS:" + LIMIT.key_for("user", "moving")
    assert reader.get(fixed) == b"3"
    assert 0 < reader.ttl(fixed) <= 60
    assert reader.llen(moving) == 2
    assert storage.get(LIMIT.key_for("user", "fixed")) == 3


def test_reset_and_check(storage: RedisClusterStorage, reader: redis.RedisCluster) -> None:
    for number in range(20):
        storage.incr(f"key-{number}", 60)

    assert storage.check()
    assert storage.reset() == 20
    assert reader.keys("LIMITS*", target_nodes="primaries") == []
