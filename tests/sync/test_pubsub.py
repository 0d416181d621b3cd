"""Subscriptions outlive the move of their slot and the death of their node, and the gap is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from redis.event import AfterSlotsCacheRefreshEvent, EventListenerInterface

from slotwise import key_slot
from slotwise.errors import AuthenticationError, ConnectionError, MaxConnectionsError, RedisError
from slotwise.local import LocalCluster
from slotwise.routing.topology import Address
from slotwise.sync.pubsub import ClusterPubSub
from slotwise.testing.scripted import Push, ScriptedCluster, encode
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background

GAP = {"type": "gap", "pattern": None, "channel": None, "data": None}


@contextmanager
def published(send: Callable[[str, int], Any], channel: str) -> Iterator[None]:
    """Meanwhile numbers are published to ``channel``, also while its node is away."""
    stop = threading.Event()

    def go() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with suppress(RedisError):
                send(channel, number)
            # Slower than the subscriber, who has to read them all.
            stop.wait(0.01)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


def until(get: Callable[..., Any], wanted: Callable[[Any], bool]) -> list[Any]:
    """The messages that come, up to the one that is wanted."""
    messages: list[Any] = []
    deadline = time.monotonic() + PATIENCE
    while not (messages and wanted(messages[-1])):
        assert time.monotonic() < deadline, messages
        message = get(timeout=0.1)
        if message is not None:
            messages.append(message)
    return messages


def kind(*kinds: str) -> Callable[[Any], bool]:
    return lambda message: message["type"] in kinds


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def numbers(messages: list[Any]) -> list[int]:
    return [int(m["data"]) for m in messages if m["type"] in ("message", "smessage", "pmessage")]


@pytest.mark.usefixtures("sharded_pubsub")
def test_shard_channel_moves_with_its_slot(faulty_cluster: LocalCluster, make_client: MakeClient) -> None:
    """Nobody else tells the client of the move: the old node ends the subscription."""
    client, publisher = make_client(faulty_cluster), make_client(faulty_cluster)
    slot = key_slot("moves")
    owner = faulty_cluster.owner_of(slot)
    target = next(node for node in faulty_cluster.primaries if node is not owner)
    with client.pubsub() as pubsub, published(publisher.spublish, "moves"):
        pubsub.ssubscribe("moves")
        until(pubsub.get_sharded_message, kind("smessage"))
        faulty_cluster.move_slots([slot], target)
        before = until(pubsub.get_sharded_message, kind("gap"))
        after = until(pubsub.get_sharded_message, kind("smessage"))
        assert before[-1] == {**GAP, "channel": b"moves"}
        # In order, and nothing twice: what is missing is missing at the gap.
        assert numbers(before) == sorted(set(numbers(before)))
        assert all(n < numbers(after)[0] for n in numbers(before))
        assert list(pubsub.shard_channels) == [b"moves"]
        pubsub.sunsubscribe("moves")
        until(pubsub.get_sharded_message, kind("sunsubscribe"))
        assert not pubsub.subscribed


@pytest.mark.parametrize("waits", [False, True])
def test_node_that_has_left_is_left(pair: ScriptedCluster, make_client: MakeClient, waits: bool) -> None:
    """It lives on, and hears of nothing that is published; who waits for a message there waits no longer."""
    for node in pair.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
        node.expect("PSUBSCRIBE", "b*").often().send(subscription(b"psubscribe", b"b*", 2))
    client = make_client(pair)
    with client.pubsub() as pubsub:
        pubsub.subscribe("a")
        pubsub.psubscribe("b*")
        until(pubsub.get_message, kind("psubscribe"))
        assert pubsub.get_message() is None
        heard = background(next, pubsub.listen()) if waits else None
        gone, stays = sorted(pair.nodes, key=lambda node: node.port != pubsub.node.port)
        time.sleep(0.1)
        pair.move_slots(0, 16383, stays)
        client.nodes_manager.initialize()
        if heard is not None:
            assert heard.result(PATIENCE)["type"] == "subscribe"
        gaps = [until(pubsub.get_message, kind("gap"))[-1] for _ in range(2)]
        assert gaps == [{**GAP, "channel": b"a"}, {**GAP, "pattern": b"b*"}]
        assert pubsub.connection.port == pubsub.node.port == stays.port
        eventually(lambda: not gone.connections)


def test_node_of_the_users_own_is_kept(pair: ScriptedCluster, make_client: MakeClient) -> None:
    first, second = pair.nodes
    first.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1))
    client = make_client(pair)
    with client.pubsub(host=first.host, port=first.port) as pubsub:
        pubsub.subscribe("a")
        until(pubsub.get_message, kind("subscribe"))
        pair.move_slots(0, 16383, second)
        client.nodes_manager.initialize()
        assert pubsub.get_message(timeout=0.1) is None
        assert pubsub.connection.port == first.port


@pytest.mark.usefixtures("sharded_pubsub")
def test_shard_channel_outlives_its_node(faulty_cluster: LocalCluster, make_client: MakeClient) -> None:
    gaps: list[Any] = []
    client, publisher = make_client(faulty_cluster), make_client(faulty_cluster)
    with client.pubsub(on_gap=gaps.append) as pubsub, published(publisher.spublish, "dies"):
        pubsub.ssubscribe("dies")
        until(pubsub.get_sharded_message, kind("smessage"))
        faulty_cluster.kill(faulty_cluster.owner_of(key_slot("dies")))
        # What the killed node has sent is read first.
        until(lambda timeout: pubsub.get_sharded_message(timeout=timeout) or gaps, lambda _: bool(gaps))
        assert {**GAP, "channel": b"dies"} in gaps
        until(pubsub.get_sharded_message, kind("smessage"))


def test_plain_channels_outlive_their_node(faulty_cluster: LocalCluster, make_client: MakeClient) -> None:
    client, publisher = make_client(faulty_cluster), make_client(faulty_cluster)
    with client.pubsub() as pubsub, published(publisher.publish, "news:1"):
        pubsub.subscribe("news:1")
        pubsub.psubscribe("news:*")
        until(pubsub.get_message, kind("pmessage"))
        assert pubsub.node is not None
        faulty_cluster.kill(next(node for node in faulty_cluster.nodes if node.port == pubsub.node.port))
        messages = until(pubsub.get_message, kind("gap"))
        messages += until(pubsub.get_message, kind("gap"))
        assert [m for m in messages if m["type"] == "gap"] == [
            {**GAP, "channel": b"news:1"},
            {**GAP, "pattern": b"news:*"},
        ]
        until(pubsub.get_message, kind("message"))
        until(pubsub.get_message, kind("pmessage"))


def subscription(*words: Any) -> bytes:
    return encode(Push(words), 3)


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    with ScriptedCluster(2) as cluster:
        yield cluster


def test_half_open_connection_is_missed(make_client: MakeClient) -> None:
    """Nothing tells that it is: only the answer to PING stays away."""
    with ScriptedCluster(1) as cluster:
        (node,) = cluster.nodes
        confirmed = subscription(b"subscribe", b"c", 1)
        node.expect("SUBSCRIBE", "c").send(confirmed).half_open()
        node.expect("SUBSCRIBE", "c").send(confirmed).send(subscription(b"message", b"c", b"1"))
        client = make_client(cluster, health_check_interval=0.2, socket_timeout=0.3)
        with client.pubsub() as pubsub:
            pubsub.subscribe("c")
            messages = until(pubsub.get_message, kind("message"))
        assert [m["type"] for m in messages] == ["subscribe", "subscribe", "gap", "message"]


def test_listener_that_blocks_misses_the_answer(make_client: MakeClient) -> None:
    with ScriptedCluster(1) as cluster:
        (node,) = cluster.nodes
        confirmed = subscription(b"subscribe", b"c", 1)
        node.expect("SUBSCRIBE", "c").send(confirmed).half_open()
        node.expect("SUBSCRIBE", "c").send(confirmed)
        client = make_client(cluster, health_check_interval=0.2, socket_timeout=0.3)
        with client.pubsub(ignore_subscribe_messages=False) as pubsub:
            pubsub.subscribe("c")
            began = time.monotonic()
            heard = []
            for message in pubsub.listen():
                heard.append(message["type"])
                if message["type"] == "gap":
                    break
        assert heard == ["subscribe", "subscribe", "gap"]
        assert time.monotonic() - began < 5


def test_answer_to_ping_waits_for_a_busy_subscriber(make_client: MakeClient) -> None:
    """Who reads only after ``socket_timeout`` finds the answer, and the messages, where they are."""
    with ScriptedCluster(1) as cluster:
        (node,) = cluster.nodes
        node.expect("SUBSCRIBE", "c").send(subscription(b"subscribe", b"c", 1))
        pinged = threading.Event()
        pong = subscription(b"pong", b"redis-py-health-check")
        node.expect("PING", "redis-py-health-check").delay(0.1).send(
            subscription(b"message", b"c", b"1")
        ).send(pong).then(pinged)
        client = make_client(cluster, health_check_interval=0.2, socket_timeout=0.2)
        with client.pubsub() as pubsub:
            pubsub.subscribe("c")
            until(pubsub.get_message, kind("subscribe"))
            time.sleep(0.3)
            assert pubsub.get_message(timeout=0) is None
            assert pinged.wait(PATIENCE)
            time.sleep(0.3)
            assert [m["type"] for m in until(pubsub.get_message, lambda _: True)] == ["message"]


def test_gap_is_kept_back_with_other_messages_about_subscriptions(
    pair: ScriptedCluster, make_client: MakeClient
) -> None:
    second = pair.nodes[1]
    assert key_slot("a") >= 8192
    second.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1)).close()
    for node in pair.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1)).send(
            subscription(b"message", b"a", b"1")
        )
    with make_client(pair).pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("a")
        assert [m["type"] for m in until(pubsub.get_message, lambda _: True)] == ["message"]


def test_moved_of_a_subscription_is_followed(pair: ScriptedCluster, make_client: MakeClient) -> None:
    first, second = pair.nodes
    second.expect("SSUBSCRIBE", "a").moved(first)
    first.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1)).send(
        subscription(b"smessage", b"a", b"1")
    )
    client = make_client(pair, reinitialize_steps=0)
    with client.pubsub() as pubsub:
        pubsub.ssubscribe("a")
        assert numbers(until(pubsub.get_sharded_message, kind("smessage"))) == [1]
        # The node that has nothing to say is not listened to.
        assert list(pubsub.node_pubsub_mapping) == [f"127.0.0.1:{first.port}"]
        assert not client.nodes_manager.pool_of(Address("127.0.0.1", second.port))._in_use_connections


def test_nobody_is_there(pair: ScriptedCluster, make_client: MakeClient) -> None:
    """While no node answers there are no messages; who subscribes to something new is told so."""
    for node in pair.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a")
        until(pubsub.get_message, kind("subscribe"))
        for node in pair.nodes:
            node.stop()
        assert [pubsub.get_message(timeout=0.01) for _ in range(3)] == [None] * 3
        with pytest.raises(ConnectionError):
            pubsub.subscribe("b")
        for node in pair.nodes:
            node.restart()
            node.expect("SUBSCRIBE").often().send(subscription(b"subscribe", b"a", 1))
        until(pubsub.get_message, kind("gap"))


def test_refused_credentials_are_raised(pair: ScriptedCluster, make_client: MakeClient) -> None:
    for node in pair.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a")
        until(pubsub.get_message, kind("subscribe"))
        for node in pair.nodes:
            node.stop()
        assert pubsub.get_message(timeout=0.01) is None
        for node in pair.nodes:
            node.restart()
            node.expect("HELLO").often().error("WRONGPASS invalid username-password pair")
        for _ in range(2):
            with pytest.raises(AuthenticationError):
                until(pubsub.get_message, kind("message"))


def test_full_pool_is_raised(make_client: MakeClient) -> None:
    with ScriptedCluster(3) as cluster:
        client = make_client(cluster, max_connections=1, timeout=0.5)
        owner = cluster.owner_of(key_slot("a"))
        owner.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1))
        with client.pubsub() as pubsub, ExitStack() as held:
            pubsub.subscribe("a")
            until(pubsub.get_message, kind("subscribe"))
            for node in cluster.nodes:
                if node is not owner:
                    pool = client.get_redis_connection(
                        client.get_node("127.0.0.1", node.port)
                    ).connection_pool
                    held.callback(pool.release, pool.get_connection())
            owner.stop()
            with pytest.raises(MaxConnectionsError):
                until(pubsub.get_message, kind("message"))


def test_no_node_is_tried_after_the_callers_timeout(make_client: MakeClient) -> None:
    with ScriptedCluster(3) as cluster:
        client = make_client(cluster, socket_timeout=1)
        owner = cluster.owner_of(key_slot("a"))
        silent = threading.Event()
        owner.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1)).until(silent).close()
        with client.pubsub() as pubsub:
            pubsub.subscribe("a")
            until(pubsub.get_message, kind("subscribe"))
            for node in cluster.nodes:
                node.expect("HELLO").often()
            silent.set()
            assert pubsub.get_message(timeout=0.2) is None
            began = time.monotonic()
            assert pubsub.get_message(timeout=0) is None
            assert time.monotonic() - began < 2.5, "one of three nodes"


@pytest.mark.parametrize("anew", ["elsewhere", "here"])
def test_interrupted_between_two_subscriptions(
    pair: ScriptedCluster, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, anew: str
) -> None:
    """What a signal's handler raises leaves no connection with one of the two."""

    class Stop(BaseException):
        pass

    def interrupted(*_: Any) -> None:
        monkeypatch.undo()
        raise Stop

    for node in pair.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
        node.expect("PSUBSCRIBE", "b*").often().send(subscription(b"psubscribe", b"b*", 2))
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a")
        pubsub.psubscribe("b*")
        until(pubsub.get_message, kind("psubscribe"))
        owner = pair.owner_of(key_slot("a"))
        owner.drop_connections()
        if anew == "elsewhere":
            owner.stop()
        monkeypatch.setattr(pubsub, "psubscribe", interrupted)
        with pytest.raises(Stop):
            until(pubsub.get_message, kind("psubscribe"))
        until(pubsub.get_message, kind("psubscribe"))


