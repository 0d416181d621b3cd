"""Who asks for the topology, when, and whom to believe: as of the client for threads."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis

from slotwise.asyncio import RedisCluster, refresher
from slotwise.asyncio.refresher import Refresher
from slotwise.asyncio.waking import wake
from slotwise.errors import UnknownOutcomeError
from slotwise.routing.topology import Address
from slotwise.testing.scripted import ErrorReply, ScriptedCluster
from tests.asyncio.loops import run

# Seconds: far more than any of it takes.
PATIENCE = 30


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    """Two primaries, the second of which serves key ``a``, and a third node without slots."""
    with ScriptedCluster(2, others=1) as cluster:
        yield cluster


def asked(cluster: ScriptedCluster) -> int:
    return sum(node.topology_asked for node in cluster.nodes)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_no_call_waits_for_a_refresh_that_it_does_not_need(pair: ScriptedCluster) -> None:
    other, owner, _ = pair.nodes
    # So CLUSTER SLOTS is what the client asks for.
    pair.answers_shards = False

    async def main() -> None:
        async with RedisCluster.from_url(pair.url, topology_refresh_timeout=30) as client:
            for node in pair.nodes:
                node.expect("CLUSTER", "SLOTS").often()  # and no answer
            owner.expect("GET", "a").error(f"MOVED {client.keyslot('a')} {other.address}")
            other.expect("GET").often().reply(b"1")
            assert await client.get("a") == b"1"
            await until(lambda: asked(pair) == 2)
            assert await client.get("a") == b"1"
            assert client.nodes_manager.refresher.schedule.wanted

    run(main)


def test_many_that_fail_at_once_ask_once(pair: ScriptedCluster) -> None:
    _, owner, new = pair.nodes
    owner.expect("GET").often().close()
    new.expect("GET").often().reply(b"1")

    async def main() -> None:
        async with RedisCluster.from_url(pair.url) as client:
            pair.slots[1] = (8192, 16383, [new])
            before = asked(pair)
            assert await asyncio.gather(*(client.get("a") for _ in range(100))) == [b"1"] * 100
            assert asked(pair) == before + 1

    run(main)


def test_moved_asks_for_the_topology_in_the_background(pair: ScriptedCluster) -> None:
    """Once for many of them, and first of all the node that has the slots now."""
    _, owner, new = pair.nodes

    async def main() -> None:
        async with RedisCluster.from_url(pair.url) as client:
            owner.expect("GET").often().reply(
                lambda call: ErrorReply(f"MOVED {client.keyslot(call[1])} {new.address}")
            )
            new.expect("GET").often().reply(b"1")
            pair.slots[1] = (8192, 16383, [new])
            before = asked(pair)
            for key in [key for key in map(str, range(100)) if client.keyslot(key) >= 8192]:
                assert await client.get(key) == b"1"
            await until(lambda: owner.address not in {node.name for node in client.get_nodes()})
            assert (new.topology_asked, asked(pair)) == (1, before + 1)

    run(main)


def test_at_most_one_refresh_in_the_least_interval(pair: ScriptedCluster) -> None:
    """A shard stays away, and callers go on trying."""
    _, owner, _ = pair.nodes
    # So CLUSTER SLOTS is what the client asks for.
    pair.answers_shards = False
    owner.expect("GET").often().close()
    times: list[float] = []

    def answer(_: Any) -> Any:
        times.append(time.monotonic())
        return pair.slots_reply()

    async def fails(client: RedisCluster) -> None:
        with pytest.raises(redis.ConnectionError):
            await client.get("a")

    async def main() -> None:
        options = {"topology_refresh_min_interval": 0.3, "cluster_error_retry_attempts": 4}
        async with RedisCluster.from_url(pair.url, **options) as client:
            for node in pair.nodes:
                node.expect("CLUSTER", "SLOTS").often().reply(answer)
            await asyncio.gather(*(fails(client) for _ in range(8)))

    run(main)
    assert len(times) >= 3
    # The server's clock is read a little later than the client's, never earlier.
    assert all(later - earlier > 0.25 for earlier, later in pairwise(times))


def test_regular_refresh(pair: ScriptedCluster) -> None:
    """Nobody calls, and the client learns of the new node."""
    new = pair.nodes[2]

    async def main() -> None:
        options = {"topology_refresh_interval": 0.05, "topology_refresh_min_interval": 0.01}
        async with RedisCluster.from_url(pair.url, **options) as client:
            pair.slots[1] = (8192, 16383, [new])
            await until(lambda: client.get_node_from_key("a").name == new.address)

    run(main)


def test_no_regular_refresh(pair: ScriptedCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(pair.url, topology_refresh_interval=None) as client:
            assert client.nodes_manager.refresher.schedule.due == math.inf

    run(main)


@pytest.mark.parametrize(
    "name", ["topology_refresh_interval", "topology_refresh_min_interval", "topology_refresh_timeout"]
)
def test_no_seconds(name: str) -> None:
    with pytest.raises(redis.DataError, match=f"{name} must be a number of seconds above 0"):
        RedisCluster.from_url("redis://127.0.0.1:1", **{name: "soon"})


def test_all_known_nodes_were_replaced(pair: ScriptedCluster) -> None:
    """The seed is a name that leads to the new ones by now (redis-py 3310)."""
    seed, gone, new = pair.nodes
    pair.slots[:] = [(0, 16383, [gone])]
    new.expect("GET", "a").reply(b"1")

    async def main() -> None:
        async with RedisCluster.from_url(pair.url) as client:
            assert {node.name for node in client.get_nodes()} == {gone.address}
            pair.slots[:] = [(0, 16383, [new])]
            gone.stop()
            assert await client.get("a") == b"1"
            assert seed.topology_asked == 2

    run(main)


def test_the_replica_that_takes_over_is_found_before_the_next_refresh() -> None:
    """Replicas of a primary that failed are asked for their ROLE meanwhile, which costs them next to nothing."""
    with ScriptedCluster(1, others=1) as cluster:
        primary, replica = cluster.nodes
        cluster.slots[:] = [(0, 16383, [primary, replica])]
        for _ in range(3):
            replica.expect("ROLE").reply([b"slave", b"127.0.0.1", primary.port, b"connect", 0])
        replica.expect("ROLE").often().reply([b"master", 0, []])
        replica.expect("CLUSTER", "NODES").often().reply(b"x a:1@2 myself,master - 0 0 9 connected 0-16383")
        replica.expect("SET", "a").reply("OK")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, topology_refresh_min_interval=60) as client:
                primary.stop()
                assert await client.set("a", 1)

        run(main)
        # The topology of the replica names the old one still: it was asked once, in vain.
        assert replica.topology_asked == 1


def test_nobody_waits_for_a_silent_node_that_was_replaced() -> None:
    """As when its machine has stopped: the connection stays open. The time-out would end the calls much later."""

    async def main(cluster: ScriptedCluster) -> None:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        silent.expect("INCRBY").often()
        replica.expect("GET").often().reply(b"the new one's")
        async with RedisCluster.from_url(cluster.url, socket_timeout=PATIENCE) as client:
            read = asyncio.create_task(client.get("a"))
            pipeline = asyncio.create_task(client.pipeline().get("a").execute())
            write = asyncio.create_task(client.incr("b"))
            await until(lambda: silent.count("GET") == 2 and silent.count("INCRBY") == 1)
            began = time.monotonic()
            cluster.failover(replica)
            assert await read == b"the new one's"
            assert await pipeline == [b"the new one's"]
            with pytest.raises(UnknownOutcomeError):
                await write
            assert time.monotonic() - began < PATIENCE / 2
            assert replica.count("INCRBY") == 0

    with ScriptedCluster(1, replicas=1) as cluster:
        run(main, cluster)


def test_nobody_waits_for_a_silent_node_that_has_left() -> None:
    """Its successor's view leaves it out, as it seems to have failed, and a refresh is what tells."""

    async def main(cluster: ScriptedCluster) -> None:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        silent.expect("INCRBY").often()
        replica.expect("GET").often().reply(b"the new one's")
        replica.expect("ROLE").often().error("NOPERM this user has no permissions to run the 'role' command")
        async with RedisCluster.from_url(cluster.url, socket_timeout=2 * PATIENCE) as client:
            read = asyncio.create_task(client.get("a"))
            pipeline = asyncio.create_task(client.pipeline().get("a").execute())
            write = asyncio.create_task(client.incr("b"))
            await until(lambda: silent.count("GET") == 2 and silent.count("INCRBY") == 1)
            cluster.slots[0] = (0, 16383, [replica])
            assert await asyncio.wait_for(read, PATIENCE) == b"the new one's"
            assert await asyncio.wait_for(pipeline, PATIENCE) == [b"the new one's"]
            with pytest.raises(UnknownOutcomeError):
                await asyncio.wait_for(write, PATIENCE)

    with ScriptedCluster(1, replicas=1) as cluster:
        run(main, cluster)


