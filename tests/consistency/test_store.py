"""Versioned stores: who wins, what is told, and what goes over the wire for it."""

from __future__ import annotations

import inspect
import os
import time
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff

import slotwise
import slotwise.asyncio
from slotwise import key_slot
from slotwise._versions import Version
from slotwise.cli._in_loop import InLoop
from slotwise.consistency.clock import HybridClock
from slotwise.consistency.errors import BatchError, ForeignValueError, NotAValueError, VersionDriftError
from slotwise.consistency.results import Versioned
from slotwise.consistency.scripts import WRITE
from slotwise.consistency.steps import Core
from slotwise.consistency.store import AsyncVersionedStore, VersionedStore
from slotwise.local import LocalCluster, StandaloneServer
from slotwise.testing.scripted import ScriptedCluster
from tests.consistency.conftest import Awaited, MakeStore


def public(of: type) -> dict[str, tuple[inspect.Signature, str | None]]:
    return {
        name: (inspect.signature(function), function.__doc__)
        for name, function in vars(of).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }


def test_both_surfaces_match() -> None:
    assert public(VersionedStore) == public(AsyncVersionedStore)
    assert len(public(VersionedStore)) >= 11
    assert all(
        inspect.iscoroutinefunction(vars(AsyncVersionedStore)[name]) for name in public(VersionedStore)
    )
    assert inspect.signature(VersionedStore) == inspect.signature(AsyncVersionedStore)


def test_the_options_are_all_documented() -> None:
    for name in list(inspect.signature(Core).parameters)[1:]:
        for store in (VersionedStore, AsyncVersionedStore):
            assert f"``{name}``" in (store.__doc__ or "")


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"bytes", b"bytes"),
        (b"", b""),
        ("größe", "größe".encode()),
        (7, b"7"),
        (1.5, b"1.5"),
        (bytearray(b"a"), b"a"),
    ],
)
def test_raw_values(make_store: MakeStore, key: str, value: Any, read: bytes) -> None:
    store = make_store()
    assert store.set(key, value)
    assert store.get(key) == read
    assert store.get_many([key]) == {key: read}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        12,
        "text",
        b"bytes",
        [1, "two", None],
        {"a": {1: [b"b"]}},
        # In msgpack there are no tuples.
        {(1, 2): "x"},
        {"a": [{(("b", 1), ()): [1, {(3,): [4]}]}]},
    ],
)
def test_msgpack_values(make_store: MakeStore, key: str, value: Any) -> None:
    store = make_store(codec="msgpack")
    assert store.set(key, value)
    assert store.get(key, "default") == value
    assert store.get_with_version(key).value == value
    # What is stored says how it is to be read.
    assert make_store().get(key, "default") == value


def test_large_values_are_compressed_if_that_helps(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str
) -> None:
    store = make_store(compress_above=1000)
    for value, smaller in (
        (b"a" * 1000, False),
        (b"a" * 1001, True),
        # Nothing is gained, so nothing is compressed.
        (os.urandom(5000), False),
    ):
        store.set(key, value)
        assert (raw.strlen(key) < len(value)) == smaller
        assert store.get(key) == value
        assert make_store().get(key) == value


def test_a_client_that_decodes(make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]) -> None:
    store = make_store(client={"decode_responses": True}, history=5)
    assert store.set(keys[0], "größe")
    assert store.get(keys[0]) == "größe"
    assert store.get_with_version(keys[0]).value == "größe"
    assert all(store.set_many(dict.fromkeys(keys, "x")).values())
    assert store.get_many(keys) == dict.fromkeys(keys, "x")
    newest = store.get_with_version(keys[0]).version
    # The version that won comes in bytes, which are no text.
    lost = store.set_if_newer(keys[0], "old", Version(1, 2, 3))
    assert (lost.outcome, lost.current) == ("discarded", newest)
    assert [entry.outcome for entry in store.sync_history(keys[0])] == ["discarded", "applied", "applied"]
    binary = make_store(client={"decode_responses": True}, codec="msgpack")
    binary.set(keys[1], b"\xff")
    assert binary.get(keys[1]) == b"\xff"