def over(pubsub: ClusterPubSub, get: Callable[..., Any]) -> None:
    """Returns when nothing is subscribed to any more."""
    deadline = time.monotonic() + 10
    while pubsub.subscribed:
        assert time.monotonic() < deadline
        get(timeout=0.1)


def test_unsubscribe_of_a_node_that_dies(pair: ScriptedCluster, make_client: MakeClient) -> None:
    """The other node is not asked for what was given up."""
    first, second = pair.nodes
    second.expect("SUBSCRIBE", "a", "b").send(subscription(b"subscribe", b"a", 1))
    second.expect("UNSUBSCRIBE", "a")
    first.expect("SUBSCRIBE", "b").send(subscription(b"subscribe", b"b", 1))
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a", "b")
        until(pubsub.get_message, kind("subscribe"))
        pubsub.unsubscribe("a")
        second.stop()
        assert until(pubsub.get_message, kind("gap"))[-1] == {**GAP, "channel": b"b"}
        assert list(pubsub.channels) == [b"b"]


@pytest.mark.parametrize("by", ["node", "hand"])
def test_listening_ends_although_the_unsubscribe_is_not_confirmed(
    pair: ScriptedCluster, make_client: MakeClient, by: str
) -> None:
    second = pair.nodes[1]
    second.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1))
    unsubscribe = second.expect("UNSUBSCRIBE", "a")
    if by == "node":
        unsubscribe.close()
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a")
        until(pubsub.get_message, kind("subscribe"))
        pubsub.unsubscribe("a")
        if by == "hand":
            pubsub.disconnect()
        assert background(list, pubsub.listen()).result(10) == []
        assert not pubsub.subscribed


