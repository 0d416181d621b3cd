"""Who asks for the topology, when, and whom to believe."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis

from slotwise import RedisCluster
from slotwise.errors import UnknownOutcomeError
from slotwise.routing.redirects import REDIRECTS_MAX
from slotwise.routing.topology import Address
from slotwise.sync import refresher
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.local.processes import wait_until
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background, together


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    """Two primaries, the second of which serves key ``a``, and a third node without slots."""
    with ScriptedCluster(2, others=1) as cluster:
        yield cluster


def asked(cluster: ScriptedCluster) -> int:
    return sum(node.topology_asked for node in cluster.nodes)


def threads_of_refreshers() -> int:
    return sum(thread.name == "slotwise-topology" for thread in threading.enumerate())


def test_no_call_waits_for_a_refresh_that_it_does_not_need(
    pair: ScriptedCluster, make_client: MakeClient
) -> None:
    """redis-py asks on the caller's thread, under a lock that the others want too (redis-py 4049)."""
    other, owner, _ = pair.nodes
    # So CLUSTER SLOTS is what the client asks for.
    pair.answers_shards = False
    client = make_client(pair, topology_refresh_timeout=PATIENCE)
    answered = threading.Event()
    for node in pair.nodes:
        node.expect("CLUSTER", "SLOTS").often().until(answered).reply(pair.slots_reply())
    owner.expect("GET", "a").error(f"MOVED {client.keyslot('a')} {other.address}")
    other.expect("GET").often().reply(b"1")
    assert client.get("a") == b"1"
    wait_until(lambda: asked(pair) == 2)
    # It is under way and hangs, and nobody notices.
    assert client.get("a") == b"1"
    assert not answered.is_set()
    answered.set()


def test_many_that_fail_at_once_ask_once(pair: ScriptedCluster, make_client: MakeClient) -> None:
    _, owner, new = pair.nodes
    client = make_client(pair)
    owner.expect("GET").often().close()
    new.expect("GET").often().reply(b"1")
    pair.slots[1] = (8192, 16383, [new])
    before = asked(pair)
    assert together([lambda: client.get("a")] * 20) == [b"1"] * 20
    assert asked(pair) == before + 1


def test_at_most_one_refresh_in_the_least_interval(pair: ScriptedCluster, make_client: MakeClient) -> None:
    """A shard stays away, and callers go on trying."""
    _, owner, _ = pair.nodes
    # So CLUSTER SLOTS is what the client asks for.
    pair.answers_shards = False
    client = make_client(pair, topology_refresh_min_interval=0.3, cluster_error_retry_attempts=4)
    owner.expect("GET").often().close()
    times: list[float] = []
    for node in pair.nodes:
        node.expect("CLUSTER", "SLOTS").often().reply(
            lambda _: times.append(time.monotonic()) or pair.slots_reply()
        )

    def fails() -> None:
        with pytest.raises(redis.ConnectionError):
            client.get("a")

    together([fails] * 8)
    assert len(times) >= 3
    # The server's clock is read a little later than the client's, never earlier.
    assert all(later - earlier > 0.25 for earlier, later in pairwise(times))


def test_regular_refresh(pair: ScriptedCluster, make_client: MakeClient) -> None:
    """Nobody calls, and the client learns of the new node."""
    client = make_client(pair, topology_refresh_interval=0.05, topology_refresh_min_interval=0.01)
    new = pair.nodes[2]
    pair.slots[1] = (8192, 16383, [new])
    wait_until(lambda: client.get_node_from_key("a").name == new.address)


def test_no_regular_refresh(pair: ScriptedCluster, make_client: MakeClient) -> None:
    client = make_client(pair, topology_refresh_interval=None)
    assert client.nodes_manager.refresher.schedule.due == float("inf")


@pytest.mark.parametrize(
    "options",
    [
        {"topology_refresh_interval": 0},
        {"topology_refresh_min_interval": -1},
        {"topology_refresh_timeout": "soon"},
        {"topology_refresh_timeout": True},
    ],
    ids=str,
)
def test_no_seconds(pair: ScriptedCluster, options: dict[str, Any]) -> None:
    with pytest.raises(redis.DataError, match=f"{next(iter(options))} must be a number of seconds above 0"):
        RedisCluster.from_url(pair.url, **options)


