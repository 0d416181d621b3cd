"""Acknowledged writes that a failover has forgotten: found, no others, and written again if asked."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import slotwise
from slotwise import key_slot
from slotwise._versions import Version
from slotwise.consistency.auditing import audit
from slotwise.consistency.errors import BatchError
from slotwise.consistency.lost import LostWrite, Memory
from slotwise.consistency.scripts import HEAD, WRITE
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.consistency.conftest import MakeStore


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until


def test_a_failover_that_lost_writes(
    make_store: MakeStore, faulty_cluster: LocalCluster, keys: list[str]
) -> None:
    store = make_store(faulty_cluster, remember=1000)
    kept = store.set_many(dict.fromkeys(keys, b"kept"))
    primary = faulty_cluster.owner_of(key_slot(keys[0]))
    (replica,) = faulty_cluster.replicas_of(primary)
    mine = [one for one in keys[:30] if faulty_cluster.owner_of(key_slot(one)) is primary]
    wait_until(lambda: replica.call("DBSIZE") == primary.call("DBSIZE"))
    assert store.lost_writes() == []
    # From here on the primary has nobody to send its writes to, and acknowledges them all the same.
    faulty_cluster.pause(replica)
    primary.call("CLIENT", "KILL", "TYPE", "replica")
    written = store.set_many(dict.fromkeys(keys[:30], b"lost"))
    written[keys[0]] = store.delete(keys[0])
    assert all(written.values())
    faulty_cluster.kill(primary)
    faulty_cluster.resume(replica)
    faulty_cluster.wait_ready()
    lost = store.lost_writes()
    assert {write.key: write for write in lost} == {
        one: LostWrite(one, written[one].version, kept[one].version) for one in mine
    }
    assert store.get(keys[0]) == b"kept"
    # Looking changes nothing.
    assert store.lost_writes() == lost
    # One of them has been written anew: that one is newer, and stays.
    anew = store.set(mine[-1], b"anew")
    assert anew
    again = store.lost_writes(rewrite=True)
    assert {write.key for write in again} == set(mine[:-1])
    assert all(write.rewritten for write in again)
    assert store.lost_writes() == []
    assert store.get_with_version(keys[0]).deleted
    values = store.get_many(keys)
    assert [values[one] for one in mine[1:]] == [b"lost"] * (len(mine) - 2) + [b"anew"]
    for one in mine[:-1]:
        assert store.get_with_version(one).version == written[one].version
    # All copies have it, that of the primary which lost its place as well.
    faulty_cluster.heal()
    with slotwise.RedisCluster.from_url(faulty_cluster.url) as client:
        report = audit(client)
    assert report.equal, report
    assert report.versioned == len(keys)


def test_what_is_gone_is_lost(make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]) -> None:
    store = make_store(remember=100)
    results = store.set_many(dict.fromkeys(keys[:5], b"1"))
    raw.delete(keys[0])
    raw.set(keys[1], "foreign")
    raw.delete(keys[2])
    raw.rpush(keys[2], "element")
    assert store.lost_writes() == [LostWrite(one, results[one].version, None) for one in keys[:3]]
    assert [write.rewritten for write in store.lost_writes(rewrite=True)] == [True, False, False]
    # Who wrote something else there on purpose has it still.
    assert (raw.get(keys[1]), raw.lrange(keys[2], 0, -1)) == (b"foreign", [b"element"])
    assert [write.key for write in store.lost_writes()] == keys[1:3]


def test_what_expired_is_not_lost(make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]) -> None:
    store = make_store(remember=100)
    store.set_many(dict.fromkeys(keys, b"1"), ttl=0.02)
    wait_until(lambda: not raw.exists(*keys))
    assert store.lost_writes() == []
    store.set(keys[0], b"1", ttl=1000)
    raw.delete(keys[0])
    assert [write.rewritten for write in store.lost_writes(rewrite=True)] == [True]
    assert 900 < raw.ttl(keys[0]) <= 1000


def test_what_others_overwrote_is_not_lost(
    make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]
) -> None:
    store, other = make_store(remember=100), make_store()
    store.set_many(dict.fromkeys(keys[:2], b"1"))
    other.get_many(keys[:2])
    other.set_many(dict.fromkeys(keys[:2], b"2"))
    assert store.lost_writes() == []
    # The store learns of it by a write that is discarded; from then on it is not its to watch.
    assert not store.set_if_newer(keys[0], b"0", Version(1))
    raw.delete(*keys[:1])
    raw.delete(*keys[1:2])
    assert [write.key for write in store.lost_writes()] == keys[1:2]


def test_an_older_write_of_its_own_makes_it_forget_nothing(
    make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]
) -> None:
    store = make_store(remember=100)
    newest = store.set(keys[0], b"2").version
    assert not store.set_if_newer(keys[0], b"1", Version(1))
    assert not store.set_if_version(keys[0], b"1", Version(1))
    raw.delete(keys[0])
    # That nothing is there any more is what it is to tell.
    assert not store.set_if_version(keys[0], b"1", newest)
    assert [write.acknowledged for write in store.lost_writes()] == [newest]


def test_a_key_is_one_as_text_and_as_bytes(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str
) -> None:
    store = make_store(remember=100)
    store.set(key, b"old")
    store.set_many({key.encode(): b"new"}, ttl=0.02)
    wait_until(lambda: not raw.exists(key))
    assert store.lost_writes(rewrite=True) == []
    assert not raw.exists(key)


def test_a_rewritten_deletion_is_one_in_the_history(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str
) -> None:
    store = make_store(remember=100, history=5)
    store.delete(key)
    raw.delete(key)
    assert [write.rewritten for write in store.lost_writes(rewrite=True)] == [True]
    assert store.get_with_version(key).deleted
    assert {entry.action for entry in store.sync_history(key)} == {"delete"}
    assert 6 * 86400 < raw.ttl(key) <= 7 * 86400


def test_only_the_last_keys_are_remembered(
    make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]
) -> None:
    store = make_store(remember=10)
    store.set_many(dict.fromkeys(keys[:30], b"1"))
    for one in keys[:30]:
        raw.delete(one)
    assert [write.key for write in store.lost_writes()] == keys[20:30]


def test_values_that_there_is_no_room_for_cannot_be_rewritten(
    make_store: MakeStore, raw: slotwise.RedisCluster, keys: list[str]
) -> None:
    store = make_store(remember=10, remember_bytes=100)
    store.set_many({keys[0]: b"a" * 60, keys[1]: b"b" * 60, keys[2]: b"c" * 600})
    for one in keys[:3]:
        raw.delete(one)
    assert [write.rewritten for write in store.lost_writes(rewrite=True)] == [False, True, False]


def test_nothing_is_remembered_unless_asked_for(make_store: MakeStore, key: str) -> None:
    store = make_store()
    store.set(key, b"1")
    with pytest.raises(ValueError, match="remember"):
        store.lost_writes()


def test_keys_that_cannot_be_read_are_told(make_store: MakeStore) -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA", HEAD.sha, b"1", b"a").error("NOPERM no permission")
        node.expect("EVALSHA", HEAD.sha, b"1", b"b").reply(b"")
        node.expect("EVALSHA").reply(1)
        node.expect("EVALSHA").reply(1)
        store = make_store(scripted, remember=10)
        store.set("a", b"1")
        version = store.set("b", b"1").version
        with pytest.raises(BatchError) as caught:
            store.lost_writes()
        assert set(caught.value.errors) == {"a"}
        assert caught.value.results == {"b": LostWrite("b", version, None)}


def test_keys_that_cannot_be_written_again_are_told(make_store: MakeStore) -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        node.expect("EVALSHA", WRITE.sha).reply(1)
        node.expect("EVALSHA", HEAD.sha).reply(b"")
        node.expect("EVALSHA", WRITE.sha).error("OOM command not allowed when used memory > 'maxmemory'.")
        store = make_store(scripted, remember=10)
        store.set("a", b"1")
        with pytest.raises(BatchError) as caught:
            store.lost_writes(rewrite=True)
        assert set(caught.value.errors) == {"a"}
        assert caught.value.results == {}


# -- the memory -------------------------------------------------------------------------------------------------------


def test_the_memory_keeps_the_newest_version_of_a_key() -> None:
    memory = Memory(10, 1000)
    memory.note(b"a", "a", Version(2), b"two", None)
    memory.note(b"a", b"a", Version(1), b"one", None)
    (known,) = memory.all()
    assert (known.key, known.version, known.sealed) == ("a", Version(2), b"two")


def test_the_memory_forgets_a_key_when_it_meets_something_newer() -> None:
    memory = Memory(10, 1000)
    memory.note(b"a", "a", Version(2), b"two", None)
    for version in (1, 2):
        memory.meet(b"a", Version(version))
        assert len(memory) == 1
    memory.meet(b"b", Version(3))
    memory.meet(b"a", Version(3))
    assert memory.all() == []


def test_the_memory_is_bounded_in_keys_and_bytes() -> None:
    memory = Memory(3, 10)
    for number in range(100):
        memory.note(b"%d" % (number % 7), number % 7, Version(number), bytes(number % 5), None)
        assert len(memory) <= 3
        assert sum(len(known.sealed or b"") for known in memory.all()) <= 10
    assert [known.key for known in memory.all()] == [97 % 7, 98 % 7, 99 % 7]
    memory.note(b"large", "large", Version(1), bytes(11), None)
    assert [known.sealed is None for known in memory.all()] == [False, False, True]
    for known in memory.all():
        memory.meet(str(known.key).encode(), Version(1000))
    memory.note(b"fits again", "fits again", Version(1), bytes(10), None)
    assert memory.all()[0].sealed == bytes(10)