@pytest.mark.parametrize("then", ["lives", "dies", "loses its slots"])
def test_shard_unsubscribe_that_is_not_confirmed(
    pair: ScriptedCluster, make_client: MakeClient, then: str
) -> None:
    """The channel is given up all the same, nowhere revived, and the connection goes back."""
    first, second = pair.nodes
    second.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1))
    unsubscribe = second.expect("SUNSUBSCRIBE", "a")
    client = make_client(pair)
    pool = client.nodes_manager.pool_of(Address("127.0.0.1", second.port))
    with client.pubsub() as pubsub:
        pubsub.ssubscribe("a")
        until(pubsub.get_sharded_message, kind("ssubscribe"))
        if then == "lives":
            unsubscribe.close()
        pubsub.sunsubscribe("a")
        if then == "loses its slots":
            pair.move_slots(8192, 16383, first)
            client.nodes_manager.initialize()
        if then != "lives":
            second.stop()
        over(pubsub, pubsub.get_sharded_message)
        assert not pubsub.shard_channels
        assert not pool._in_use_connections


def test_shard_unsubscribe_without_a_node(pair: ScriptedCluster, make_client: MakeClient) -> None:
    """The channel's new node is away: it is not subscribed to later."""
    first, second = pair.nodes
    second.expect("SSUBSCRIBE", "a").moved(first)
    with make_client(pair, reinitialize_steps=0).pubsub() as pubsub:
        first.stop()
        pubsub.ssubscribe("a")
        while pubsub._shard_channel_to_node[b"a"]:
            pubsub.get_sharded_message(timeout=0.1)
        pubsub.sunsubscribe("a")
        assert not pubsub.subscribed


