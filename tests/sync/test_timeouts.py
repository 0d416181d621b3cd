"""Replies that come late, or never: one caller is told, and nobody else notices."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from slotwise.errors import UnknownOutcomeError, UnknownOutcomeTimeoutError
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background


def test_slow_read_times_out_and_its_late_reply_is_dropped(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=0.2, cluster_error_retry_attempts=0)
    release = threading.Event()
    node.expect("GET", "slow").until(release).reply(b"late")
    node.expect("GET", "next").reply(b"right")
    node.expect("GET", "later").reply(b"right too")

    started = time.monotonic()
    with pytest.raises(redis.TimeoutError):
        client.get("slow")
    assert 0.2 <= time.monotonic() - started < 4
    assert client.get("next") == b"right"
    release.set()
    assert client.get("later") == b"right too"


def test_slow_read_is_tried_again(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=0.2, cluster_error_retry_attempts=1)
    release = threading.Event()
    node.expect("GET", "a").until(release).reply(b"first")
    node.expect("GET", "a").reply(b"second")
    assert client.get("a") == b"second"
    release.set()


def test_slow_write_has_an_unknown_outcome_and_is_sent_once(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=0.2)
    release = threading.Event()
    node.expect("INCRBY", "a").until(release).reply(1)
    with pytest.raises(UnknownOutcomeTimeoutError) as caught:
        client.incr("a")
    assert isinstance(caught.value, redis.ConnectionError)
    assert isinstance(caught.value, redis.TimeoutError)
    assert str(node.port) in str(caught.value), "the message names the node"
    release.set()
    node.expect("GET", "a").reply(b"1")
    assert client.get("a") == b"1"
    assert node.count("INCRBY") == 1


def test_time_out_replaces_the_connection(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=0.2, cluster_error_retry_attempts=0)
    release = threading.Event()
    node.expect("GET", "a").until(release)
    node.expect("GET", "b").reply(b"b")
    with pytest.raises(redis.TimeoutError):
        client.get("a")
    client.get("b")
    first, second = (read.connection for read in node.reads)
    assert first != second
    release.set()
    # The old connection is gone, not left to leak: the node sees it end.
    deadline = time.monotonic() + PATIENCE
    while any(peer.number == first for peer in node.connections):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_others_on_the_connection_keep_their_replies(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=1, cluster_error_retry_attempts=0)
    arrived, release = threading.Event(), threading.Event()
    node.expect("GET", "slow").then(arrived).until(release).reply(b"late")
    node.expect("INCRBY", "patient").reply(42)
    slow = background(client.get, "slow")
    assert arrived.wait(PATIENCE)
    time.sleep(0.8)  # how much longer the second may wait than the first
    patient = background(client.incr, "patient")
    with pytest.raises(redis.TimeoutError):
        slow.result(PATIENCE)
    release.set()
    assert patient.result(PATIENCE) == 42


def test_reply_behind_a_slow_one_is_in_time_while_bytes_flow(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """The time-out is that of silence, as where each thread has a connection of its own."""
    client = make_client(scripted, socket_timeout=1, cluster_error_retry_attempts=0)
    arrived = threading.Event()
    slow = node.expect("GET", "slow").then(arrived).send(b"$4\r\n")
    for piece in (b"v", b"a", b"l", b"u\r\n"):
        slow.delay(0.3).send(piece)
    node.expect("GET", "behind").reply(b"behind")
    leader = background(client.get, "slow")
    assert arrived.wait(PATIENCE)
    assert client.get("behind") == b"behind"
    assert leader.result(PATIENCE) == b"valu"


def test_followers_of_a_silent_node_do_not_wait_one_after_the_other(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=0.5, cluster_error_retry_attempts=0)
    release = threading.Event()
    node.expect("GET").often().until(release)
    started = time.monotonic()
    calls = [background(client.get, f"k{n}") for n in range(24)]
    for call in calls:
        with pytest.raises(redis.TimeoutError):
            call.result(PATIENCE)
    assert time.monotonic() - started < 4  # a third of what they would take in turn
    release.set()


def test_command_that_waited_too_long_to_be_sent_is_not_executed_twice(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """Its bytes are behind those of another caller already: they still go out after it was given up."""
    client = make_client(scripted, socket_timeout=3)
    node.expect("SET", "big").reply("OK")
    node.expect("INCRBY", "counter").often().reply(1)
    node.expect("GET", "last").reply(b"last")
    node.pace = 0.08
    big = background(client.set, "big", b"x" * 60_000_000)
    time.sleep(0.2)
    counter = background(client.incr, "counter")
    outcome = counter.exception(PATIENCE) or counter.result()
    assert big.result(PATIENCE) is True
    node.pace = 0
    assert client.get("last") == b"last"
    assert node.count("INCRBY") == 1
    assert outcome == 1 or isinstance(outcome, UnknownOutcomeError)


def test_no_time_out_waits_for_ever(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, socket_timeout=None)
    node.expect("GET", "a").delay(0.5).reply(b"a")
    assert client.get("a") == b"a"


def test_pipeline_times_out_on_the_silent_node_only(make_client: MakeClient) -> None:
    with ScriptedCluster(2) as scripted:
        client = make_client(scripted, socket_timeout=0.3, cluster_error_retry_attempts=0)
        low, high = scripted.nodes
        keys = {
            client.nodes_manager.get_node_from_slot(client.keyslot(f"k{i}")).port: f"k{i}" for i in range(50)
        }
        release = threading.Event()
        low.expect("INCRBY").until(release).reply(1)
        high.expect("INCRBY").reply(7)
        pipe = client.pipeline()
        pipe.incr(keys[low.port])
        pipe.incr(keys[high.port])
        lost, answered = pipe.execute(raise_on_error=False)
        assert isinstance(lost, UnknownOutcomeTimeoutError)
        assert answered == 7
        release.set()
        high.expect("GET").reply(b"7")
        assert client.get(keys[high.port]) == b"7"
