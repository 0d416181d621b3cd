"""Subscriptions outlive the move of their slot and the death of their node, and the gap is told; see the sync ones."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.asyncio.pubsub import ClusterPubSub
from slotwise.errors import AuthenticationError, ConnectionError, MaxConnectionsError, RedisError
from slotwise.local import LocalCluster
from slotwise.routing.topology import Address
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run
from tests.sync.test_pubsub import GAP, PATIENCE, kind, numbers, subscription

Get = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def published(send: Callable[[str, int], Awaitable[Any]], channel: str) -> AsyncIterator[None]:
    """Meanwhile numbers are published to ``channel``, also while its node is away."""

    async def go() -> None:
        number = 0
        while True:
            number += 1
            with suppress(RedisError):
                await send(channel, number)
            # Slower than the subscriber, who has to read them all.
            await asyncio.sleep(0.01)

    task = asyncio.create_task(go())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def play_subscriptions(cluster: ScriptedCluster) -> None:
    """The nodes' part in subscriptions to the channel "a", and then to the pattern "b*"."""
    for node in cluster.nodes:
        node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
        node.expect("PSUBSCRIBE", "b*").often().send(subscription(b"psubscribe", b"b*", 2))


async def until(get: Get, wanted: Callable[[Any], bool]) -> list[Any]:
    """The messages that come, up to the one that is wanted."""
    messages: list[Any] = []
    deadline = time.monotonic() + PATIENCE
    while not (messages and wanted(messages[-1])):
        assert time.monotonic() < deadline, messages
        message = await get(timeout=0.1)
        if message is not None:
            messages.append(message)
    return messages


@pytest.mark.usefixtures("sharded_pubsub")
def test_shard_channel_moves_with_its_slot(faulty_cluster: LocalCluster) -> None:
    """Nobody else tells the client of the move: the old node ends the subscription."""
    slot = key_slot("moves")
    owner = faulty_cluster.owner_of(slot)
    target = next(node for node in faulty_cluster.primaries if node is not owner)

    async def main() -> None:
        async with (
            RedisCluster.from_url(faulty_cluster.url) as client,
            RedisCluster.from_url(faulty_cluster.url) as publisher,
            client.pubsub() as pubsub,
            published(publisher.spublish, "moves"),
        ):
            await pubsub.ssubscribe("moves")
            await until(pubsub.get_sharded_message, kind("smessage"))
            await asyncio.to_thread(faulty_cluster.move_slots, [slot], target)
            before = await until(pubsub.get_sharded_message, kind("gap"))
            after = await until(pubsub.get_sharded_message, kind("smessage"))
            assert before[-1] == {**GAP, "channel": b"moves"}
            # In order, and nothing twice: what is missing is missing at the gap.
            assert numbers(before) == sorted(set(numbers(before)))
            assert all(n < numbers(after)[0] for n in numbers(before))
            await pubsub.sunsubscribe("moves")
            await until(pubsub.get_sharded_message, kind("sunsubscribe"))
            assert not pubsub.subscribed

    run(main)


@pytest.mark.parametrize("waits", [False, True])
def test_node_that_has_left_is_left(waits: bool) -> None:
    """It lives on, and hears of nothing that is published; who waits for a message there waits no longer."""
    with ScriptedCluster(2) as cluster:
        play_subscriptions(cluster)

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("a")
                await pubsub.psubscribe("b*")
                await until(pubsub.get_message, kind("psubscribe"))
                assert await pubsub.get_message(timeout=0.01) is None
                heard = None
                if waits:
                    forever = until(lambda timeout: pubsub.get_message(timeout=None), kind("subscribe"))
                    heard = asyncio.create_task(forever)
                stays = next(node for node in cluster.nodes if node.port != pubsub.node.port)
                await asyncio.sleep(0.1)
                cluster.move_slots(0, 16383, stays)
                await client.nodes_manager.initialize()
                if heard is not None:
                    await asyncio.wait_for(heard, PATIENCE)
                gaps = [(await until(pubsub.get_message, kind("gap")))[-1] for _ in range(2)]
                assert gaps == [{**GAP, "channel": b"a"}, {**GAP, "pattern": b"b*"}]
                assert pubsub.node.port == stays.port

        run(main)