def test_keys_of_any_kind(make_store: MakeStore, key: str) -> None:
    store = make_store(history=3)
    for some in (key, key.encode(), bytearray(key.encode()), memoryview(key.encode())):
        assert store.set(some, b"value")
        assert store.get(some) == b"value"
    assert len(store.sync_history(key)) == 3
    number = 10**15 + int.from_bytes(os.urandom(6), "big")
    assert store.set_many({number: b"1"})[number]
    assert store.get(str(number)) == b"1"
    with pytest.raises(redis.DataError):
        store.set(None, b"1")


# -- who wins ---------------------------------------------------------------------------------------------------------


def test_the_newer_write_wins_whatever_comes_first(make_store: MakeStore, key: str) -> None:
    early, late = make_store(), make_store()
    old, new = early.clock.now(), late.clock.now()
    new = max(new, Version(old.milliseconds + 1))
    assert late.set_if_newer(key, b"new", new)
    lost = early.set_if_newer(key, b"old", old)
    assert (bool(lost), lost.outcome, lost.version, lost.current) == (False, "discarded", old, new)
    assert early.get(key) == b"new"
    assert (early.stats.applied, early.stats.discarded) == (0, 1)
    assert (late.stats.applied, late.stats.discarded) == (1, 0)
    # Having met the newer one, the clock is past it.
    assert early.set(key, b"newest")
    assert early.get_with_version(key).version > new


def test_the_same_version_is_the_same_write(make_store: MakeStore, key: str) -> None:
    store = make_store()
    version = store.clock.now()
    assert store.set_if_newer(key, b"first", version)
    again = store.set_if_newer(key, b"never written", version)
    assert (again.outcome, again.current) == ("applied", version)
    assert store.get(key) == b"first"


def test_what_is_written_after_a_read_is_newer(make_store: MakeStore, keys: list[str]) -> None:
    ahead = HybridClock(clock=lambda: time.time_ns() + 30 * 10**9)
    make_store(clock=ahead).set_many(dict.fromkeys(keys[:3], b"from a clock that is ahead"))
    for read in (
        lambda store: store.get(keys[0]),
        lambda store: store.get_with_version(keys[0]),
        lambda store: store.get_many(keys[:1]),
    ):
        store = make_store()
        read(store)
        assert store.set(keys[0], b"newer")
    blind = make_store()
    lost = blind.set(keys[1], b"unread")
    assert (lost.outcome, lost.current) == ("discarded", blind.get_with_version(keys[1]).version)
    assert blind.set(keys[1], b"read")


def test_compare_and_set(make_store: MakeStore, key: str) -> None:
    store = make_store()
    assert store.set_if_version(key, b"1", None)
    first = store.get_with_version(key)
    assert first.value == b"1"
    held = store.set_if_version(key, b"x", None)
    assert (held.outcome, held.current) == ("discarded", first.version)
    second = store.set_if_version(key, b"2", first.version)
    assert second
    assert second.version > first.version
    held = store.set_if_version(key, b"x", first.version)
    assert (held.outcome, held.current) == ("discarded", second.version)
    assert store.get(key) == b"2"
    deleted = store.delete(key)
    # A tombstone is something: it has a version to expect.
    assert not store.set_if_version(key, b"x", None)
    assert store.set_if_version(key, b"3", deleted.version)
    assert store.get(key) == b"3"


def test_compare_and_set_where_nothing_is(make_store: MakeStore, key: str) -> None:
    store = make_store()
    held = store.set_if_version(key, b"x", store.clock.now())
    assert (held.outcome, held.current) == ("discarded", None)
    assert store.get_with_version(key) is None


# -- deletions and time -----------------------------------------------------------------------------------------------


