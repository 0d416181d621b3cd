"""Connections that end at a bad moment: what may be sent again is, what may have been executed never is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from slotwise import RedisCluster
from slotwise.errors import ClosedClientError, UnknownOutcomeError, UnknownOutcomeTimeoutError
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background


def test_read_whose_reply_was_lost_is_sent_again(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted)
    node.expect("GET", "a").send(b"$5\r\nwr").close()
    node.expect("GET", "a").reply(b"right")
    assert client.get("a") == b"right"
    assert node.count("GET") == 2


def test_read_gives_up_after_its_retries(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, cluster_error_retry_attempts=2)
    node.expect("GET", "a").often().close()
    with pytest.raises(redis.ConnectionError) as caught:
        client.get("a")
    assert not isinstance(caught.value, redis.TimeoutError)
    assert str(node.port) in str(caught.value), "the message names the node"
    assert node.count("GET") == 3


WRITES: list[Callable[[Any], Any]] = [
    lambda c: c.incr("a"),
    lambda c: c.set("a", 1),
    lambda c: c.append("a", "x"),
    lambda c: c.lpush("a", "x"),
    lambda c: c.execute_command("INCR", "a"),
    lambda c: c.eval("return redis.call('INCR', KEYS[1])", 1, "a"),
    lambda c: c.mset({"{a}1": 1, "{a}2": 2}),
    lambda c: c.delete("a"),
    lambda c: c.blpop("a", 1),
    lambda c: c.flushall(target_nodes="primaries"),
]


@pytest.mark.parametrize("write", WRITES)
def test_write_whose_reply_was_lost_is_not_sent_again(
    scripted: ScriptedCluster,
    node: ScriptedNode,
    make_client: MakeClient,
    write: Callable[[RedisCluster], Any],
) -> None:
    client = make_client(scripted)
    for name in ("INCR", "INCRBY", "SET", "APPEND", "LPUSH", "EVAL", "MSET", "DEL", "BLPOP", "FLUSHALL"):
        node.expect(name).often().close()
    node.expect("GET", "a").reply(b"1")
    with pytest.raises(UnknownOutcomeError) as caught:
        write(client)
    assert not isinstance(caught.value, UnknownOutcomeTimeoutError)
    assert len(node.commands) == 1
    assert client.get("a") == b"1"


def test_loss_is_told_to_every_caller_by_what_it_called(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """Several callers on one connection when it ends: reads go again, writes do not."""
    client = make_client(scripted)
    arrived, release = threading.Event(), threading.Event()
    node.expect("INCRBY", "leader").then(arrived).until(release).close()
    node.expect("INCRBY", "follower").often().reply(5)
    node.expect("GET", "follower").often().reply(b"value")
    leader = background(client.incr, "leader")
    assert arrived.wait(PATIENCE)
    write = background(client.incr, "follower")
    read = background(client.get, "follower")
    time.sleep(0.1)
    release.set()
    with pytest.raises(UnknownOutcomeError):
        leader.result(PATIENCE)
    # It was sent while the leader waited for its reply.
    with pytest.raises(UnknownOutcomeError):
        write.result(PATIENCE)
    assert read.result(PATIENCE) == b"value"
    assert node.count("INCRBY", "leader") == 1
    assert node.count("INCRBY", "follower") <= 1


@pytest.mark.parametrize("retries", [0, 3])
def test_connection_that_the_server_closed_while_idle_costs_nothing(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient, retries: int
) -> None:
    client = make_client(scripted, cluster_error_retry_attempts=retries)
    node.expect("INCRBY", "a").often().reply(1)
    node.expect("GET", "a").often().reply(b"1")
    for _ in range(3):
        assert client.incr("a") == 1
        assert client.pipeline().incr("a").get("a").execute() == [1, b"1"]
        time.sleep(0.05)
        node.drop_connections()
        time.sleep(0.05)
    assert client.incr("a") == 1
    assert node.count("INCRBY") == 7
    assert node.topology_asked == 1


def test_killed_clients_of_a_real_cluster(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(cluster, cluster_error_retry_attempts=0)
    client.delete("killed")
    for i in range(1, 6):
        assert client.incr("killed") == i * 3 - 2
        assert client.pipeline().incr("killed").incr("killed").execute() == [i * 3 - 1, i * 3]
        time.sleep(0.05)
        for primary in cluster.primaries:
            primary.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(0.05)
    assert client.get("killed") == b"15"


def test_node_that_restarts_at_the_same_address(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """All connections end with replies pending, those of the pool too."""
    client = make_client(scripted)
    reading, popping, release = threading.Event(), threading.Event(), threading.Event()
    node.expect("GET", "a").then(reading).until(release)
    node.expect("BLPOP").then(popping).until(release)
    node.expect("GET", "a").reply(b"right")
    read = background(client.get, "a")
    popped = background(client.blpop, "q", 1)
    assert reading.wait(PATIENCE)
    assert popping.wait(PATIENCE)
    node.drop_connections()
    release.set()
    assert read.result(PATIENCE) == b"right"
    with pytest.raises(UnknownOutcomeError):
        popped.result(PATIENCE)


def test_garbage_instead_of_a_reply(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted)
    node.expect("GET", "a").send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    node.expect("GET", "a").reply(b"right")
    node.expect("INCRBY", "a").send(b"?!\r\n")
    assert client.get("a") == b"right"
    with pytest.raises(UnknownOutcomeError):
        client.incr("a")


def test_more_replies_than_commands(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """A reply that nobody asked for must not become the next caller's."""
    client = make_client(scripted)
    node.expect("GET", "a").send(b"$1\r\na\r\n$5\r\nwrong\r\n")
    node.expect("GET", "b").reply(b"b")
    node.expect("GET", "c").reply(b"c")
    with contextlib.suppress(redis.ConnectionError):
        assert client.get("a") == b"a"
    assert client.get("b") == b"b"
    assert client.pipeline().get("c").execute() == [b"c"]


