"""Each client does each operation, and reads back what was written: of threads, and under asyncio."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

from slotwise import RedisCluster
from slotwise.cli._in_loop import InLoop
from slotwise.loadtest import Options, Workload, data
from slotwise.loadtest.clients import ASYNCIO, SYNC, UnsuitableClientError, check
from slotwise.loadtest.steps import awaited, blocking, index_of
from slotwise.loadtest.stream import calls_of
from slotwise.loadtest.workload import KINDS, PRESETS
from slotwise.local import LocalCluster
from tests.loadtest.streams import stream

#: Client, package.
PEERS = [
    ("slotwise", "slotwise"),
    ("redis-py", "redis"),
    ("valkey-glide", "glide"),
    ("coredis", "coredis"),
]
PREFIX = "clients:"
Do = Callable[..., Any]


@contextmanager
def connected(client: str, url: str, *, threads: bool) -> Iterator[tuple[Do, Any]]:
    """What makes a call and returns its reply, and the client's calls."""
    if threads:
        with SYNC[client](url) as found:
            yield (lambda call, *arguments: call(*arguments)), found
        return

    async def reply(call: Any, arguments: Any) -> Any:
        return await call(*arguments)

    holder = InLoop(lambda: ASYNCIO[client](url))
    try:
        yield (lambda call, *arguments: holder.run(reply(call, arguments))), holder.client
    finally:
        holder.close()


def both(peers: list[tuple[str, str]]) -> Iterator[Any]:
    for client, package in peers:
        for threads in (False, True):
            if not threads or client in SYNC:
                missing = find_spec("glide_sync" if threads and package == "glide" else package) is None
                yield pytest.param(
                    client,
                    threads,
                    marks=[pytest.mark.skipif(missing, reason=f"{client} is not installed")],
                    id=f"{client}-{'threads' if threads else 'asyncio'}",
                )


@pytest.fixture
def keys(cluster: LocalCluster) -> Iterator[RedisCluster]:
    with RedisCluster.from_url(cluster.url) as client:
        yield client
        for key in client.scan_iter(f"{PREFIX}*"):
            client.delete(key)


def url_for(cluster: LocalCluster, client: str) -> str:
    if cluster.tls is not None and client in ("valkey-glide", "coredis"):
        pytest.skip(f"load tests drive {client} without TLS only")
    return cluster.url


def as_bytes(found: Mapping[Any, Any]) -> dict[bytes, bytes]:
    return {name if isinstance(name, bytes) else name.encode(): value for name, value in found.items()}


# coredis would rather have ZRANGE BYSCORE, which Redis 6.0 does not know.
@pytest.mark.filterwarnings("ignore:Use .*zrange:DeprecationWarning")
@pytest.mark.parametrize(("client", "threads"), list(both(PEERS)))
def test_every_operation_and_its_reply(
    cluster: LocalCluster, keys: RedisCluster, client: str, threads: bool
) -> None:
    names = [f"{PREFIX}{number}" for number in range(20)]
    binary = b"\x00\xff\r\n" * 25
    with connected(client, url_for(cluster, client), threads=threads) as (do, api):
        calls = calls_of(api, blocking if threads else awaited)
        assert do(calls["get"], names[0]) is None
        for number, name in enumerate(names):
            do(calls["set"], name, binary + b"%d" % number)
        assert do(calls["get"], names[7]) == binary + b"7"
        assert keys.get(names[7]) == binary + b"7"
        assert list(do(calls["mget"], names)) == [binary + b"%d" % number for number in range(20)]
        do(calls["setex"], names[0], b"short", 100)
        assert 0 < keys.ttl(names[0]) <= 100
        assert keys.ttl(names[1]) == -1
        assert do(calls["delete"], names[1]) == 1
        assert keys.exists(names[1]) == 0
        counter = f"{PREFIX}counter"
        assert [do(calls["incr"], counter) for _ in range(2)] == [1, 2]
        record = f"{PREFIX}record"
        do(calls["hset"], record, {"field1": b"one", "field2": binary})
        assert as_bytes(do(calls["hgetall"], record)) == {b"field1": b"one", b"field2": binary}

        batch = [
            ("set", (names[3], b"three")),
            ("setex", (names[4], b"four", 50)),
            ("get", (names[3],)),
            ("delete", (names[5],)),
            ("incr", (counter,)),
            ("hset", (record, {"field1": b"1"})),
            ("hgetall", (record,)),
        ]
        replies = do(calls["pipeline"], batch)
        assert len(replies) == len(batch)
        assert list(replies[2:5]) == [b"three", 1, 3]
        assert as_bytes(replies[6]) == {b"field1": b"1", b"field2": binary}
        assert 0 < keys.ttl(names[4]) <= 50

        # What takes several commands.
        do(calls["cached"], names[1], b"fresh", 70)
        assert keys.get(names[1]) == b"fresh"
        assert 0 < keys.ttl(names[1]) <= 70
        do(calls["cached"], names[1], b"again", 70)
        assert keys.get(names[1]) == b"fresh"
        do(calls["rmw"], record, {"field1": b"written"})
        assert keys.hget(record, "field1") == b"written"
        index = index_of(PREFIX, 5)
        for number in range(5, 8):
            do(calls["insert"], f"{PREFIX}h:{number}", {"field0": b"%d" % number}, index, number)
        assert keys.hget(f"{PREFIX}h:6", "field0") == b"6"
        found = do(api.zrangebyscore, index, 6, 100)
        assert [member if isinstance(member, str) else member.decode() for member in found] == [
            f"{PREFIX}h:6",
            f"{PREFIX}h:7",
        ]
        assert len(do(api.zrangebyscore, index, 0, 2)) == 2
        before = hgetalls(cluster)
        do(calls["scan"], index, 6, 100)
        assert hgetalls(cluster) - before == 2
        # Where nothing is, there is nothing to read.
        do(calls["scan"], index_of(PREFIX, 10**6), 10**6, 100)
        assert hgetalls(cluster) - before == 2