def test_node_of_the_users_own_is_kept() -> None:
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        first.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1))

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url) as client,
                client.pubsub(host=first.host, port=first.port) as pubsub,
            ):
                await pubsub.subscribe("a")
                await until(pubsub.get_message, kind("subscribe"))
                cluster.move_slots(0, 16383, second)
                await client.nodes_manager.initialize()
                assert await pubsub.get_message(timeout=0.1) is None
                assert pubsub.connection.is_connected

        run(main)


@pytest.mark.usefixtures("sharded_pubsub")
def test_shard_channel_outlives_its_node(faulty_cluster: LocalCluster) -> None:
    gaps: list[Any] = []

    async def main() -> None:
        async with (
            RedisCluster.from_url(faulty_cluster.url) as client,
            RedisCluster.from_url(faulty_cluster.url) as publisher,
            client.pubsub(on_gap=gaps.append) as pubsub,
            published(publisher.spublish, "dies"),
        ):

            async def message_or_gaps(timeout: float) -> Any:
                return await pubsub.get_sharded_message(timeout=timeout) or gaps

            await pubsub.ssubscribe("dies")
            await until(pubsub.get_sharded_message, kind("smessage"))
            owner = faulty_cluster.owner_of(key_slot("dies"))
            await asyncio.to_thread(faulty_cluster.kill, owner)
            # What the killed node has sent is read first.
            await until(message_or_gaps, lambda _: bool(gaps))
            assert {**GAP, "channel": b"dies"} in gaps
            await until(pubsub.get_sharded_message, kind("smessage"))

    run(main)


def test_plain_channels_outlive_their_node(faulty_cluster: LocalCluster) -> None:
    async def main() -> None:
        async with (
            RedisCluster.from_url(faulty_cluster.url) as client,
            RedisCluster.from_url(faulty_cluster.url) as publisher,
            client.pubsub() as pubsub,
            published(publisher.publish, "news:1"),
        ):
            await pubsub.subscribe("news:1")
            await pubsub.psubscribe("news:*")
            await until(pubsub.get_message, kind("pmessage"))
            assert pubsub.node is not None
            port = pubsub.node.port
            await asyncio.to_thread(
                faulty_cluster.kill, next(node for node in faulty_cluster.nodes if node.port == port)
            )
            messages = await until(pubsub.get_message, kind("gap"))
            messages += await until(pubsub.get_message, kind("gap"))
            assert [m for m in messages if m["type"] == "gap"] == [
                {**GAP, "channel": b"news:1"},
                {**GAP, "pattern": b"news:*"},
            ]
            await until(pubsub.get_message, kind("message"))
            await until(pubsub.get_message, kind("pmessage"))

    run(main)


def test_half_open_connection_is_missed() -> None:
    """Nothing tells that it is: only the answer to PING stays away; for who polls and for who blocks."""

    async def main(url: str, listens: bool) -> None:
        options = {"health_check_interval": 0.2, "socket_timeout": 0.3}
        async with RedisCluster.from_url(url, **options) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("c")
            heard = []
            if listens:
                async for message in pubsub.listen():
                    heard.append(message["type"])
                    if message["type"] == "message":
                        break
            else:
                heard = [m["type"] for m in await until(pubsub.get_message, kind("message"))]
            assert heard == ["subscribe", "subscribe", "gap", "message"]

    for listens in (False, True):
        with ScriptedCluster(1) as cluster:
            (node,) = cluster.nodes
            confirmed = subscription(b"subscribe", b"c", 1)
            node.expect("SUBSCRIBE", "c").send(confirmed).half_open()
            node.expect("SUBSCRIBE", "c").send(confirmed).send(subscription(b"message", b"c", b"1"))
            run(main, cluster.url, listens)


