"""The last writes of a key: beside it, bounded, each counted once."""

from __future__ import annotations

import time
from typing import Any

import pytest

import slotwise
from slotwise import key_slot
from slotwise._versions import Version
from slotwise.consistency.clock import HybridClock
from slotwise.consistency.store import VersionedStore
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.routing.slot_tags import beside
from tests.consistency.conftest import MakeStore


def place(key: str) -> bytes:
    return beside("slotwise:history:", key.encode())


def test_the_newest_first(make_store: MakeStore, key: str) -> None:
    store, other = make_store(history=10), make_store(history=10)
    old = store.clock.now()
    first = store.set(key, b"1").version
    other.get(key)
    second = other.set_many({key: b"2"})[key].version
    store.set_if_newer(key, b"0", old)
    last = store.delete(key).version
    history = other.sync_history(key)
    assert [(entry.version, entry.action, entry.outcome) for entry in history] == [
        (last, "delete", "applied"),
        (old, "set", "discarded"),
        (second, "set", "applied"),
        (first, "set", "applied"),
    ]
    assert [entry.writer for entry in history] == [
        store.clock.writer,
        store.clock.writer,
        other.clock.writer,
        store.clock.writer,
    ]
    assert all(abs(entry.at - time.time()) < 60 for entry in history)


@pytest.mark.parametrize("name", ["{}a", "a}b{c", "{a", "{a}b", "{{a}}", "ä{ö}", "%s"])
def test_any_key_has_one(make_store: MakeStore, key: str, name: str) -> None:
    store = make_store(history=2)
    name += key
    assert store.set(name, b"1")
    assert all(store.set_many({name: b"2"}).values())
    assert len(store.sync_history(name)) == 2


def test_it_is_bounded(make_store: MakeStore, raw: slotwise.RedisCluster, key: str) -> None:
    store = make_store(history=5, history_ttl=1000)
    versions = [store.set(key, b"%d" % number).version for number in range(12)]
    assert [entry.version for entry in store.sync_history(key)] == versions[:-6:-1]
    assert raw.llen(place(key)) == 5
    assert 900 < raw.ttl(place(key)) <= 1000


def test_old_entries_are_left_out(make_store: MakeStore, key: str) -> None:
    """The whole list lives as long as its newest entry."""
    now = time.time_ns()
    past = HybridClock(clock=lambda: now - 3000 * 10**9)
    make_store(history=5, clock=past).set(key, b"1")
    newest = make_store(history=5).set(key, b"2").version
    assert [entry.version for entry in make_store(history_ttl=2000).sync_history(key)] == [newest]
    assert len(make_store(history_ttl=4000).sync_history(key)) == 2


def test_none_is_kept_unless_asked_for(make_store: MakeStore, raw: slotwise.RedisCluster, key: str) -> None:
    store = make_store()
    store.set(key, b"1")
    assert store.sync_history(key) == []
    assert not raw.exists(place(key))


def test_what_is_in_its_place_does_no_harm(
    make_store: MakeStore, raw: slotwise.RedisCluster, key: str
) -> None:
    raw.rpush(place(key), b"nothing of ours", b"x" * 24)
    store = make_store(history=5)
    store.set(key, b"1")
    assert store.sync_history(key)[0].outcome == "applied"
    raw.delete(place(key))
    raw.set(place(key), b"a string")
    assert store.set(key, b"2")
    assert store.get(key) == b"2"


def test_refused_writes_are_not_in_it(make_store: MakeStore, raw: slotwise.RedisCluster, key: str) -> None:
    raw.set(key, b"foreign")
    with pytest.raises(slotwise.errors.RedisError):
        make_store(history=5).set(key, b"1")
    assert not raw.exists(place(key))


class Lossy(slotwise.RedisCluster):
    """Loses the reply to the next script, after the server has executed it."""

    lose = False
    meanwhile: Any = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = super().execute_command(*args, **options)
        if self.lose and args[0] in ("EVALSHA", "EVAL"):
            self.lose = False
            if self.meanwhile is not None:
                self.meanwhile()
            raise UnknownOutcomeError("lost by the test")
        return reply


def test_a_write_that_was_sent_twice_stands_there_once(cluster: LocalCluster, key: str) -> None:
    with Lossy.from_url(cluster.url) as client:
        store, other = VersionedStore(client, history=5), VersionedStore(client, history=5)
        store.set(key, b"0")
        client.lose = True
        applied = store.set(key, b"1")
        assert (applied.outcome, store.stats.repeated) == ("applied", 1)
        client.lose = True
        discarded = store.set_if_newer(key, b"old", Version(1))
        assert (discarded.outcome, store.stats.repeated) == ("unknown", 2)
        assert [(entry.version, entry.outcome) for entry in store.sync_history(key)[:2]] == [
            (Version(1), "discarded"),
            (applied.version, "applied"),
        ]
        assert len(store.sync_history(key)) == 3
        # Somebody overwrites it before it is sent again: the history knows that it was there.
        client.lose, client.meanwhile = True, lambda: other.get(key) and other.set(key, b"newer")
        overwritten = store.set(key, b"2")
        assert overwritten.outcome == "applied"
        assert store.get(key) == b"newer"
        assert [entry.outcome for entry in store.sync_history(key)] == [
            "applied",
            "applied",
            "discarded",
            "applied",
            "applied",
        ]
        assert key_slot(place(key)) == key_slot(key)