def hgetalls(cluster: LocalCluster) -> int:
    total = 0
    for node in cluster.primaries:
        for line in str(node.call("INFO", "commandstats")).splitlines():
            if line.startswith("cmdstat_hgetall:"):
                total += int(line.partition("calls=")[2].partition(",")[0])
    return total


@pytest.mark.parametrize("threads", [False, True], ids=["asyncio", "threads"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset(cluster: LocalCluster, keys: RedisCluster, preset: str, threads: bool) -> None:
    """What a preset draws is found where it was stored."""
    workload = Workload(**{**vars(PRESETS[preset].workload), "keys": 1200, "prefix": PREFIX})
    if workload.preload:
        data.store(keys, workload, 1, lambda stored: None)
    with connected("slotwise", cluster.url, threads=threads) as (do, api):
        calls = calls_of(api, blocking if threads else awaited)
        chunk = stream(workload, calls).draw()
        for call, arguments in list(zip(chunk.calls, chunk.args, strict=True))[:150]:
            reply = do(call, *arguments)
            if call == calls["hgetall"]:
                assert len(reply) == 10, arguments
            elif call == calls["get"]:
                assert reply, arguments


@pytest.mark.parametrize("threads", [True, False])
def test_versioned_values(cluster: LocalCluster, keys: RedisCluster, threads: bool) -> None:
    key = f"{PREFIX}versioned"
    with connected("slotwise", cluster.url, threads=threads) as (do, api):
        calls = calls_of(api, blocking if threads else awaited)
        assert do(calls["vget"], key) is None
        assert do(calls["vset"], key, b"value").outcome == "applied"
        assert keys.ttl(key) == -1
        do(calls["vset"], key, b"other", 100)
        assert do(calls["vget"], key) == b"other"
        assert 0 < keys.ttl(key) <= 100


def test_others_have_no_versioned_values() -> None:
    with pytest.raises(UnsuitableClientError, match=r"redis-py has no versioned values: leave out vset, or"):
        Options("redis://localhost:6379", Workload({"get": 1, "vset": 1}), client="redis-py")


def test_every_kind_has_a_call(cluster: LocalCluster) -> None:
    with connected("slotwise", cluster.url, threads=True) as (_, api):
        assert KINDS.keys() <= calls_of(api, blocking).keys()


# -- clients that cannot be used ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "threads", "package", "advice"),
    [
        ("valkey-glide", False, "glide", "pip install valkey-glide$"),
        ("valkey-glide", True, "glide_sync", "pip install valkey-glide-sync$"),
        ("coredis", False, "coredis", "pip install coredis$"),
    ],
)
def test_a_client_that_is_not_installed(
    client: str, threads: bool, package: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing that is installed is found any more.
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder.__class__ is type])
    with pytest.raises(UnsuitableClientError, match=f"{client} is not installed: {advice}"):
        check(client, threads=threads)


@pytest.mark.parametrize("client", ["valkey-glide", "coredis"])
def test_tls_is_refused_before_anything_is_done(client: str) -> None:
    if find_spec({"valkey-glide": "glide"}.get(client, client)) is None:
        pytest.skip(f"{client} is not installed")
    with pytest.raises(UnsuitableClientError, match=f"drives {client} without TLS only: take slotwise or"):
        Options("rediss://localhost:6379", Workload({"get": 1}), client=client)


def test_tls_is_for_slotwise_and_redis_py() -> None:
    for client in ("slotwise", "redis-py"):
        Options("rediss://localhost:6379", Workload({"get": 1}), client=client)