def test_all_known_nodes_were_replaced(pair: ScriptedCluster, make_client: MakeClient) -> None:
    """The seed is a name that leads to the new ones by now (redis-py 3310)."""
    seed, gone, new = pair.nodes
    pair.slots[:] = [(0, 16383, [gone])]
    client = make_client(pair)
    assert {node.name for node in client.get_nodes()} == {gone.address}
    pair.slots[:] = [(0, 16383, [new])]
    new.expect("GET", "a").reply(b"1")
    gone.stop()
    assert client.get("a") == b"1"
    assert seed.topology_asked == 2


def test_the_replica_that_takes_over_is_found_before_the_next_refresh(make_client: MakeClient) -> None:
    """Replicas of a primary that failed are asked for their ROLE meanwhile, which costs them next to nothing."""
    with ScriptedCluster(1, others=1) as cluster:
        primary, replica = cluster.nodes
        cluster.slots[:] = [(0, 16383, [primary, replica])]
        client = make_client(cluster, topology_refresh_min_interval=60)
        for _ in range(3):
            replica.expect("ROLE").reply([b"slave", b"127.0.0.1", primary.port, b"connect", 0])
        replica.expect("ROLE").often().reply([b"master", 0, []])
        replica.expect("CLUSTER", "NODES").often().reply(b"x a:1@2 myself,master - 0 0 9 connected 0-16383")
        replica.expect("SET", "a").reply("OK")
        primary.stop()
        assert client.set("a", 1)
        # The topology of the replica names the old one still: it was asked once, in vain.
        assert cluster.nodes[1].topology_asked == 1