def test_shard_unsubscribe_that_is_taken_back(pair: ScriptedCluster, make_client: MakeClient) -> None:
    """Before it is confirmed, and when the slot has another node by then."""
    first, second = pair.nodes
    second.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1))
    second.expect("SUNSUBSCRIBE", "a").often()
    first.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1))
    client = make_client(pair)
    with client.pubsub() as pubsub:
        pubsub.ssubscribe("a")
        until(pubsub.get_sharded_message, kind("ssubscribe"))
        pubsub.sunsubscribe("a")
        pair.move_slots(8192, 16383, first)
        client.nodes_manager.initialize()
        pubsub.ssubscribe("a")
        until(pubsub.get_sharded_message, kind("ssubscribe"))
        assert list(pubsub.shard_channels) == [b"a"]


def test_calls_and_refreshes_go_on_while_somebody_subscribes(make_client: MakeClient) -> None:
    """At a node that hangs: the connection is accepted, and nothing is answered."""
    with ScriptedCluster(3, store=True) as cluster:
        first, hung, third = cluster.nodes
        channels = {cluster.owner_of(key_slot(name)): name for name in map(str, range(100))}
        for node in (first, third):
            node.expect("SSUBSCRIBE").often().send(b"")
            node.expect("SUNSUBSCRIBE").often().send(b"")
        hung.expect("HELLO").often().half_open()
        # A refresh may ask the node that hangs, once and again.
        client = make_client(
            cluster, socket_timeout=PATIENCE, topology_refresh_min_interval=0.1, topology_refresh_timeout=0.2
        )
        client.set(channels[first], 1)
        client.get(channels[third])
        with client.pubsub() as pubsub:
            pubsub.ssubscribe(channels[first])
            subscriber = background(pubsub.ssubscribe, channels[hung])
            eventually(lambda: pubsub.node_pubsub_mapping.get(f"127.0.0.1:{hung.port}"))
            published = client.nodes_manager.knowledge.published
            slot = key_slot(channels[first])
            cluster.move_slots(slot, slot, third)
            moved = background(client.get, channels[first])
            assert moved.result(PATIENCE / 4) == b"1"
            eventually(lambda: client.nodes_manager.knowledge.published > published)
            cluster.move_slots(0, 0, third)
            # The node that hangs is not to be the one that it asks, and waits for.
            hangs = f"127.0.0.1:{hung.port}"
            refreshed = background(client.nodes_manager.initialize, last_failed_node_name=hangs)
            refreshed.result(PATIENCE / 4)
            assert not subscriber.done()
            hung.drop_connections()
            subscriber.exception(PATIENCE)