def test_nobody_waits_for_a_silent_node_whose_successor_was_known_first() -> None:
    """A refresh tells of it before anybody has seen that the node is silent."""

    async def main(cluster: ScriptedCluster) -> None:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        silent.expect("INCRBY").often()
        replica.expect("GET").often().reply(b"the new one's")
        async with RedisCluster.from_url(cluster.url, socket_timeout=2 * PATIENCE) as client:
            read = asyncio.create_task(client.get("a"))
            write = asyncio.create_task(client.incr("b"))
            await until(lambda: silent.count("GET") == 1 and silent.count("INCRBY") == 1)
            cluster.slots[0] = (0, 16383, [replica])
            await client.nodes_manager.refresh({Address("127.0.0.1", replica.port)}, set())
            assert client.get_node_from_key("a").port == replica.port
            assert await asyncio.wait_for(read, PATIENCE) == b"the new one's"
            with pytest.raises(UnknownOutcomeError):
                await asyncio.wait_for(write, PATIENCE)

    with ScriptedCluster(1, replicas=1) as cluster:
        run(main, cluster)


def test_a_node_that_owes_replies_is_asked_last() -> None:
    """It would keep everybody waiting who waits for the refresh."""

    async def main(cluster: ScriptedCluster) -> None:
        silent, _ = cluster.nodes
        silent.expect("GET").often()
        async with RedisCluster.from_url(cluster.url, socket_timeout=2 * PATIENCE) as client:
            read = asyncio.create_task(client.get("a"))
            await until(lambda: silent.count("GET") == 1)
            client.nodes_manager.silent_nodes()  # a look
            before = silent.topology_asked
            for _ in range(8):
                await client.nodes_manager.refresh(set(), set())
            assert silent.topology_asked == before
            read.cancel()

    with ScriptedCluster(1, replicas=1) as cluster:
        run(main, cluster)