def test_nobody_waits_for_a_silent_node_that_was_replaced(make_client: MakeClient) -> None:
    """As when its machine has stopped: the connection stays open. The time-out would end the calls much later."""
    with ScriptedCluster(1, replicas=1) as cluster:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        silent.expect("INCRBY").often()
        replica.expect("GET").often().reply(b"the new one's")
        client = make_client(cluster, socket_timeout=PATIENCE)
        read, pipeline = background(client.get, "a"), background(client.pipeline().get("a").execute)
        write = background(client.incr, "b")
        wait_until(lambda: silent.count("GET") >= 1 and silent.count("INCRBY") == 1)
        began = time.monotonic()
        cluster.failover(replica)
        assert read.result(PATIENCE) == b"the new one's"
        assert pipeline.result(PATIENCE) == [b"the new one's"]
        with pytest.raises(UnknownOutcomeError):
            write.result(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        assert replica.count("INCRBY") == 0


def test_nobody_waits_for_a_silent_node_that_has_left(make_client: MakeClient) -> None:
    """Its successor's view leaves it out, as it seems to have failed, and a refresh is what tells."""
    with ScriptedCluster(1, replicas=1) as cluster:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        silent.expect("INCRBY").often()
        replica.expect("GET").often().reply(b"the new one's")
        replica.expect("ROLE").often().error("NOPERM this user has no permissions to run the 'role' command")
        client = make_client(cluster, socket_timeout=2 * PATIENCE)
        read, pipeline = background(client.get, "a"), background(client.pipeline().get("a").execute)
        write = background(client.incr, "b")
        wait_until(lambda: silent.count("GET") >= 1 and silent.count("INCRBY") == 1)
        cluster.slots[0] = (0, 16383, [replica])
        assert read.result(PATIENCE) == b"the new one's"
        assert pipeline.result(PATIENCE) == [b"the new one's"]
        with pytest.raises(UnknownOutcomeError):
            write.result(PATIENCE)


def test_nobody_waits_for_a_silent_node_whose_successor_was_known_first(make_client: MakeClient) -> None:
    """A refresh tells of it before anybody has seen that the node is silent."""
    with ScriptedCluster(1, replicas=1) as cluster:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        silent.expect("INCRBY").often()
        replica.expect("GET").often().reply(b"the new one's")
        client = make_client(cluster, socket_timeout=2 * PATIENCE)
        read, write = background(client.get, "a"), background(client.incr, "b")
        wait_until(lambda: silent.count("GET") == 1 and silent.count("INCRBY") == 1)
        cluster.slots[0] = (0, 16383, [replica])
        client.nodes_manager.refresh({Address("127.0.0.1", replica.port)}, set())
        assert client.get_node_from_key("a").port == replica.port
        assert read.result(PATIENCE) == b"the new one's"
        with pytest.raises(UnknownOutcomeError):
            write.result(PATIENCE)


def test_a_node_that_owes_replies_is_asked_last(make_client: MakeClient) -> None:
    """It would keep everybody waiting who waits for the refresh."""
    with ScriptedCluster(1, replicas=1) as cluster:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        replica.expect("GET").often().reply(b"the new one's")
        client = make_client(cluster, socket_timeout=2 * PATIENCE)
        read = background(client.get, "a")
        wait_until(lambda: silent.count("GET") == 1)
        client.nodes_manager.silent_nodes()  # a look
        before = silent.topology_asked
        for _ in range(8):
            client.nodes_manager.refresh(set(), set())
        assert silent.topology_asked == before
        cluster.failover(replica)
        assert read.result(PATIENCE) == b"the new one's"


def test_a_silent_node_is_looked_after_between_two_watches(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedCluster(1, replicas=1) as cluster:
        silent, replica = cluster.nodes
        silent.expect("GET").often()
        replica.expect("GET").often().reply(b"the new one's")
        client = make_client(cluster, socket_timeout=2 * PATIENCE, topology_refresh_min_interval=0.1)
        read = background(client.get, "a")
        before = asked(cluster)
        wait_until(lambda: asked(cluster) > before)
        # One more that is due by now, and no other.
        monkeypatch.setattr(refresher, "WATCH_INTERVAL", 1000.0)
        before = asked(cluster)
        wait_until(lambda: asked(cluster) >= before + 20)
        cluster.failover(replica)
        assert read.result(PATIENCE) == b"the new one's"


def test_a_node_that_lets_nobody_in_may_have_been_replaced(make_client: MakeClient) -> None:
    """As when its machine has stopped and nobody has a connection yet: one that is being opened owes a reply as well."""
    with ScriptedCluster(1, replicas=1) as cluster:
        silent, replica = cluster.nodes
        client = make_client(cluster, socket_timeout=PATIENCE / 4, socket_connect_timeout=PATIENCE / 4)
        for name in ("HELLO", "CLIENT", "READONLY", "PING", "GET", "CLUSTER"):
            silent.expect(name).often()
        replica.expect("GET").often().reply(b"the new one's")
        first = background(client.get, "a")
        wait_until(lambda: bool(silent.connections))
        cluster.failover(replica)
        began = time.monotonic()
        wait_until(lambda: client.get_node_from_key("a").port == replica.port)
        assert client.get("a") == b"the new one's"
        assert time.monotonic() - began < PATIENCE / 6, "whoever opens is still at it"
        assert first.result(PATIENCE) == b"the new one's"


def test_a_slow_node_is_waited_for(make_client: MakeClient) -> None:
    """It is asked after, once a second, and keeps its calls."""
    with ScriptedCluster(1, replicas=1) as cluster:
        slow, _ = cluster.nodes
        answer = threading.Event()
        slow.expect("INCRBY").until(answer).reply(1)
        client = make_client(cluster, socket_timeout=PATIENCE)
        before = asked(cluster)
        write = background(client.incr, "a")
        wait_until(lambda: asked(cluster) >= before + 2)
        answer.set()
        assert write.result(PATIENCE) == 1
        assert slow.count("INCRBY") == 1


# -- whom to believe ---------------------------------------------------------------------------------------------------


def view(cluster: ScriptedCluster, owner: ScriptedNode, epoch: int, flags: str = "") -> Any:
    """What a node tells when it believes that ``owner`` has the upper half."""
    first = cluster.nodes[0]
    nodes = [(first, "first", 1, "0-8191"), (owner, owner.address, epoch, "8192-16383")]
    shards = [
        {
            b"slots": [int(slot) for slot in slots.split("-")],
            b"nodes": [
                {
                    b"id": name.encode(),
                    b"port": node.port,
                    b"endpoint": b"127.0.0.1",
                    b"role": b"master",
                    b"health": b"online",
                }
            ],
        }
        for node, name, _, slots in nodes
    ]
    lines = [
        f"{name} {node.address}@1 master{flags} - 0 0 {number} connected {slots}"
        for node, name, number, slots in nodes
    ]
    return shards, "\n".join(lines).encode()


def tell(node: ScriptedNode, told: Any) -> None:
    node.expectations[:] = [e for e in node.expectations if e.words[0] != b"CLUSTER"]
    node.expect("CLUSTER", "SHARDS").often().reply(told[0])
    node.expect("CLUSTER", "NODES").often().reply(told[1])


def test_the_old_view_of_a_node_that_lost_touch_never_wins(
    pair: ScriptedCluster, make_client: MakeClient
) -> None:
    first, old, new = pair.nodes
    for node in pair.nodes:
        tell(node, view(pair, new, epoch=5))
    client = make_client(pair)
    assert client.get_node_from_key("a").name == new.address
    # The others do not answer.
    for node in pair.nodes:
        node.expectations[:] = [e for e in node.expectations if e.words[0] != b"CLUSTER"]
        node.expect("CLUSTER").often().close()
    tell(first, view(pair, old, epoch=3))
    client.nodes_manager.initialize()
    assert client.get_node_from_key("a").name == new.address
    tell(first, view(pair, old, epoch=6))
    client.nodes_manager.initialize()
    assert client.get_node_from_key("a").name == old.address


def test_a_node_to_which_all_others_fail_is_not_asked_alone(
    pair: ScriptedCluster, make_client: MakeClient
) -> None:
    """It may not have heard of the failover, nor of a higher epoch."""
    first, old, new = pair.nodes
    for node in pair.nodes:
        tell(node, view(pair, old, epoch=3))
    client = make_client(pair)
    tell(old, view(pair, new, epoch=3, flags=",fail?"))
    tell(first, view(pair, new, epoch=5))
    tell(new, view(pair, new, epoch=5))
    client.nodes_manager.refresh({Address("127.0.0.1", old.port)}, set())
    assert client.get_node_from_key("a").name == new.address
    assert client.nodes_manager.knowledge.topology.shards[1].epoch == 5


# -- the thread --------------------------------------------------------------------------------------------------------


def test_the_thread_ends_with_the_client(scripted: ScriptedCluster) -> None:
    before = threads_of_refreshers()
    client = RedisCluster.from_url(scripted.url)
    assert threads_of_refreshers() == before + 1
    client.close()
    wait_until(lambda: threads_of_refreshers() == before)


def test_the_thread_keeps_no_client_alive(scripted: ScriptedCluster) -> None:
    before = threads_of_refreshers()
    client = RedisCluster.from_url(scripted.url)
    manager = weakref.ref(client.nodes_manager)
    del client
    gc.collect()
    assert manager() is None
    wait_until(lambda: threads_of_refreshers() == before)


def test_a_client_that_is_used_again_after_its_end_has_one_again(
    scripted: ScriptedCluster, make_client: MakeClient
) -> None:
    before = threads_of_refreshers()
    client = make_client(scripted)
    client.close()
    wait_until(lambda: threads_of_refreshers() == before)
    scripted.nodes[0].expect("GET", "a").reply(b"1")
    assert client.get("a") == b"1"
    assert threads_of_refreshers() == before + 1


@pytest.mark.parametrize("batch", [False, True], ids=["call", "pipeline"])
def test_moved_to_the_same_address_asks_there_over_a_new_connection(
    scripted: ScriptedCluster, make_client: MakeClient, batch: bool
) -> None:
    """Behind a load balancer or after a managed failover the address is that of another server (rueidis 37)."""
    node = scripted.nodes[0]
    client = make_client(scripted, reinitialize_steps=0)
    node.expect("GET", "a").error(f"MOVED {client.keyslot('a')} {node.address}")
    node.expect("GET", "a").reply(b"1")
    assert (client.pipeline().get("a").execute()[0] if batch else client.get("a")) == b"1"
    seen = [read.connection for read in node.reads if read.commands[0][0] == b"GET"]
    assert len(set(seen)) == 2


def test_all_calls_that_meet_it_open_one_connection(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, reinitialize_steps=0)
    # More redirects than a call follows could all be met by one of them.
    calls = REDIRECTS_MAX
    node.expect("GET", "b").reply(b"")
    client.get("b")
    accepted = node.accepted
    for _ in range(calls):
        node.expect("GET", "a").error(f"MOVED {client.keyslot('a')} {node.address}")
    node.expect("GET", "a").often().reply(b"1")
    assert together([lambda: client.get("a")] * calls) == [b"1"] * calls
    assert node.accepted == accepted + 1