def test_many_changes_are_followed_once(pair: ScriptedCluster, make_client: MakeClient) -> None:
    pair.nodes[1].expect("SSUBSCRIBE", "a").send(b"")
    with make_client(pair).pubsub() as pubsub:
        pubsub.ssubscribe("a")
        times: list[None] = []
        pubsub.reinitialize_shard_subscriptions = lambda: times.append(None)  # type: ignore[method-assign]
        with pubsub._shard_state_lock:
            for _ in range(10):
                background(pubsub.on_slots_changed).result(PATIENCE)
        eventually(lambda: times)
        pubsub.on_slots_changed()
        assert pubsub._worker is not None
        pubsub._worker.shutdown()
        assert len(times) == 2


def test_listeners_hold_nobody_up(pair: ScriptedCluster, make_client: MakeClient) -> None:
    class Listener(EventListenerInterface):
        def listen(self, event: object) -> None:
            if not told:
                told.append(event)
                background(client.nodes_manager.initialize).result(PATIENCE)
                told.append(event)

    told: list[object] = []
    client = make_client(pair)
    dispatcher = client.nodes_manager._event_dispatcher
    dispatcher.register_listeners({AfterSlotsCacheRefreshEvent: [Listener()]})
    pair.move_slots(0, 0, pair.nodes[1])
    client.nodes_manager.initialize()
    assert len(told) == 2


