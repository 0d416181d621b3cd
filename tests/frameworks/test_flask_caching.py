"""Flask-Caching: its cluster backend, and its Redis backend with a client given."""

import pickle
from typing import Any

import pytest
import redis

from slotwise.local import LocalCluster

pytest.importorskip("flask_caching", reason="needs flask-caching")

from flask import Flask
from flask_caching import Cache
from flask_caching.backends.rediscache import RedisCache, RedisClusterCache

PREFIX = "flask:"


def given_client(app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> RedisCache:
    """A backend of the application's own: the client comes from its configuration."""
    return RedisCache(host=config["CACHE_CLIENT"], key_prefix=config["CACHE_KEY_PREFIX"])


def cluster_backend(
    client_class: type, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setattr(redis, "RedisCluster", client_class)
    addresses = ",".join(f"{node.host}:{node.port}" for node in cluster.startup_nodes)
    return {
        "CACHE_TYPE": "RedisClusterCache",
        "CACHE_REDIS_CLUSTER": addresses,
        "CACHE_OPTIONS": {"socket_timeout": 5},
    }


def cluster_backend_by_url(
    client_class: type, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setattr(redis, "RedisCluster", client_class)
    return {"CACHE_TYPE": "RedisClusterCache", "CACHE_REDIS_URL": cluster.url}


def own_backend(client_class: Any, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"CACHE_TYPE": f"{__name__}.given_client", "CACHE_CLIENT": client_class.from_url(cluster.url)}


@pytest.fixture(params=[cluster_backend, cluster_backend_by_url, own_backend])
def app(
    request: pytest.FixtureRequest,
    client_class: type,
    cluster: LocalCluster,
    reader: redis.RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> Flask:
    app = Flask("test")
    app.config.update(request.param(client_class, cluster, monkeypatch), CACHE_KEY_PREFIX=PREFIX)
    return app


@pytest.fixture
def cache(app: Flask, client_class: type) -> Cache:
    cache = Cache(app)
    with app.app_context():
        backend = cache.cache
    assert isinstance(backend, RedisCache | RedisClusterCache)
    assert type(backend._write_client) is client_class
    return cache


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Any:
    with app.app_context():
        yield


def test_values_are_stored_and_read(cache: Cache, reader: redis.RedisCluster) -> None:
    assert cache.set("user", {"name": "żółw", "n": 1}, timeout=100)

    assert cache.get("user") == {"name": "żółw", "n": 1}
    assert cache.get("missing") is None
    assert cache.has("user")
    stored = reader.get(PREFIX + "user")
    assert stored is not None
    assert pickle.loads(stored.removeprefix(b"!")) == {"name": "żółw", "n": 1}
    assert 0 < reader.ttl(PREFIX + "user") <= 100


def test_add_delete_and_numbers(cache: Cache, reader: redis.RedisCluster) -> None:
    assert cache.add("once", 1)
    assert not cache.add("once", 2)
    assert cache.get("once") == 1
    assert cache.delete("once")
    assert not reader.exists(PREFIX + "once")
    assert cache.cache.inc("counter", 5) == 5
    assert cache.cache.dec("counter", 2) == 3
    assert reader.get(PREFIX + "counter") == b"3"


def test_many_over_all_slots(cache: Cache, reader: redis.RedisCluster) -> None:
    """Writing and deleting many works over redis-py; reading many is an MGET, which it refuses."""
    values = {f"key-{number}": number for number in range(20)}

    assert cache.set_many(values)
    assert sorted(reader.keys(PREFIX + "*", target_nodes="primaries")) == sorted(
        (PREFIX + name).encode() for name in values
    )
    with pytest.raises(redis.RedisClusterException, match="same key slot"):
        cache.get_many(*values)
    cache.set("{tag}one", 1)
    assert cache.get_many("{tag}one", "{tag}two") == [1, None]
    cache.delete("{tag}one")
    assert cache.delete_many(*values)
    assert reader.keys(PREFIX + "*", target_nodes="primaries") == []


def test_unlink_and_clear(cache: Cache, reader: redis.RedisCluster) -> None:
    cache.set("one", 1)
    cache.set("two", 2)

    assert cache.unlink("one", "two", "three") == 2


def test_clear(cache: Cache, reader: redis.RedisCluster) -> None:
    """With a prefix the library asks KEYS of one node only, whatever the client; without one it flushes all."""
    cache.cache.key_prefix = ""
    cache.set_many({f"key-{number}": number for number in range(20)})

    assert cache.clear()
    assert reader.dbsize(target_nodes="primaries") == 0


def test_views_and_functions_are_cached(app: Flask, cache: Cache) -> None:
    calls = []

    @app.route("/")
    @cache.cached(timeout=50)
    def index() -> str:
        calls.append("view")
        return f"called {len(calls)}"

    @cache.memoize(50)
    def double(number: int) -> int:
        calls.append("function")
        return number * 2

    browser = app.test_client()

    assert browser.get("/").data == browser.get("/").data == b"called 1"
    assert double(2) == double(2) == 4
    assert double(3) == 6
    cache.delete_memoized(double)
    assert double(2) == 4
    assert calls == ["view", "function", "function", "function"]