def test_answer_to_ping_waits_for_a_busy_subscriber() -> None:
    """Who keeps the whole loop busy, too, finds the answer, and the messages, where they are."""
    pinged = threading.Event()

    async def main(url: str) -> None:
        options = {"health_check_interval": 0.2, "socket_timeout": 0.2}
        async with RedisCluster.from_url(url, **options) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("c")
            await until(pubsub.get_message, kind("subscribe"))
            await asyncio.sleep(0.3)
            assert await pubsub.get_message(timeout=0) is None
            assert pinged.wait(PATIENCE)
            time.sleep(0.3)
            assert [m["type"] for m in await until(pubsub.get_message, lambda _: True)] == ["message"]

    with ScriptedCluster(1) as cluster:
        (node,) = cluster.nodes
        node.expect("SUBSCRIBE", "c").send(subscription(b"subscribe", b"c", 1))
        pong = subscription(b"pong", b"redis-py-health-check")
        node.expect("PING", "redis-py-health-check").delay(0.1).send(
            subscription(b"message", b"c", b"1")
        ).send(pong).then(pinged)
        run(main, cluster.url)


def test_moved_of_a_subscription_is_followed() -> None:
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        second.expect("SSUBSCRIBE", "a").moved(first)
        first.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1)).send(
            subscription(b"smessage", b"a", b"1")
        )

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client,
                client.pubsub() as pubsub,
            ):
                await pubsub.ssubscribe("a")
                assert numbers(await until(pubsub.get_sharded_message, kind("smessage"))) == [1]
                # The node that has nothing to say is not listened to.
                assert list(pubsub.node_pubsub_mapping) == [f"127.0.0.1:{first.port}"]
                assert client.nodes_manager.endpoint_of(Address("127.0.0.1", second.port)).pool._taken == 0

        run(main)


def test_refused_credentials_are_raised() -> None:
    with ScriptedCluster(2) as cluster:
        for node in cluster.nodes:
            node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("a")
                await until(pubsub.get_message, kind("subscribe"))
                for node in cluster.nodes:
                    node.stop()
                assert await pubsub.get_message(timeout=0.01) is None
                for node in cluster.nodes:
                    node.restart()
                    node.expect("HELLO").often().error("WRONGPASS invalid username-password pair")
                for _ in range(2):
                    with pytest.raises(AuthenticationError):
                        await until(pubsub.get_message, kind("message"))

        run(main)


def test_full_pool_is_raised() -> None:
    with ScriptedCluster(3) as cluster:
        owner = cluster.owner_of(key_slot("a"))
        owner.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1))

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url, max_connections=1) as client,
                client.pubsub() as pubsub,
                AsyncExitStack() as held,
            ):
                await pubsub.subscribe("a")
                await until(pubsub.get_message, kind("subscribe"))
                for node in cluster.nodes:
                    if node is not owner:
                        pool = client.nodes_manager.endpoint_of(Address("127.0.0.1", node.port)).pool
                        pool._pool_timeout = 0.1
                        held.callback(pool.release, await pool.connection())
                owner.stop()
                with pytest.raises(MaxConnectionsError):
                    await until(pubsub.get_message, kind("message"))

        run(main)


def test_no_node_is_tried_after_the_callers_timeout() -> None:
    silent = threading.Event()
    with ScriptedCluster(3) as cluster:
        owner = cluster.owner_of(key_slot("a"))
        owner.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1)).until(silent).close()

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url, socket_timeout=1) as client,
                client.pubsub() as pubsub,
            ):
                await pubsub.subscribe("a")
                await until(pubsub.get_message, kind("subscribe"))
                for node in cluster.nodes:
                    node.expect("HELLO").often()
                silent.set()
                assert await pubsub.get_message(timeout=0.2) is None
                began = time.monotonic()
                assert await pubsub.get_message(timeout=0) is None
                assert time.monotonic() - began < 2.5, "one of three nodes"

        run(main)