@pytest.mark.parametrize("end", ["unsubscribe", "reset"])
def test_no_gap_of_an_earlier_subscription(pair: ScriptedCluster, make_client: MakeClient, end: str) -> None:
    """It was given up while no node could be reached; the next one is another one."""
    for node in pair.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a")
        until(pubsub.get_message, kind("subscribe"))
        for node in pair.nodes:
            node.stop()
        assert [pubsub.get_message(timeout=0.01) for _ in range(3)] == [None] * 3
        if end == "reset":
            pubsub.reset()
        else:
            with pytest.raises(ConnectionError):
                pubsub.unsubscribe("a")
            over(pubsub, pubsub.get_message)
        for node in pair.nodes:
            node.restart()
        deadline = time.monotonic() + PATIENCE
        while not pubsub.subscribed:
            assert time.monotonic() < deadline
            # Until the node is knocked at again.
            with suppress(ConnectionError):
                pubsub.subscribe("a")
        until(pubsub.get_message, kind("subscribe"))
        assert pubsub.get_message(timeout=0.1) is None


def test_no_gap_is_told_after_a_reset(pair: ScriptedCluster, make_client: MakeClient) -> None:
    second = pair.nodes[1]
    second.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1)).close()
    second.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a")
        for _ in range(2):
            until(pubsub.get_message, kind("subscribe"))
        pubsub.reset()
        pubsub.subscribe("a")
        assert [m["type"] for m in until(pubsub.get_message, kind("subscribe"))] == ["subscribe"]


def test_new_subscription_while_there_is_no_connection(
    pair: ScriptedCluster, make_client: MakeClient
) -> None:
    """It does not leave the old ones behind."""
    for node in pair.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
        node.expect("SUBSCRIBE", "b").often().send(subscription(b"subscribe", b"b", 2))
    with make_client(pair).pubsub() as pubsub:
        pubsub.subscribe("a")
        until(pubsub.get_message, kind("subscribe"))
        for node in pair.nodes:
            node.stop()
        assert pubsub.get_message(timeout=0.01) is None
        for node in pair.nodes:
            node.restart()
        deadline = time.monotonic() + PATIENCE
        while len(pubsub.channels) < 2:
            assert time.monotonic() < deadline
            # Until the node is knocked at again.
            with suppress(ConnectionError):
                pubsub.subscribe("b")
        messages = until(pubsub.get_message, lambda message: message["channel"] == b"b")
        assert [(m["type"], m["channel"]) for m in messages] == [
            ("subscribe", b"a"),
            ("gap", b"a"),
            ("subscribe", b"b"),
        ]
