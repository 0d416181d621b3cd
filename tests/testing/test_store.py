"""The store behind a scripted cluster against a real server: the same commands, the same replies."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from slotwise import key_slot
from slotwise.local import LocalCluster
from slotwise.local.wire import Wire
from slotwise.testing import ScriptedCluster
from slotwise.testing.store import Store

DIALOGUES = [
    ["GET k", "SET k v", "GET k", "EXISTS k k {k}2", "DEL k {k}2", "GET k", "UNLINK k"],
    ["SET k 1 NX", "SET k 2 NX", "SET k 3 XX", "SET {k}x 3 XX", "SET k 4 GET", "GET k"],
    ["SET k 1 EX 100", "TTL k", "SET k 2 KEEPTTL", "TTL k", "SET k 3", "TTL k", "TTL {k}none"],
    ["SET k 1 PX 100000", "EXPIRE k 50", "TTL k", "EXPIRE {k}none 50", "PEXPIRE k 20000", "TTL k"],
    ["INCR k", "INCRBY k 41", "DECR k", "DECRBY k 2", "GET k", "INCRBY k x", "SET k x", "INCR k"],
    ["MSET {k}1 a {k}2 b", "MGET {k}1 {k}2 {k}3", "MSET {k}1"],
    ["PING", "PING hello", "ECHO hello", "GET", "SET k", "SET k v NONSENSE"],
    ["SET k v EX x", "SET k v EX"],
]


def replies(wire: Wire, dialogue: list[str]) -> list[Any]:
    found = []
    for line in dialogue:
        try:
            found.append(wire.call(*line.split()))
        except redis.ResponseError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue[0])
def test_as_a_server_does(cluster: LocalCluster, dialogue: list[str]) -> None:
    with cluster.owner_of(key_slot("k")).connect() as wire:
        wire.call("DEL", "k", "{k}1", "{k}2", "{k}x")
        expected = replies(wire, dialogue)
    with ScriptedCluster(store=True) as scripted, Wire("127.0.0.1", scripted.nodes[0].port) as wire:
        assert replies(wire, dialogue) == expected


def test_keys_expire() -> None:
    store = Store()
    store.execute((b"SET", b"k", b"v", b"PX", b"5"))
    before = store.changes(b"k")
    deadline = time.monotonic() + 5
    while store["k"] is not None:
        assert time.monotonic() < deadline
    assert store.execute((b"TTL", b"k")) == -2
    assert store.changes(b"k") > before, "WATCH sees it"


def test_pairs_must_be_whole() -> None:
    assert "wrong number" in Store().execute((b"MSET", b"a", b"1", b"b"))  # servers word it differently


def test_clear() -> None:
    store = Store()
    store.execute((b"SET", b"k", b"v"))
    store.clear()
    assert store["k"] is None
