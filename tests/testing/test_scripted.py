"""The scripted cluster: what it says, what it makes of a failed dialogue, and what clients make of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
import redis

from slotwise import RedisCluster, key_slot
from slotwise.local.wire import Wire
from slotwise.testing import ScriptedCluster, ScriptedNode

HOST = "127.0.0.1"
# Of the second of two primaries, and of the first.
HIGH, LOW = "a", "b"
assert key_slot(LOW) < 8192 <= key_slot(HIGH)


def ask(node: ScriptedNode, *command: str) -> Any:
    """One command over a connection of its own; errors are raised."""
    with Wire(HOST, node.port) as wire:
        return wire.call(*command)


def refusal(node: ScriptedNode, *command: str) -> str:
    with pytest.raises(redis.ResponseError) as caught:
        ask(node, *command)
    return str(caught.value)


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    with ScriptedCluster(2) as cluster:
        yield cluster


# -- the dialogue -------------------------------------------------------------------------------


def test_expectations_are_met_in_the_order_of_writing() -> None:
    with ScriptedCluster() as cluster:
        (node,) = cluster.nodes
        node.expect("GET", "a").reply(b"1")
        node.expect("GET").reply(lambda command: command[1] * 2)
        node.expect("INCR").often().reply(7)
        assert [ask(node, *words.split()) for words in ("GET b", "GET a", "INCR x", "INCR y")] == [
            "bb",
            "1",
            7,
            7,
        ]
        assert node.commands[0] == (b"GET", b"b")
        assert node.count("INCR") == 2


def test_what_nobody_expected_fails_at_the_end() -> None:
    with (
        pytest.raises(AssertionError, match=r"did not expect \[\(b'GET', b'a'\)\]"),
        ScriptedCluster() as cluster,
    ):
        assert "nobody expected" in refusal(cluster.nodes[0], "GET", "a")


def test_what_never_came_fails_at_the_end() -> None:
    with (
        pytest.raises(AssertionError, match=r"waits in vain for \[\(b'GET', b'a'\)\]"),
        ScriptedCluster() as cluster,
    ):
        cluster.nodes[0].expect("GET", "a").reply(b"")


def test_an_error_of_the_test_itself_is_told_first() -> None:
    cluster = ScriptedCluster()
    cluster.nodes[0].expect("GET").reply(b"")
    with pytest.raises(ZeroDivisionError), cluster:
        _ = 1 / 0


def test_redirects_name_the_slot_of_the_key(pair: ScriptedCluster) -> None:
    first, second = pair.nodes
    first.expect("GET", "a").moved(second)
    first.expect("GET", "b").ask(second)
    first.expect("SET").clusterdown()
    assert refusal(first, "GET", "a") == f"MOVED {key_slot('a')} {HOST}:{second.port}"
    assert refusal(first, "GET", "b") == f"ASK {key_slot('b')} {HOST}:{second.port}"
    assert refusal(first, "SET", "b", "1").startswith("CLUSTERDOWN")


def test_a_script_that_cannot_be_played_fails_at_the_end() -> None:
    cluster = ScriptedCluster()
    (node,) = cluster.nodes
    node.expect("ECHO").moved(node)
    with pytest.raises(OSError, match="closed"):
        ask(node, "ECHO", "a")
    with pytest.raises(AssertionError, match=r"could not play its part: .* has no key"), cluster:
        pass


def test_raw_bytes_and_a_closed_connection() -> None:
    with ScriptedCluster() as cluster:
        (node,) = cluster.nodes
        node.expect("GET").send(b"$5\r\nhal").close()
        with socket.create_connection((HOST, node.port)) as sock:
            sock.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
            assert b"".join(iter(lambda: sock.recv(100), b"")) == b"$5\r\nhal"


def test_steps_that_wait() -> None:
    with ScriptedCluster() as cluster:
        (node,) = cluster.nodes
        come, go = threading.Event(), threading.Event()
        node.expect("GET").then(come).until(go).delay(0.1).reply(b"1")
        with socket.create_connection((HOST, node.port), timeout=0.1) as sock:
            sock.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
            assert come.wait(5)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            began = time.monotonic()
            go.set()
            sock.settimeout(5)
            assert sock.recv(100) == b"$1\r\n1\r\n"
            assert time.monotonic() - began >= 0.1


def test_half_open_by_script(pair: ScriptedCluster) -> None:
    """The connection stays and is silent; others are served."""
    node = pair.nodes[0]
    node.expect("GET", "a").half_open()
    node.expect("GET", "b").reply(b"1")
    with Wire(HOST, node.port, timeout=0.2) as wire:
        with pytest.raises(TimeoutError):
            wire.call("GET", "a")
        with pytest.raises(TimeoutError):
            wire.call("PING")
        assert ask(node, "GET", "b") == "1"
        assert len(node.connections) >= 1


def test_half_open_of_all_connections(pair: ScriptedCluster) -> None:
    node = pair.nodes[0]
    with Wire(HOST, node.port, timeout=0.2) as old:
        assert old.call("PING") == "PONG"
        node.half_open()
        with pytest.raises(TimeoutError):
            old.call("PING")
        assert ask(node, "PING") == "PONG"


def test_a_slow_shard_blocks_no_other_connection(pair: ScriptedCluster) -> None:
    """Four connections wait at the same time, and the other node does not."""
    slow, quick = pair.nodes
    slow.pace = 1.0
    began = time.monotonic()
    threads = [threading.Thread(target=ask, args=(slow, "PING")) for _ in range(4)]
    for thread in threads:
        thread.start()
    ask(quick, "PING")
    assert time.monotonic() - began < 1
    for thread in threads:
        thread.join()
    assert 1 <= time.monotonic() - began < 4


def test_stop_refuses_and_restart_serves_again(pair: ScriptedCluster) -> None:
    node = pair.nodes[0]
    with Wire(HOST, node.port) as wire:
        wire.call("PING")
        node.stop()
        with pytest.raises(OSError, match="closed"):
            wire.call("PING")
    with pytest.raises(ConnectionRefusedError):
        ask(node, "PING")
    node.restart()
    assert ask(node, "PING") == "PONG"


# -- the topology -------------------------------------------------------------------------------


def test_replicas_follow_the_primaries() -> None:
    with ScriptedCluster(2, 1, replicas=2) as cluster:
        one, two, *_, other = cluster.nodes
        assert len(cluster.nodes) == 7
        assert cluster.slots == [
            (0, 8191, [one, cluster.nodes[2], cluster.nodes[4]]),
            (8192, 16383, [two, cluster.nodes[3], cluster.nodes[5]]),
        ]
        assert not any(other in nodes for _, _, nodes in cluster.slots)


def test_slots_and_shards_agree() -> None:
    with ScriptedCluster(2, replicas=1) as cluster:
        node = cluster.nodes[0]
        cluster.move_slots(100, 200, cluster.nodes[1])
        ranges = {(first, last, primary[1]) for first, last, primary, _ in ask(node, "CLUSTER", "SLOTS")}
        told = set()
        for shard in ask(node, "CLUSTER", "SHARDS"):
            fields = dict(zip(shard[::2], shard[1::2], strict=True))
            nodes = [dict(zip(told[::2], told[1::2], strict=True)) for told in fields["nodes"]]
            assert [each["role"] for each in nodes] == ["master", "replica"]
            slots = iter(fields["slots"])
            told |= {(first, last, nodes[0]["port"]) for first, last in zip(slots, slots, strict=True)}
        assert ranges == told
        assert len(told) == 4
        assert f"connected {0}-99 201-8191" in ask(node, "CLUSTER", "NODES")
        assert "cluster_my_epoch:1" in ask(node, "CLUSTER", "INFO")


def test_shards_in_resp3_are_maps() -> None:
    with ScriptedCluster() as cluster, socket.create_connection((HOST, cluster.nodes[0].port)) as sock:
        sock.sendall(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$7\r\nCLUSTER\r\n$6\r\nSHARDS\r\n")
        reader, replies = hiredis.Reader(), []
        while len(replies) < 2:
            reader.feed(sock.recv(10_000))
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        assert replies[1][0][b"slots"] == [0, 16383]


def test_shards_may_be_unknown() -> None:
    with ScriptedCluster() as cluster:
        cluster.answers_shards = False
        assert "unknown subcommand" in refusal(cluster.nodes[0], "CLUSTER", "SHARDS")
        with RedisCluster.from_url(cluster.url) as client:
            assert len(client.get_nodes()) == 1


def test_nodes_that_share_a_hostname() -> None:
    with ScriptedCluster(2, store=True, host="localhost") as cluster:
        first, second = cluster.nodes
        assert refusal(first, "GET", HIGH) == f"MOVED {key_slot(HIGH)} localhost:{second.port}"
        with RedisCluster.from_url(cluster.url) as client:
            assert {node.port for node in client.get_primaries()} == {first.port, second.port}
            client.set(HIGH, 1)
            client.set(LOW, 2)
        assert (cluster.store[HIGH], cluster.store[LOW]) == (b"1", b"2")


def test_an_isolated_node_keeps_the_old_view() -> None:
    with ScriptedCluster(1, replicas=1) as cluster:
        old, new = cluster.nodes
        old.isolate()
        cluster.failover(new)
        assert [ask(node, "CLUSTER", "SLOTS")[0][2][1] for node in (old, new)] == [old.port, new.port]
        assert "cluster_current_epoch:2" in ask(old, "CLUSTER", "INFO")
        # Of the two that claim the slots the new one has the higher epoch.
        assert f"master - 0 0 {cluster.view.epochs[new]} connected 0-16383" in ask(new, "CLUSTER", "NODES")
        assert cluster.view.epochs[new] > cluster.view.epochs[old]
        old.rejoin()
        assert ask(old, "CLUSTER", "SLOTS")[0][2][1] == new.port


def test_who_gets_slots_gets_the_highest_epoch(pair: ScriptedCluster) -> None:
    """However the topology is changed, and nobody else does."""
    first, second = pair.nodes
    before = pair.view.epochs
    assert pair.view.epochs == before
    pair.slots[1] = (8192, 16383, [first])
    assert pair.view.epochs == {**before, first: 3}
    pair.move_slots(5, 5, second)
    assert pair.view.epochs == {first: 3, second: 4}


def test_failover_needs_a_replica(pair: ScriptedCluster) -> None:
    with pytest.raises(ValueError, match="no replica"):
        pair.failover(pair.nodes[0])


def test_received_counts_the_handshake_too(pair: ScriptedCluster) -> None:
    node = pair.nodes[0]
    for command in ("CLUSTER SLOTS", "CLUSTER SHARDS", "PING", "PING"):
        ask(node, *command.split())
    assert node.received == {"CLUSTER SLOTS": 1, "CLUSTER SHARDS": 1, "PING": 2}
    assert node.topology_asked == 2
    ask(pair.nodes[1], "PING")
    assert pair.received["PING"] == 3
    assert node.commands == []


# -- the store ----------------------------------------------------------------------------------


@pytest.fixture
def stored() -> Iterator[ScriptedCluster]:
    """Two primaries with a replica each, and a store."""
    with ScriptedCluster(2, replicas=1, store=True) as cluster:
        yield cluster


@pytest.mark.parametrize("client_class", [RedisCluster, redis.RedisCluster])
def test_clients_use_the_store(stored: ScriptedCluster, client_class: Any) -> None:
    with client_class.from_url(stored.url) as client:
        assert client.set("key", "value")
        assert client.get("key") == b"value"
        assert client.incrby("{key}n", 5) == 5
        assert client.expire("key", 100) == 1
        assert 99 <= client.ttl("key") <= 100
        pipe = client.pipeline()
        for number in range(20):
            pipe.set(f"item:{number}", number)
        assert all(pipe.execute())
        assert client.mget_nonatomic(*(f"item:{number}" for number in range(20))) == [
            b"%d" % n for n in range(20)
        ]
        with client.pipeline(transaction=True) as pipe:
            pipe.watch("key")
            pipe.multi()
            pipe.incr("{key}n")
            pipe.get("key")
            assert pipe.execute() == [6, b"value"]
    assert stored.received["CLUSTER SLOTS"] + stored.received["CLUSTER SHARDS"] >= 1


def test_a_script_goes_before_the_store(stored: ScriptedCluster) -> None:
    node = stored.owner_of(key_slot("key"))
    node.expect("GET", "key").error("TRYAGAIN later")
    assert "TRYAGAIN" in refusal(node, "GET", "key")
    assert ask(node, "GET", "key") is None


def test_the_store_obeys_slots(stored: ScriptedCluster) -> None:
    low, high, low_replica, _ = stored.nodes
    ask(low, "SET", LOW, "1")
    assert refusal(high, "GET", LOW) == f"MOVED {key_slot(LOW)} {low.address}"
    assert refusal(low, "MGET", LOW, HIGH).startswith("CROSSSLOT")
    with Wire(HOST, low_replica.port) as wire:
        with pytest.raises(redis.ResponseError, match="MOVED"):
            wire.call("GET", LOW)
        wire.call("READONLY")
        assert wire.call("GET", LOW) == "1"
        with pytest.raises(redis.ResponseError, match="MOVED"):
            wire.call("SET", LOW, "2")
    with Wire(HOST, high.port) as wire:
        assert wire.pipeline([("ASKING",), ("GET", LOW)]) == ["OK", "1"]
        with pytest.raises(redis.ResponseError, match="MOVED"):
            wire.call("GET", LOW)
    stored.slots = stored.slots[:1]
    with pytest.raises(LookupError):
        stored.owner_of(key_slot(HIGH))
    assert refusal(low, "GET", HIGH).startswith("CLUSTERDOWN")


def test_failover_and_moved_slots(stored: ScriptedCluster) -> None:
    low, high, low_replica, _ = stored.nodes
    with RedisCluster.from_url(stored.url) as client:
        client.set(LOW, 1)
        stored.failover(low_replica)
        assert client.get(LOW) == b"1"
        slot = key_slot(LOW)
        stored.move_slots(slot, slot, high)
        assert client.incr(LOW) == 2
    assert stored.replicas_of(low_replica) == [low]
    assert low.received["GET"] == 1  # it said MOVED
    assert low_replica.received["GET"] == 1
    assert stored.owner_of(slot) is high
    assert sum(last - first + 1 for first, last, _ in stored.slots) == 16384


def test_transactions(stored: ScriptedCluster) -> None:
    low = stored.nodes[0]
    with Wire(HOST, low.port) as wire:
        assert wire.pipeline([("MULTI",), ("INCR", LOW), ("DISCARD",), ("GET", LOW)]) == [
            "OK",
            "QUEUED",
            "OK",
            None,
        ]
        wire.call("WATCH", LOW)
        ask(low, "SET", LOW, "5")
        assert wire.pipeline([("MULTI",), ("INCR", LOW), ("EXEC",)])[2] is None
        assert wire.pipeline([("MULTI",), ("INCR", LOW), ("GET", LOW), ("EXEC",)])[3] == [6, "6"]
        wire.call("MULTI")
        with pytest.raises(redis.ResponseError, match="MOVED"):
            wire.call("INCR", HIGH)
        with pytest.raises(redis.ResponseError, match="EXECABORT"):
            wire.call("EXEC")
        wire.call("WATCH", LOW)
        ask(low, "SET", LOW, "7")
        assert wire.pipeline([("UNWATCH",), ("MULTI",), ("INCR", LOW), ("EXEC",)])[3] == [8]
        wire.call("MULTI")
        with pytest.raises(redis.ResponseError, match="nested"):
            wire.call("MULTI")
        wire.call("DISCARD")
        for wrong in ("EXEC", "DISCARD"):
            with pytest.raises(redis.ResponseError, match="without MULTI"):
                wire.call(wrong)


def test_what_the_store_does_not_know_fails_at_the_end() -> None:
    with pytest.raises(AssertionError, match="LPUSH"), ScriptedCluster(store=True) as cluster:
        assert "nobody expected" in refusal(cluster.nodes[0], "LPUSH", "a", "b")
