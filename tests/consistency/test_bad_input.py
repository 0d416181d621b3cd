"""What is no versioned value, or none to be trusted: a named error, and nothing written."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

import slotwise
from slotwise._versions import CODEC_SHIFT, COMPRESSED, MAGIC, Version, seal
from slotwise.consistency import AsyncVersionedStore, VersionedStore, audit, compare, errors
from slotwise.consistency.clock import HybridClock
from slotwise.consistency.errors import (
    BatchError,
    ConsistencyError,
    DamagedValueError,
    ForeignValueError,
    NotAValueError,
    UnknownFormatError,
    VersionDriftError,
)
from slotwise.consistency.results import Versioned
from tests.consistency.conftest import MakeStore

SEALED = seal(Version(1), 0, b"a secret value")
FAR = Version((1 << 48) - 1)
NOW = HybridClock().now

# What is there, and what reading and writing it raise. None: it can be overwritten, which a damaged payload allows.
Put = Callable[[slotwise.RedisCluster, str], Any]
BAD: dict[str, tuple[Put, type[Exception] | None, type[Exception] | None]] = {
    "foreign": (lambda raw, key: raw.set(key, "a secret value"), ForeignValueError, ForeignValueError),
    "empty": (lambda raw, key: raw.set(key, ""), ForeignValueError, ForeignValueError),
    "counter": (lambda raw, key: raw.incr(key), ForeignValueError, ForeignValueError),
    "half the magic": (lambda raw, key: raw.set(key, MAGIC[:2]), ForeignValueError, ForeignValueError),
    "only the magic": (lambda raw, key: raw.set(key, MAGIC), DamagedValueError, DamagedValueError),
    "truncated header": (lambda raw, key: raw.set(key, SEALED[:24]), DamagedValueError, DamagedValueError),
    "truncated payload": (lambda raw, key: raw.set(key, SEALED[:-1]), DamagedValueError, None),
    "flipped byte": (lambda raw, key: raw.set(key, SEALED[:-1] + b"!"), DamagedValueError, None),
    "newer format": (
        lambda raw, key: raw.set(key, SEALED[:3] + b"\2" + SEALED[4:]),
        UnknownFormatError,
        UnknownFormatError,
    ),
    "newer format, shorter": (
        lambda raw, key: raw.set(key, MAGIC + b"\2"),
        UnknownFormatError,
        UnknownFormatError,
    ),
    "unknown codec": (
        lambda raw, key: raw.set(key, seal(Version(1), 7 << CODEC_SHIFT, b"")),
        UnknownFormatError,
        None,
    ),
    "no LZ4": (
        lambda raw, key: raw.set(key, seal(Version(1), COMPRESSED, b"a secret value")),
        DamagedValueError,
        None,
    ),
    "LZ4 cut short": (
        lambda raw, key: raw.set(key, seal(Version(1), COMPRESSED, b"\x04\x22\x4d\x18")),
        DamagedValueError,
        None,
    ),
    "no msgpack": (
        lambda raw, key: raw.set(key, seal(Version(1), 1 << CODEC_SHIFT, b"\xc1")),
        DamagedValueError,
        None,
    ),
    "msgpack cut short": (
        lambda raw, key: raw.set(key, seal(Version(1), 1 << CODEC_SHIFT, b"\x92\x01")),
        DamagedValueError,
        None,
    ),
    "msgpack with a map as a key": (
        lambda raw, key: raw.set(key, seal(Version(1), 1 << CODEC_SHIFT, b"\x81\x81\x01\x02\x03")),
        DamagedValueError,
        None,
    ),
    "from the far future": (lambda raw, key: raw.set(key, seal(FAR, 0, b"far")), None, VersionDriftError),
    "list": (lambda raw, key: raw.rpush(key, "a"), NotAValueError, NotAValueError),
    "hash": (lambda raw, key: raw.hset(key, "a", "b"), NotAValueError, NotAValueError),
    "set": (lambda raw, key: raw.sadd(key, "a"), NotAValueError, NotAValueError),
    "sorted set": (lambda raw, key: raw.zadd(key, {"a": 1}), NotAValueError, NotAValueError),
    "stream": (lambda raw, key: raw.xadd(key, {"a": "b"}), NotAValueError, NotAValueError),
}

READS: list[Callable[[Any, str], Any]] = [
    lambda store, key: store.get(key),
    lambda store, key: store.get_with_version(key),
    lambda store, key: store.get_many([key]),
]
WRITES: list[Callable[[Any, str], Any]] = [
    lambda store, key: store.set(key, b"new"),
    lambda store, key: store.delete(key),
    lambda store, key: store.set_if_newer(key, b"new", NOW()),
    lambda store, key: store.set_if_version(key, b"new", None),
    lambda store, key: store.set_many({key: b"new"}),
    lambda store, key: store.delete_many([key]),
]


def error_of(call: Callable[[Any, str], Any], store: Any, key: str) -> Exception:
    with pytest.raises(ConsistencyError) as caught:
        call(store, key)
    error: Exception = caught.value
    if isinstance(error, BatchError):
        assert list(error.errors) == [key]
        assert key not in str(error)
        error = error.errors[key]
    assert key not in str(error)
    assert "secret" not in str(error)
    return error


@pytest.mark.parametrize("bad", BAD)
def test_reading_raises_a_named_error(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str, bad: str
) -> None:
    put, reading, _ = BAD[bad]
    put(raw, key)
    before = raw.dump(key)
    store = make_store()
    for read in READS:
        if reading is None:
            read(store, key)
        else:
            assert type(error_of(read, store, key)) is reading
    assert raw.dump(key) == before


@pytest.mark.parametrize("bad", [name for name, (_, _, writing) in BAD.items() if writing])
@pytest.mark.parametrize("history", [0, 5])
def test_writing_raises_a_named_error_and_writes_nothing(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str, bad: str, history: int
) -> None:
    put, _, writing = BAD[bad]
    put(raw, key)
    before = raw.dump(key)
    store = make_store(history=history)
    for write in WRITES:
        assert type(error_of(write, store, key)) is writing
        assert raw.dump(key) == before
        assert raw.ttl(key) == -1
    assert store.stats.refused == len(WRITES)
    assert store.stats.applied == store.stats.discarded == 0


@pytest.mark.parametrize("bad", [name for name, (_, _, writing) in BAD.items() if not writing])
def test_a_damaged_payload_can_be_overwritten(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str, bad: str
) -> None:
    """Its version is whole."""
    BAD[bad][0](raw, key)
    store = make_store()
    assert store.set(key, b"new")
    assert store.get(key) == b"new"


def test_a_value_from_the_far_future_is_read_and_counted(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str
) -> None:
    raw.set(key, seal(FAR, 0, b"far"))
    store = make_store()
    assert store.get(key) == b"far"
    assert store.get_with_version(key) == Versioned(b"far", FAR)
    assert store.get_many([key]) == {key: b"far"}
    assert store.stats.drifted == store.clock.refused == 3
    assert store.clock.now() < FAR


def test_a_version_from_the_far_future_is_not_sent(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str
) -> None:
    store = make_store()
    for write in (
        lambda: store.set_if_newer(key, b"1", FAR),
        lambda: store.set_if_version(key, b"1", FAR),
    ):
        with pytest.raises(VersionDriftError):
            write()
    assert not raw.exists(key)
    assert store.stats.refused == 2


# -- adoption ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", [b"a foreign value", b"", b"42"])
def test_foreign_values_can_be_adopted(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str, foreign: bytes
) -> None:
    store = make_store(foreign="adopt")
    for write in (
        lambda: store.set_if_newer(key, b"new", Version(1)),
        lambda: store.set(key, b"new"),
        lambda: store.set_if_version(key, b"new", None),
        lambda: store.set_many({key: b"new"})[key],
    ):
        raw.set(key, foreign)
        assert store.get(key) == foreign
        assert store.get_many([key]) == {key: foreign}
        assert store.get_with_version(key) == Versioned(foreign, None)
        assert write()
        assert store.get(key) == b"new"
    raw.set(key, foreign)
    assert store.delete(key)
    assert store.get(key) is None
    decoding = make_store(foreign="adopt", client={"decode_responses": True})
    raw.set(key, foreign)
    assert decoding.get(key) == foreign.decode()


@pytest.mark.parametrize("bad", ["only the magic", "truncated header", "newer format", "list"])
def test_adoption_is_for_foreign_values_only(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str, bad: str
) -> None:
    put, reading, writing = BAD[bad]
    put(raw, key)
    before = raw.dump(key)
    store = make_store(foreign="adopt")
    assert type(error_of(READS[0], store, key)) is reading
    for write in WRITES:
        assert type(error_of(write, store, key)) is writing
    assert raw.dump(key) == before


# -- the errors themselves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "BatchError"])
def test_errors_are_redis_errors_that_say_what_to_do(name: str) -> None:
    kind = getattr(errors, name)
    with pytest.raises(redis.RedisError):
        raise kind("what happened")
    assert str(pickle.loads(pickle.dumps(kind("what happened")))) == "what happened"
    assert name in (errors.__doc__ or "")
    if name not in ("ConsistencyError", "StoredFormError"):
        assert len(str(kind())) > 40


def test_a_batch_error_keeps_what_it_has_when_pickled() -> None:
    error = pickle.loads(
        pickle.dumps(BatchError({"a": 1}, {"b": ForeignValueError(), "c": ForeignValueError()}))
    )
    assert (error.results, set(error.errors)) == ({"a": 1}, {"b", "c"})
    assert "2 of 3 keys failed: ForeignValueError (2)" in str(error)


@pytest.mark.parametrize(
    ("take", "client", "message"),
    [
        (
            VersionedStore,
            redis.asyncio.Redis,
            "VersionedStore takes a client such as slotwise.RedisCluster, and",
        ),
        (
            AsyncVersionedStore,
            redis.Redis,
            "AsyncVersionedStore takes a client such as slotwise.asyncio.Redis",
        ),
        (audit, redis.asyncio.Redis, "audit takes a client such as slotwise.RedisCluster"),
        (lambda client: compare(client, client), redis.asyncio.Redis, "compare takes a client"),
        (VersionedStore, object, "VersionedStore takes a client, such as slotwise.RedisCluster, not object"),
    ],
)
def test_what_is_no_client_or_of_the_other_world(take: Any, client: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        take(client())