def test_a_tombstone_outlives_older_writes(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str
) -> None:
    store = make_store()
    old = store.clock.now()
    store.set(key, b"value")
    deleted = store.delete(key)
    assert deleted
    assert store.get(key) is None
    assert store.get(key, "default") == "default"
    assert store.get_many([key]) == {}
    assert store.get_with_version(key) == Versioned(None, deleted.version, True)
    back = store.set_if_newer(key, b"from the dead", old)
    assert (back.outcome, back.current) == ("discarded", deleted.version)
    assert store.get(key) is None
    assert 7 * 86400 - 100 < raw.ttl(key) <= 7 * 86400
    assert store.set(key, b"anew")
    assert raw.ttl(key) == -1
    brief = make_store(tombstone_ttl=30)
    assert brief.delete_many([key])[key]
    assert 0 < raw.ttl(key) <= 30


def test_deleting_what_is_not_there_leaves_a_tombstone(make_store: MakeStore, key: str) -> None:
    store = make_store()
    old = store.clock.now()
    assert store.delete(key)
    assert not store.set_if_newer(key, b"late", old)


@pytest.mark.parametrize("ttl", [50, 50.0, timedelta(seconds=50)])
def test_values_expire(make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str], ttl: Any) -> None:
    store = make_store()
    store.set(keys[0], b"1", ttl=ttl)
    store.set_many({keys[1]: b"1"}, ttl=ttl)
    store.set_if_newer(keys[2], b"1", store.clock.now(), ttl=ttl)
    store.set_if_version(keys[3], b"1", None, ttl=ttl)
    for one in keys[:4]:
        assert 40_000 < raw.pttl(one) <= 50_000
    store.set(keys[0], b"2")
    assert raw.pttl(keys[0]) == -1


def test_fractions_of_a_second(make_store: MakeStore, raw: slotwise.RedisCluster, key: str) -> None:
    make_store().set(key, b"1", ttl=99.5)
    assert 99_000 < raw.pttl(key) <= 99_500


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_bad_ttl_is_refused(make_store: MakeStore, raw: slotwise.RedisCluster, key: str, ttl: Any) -> None:
    store = make_store()
    for write in (
        lambda: store.set(key, b"1", ttl=ttl),
        lambda: store.set_many({key: b"1"}, ttl=ttl),
        lambda: store.set_if_version(key, b"1", None, ttl=ttl),
    ):
        with pytest.raises(redis.DataError, match="ttl"):
            write()
    assert not raw.exists(key)


# -- many -------------------------------------------------------------------------------------------------------------


def test_more_than_one_batch(make_store: MakeStore, key: str) -> None:
    store = make_store()
    many = {f"{key}:{number}": b"%d" % number for number in range(12_000)}
    results = store.set_many(many)
    assert list(results) == list(many)
    assert all(results.values())
    assert len({result.version for result in results.values()}) == 12_000
    assert store.stats.applied == 12_000
    gone = list(many)[::3]
    assert all(store.delete_many(gone).values())
    assert store.get_many([*many, "never written"]) == {
        one: value for one, value in many.items() if one not in set(gone)
    }


def test_nothing_is_nothing(make_store: MakeStore) -> None:
    store = make_store()
    assert store.set_many({}) == store.delete_many([]) == store.get_many([]) == {}


def test_one_bad_key_costs_the_others_nothing(
    make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]
) -> None:
    store = make_store()
    raw.rpush(keys[3], "element")
    raw.set(keys[5], "foreign")
    version = Version(int(time.time() * 1000) + 1_000_000_000)
    far = HybridClock(max_drift=float("inf"))
    make_store(clock=far).set_if_newer(keys[7], b"far", version)
    with pytest.raises(BatchError, match="4 of 61 keys") as caught:
        store.set_many({**dict.fromkeys(keys, b"1"), (): b"no key"})
    assert {one: type(error) for one, error in caught.value.errors.items()} == {
        (): redis.DataError,
        keys[3]: NotAValueError,
        keys[5]: ForeignValueError,
        keys[7]: VersionDriftError,
    }
    good = [one for one in keys if one not in caught.value.errors]
    assert list(caught.value.results) == good
    assert all(caught.value.results.values())
    assert (store.stats.applied, store.stats.refused) == (57, 3)
    with pytest.raises(BatchError) as caught:
        store.get_many(keys)
    assert caught.value.results == {**dict.fromkeys(good, b"1"), keys[7]: b"far"}
    assert {type(error) for error in caught.value.errors.values()} == {NotAValueError, ForeignValueError}