@pytest.mark.parametrize("anew", ["elsewhere", "here"])
def test_cancelled_between_two_subscriptions(monkeypatch: pytest.MonkeyPatch, anew: str) -> None:
    """A task that is cancelled leaves no connection with one of the two."""

    async def cancelled(*_: Any) -> None:
        monkeypatch.undo()
        raise asyncio.CancelledError

    with ScriptedCluster(2) as cluster:
        owner = cluster.owner_of(key_slot("a"))
        play_subscriptions(cluster)

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("a")
                await pubsub.psubscribe("b*")
                await until(pubsub.get_message, kind("psubscribe"))
                owner.drop_connections()
                if anew == "elsewhere":
                    owner.stop()
                monkeypatch.setattr(pubsub, "psubscribe", cancelled)
                with pytest.raises(asyncio.CancelledError):
                    await until(pubsub.get_message, kind("psubscribe"))
                await until(pubsub.get_message, kind("psubscribe"))

        run(main)


async def over(pubsub: ClusterPubSub, get: Get) -> None:
    """Returns when nothing is subscribed to any more."""
    deadline = time.monotonic() + 10
    while pubsub.subscribed:
        assert time.monotonic() < deadline
        await get(timeout=0.1)


def test_unsubscribe_of_a_node_that_dies() -> None:
    """The other node is not asked for what was given up."""
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        second.expect("SUBSCRIBE", "a", "b").send(subscription(b"subscribe", b"a", 1))
        second.expect("UNSUBSCRIBE", "a")
        first.expect("SUBSCRIBE", "b").send(subscription(b"subscribe", b"b", 1))

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("a", "b")
                await until(pubsub.get_message, kind("subscribe"))
                await pubsub.unsubscribe("a")
                second.stop()
                assert (await until(pubsub.get_message, kind("gap")))[-1] == {**GAP, "channel": b"b"}
                assert list(pubsub.channels) == [b"b"]

        run(main)


@pytest.mark.parametrize("by", ["node", "hand"])
def test_listening_ends_although_the_unsubscribe_is_not_confirmed(by: str) -> None:
    async def main(url: str) -> None:
        async with RedisCluster.from_url(url) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("a")
            await until(pubsub.get_message, kind("subscribe"))
            await pubsub.unsubscribe("a")
            if by == "hand":
                assert pubsub.connection is not None
                await pubsub.connection.disconnect()

            async def all_that_come() -> list[Any]:
                return [message async for message in pubsub.listen()]

            assert await asyncio.wait_for(all_that_come(), 10) == []

    with ScriptedCluster(2) as cluster:
        second = cluster.nodes[1]
        second.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1))
        unsubscribe = second.expect("UNSUBSCRIBE", "a")
        if by == "node":
            unsubscribe.close()
        run(main, cluster.url)


@pytest.mark.parametrize("then", ["lives", "dies", "loses its slots"])
def test_shard_unsubscribe_that_is_not_confirmed(then: str) -> None:
    """The channel is given up all the same, nowhere revived, and the connection goes back."""
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        second.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1))
        unsubscribe = second.expect("SUNSUBSCRIBE", "a")
        if then == "lives":
            unsubscribe.close()

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                pool = client.nodes_manager.endpoint_of(Address("127.0.0.1", second.port)).pool
                await pubsub.ssubscribe("a")
                await until(pubsub.get_sharded_message, kind("ssubscribe"))
                await pubsub.sunsubscribe("a")
                if then == "loses its slots":
                    cluster.move_slots(8192, 16383, first)
                    await client.nodes_manager.initialize()
                if then != "lives":
                    second.stop()
                await over(pubsub, pubsub.get_sharded_message)
                assert not pubsub._shard_channel_to_node
                assert pool._taken == 0

        run(main)