def test_a_silent_node_is_looked_after_between_two_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(cluster: ScriptedCluster) -> None:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        replica.expect("GET").often().reply(b"the new one's")
        patience = {"socket_timeout": 2 * PATIENCE, "topology_refresh_min_interval": 0.1}
        async with RedisCluster.from_url(cluster.url, **patience) as client:
            read = asyncio.create_task(client.get("a"))
            await until(lambda: silent.count("GET") == 1)
            before = asked(cluster)
            await until(lambda: asked(cluster) > before)
            # One more that is due by now, and no other.
            monkeypatch.setattr(refresher, "WATCH_INTERVAL", 1000.0)
            before = asked(cluster)
            await until(lambda: asked(cluster) >= before + 20)
            cluster.failover(replica)
            assert await asyncio.wait_for(read, PATIENCE) == b"the new one's"

    with ScriptedCluster(1, replicas=1) as cluster:
        run(main, cluster)


def test_nobody_waits_for_a_node_that_lets_nobody_in_and_was_replaced() -> None:
    """As when its machine has stopped and nobody has a connection yet: one that is being opened owes a reply as well."""

    async def main(cluster: ScriptedCluster) -> None:
        silent, replica = cluster.nodes
        replica.expect("GET").often().reply(b"the new one's")
        async with RedisCluster.from_url(
            cluster.url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
        ) as client:
            for name in ("HELLO", "CLIENT", "READONLY", "PING", "GET", "CLUSTER"):
                silent.expect(name).often()
            calls = [client.get("a"), client.pipeline().get("a").execute()]
            tasks = [asyncio.create_task(call) for call in calls]
            await until(lambda: bool(silent.connections))
            began = time.monotonic()
            cluster.failover(replica)
            assert await asyncio.gather(*tasks) == [b"the new one's", [b"the new one's"]]
            assert time.monotonic() - began < PATIENCE / 2

    with ScriptedCluster(1, replicas=1) as cluster:
        run(main, cluster)