def test_a_value_that_cannot_be_sealed_is_one_of_many(make_store: MakeStore, keys: list[str]) -> None:
    store = make_store(codec="msgpack")
    with pytest.raises(BatchError) as caught:
        store.set_many({keys[0]: 1, keys[1]: object(), keys[2]: 3})
    assert isinstance(caught.value.errors[keys[1]], TypeError)
    assert store.get_many(keys[:3]) == {keys[0]: 1, keys[2]: 3}
    with pytest.raises(TypeError):
        store.set(keys[1], object())


# -- what goes over the wire ------------------------------------------------------------------------------------------


def calls(raw: slotwise.RedisCluster, name: str) -> int:
    stats = raw.info("commandstats", target_nodes="primaries")
    return sum(node.get(f"cmdstat_{name}", {}).get("calls", 0) for node in stats.values())


def test_one_round_trip_each(make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]) -> None:
    store = make_store()
    store.set_many(dict.fromkeys(keys, b"0"))
    before = calls(raw, "evalsha"), calls(raw, "get")
    store.set(keys[0], b"1")
    store.delete(keys[1])
    store.set_if_version(keys[2], b"1", None)
    store.get(keys[0])
    store.get_with_version(keys[0])
    store.set_many(dict.fromkeys(keys, b"2"))
    assert (calls(raw, "evalsha"), calls(raw, "get")) == (before[0] + 3 + len(keys), before[1] + 2)


def test_a_script_that_was_flushed_is_sent(
    make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]
) -> None:
    store = make_store()
    raw.script_flush()
    assert store.set(keys[0], b"1")
    raw.script_flush()
    assert all(store.set_many(dict.fromkeys(keys, b"2")).values())
    assert store.get_many(keys) == dict.fromkeys(keys, b"2")
    before = calls(raw, "eval")
    assert all(store.set_many(dict.fromkeys(keys, b"3")).values())
    assert calls(raw, "eval") == before
    assert store.stats.failed == store.stats.repeated == 0


def test_only_what_got_noscript_is_sent_again(make_store: MakeStore) -> None:
    with ScriptedCluster(2) as scripted:
        first, second = scripted.nodes
        by_node = {first: [], second: []}
        for number in range(6):
            by_node[scripted.owner_of(key_slot(f"{number}"))].append(f"{number}")
        first.expect("EVALSHA").error("NOSCRIPT No matching script.")
        for _ in by_node[first][1:]:
            first.expect("EVALSHA").reply(1)
        for _ in by_node[second]:
            second.expect("EVALSHA").reply(1)
        first.expect("EVAL", WRITE.source, b"1", by_node[first][0].encode()).reply(1)
        store = make_store(scripted)
        assert all(store.set_many({f"{number}": b"1" for number in range(6)}).values())
        assert (scripted.received["EVALSHA"], scripted.received["EVAL"]) == (6, 1)


def test_moved_writes_follow(make_store: MakeStore) -> None:
    with ScriptedCluster(2) as scripted:
        owner = scripted.owner_of(key_slot("a"))
        other = next(node for node in scripted.nodes if node is not owner)
        owner.expect("EVALSHA").moved(other)
        other.expect("EVALSHA", WRITE.sha, b"1", b"a").reply(1)
        assert make_store(scripted, client={"reinitialize_steps": 0}).set("a", b"1")


# -- unknown outcomes -------------------------------------------------------------------------------------------------


