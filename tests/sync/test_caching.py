"""Client-side caching: what was read once is served here, until somebody writes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.cache import CacheConfig

from slotwise import RedisCluster
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background, together


@pytest.fixture
def caching(cluster: LocalCluster, make_client: MakeClient) -> RedisCluster:
    return make_client(cluster, cache_config=CacheConfig())


def gets_served(client: RedisCluster, key: str) -> int:
    """How many GET the server of ``key`` has answered."""
    stats = client.info("commandstats", target_nodes=client.get_node_from_key(key))
    return int(stats.get("cmdstat_get", {}).get("calls", 0))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_hit_is_served_locally(caching: RedisCluster, client: RedisCluster) -> None:
    client.set("hit", "value")
    assert caching.get("hit") == b"value"
    before = gets_served(client, "hit")
    for _ in range(50):
        assert caching.get("hit") == b"value"
    assert gets_served(client, "hit") == before


def test_miss_of_a_missing_key_is_not_kept(caching: RedisCluster, client: RedisCluster) -> None:
    client.delete("missing")
    assert caching.get("missing") is None
    client.set("missing", "there")
    assert caching.get("missing") == b"there"


def test_write_of_another_client_invalidates(caching: RedisCluster, client: RedisCluster) -> None:
    for n in range(20):
        client.set("shared", n)
        eventually(lambda n=n: caching.get("shared") == str(n).encode())  # type: ignore[misc]


def test_own_write_is_read_back(caching: RedisCluster) -> None:
    for n in range(300):
        caching.set("own", n)
        assert caching.get("own") == str(n).encode()


def test_own_write_is_read_back_on_busy_connections(caching: RedisCluster) -> None:
    def work(name: str) -> None:
        for n in range(300):
            caching.set(f"own{name}", n)
            assert caching.get(f"own{name}") == str(n).encode()

    together([lambda n=n: work(str(n)) for n in range(8)])


def test_own_write_through_a_pipeline_is_read_back(caching: RedisCluster) -> None:
    for n in range(100):
        assert caching.get("piped") in (None, str(n - 1).encode())
        caching.pipeline().set("piped", n).execute()
        eventually(lambda n=n: caching.get("piped") == str(n).encode())  # type: ignore[misc]


@pytest.mark.parametrize("flush", ["FLUSHALL", "FLUSHDB"])
def test_flush_empties_the_cache(caching: RedisCluster, client: RedisCluster, flush: str) -> None:
    client.set("flushed", "value")
    assert caching.get("flushed") == b"value"
    client.execute_command(flush, target_nodes="primaries")
    eventually(lambda: caching.get("flushed") is None)


def test_expiry_invalidates(caching: RedisCluster, client: RedisCluster) -> None:
    client.set("brief", "value", px=100)
    assert caching.get("brief") == b"value"
    eventually(lambda: caching.get("brief") is None)


def test_lost_connection_loses_what_it_tracked(
    caching: RedisCluster, client: RedisCluster, cluster: LocalCluster
) -> None:
    """Nobody tells of writes between the loss and the next connection."""
    client.set("tracked", "old")
    assert caching.get("tracked") == b"old"
    node = client.get_node_from_key("tracked")
    server = next(n for n in cluster.nodes if n.port == node.port)
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    server.call("SET", "tracked", "new")
    eventually(lambda: caching.get("tracked") == b"new")
    server.call("SET", "tracked", "newer")
    eventually(lambda: caching.get("tracked") == b"newer")


def test_stale_value_is_never_kept(caching: RedisCluster, client: RedisCluster) -> None:
    """Invalidations meet reads in the middle; afterwards every reader sees the last value."""
    keys = [f"raced{n}" for n in range(4)]
    stop = threading.Event()

    def read() -> int:
        seen: dict[str, int] = {}
        while not stop.is_set():
            for key in keys:
                value = int(caching.get(key) or 0)
                assert value >= seen.get(key, 0), "values never go back"
                seen[key] = value
        return sum(seen.values())

    client.delete(*keys)
    readers = [background(read) for _ in range(4)]
    for n in range(1, 400):
        for key in keys:
            client.set(key, n)
    stop.set()
    for reader in readers:
        reader.result(PATIENCE)
    for key in keys:
        eventually(lambda key=key: caching.get(key) == b"399")  # type: ignore[misc]
        time.sleep(0.01)
        assert caching.get(key) == b"399"


def test_invalidation_between_command_and_reply(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """The reply was read before the write and arrives after the news of it: it must not be kept."""
    client = make_client(scripted, cache_config=CacheConfig())
    node.expect("GET", "a").send(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n").reply(b"old")
    node.expect("GET", "a").reply(b"new")
    assert client.get("a") == b"old"
    assert client.get("a") == b"new"
    assert client.get("a") == b"new"
    assert node.count("GET") == 2


def test_invalidation_that_waits_in_the_socket(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, cache_config=CacheConfig())
    node.expect("GET", "a").reply(b"old")
    node.expect("GET", "a").reply(b"new")
    assert [client.get("a"), client.get("a")] == [b"old", b"old"]
    node.push(b"invalidate", [b"a"])
    time.sleep(0.05)
    assert client.get("a") == b"new"
    node.push(b"invalidate", None)
    time.sleep(0.05)
    node.expect("GET", "a").reply(b"newest")
    assert client.get("a") == b"newest"


def test_odd_push_messages_do_no_harm(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, cache_config=CacheConfig())
    node.expect("GET", "a").reply(b"a")
    node.expect("GET", "b").reply(b"b")
    client.get("a")
    for message in ([b"invalidate"], [b"news"], [], [b"invalidate", b"a"], [5, 6], [b"message", b"ch", b"x"]):
        node.push(*message)
    time.sleep(0.05)
    assert client.get("b") == b"b"


def test_mget_and_other_shapes(caching: RedisCluster, client: RedisCluster) -> None:
    client.mset({"{m}1": "one", "{m}2": "two"})
    client.delete("{m}h", "{m}s")
    client.hset("{m}h", mapping={"f": "v"})
    client.sadd("{m}s", "member")
    for _ in range(3):
        assert caching.mget("{m}1", "{m}2", "{m}3") == [b"one", b"two", None]
        assert caching.hgetall("{m}h") == {b"f": b"v"}
        assert caching.smembers("{m}s") == {b"member"}
        assert caching.strlen("{m}1") == 3
    client.set("{m}2", "zwei")
    client.hset("{m}h", "f", "w")
    eventually(lambda: caching.mget("{m}1", "{m}2") == [b"one", b"zwei"])
    eventually(lambda: caching.mget("{m}1", "{m}2", "{m}3") == [b"one", b"zwei", None])
    eventually(lambda: caching.hgetall("{m}h") == {b"f": b"w"})


def test_kept_value_is_nobodys_to_change(caching: RedisCluster, client: RedisCluster) -> None:
    client.delete("list")
    client.rpush("list", "a", "b")
    first = caching.lrange("list", 0, -1)
    first.append(b"mine")
    second = caching.lrange("list", 0, -1)
    second.append(b"mine")
    assert caching.lrange("list", 0, -1) == [b"a", b"b"]


def test_decoded_replies(cluster: LocalCluster, client: RedisCluster, make_client: MakeClient) -> None:
    caching = make_client(cluster, cache_config=CacheConfig(), decode_responses=True)
    for value in ("früh", "spät"):
        client.set("decoded", value)
        eventually(lambda value=value: caching.get("decoded") == value)  # type: ignore[misc]
        assert caching.get("decoded") == value
    client.delete("ключ")
    client.set("ключ", 1)
    assert caching.get("ключ") == "1"
    client.set("ключ", 2)
    eventually(lambda: caching.get("ключ") == "2")


def test_size_of_the_cache_is_bounded(cluster: LocalCluster, make_client: MakeClient) -> None:
    caching = make_client(cluster, cache_config=CacheConfig(max_size=10))
    for n in range(100):
        caching.set(f"bounded{n}", n)
        assert caching.get(f"bounded{n}") == str(n).encode()
    assert caching.nodes_manager._cache.size <= 10


def test_error_is_not_kept(caching: RedisCluster, client: RedisCluster) -> None:
    client.delete("typed")
    client.lpush("typed", 1)
    with pytest.raises(redis.ResponseError):
        caching.get("typed")
    client.delete("typed")
    client.set("typed", "now")
    eventually(lambda: caching.get("typed") == b"now")


def test_slot_that_moves_takes_its_keys_out_of_the_cache(
    scripted: ScriptedCluster, make_client: MakeClient
) -> None:
    from slotwise import key_slot

    with ScriptedCluster(2) as pair:
        other, owner = pair.nodes
        client = make_client(pair, reinitialize_steps=0, cache_config=CacheConfig())
        owner.expect("GET", "a").reply(b"old")
        assert client.get("a") == b"old"
        owner.expect("INCRBY", "a").error(f"MOVED {key_slot('a')} {other.address}")
        other.expect("INCRBY", "a").reply(1)
        other.expect("GET", "a").reply(b"1")
        client.incr("a")
        assert client.get("a") == b"1"
        assert client.get("a") == b"1"


def test_caching_needs_resp3(cluster: LocalCluster) -> None:
    with pytest.raises(redis.RedisError, match="RESP version 3"):
        RedisCluster.from_url(cluster.url, cache_config=CacheConfig(), protocol=2)


def test_cache_is_shared_by_threads(caching: RedisCluster, client: RedisCluster) -> None:
    keys = [f"threads{n}" for n in range(20)]
    for key in keys:
        client.set(key, key)

    def read(_: Any = None) -> None:
        for _ in range(100):
            for key in keys:
                assert caching.get(key) == key.encode()

    read()
    before = sum(gets_served(client, key) for key in keys[:6])
    together([read] * 6)
    assert sum(gets_served(client, key) for key in keys[:6]) == before


def test_keys_that_are_no_text(cluster: LocalCluster, client: RedisCluster, make_client: MakeClient) -> None:
    """News of them come between replies, and must not be taken for one that cannot be decoded."""
    odd = b"{odd}\xff"
    caching = make_client(cluster, cache_config=CacheConfig(), decode_responses=True)
    client.delete("{odd}h")
    client.hset("{odd}h", "f", "v")
    written = threading.Event()

    def write() -> None:
        for n in range(300):
            client.set(odd, n)
        written.set()

    def read() -> None:
        while not written.is_set():
            assert int(caching.get(odd) or 0) >= 0
            assert caching.ttl("{odd}h") == -1

    together([write, *[read] * 3])
    eventually(lambda: bool(caching.get(odd) == "299"))
    assert caching.hgetall("{odd}h") == {"f": "v"}