def test_close_ends_calls_under_way(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=None)
    reading, piping, release = (threading.Event() for _ in range(3))
    node.expect("GET", "a").then(reading).until(release)
    node.expect("GET", "piped").then(piping).until(release)
    node.expect("GET", "b").often().reply(b"late")
    leader = background(client.get, "a")
    piped = background(client.pipeline().get("piped").execute)
    for event in (reading, piping):
        assert event.wait(PATIENCE)
    follower = background(client.get, "b")
    time.sleep(0.1)
    client.close()
    for call in (leader, follower, piped):
        with pytest.raises(ClosedClientError):
            call.result(PATIENCE)
    release.set()


def test_close_says_of_a_write_under_way_that_nobody_knows(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=None)
    writing, piping, popping, release = (threading.Event() for _ in range(4))
    node.expect("INCRBY", "a").then(writing).until(release)
    node.expect("INCRBY", "piped").then(piping).until(release)
    node.expect("BLPOP").then(popping).until(release)
    write = background(client.incr, "a")
    piped = background(client.pipeline().incr("piped").execute)
    popped = background(client.blpop, "q", 10)
    for event in (writing, piping, popping):
        assert event.wait(PATIENCE)
    client.close()
    for call in (write, piped, popped):
        with pytest.raises(UnknownOutcomeError):
            call.result(PATIENCE)
    release.set()


def test_reply_on_its_way_survives_the_node_leaving_the_topology(make_client: MakeClient) -> None:
    with ScriptedCluster(2) as scripted:
        client = make_client(scripted)
        low, high = scripted.nodes
        arrived, release = threading.Event(), threading.Event()
        low.expect("INCRBY").then(arrived).until(release).reply(7)
        key = next(f"k{i}" for i in range(100) if client.keyslot(f"k{i}") < 8192)
        write = background(client.incr, key)
        assert arrived.wait(PATIENCE)
        scripted.slots[:] = [(0, 16383, [high])]
        client.nodes_manager.initialize()
        release.set()
        assert write.result(PATIENCE) == 7
        high.expect("GET", key).reply(b"7")
        assert client.get(key) == b"7"
