"""django-redis, which knows no cluster: a connection factory and two overridden methods make it one."""

import pickle
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import redis
from redis.cluster import RedisCluster

from slotwise.local import LocalCluster

pytest.importorskip("django_redis", reason="needs django-redis")

from django.conf import settings

if not settings.configured:
    settings.configure(CACHES={}, USE_TZ=True)

from django.core.cache import CacheHandler
from django_redis.client import DefaultClient
from django_redis.pool import ConnectionFactory


class ClusterConnectionFactory(ConnectionFactory):
    """Makes one cluster client a URL, of the class in ``OPTIONS["REDIS_CLIENT_CLASS"]``."""

    clients: ClassVar[dict[tuple[type, str], Any]] = {}

    def connect(self, url: str) -> Any:
        name = (self.redis_client_cls, url)
        if name not in self.clients:
            self.clients[name] = self.redis_client_cls.from_url(url, **self.redis_client_cls_kwargs)
        return self.clients[name]

    def disconnect(self, connection: Any) -> None:
        connection.close()


class ClusterClient(DefaultClient):
    """django-redis reads many keys with one MGET, and clears with one FLUSHDB."""

    def get_many(self, keys: Any, version: int | None = None, client: Any = None) -> dict[str, Any]:
        names = {self.make_key(key, version=version): key for key in keys}
        values = self.get_client(write=False).mget_nonatomic(list(names))
        return {
            key: self.decode(value)
            for key, value in zip(names.values(), values, strict=True)
            if value is not None
        }


@pytest.fixture
def cache(client_class: type, cluster: LocalCluster, reader: redis.RedisCluster) -> Iterator[Any]:
    ClusterConnectionFactory.clients = {}
    handler = CacheHandler(
        {
            "default": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": cluster.url,
                "OPTIONS": {
                    "CLIENT_CLASS": f"{__name__}.ClusterClient",
                    "CONNECTION_FACTORY": f"{__name__}.ClusterConnectionFactory",
                    "REDIS_CLIENT_CLASS": f"{client_class.__module__}.{client_class.__qualname__}",
                    "REDIS_CLIENT_KWARGS": {"socket_timeout": 5},
                },
            }
        }
    )
    yield handler["default"]
    handler["default"].client.disconnect()


def key(name: str) -> str:
    return f":1:{name}"


def test_the_client_is_the_class_of_the_settings(cache: Any, client_class: type) -> None:
    client = cache.client.get_client()

    assert type(client) is client_class
    assert isinstance(client, RedisCluster)


def test_values_are_stored_and_read(cache: Any, reader: redis.RedisCluster) -> None:
    cache.set("user", {"name": "żółw"}, timeout=100)
    cache.set("number", 5)

    assert cache.get("user") == {"name": "żółw"}
    assert cache.get("missing", "default") == "default"
    assert cache.has_key("user")
    stored = reader.get(key("user"))
    assert stored is not None
    assert pickle.loads(stored) == {"name": "żółw"}
    assert 0 < reader.ttl(key("user")) <= 100
    assert reader.get(key("number")) == b"5"


def test_add_touch_and_numbers(cache: Any, reader: redis.RedisCluster) -> None:
    assert cache.add("once", 1)
    assert not cache.add("once", 2)
    assert cache.incr("once", 10) == 11
    assert cache.decr("once") == 10
    assert cache.touch("once", 50)
    assert 0 < reader.ttl(key("once")) <= 50
    assert cache.ttl("once") == reader.ttl(key("once"))
    assert cache.persist("once")
    assert reader.ttl(key("once")) == -1
    with pytest.raises(ValueError, match="not found"):
        cache.incr("missing")


def test_many_over_all_slots(cache: Any, reader: redis.RedisCluster) -> None:
    values = {f"key-{number}": number for number in range(20)}

    cache.set_many(values, timeout=100)

    assert cache.get_many([*values, "missing"]) == values
    assert len(reader.keys(":1:key-*", target_nodes="primaries")) == 20
    assert cache.delete_many(values) == 20
    assert reader.keys(":1:key-*", target_nodes="primaries") == []


def test_patterns(cache: Any) -> None:
    cache.set_many({f"user-{number}": number for number in range(10)})
    cache.set("other", 1)

    assert sorted(cache.iter_keys("user-*")) == sorted(f"user-{number}" for number in range(10))
    assert cache.delete_pattern("user-*") == 10
    assert list(cache.iter_keys("*")) == ["other"]


def test_sets_and_hashes(cache: Any, reader: redis.RedisCluster) -> None:
    assert cache.sadd("set", "a", "b") == 2
    assert cache.smembers("set") == {"a", "b"}
    assert cache.hset("hash", "field", "value") == 1
    assert cache.hlen("hash") == 1
    assert reader.hlen(key("hash")) == 1


def test_a_lock_is_held_once(cache: Any, reader: redis.RedisCluster) -> None:
    with cache.lock("lock", timeout=10):
        assert 0 < reader.ttl(key("lock")) <= 10
        assert not cache.lock("lock", timeout=10, blocking_timeout=0).acquire(blocking=False)
    assert not reader.exists(key("lock"))


def test_clear(cache: Any, reader: redis.RedisCluster) -> None:
    cache.set_many({f"key-{number}": number for number in range(20)})

    cache.clear()

    assert reader.dbsize(target_nodes="primaries") == 0