def test_a_write_that_was_not_answered_is_sent_again(make_store: MakeStore) -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA").close()
        node.expect("EVALSHA").reply(2)
        store = make_store(scripted)
        result = store.set("a", b"value")
        assert (result.outcome, store.stats.applied, store.stats.repeated) == ("applied", 1, 1)
        first, second = node.commands
        assert first == second
        assert bytes(result.version) in first[4]


def test_of_many_only_those_without_a_reply_are_sent_again(make_store: MakeStore) -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA", WRITE.sha, b"1", b"a").reply(1)
        node.expect("EVALSHA", WRITE.sha, b"1", b"b").close()
        store = make_store(scripted)
        node.expect("EVALSHA", WRITE.sha, b"1", b"b").reply(2)
        node.expect("EVALSHA", WRITE.sha, b"1", b"c").often().reply(1)
        results = store.set_many({"a": b"1", "b": b"1", "c": b"1"})
        assert [result.outcome for result in results.values()] == ["applied"] * 3
        assert [command[3] for command in node.commands].count(b"a") == 1
        assert store.stats.applied == 3


def test_a_write_that_is_never_answered_is_unknown(make_store: MakeStore) -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA").often().close()
        store = make_store(scripted)
        result = store.set("a", b"1")
        assert (result.outcome, result.current, bool(result)) == ("unknown", None, False)
        assert node.count("EVALSHA") == 2
        assert (store.stats.unknown, store.stats.applied, store.stats.failed) == (1, 0, 0)
        results = store.set_many({"a": b"1", "b": b"1"})
        assert [result.outcome for result in results.values()] == ["unknown"] * 2


def test_a_newer_one_that_the_second_try_meets_leaves_it_unknown(make_store: MakeStore) -> None:
    """The first try may have been applied and overwritten since: a caller who takes that for a failure counts twice."""
    newer = Version(int(time.time() * 1000) + 10_000)
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA").close()
        node.expect("EVALSHA").reply(bytes(newer))
        result = make_store(scripted).set("a", b"1")
        assert (result.outcome, result.current) == ("unknown", newer)


def test_an_error_on_the_second_try_leaves_it_unknown(make_store: MakeStore) -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA").close()
        node.expect("EVALSHA").error("OOM command not allowed when used memory > 'maxmemory'.")
        assert make_store(scripted).set("a", b"1").outcome == "unknown"


def test_other_errors_are_raised(make_store: MakeStore) -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA").often().error("OOM command not allowed when used memory > 'maxmemory'.")
        store = make_store(scripted)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            store.set("a", b"1")
        with pytest.raises(BatchError) as caught:
            store.set_many({"a": b"1", "b": b"1"})
        assert set(caught.value.errors) == {"a", "b"}
        assert (store.stats.failed, store.stats.unknown) == (3, 0)


# -- replicas ---------------------------------------------------------------------------------------------------------


def test_replicas_confirm(make_store: MakeStore, cluster: LocalCluster, keys: list[str]) -> None:
    store = make_store(wait_replicas=1, wait_timeout=4)
    assert store.set(keys[0], b"1").replicas == 1
    results = store.set_many(dict.fromkeys(keys, b"2"))
    assert [result.replicas for result in results.values()] == [1] * len(keys)
    assert store.delete(keys[0]).replicas == 1
    lost = store.set_if_newer(keys[0], b"old", Version(1))
    assert lost.replicas is None
    assert store.stats.unconfirmed == 0
    for replica in cluster.replicas:
        assert replica.call("KEYS", "slotwise:barrier:*") == []
    assert make_store().set(keys[0], b"1").replicas is None


def test_fewer_replicas_than_asked_for(make_store: MakeStore, keys: list[str]) -> None:
    store = make_store(wait_replicas=2, wait_timeout=0.01)
    results = store.set_many(dict.fromkeys(keys, b"1"))
    assert all(results.values())
    assert {result.replicas for result in results.values()} <= {0, 1}
    assert store.stats.unconfirmed == len(keys)