def test_a_slow_node_is_waited_for() -> None:
    """It is asked after, once a second, and keeps its calls."""

    async def main(cluster: ScriptedCluster) -> None:
        slow, _ = cluster.nodes
        answer = threading.Event()
        slow.expect("INCRBY").until(answer).reply(1)
        async with RedisCluster.from_url(cluster.url, socket_timeout=PATIENCE) as client:
            write = asyncio.create_task(client.incr("a"))
            await until(lambda: slow.count("INCRBY") == 1)
            before = asked(cluster)
            await until(lambda: asked(cluster) >= before + 2)
            answer.set()
            assert await write == 1
            assert slow.count("INCRBY") == 1

    with ScriptedCluster(1, replicas=1) as cluster:
        run(main, cluster)


@pytest.mark.parametrize("batch", [False, True], ids=["call", "pipeline"])
def test_moved_to_the_same_address_asks_there_over_a_new_connection(batch: bool) -> None:
    """Behind a load balancer or after a managed failover the address is that of another server (rueidis 37)."""
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]

        async def main() -> None:
            async with RedisCluster.from_url(scripted.url, reinitialize_steps=0) as client:
                node.expect("GET", "a").error(f"MOVED {client.keyslot('a')} {node.address}")
                node.expect("GET", "a").reply(b"1")
                if batch:
                    assert await client.pipeline().get("a").execute() == [b"1"]
                else:
                    assert await client.get("a") == b"1"

        run(main)
        seen = [read.connection for read in node.reads for call in read.commands if call[0] == b"GET"]
        assert len(set(seen)) == 2


def test_all_calls_that_meet_it_open_one_connection() -> None:
    with ScriptedCluster(1) as scripted:
        node = scripted.nodes[0]
        calls = 200

        async def main() -> None:
            async with RedisCluster.from_url(scripted.url, reinitialize_steps=0) as client:
                node.expect("GET", "b").reply(b"")
                await client.get("b")
                accepted = node.accepted
                for _ in range(calls):
                    node.expect("GET", "a").error(f"MOVED {client.keyslot('a')} {node.address}")
                node.expect("GET", "a").often().reply(b"1")
                assert await asyncio.gather(*(client.get("a") for _ in range(calls))) == [b"1"] * calls
                assert node.accepted == accepted + 1

        run(main)


def test_nothing_of_a_client_that_was_left_open_stays() -> None:
    with ScriptedCluster(1) as scripted:

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            client = RedisCluster.from_url(scripted.url)
            await client.initialize()
            manager = weakref.ref(client.nodes_manager)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del client
                gc.collect()
            assert manager() is None

        # Not `run`, which takes what redis-py tells the loop of such a client for an error.
        asyncio.run(main())


def test_a_client_that_is_closed_while_it_asks(pair: ScriptedCluster) -> None:
    """No task is left, and nobody waits for the answer."""

    async def main() -> None:
        client = RedisCluster.from_url(pair.url, topology_refresh_timeout=30)
        await client.initialize()
        for node in pair.nodes:
            node.expect("CLUSTER", "SLOTS").often()  # and no answer
        client.nodes_manager.refresher.want()
        await until(lambda: asked(pair) == 2)
        await client.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


class Nobody:
    """Has no nodes, and counts how often it was asked to refresh."""

    asked = 0

    async def refresh(self, told: set[Address], failed: set[Address]) -> None:
        self.asked += 1

    async def look_for_successor(self, failed: set[Address]) -> bool:
        return False

    def silent_nodes(self) -> set[Address]:
        return set()

    def leave(self, silent: set[Address]) -> set[Address]:
        return set()

    def count_nodes(self) -> int:
        return 0


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
def test_a_refresh_that_is_due_at_once_may_be_wanted_again(name: str) -> None:
    """uvloop's timers do not tell when they go off if that is at once: callers got an AttributeError in a failover."""
    loop = pytest.importorskip(name).new_event_loop()
    client = Nobody()

    async def main() -> None:
        refresher = Refresher(client, None, 0.0)
        refresher.start()
        refresher.want()
        refresher.want(Address("127.0.0.1", 1))
        await asyncio.wait_for(refresher.want_and_wait(None, 10), 10)
        await refresher.end()

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert client.asked == 1


def test_thousands_who_waited_leave_turns_to_others() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        waiting = [loop.create_future() for _ in range(5_000)]
        most = last = 0
        wake(waiting)
        while last < len(waiting):
            now = sum(done.done() for done in waiting)
            most, last = max(most, now - last), now
            await asyncio.sleep(0)
        assert [done.done() for done in waiting] == [True] * len(waiting)
        return most

    assert asyncio.run(main()) <= 200