def test_shard_unsubscribe_without_a_node() -> None:
    """The channel's new node is away: it is not subscribed to later."""
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        second.expect("SSUBSCRIBE", "a").moved(first)

        async def main() -> None:
            async with (
                RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client,
                client.pubsub() as pubsub,
            ):
                first.stop()
                await pubsub.ssubscribe("a")
                while pubsub._shard_channel_to_node[b"a"]:
                    await pubsub.get_sharded_message(timeout=0.1)
                await pubsub.sunsubscribe("a")
                assert not pubsub.subscribed

        run(main)


def test_shard_unsubscribe_that_is_taken_back() -> None:
    """Before it is confirmed, and when the slot has another node by then."""
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        second.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1))
        second.expect("SUNSUBSCRIBE", "a").often()
        first.expect("SSUBSCRIBE", "a").send(subscription(b"ssubscribe", b"a", 1))

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.ssubscribe("a")
                await until(pubsub.get_sharded_message, kind("ssubscribe"))
                await pubsub.sunsubscribe("a")
                cluster.move_slots(8192, 16383, first)
                await client.nodes_manager.initialize()
                await pubsub.ssubscribe("a")
                await until(pubsub.get_sharded_message, kind("ssubscribe"))
                assert list(pubsub.shard_channels) == [b"a"]

        run(main)


@pytest.mark.parametrize("end", ["unsubscribe", "reset"])
def test_no_gap_of_an_earlier_subscription(end: str) -> None:
    """It was given up while no node could be reached; the next one is another one."""
    with ScriptedCluster(2) as cluster:
        for node in cluster.nodes:
            node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("a")
                await until(pubsub.get_message, kind("subscribe"))
                for node in cluster.nodes:
                    node.stop()
                assert [await pubsub.get_message(timeout=0.01) for _ in range(3)] == [None] * 3
                if end == "reset":
                    await pubsub.aclose()
                else:
                    with pytest.raises(ConnectionError):
                        await pubsub.unsubscribe("a")
                    await over(pubsub, pubsub.get_message)
                for node in cluster.nodes:
                    node.restart()
                deadline = time.monotonic() + PATIENCE
                while not pubsub.subscribed:
                    assert time.monotonic() < deadline
                    # Until the node is knocked at again.
                    with suppress(ConnectionError):
                        await pubsub.subscribe("a")
                await until(pubsub.get_message, kind("subscribe"))
                assert await pubsub.get_message(timeout=0.1) is None

        run(main)


def test_no_gap_is_told_after_a_reset() -> None:
    with ScriptedCluster(2) as cluster:
        second = cluster.nodes[1]
        second.expect("SUBSCRIBE", "a").send(subscription(b"subscribe", b"a", 1)).close()
        second.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("a")
                for _ in range(2):
                    await until(pubsub.get_message, kind("subscribe"))
                await pubsub.aclose()
                await pubsub.subscribe("a")
                messages = await until(pubsub.get_message, kind("subscribe"))
                assert [m["type"] for m in messages] == ["subscribe"]

        run(main)


def test_new_subscription_while_there_is_no_connection() -> None:
    """It does not leave the old ones behind."""
    with ScriptedCluster(2) as cluster:
        for node in cluster.nodes:
            node.expect("SUBSCRIBE", "a").often().send(subscription(b"subscribe", b"a", 1))
            node.expect("SUBSCRIBE", "b").often().send(subscription(b"subscribe", b"b", 2))

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("a")
                await until(pubsub.get_message, kind("subscribe"))
                for node in cluster.nodes:
                    node.stop()
                assert await pubsub.get_message(timeout=0.01) is None
                for node in cluster.nodes:
                    node.restart()
                deadline = time.monotonic() + PATIENCE
                while len(pubsub.channels) < 2:
                    assert time.monotonic() < deadline
                    # Until the node is knocked at again.
                    with suppress(ConnectionError):
                        await pubsub.subscribe("b")
                messages = await until(pubsub.get_message, lambda message: message["channel"] == b"b")
                assert [(m["type"], m["channel"]) for m in messages] == [
                    ("subscribe", b"a"),
                    ("gap", b"a"),
                    ("subscribe", b"b"),
                ]

        run(main)