def test_paused_replicas_confirm_nothing(make_store: MakeStore, faulty_cluster: LocalCluster) -> None:
    store = make_store(faulty_cluster, wait_replicas=1, wait_timeout=0.2)
    assert store.set("a", b"1").replicas == 1
    primary = faulty_cluster.owner_of(key_slot("a"))
    for replica in faulty_cluster.replicas_of(primary):
        faulty_cluster.pause(replica)
    result = store.set("a", b"2")
    assert (result.outcome, result.replicas, store.stats.unconfirmed) == ("applied", 0, 1)


def test_a_wait_that_the_connection_would_not_outlast_is_refused(make_store: MakeStore) -> None:
    with pytest.raises(ValueError, match="socket_timeout"):
        make_store(client={"socket_timeout": 1}, wait_replicas=1, wait_timeout=1)


# -- failures of the cluster ------------------------------------------------------------------------------------------


def test_a_primary_dies(make_store: MakeStore, faulty_cluster: LocalCluster, keys: list[str]) -> None:
    kind = (
        redis.retry.Retry if type(make_store(faulty_cluster)) is VersionedStore else redis.asyncio.retry.Retry
    )
    store = make_store(faulty_cluster, client={"retry": kind(ConstantBackoff(0.2), 30)})
    store.set_many(dict.fromkeys(keys, b"before"))
    faulty_cluster.kill(faulty_cluster.owner_of(key_slot(keys[0])))
    results = store.set_many(dict.fromkeys(keys, b"after"))
    # Those who saw the connection die know nothing of their first try; the second told them.
    assert {result.outcome for result in results.values()} == {"applied"}
    assert store.get_many(keys) == dict.fromkeys(keys, b"after")
    for one in keys:
        assert store.get_with_version(one).version == results[one].version


# -- other clients ----------------------------------------------------------------------------------------------------


def test_a_standalone_server(standalone: StandaloneServer, keys: list[str]) -> None:
    with slotwise.connect(standalone.url) as client:
        store = VersionedStore(client, history=3, remember=100, wait_replicas=1, wait_timeout=0.01)
        check_standalone(store, keys)
    connecting = partial(redis.asyncio.Redis.from_url, standalone.url)
    with closing(InLoop(connecting)) as looped:
        check_standalone(Awaited(looped, AsyncVersionedStore(looped.client, history=3, remember=100)), keys)


def check_standalone(store: Any, keys: list[str]) -> None:
    old = store.clock.now()
    assert store.set(keys[0], b"1")
    assert not store.set_if_newer(keys[0], b"0", old)
    assert all(store.set_many(dict.fromkeys(keys, b"2")).values())
    assert store.get_many(keys) == dict.fromkeys(keys, b"2")
    assert [entry.outcome for entry in store.sync_history(keys[0])] == ["applied", "discarded", "applied"]
    assert store.lost_writes() == []
    store.delete_many(keys)
    assert store.get_many(keys) == {}


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"codec": "pickle"}, "codec"),
        ({"compress_above": -1}, "compress_above"),
        ({"foreign": "ignore"}, "foreign"),
        ({"history": -1}, "history"),
        ({"history": True}, "history"),
        ({"remember": 1.5}, "remember"),
        ({"wait_replicas": "1"}, "wait_replicas"),
        ({"tombstone_ttl": 0}, "tombstone_ttl"),
        ({"history_ttl": -1}, "history_ttl"),
        ({"wait_timeout": 0}, "wait_timeout"),
    ],
)
def test_bad_options_are_named(make_store: MakeStore, options: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, redis.DataError), match=error):
        make_store(**options)


def test_a_child_process_uses_the_store(cluster: LocalCluster, key: str) -> None:
    with slotwise.RedisCluster.from_url(cluster.url) as client:
        store = VersionedStore(client, remember=10)
        store.set(key, b"parent")
        writer = store.clock.writer
        child = os.fork()
        if not child:
            try:
                ok = store.set(key, b"child") and store.clock.writer != writer
            except BaseException:
                ok = False
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.get(key) == b"child"
