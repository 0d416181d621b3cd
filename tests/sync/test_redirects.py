"""What the cluster answers in place of a reply, from nodes that play it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from slotwise import RedisCluster, key_slot
from slotwise.routing.topology import Address
from slotwise.testing.scripted import ErrorReply, ScriptedCluster, ScriptedNode
from tests.local.processes import wait_until
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background

SLOT = key_slot("a")  # 15495: of the second of two primaries


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    """Two primaries, the second of which serves key ``a``, and a third node without slots."""
    with ScriptedCluster(2, others=1) as cluster:
        yield cluster


@pytest.fixture
def nodes(pair: ScriptedCluster) -> tuple[ScriptedNode, ScriptedNode, ScriptedNode]:
    """The node that does not serve ``a``, the one that does, and the one that serves nothing."""
    other, owner, new = pair.nodes
    return other, owner, new


Nodes = tuple[ScriptedNode, ScriptedNode, ScriptedNode]


def owner_of(client: RedisCluster, key: str) -> str:
    return str(client.get_node_from_key(key).name)


# -- MOVED --------------------------------------------------------------------------------------


def test_moved_is_followed_and_remembered(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("INCRBY", "a").error(f"MOVED {SLOT} {other.address}")
    other.expect("INCRBY", "a").reply(1)
    other.expect("GET", "a").reply(b"1")
    assert client.incr("a") == 1
    assert owner_of(client, "a") == other.address
    assert client.get("a") == b"1"
    # No other slot moved, and nobody was asked for the topology.
    assert client.get_node_from_key("b").name == other.address
    assert {node.topology_asked for node in pair.nodes} == {0, 1}
    assert sum(node.topology_asked for node in pair.nodes) == 1


def test_moved_to_a_node_not_known_yet(pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient) -> None:
    _, owner, new = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("SET", "a").error(f"MOVED {SLOT} {new.address}")
    new.expect("SET", "a").reply("OK")
    new.expect("GET", "a").reply(b"1")
    assert client.set("a", 1) is True
    assert client.get("a") == b"1"
    assert client.get_node(node_name=new.address) is not None
    assert new.address in {node.name for node in client.get_primaries()}


def test_moved_with_an_empty_host_means_the_host_that_was_asked(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("GET", "a").error(f"MOVED {SLOT} :{other.port}")
    other.expect("GET", "a").reply(b"1")
    assert client.get("a") == b"1"
    assert owner_of(client, "a") == other.address


def test_an_empty_host_is_the_one_that_was_asked_and_not_its_successor(
    nodes: Nodes, pair: ScriptedCluster, make_client: MakeClient
) -> None:
    """Another caller has followed its MOVED by the time that this one's comes."""
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    told = threading.Event()
    owner.expect("GET", "a").until(told).error(f"MOVED {SLOT} :{other.port}")
    other.expect("GET", "a").reply(b"1")
    late = background(client.get, "a")
    wait_until(lambda: owner.count("GET") == 1)
    client.nodes_manager.moved(SLOT, Address("localhost", other.port))
    told.set()
    assert late.result(PATIENCE) == b"1"
    assert not client.nodes_manager._reconnected


def one_call(client: RedisCluster) -> Any:
    return client.get("a")


def one_of_a_pipeline(client: RedisCluster) -> Any:
    return client.pipeline().get("a").execute()[0]


@pytest.mark.parametrize("call", [one_call, one_of_a_pipeline])
def test_a_late_moved_does_not_blame_its_target(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient, call: Callable[[RedisCluster], Any]
) -> None:
    """By then another caller has put it into the table, but it is not the target that named itself."""
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    first, second = threading.Event(), threading.Event()
    owner.expect("GET", "a").until(first).moved(other)
    owner.expect("GET", "a").often().until(second).moved(other)
    other.expect("GET", "a").often().reply(b"1")
    calls = [background(call, client) for _ in range(2)]
    wait_until(lambda: owner.count("GET", "a") > 0)
    # On a connection that both share the node reads the other one later.
    time.sleep(0.1)
    first.set()
    wait_until(lambda: any(each.done() for each in calls))
    second.set()
    assert [each.result(PATIENCE) for each in calls] == [b"1", b"1"]
    assert not client.nodes_manager._reconnected


@pytest.mark.parametrize("call", [one_call, one_of_a_pipeline])
def test_a_late_failure_does_not_blame_the_successor(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient, call: Callable[[RedisCluster], Any]
) -> None:
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0, socket_timeout=0.5)
    owner.expect("GET", "a").half_open()
    other.expect("GET", "a").reply(b"1")
    failed: list[Any] = []
    want = client.nodes_manager.refresher.want

    def heard(failed_node: Address | None = None, told: Address | None = None) -> None:
        failed.append(failed_node)
        want(failed_node, told)

    client.nodes_manager.refresher.want = heard  # type: ignore[method-assign]
    late = background(call, client)
    wait_until(lambda: owner.count("GET", "a") == 1)
    pair.move_slots(SLOT, SLOT, other)
    # Another call met the MOVED.
    client.nodes_manager.moved(SLOT, Address("127.0.0.1", other.port))
    assert late.result(PATIENCE) == b"1"
    assert failed
    assert Address("127.0.0.1", other.port) not in failed


def test_moved_to_the_node_that_said_it(pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient) -> None:
    """Behind a load balancer or after a managed failover: same address, another server."""
    _, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("GET", "a").error(f"MOVED {SLOT} {owner.address}")
    owner.expect("GET", "a").reply(b"1")
    assert client.get("a") == b"1"


def test_circle_of_moved_ends(pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient) -> None:
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("GET", "a").often().error(f"MOVED {SLOT} {other.address}")
    other.expect("GET", "a").often().error(f"MOVED {SLOT} {owner.address}")
    with pytest.raises(redis.exceptions.ClusterError, match="TTL exhausted"):
        client.get("a")
    assert owner.count("GET") + other.count("GET") <= 18


def test_moved_asks_for_the_topology_in_the_background(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    """Once for many of them, and first of all the node that has the slots now."""
    other, owner, new = nodes
    client = make_client(pair)
    asked = [node.topology_asked for node in pair.nodes]
    owner.expect("GET").often().reply(lambda call: ErrorReply(f"MOVED {key_slot(call[1])} {new.address}"))
    new.expect("GET").often().reply(b"1")
    pair.slots[1] = (8192, 16383, [new])
    for key in [key for key in map(str, range(100)) if key_slot(key) >= 8192]:
        assert client.get(key) == b"1"
    wait_until(lambda: new.topology_asked == 1)
    assert [node.topology_asked for node in (other, owner)] == asked[:2]
    wait_until(lambda: owner.address not in {node.name for node in client.get_nodes()})
    assert owner_of(client, "a") == new.address


def test_moved_is_followed_though_the_topology_cannot_be_had(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    """The refresh that a MOVED sets off is a service to later calls; this one knows where to go."""
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=1)
    pair.slots[:] = [(0, 100, [other])]
    owner.expect("GET", "a").error(f"MOVED {SLOT} {other.address}")
    other.expect("GET", "a").reply(b"1")
    assert client.get("a") == b"1"


def test_moved_to_a_replica_that_was_promoted_keeps_the_shards_replicas(make_client: MakeClient) -> None:
    """redis-py drops them until the next refresh."""
    with ScriptedCluster(1, others=2) as scripted:
        primary, replica, second = scripted.nodes
        scripted.slots[:] = [(0, 16383, [primary, replica, second])]
        client = make_client(scripted, reinitialize_steps=0)
        primary.expect("SET", "a").error(f"MOVED {SLOT} {replica.address}")
        replica.expect("SET", "a").reply("OK")
        client.set("a", 1)
        names = [node.name for node in client.nodes_manager.slots_cache[SLOT]]
        assert names[0] == replica.address
        assert set(names) == {primary.address, replica.address, second.address}
        assert client.get_node(node_name=replica.address).server_type == "primary"
        assert client.get_node(node_name=primary.address).server_type == "replica"


def test_address_remap_holds_for_redirects(make_client: MakeClient) -> None:
    """The nodes call themselves by names that only they can reach."""
    with ScriptedCluster(2, others=1) as scripted:
        other, owner, new = scripted.nodes
        inside = {("10.9.9.9", 1000 + i): ("127.0.0.1", node.port) for i, node in enumerate(scripted.nodes)}
        client = make_client(
            scripted, reinitialize_steps=0, address_remap=lambda address: inside.get(address, address)
        )
        owner.expect("GET", "a").error(f"ASK {SLOT} 10.9.9.9:1002")
        new.expect("ASKING").reply("OK")
        new.expect("GET", "a").reply(b"asked")
        assert client.get("a") == b"asked"
        owner.expect("GET", "a").error(f"MOVED {SLOT} 10.9.9.9:1000")
        other.expect("GET", "a").reply(b"moved")
        assert client.get("a") == b"moved"
        assert owner_of(client, "a") == other.address
        other.expect("GET", "a").error(f"MOVED {SLOT} 10.9.9.9:1002")
        new.expect("GET", "a").reply(b"piped")
        assert client.pipeline().get("a").execute() == [b"piped"]
        new.expect("GET", "a").error(f"ASK {SLOT} 10.9.9.9:1001")
        owner.expect("ASKING").reply("OK")
        owner.expect("GET", "a").reply(b"piped too")
        assert client.pipeline().get("a").execute() == [b"piped too"]


def test_moved_in_a_transaction_patches_the_slot(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    """redis-py goes on asking the old owner until a refresh."""
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("MULTI").reply("OK")
    owner.expect("INCRBY", "a").error(f"MOVED {SLOT} {other.address}")
    owner.expect("EXEC").error("EXECABORT Transaction discarded because of previous errors.")
    other.expect("MULTI").reply("OK")
    other.expect("INCRBY", "a").reply("QUEUED")
    other.expect("EXEC").reply([1])
    other.expect("GET", "a").reply(b"1")
    with client.pipeline(transaction=True) as pipe:
        assert pipe.incr("a").execute() == [1]
    assert owner_of(client, "a") == other.address
    assert client.get("a") == b"1"


# -- ASK ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_ask_is_followed_once_in_one_write(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient, known: bool
) -> None:
    """ASKING and the command on one connection, in one write; also to a node that owns no slot yet."""
    other, owner, new = nodes
    target = other if known else new
    client = make_client(pair)
    owner.expect("INCRBY", "a").error(f"ASK {SLOT} {target.address}")
    target.expect("ASKING").reply("OK")
    target.expect("INCRBY", "a").reply(1)
    owner.expect("GET", "a").reply(b"1")
    assert client.incr("a") == 1
    assert [read.commands for read in target.reads] == [[(b"ASKING",), (b"INCRBY", b"a", b"1")]]
    # ASK is for this one command only.
    assert client.get("a") == b"1"
    assert owner_of(client, "a") == owner.address


def test_ask_then_tryagain_then_moved(pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient) -> None:
    """The life of a multi-key command while its slot moves."""
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("MGET").error(f"ASK {SLOT} {other.address}")
    other.expect("ASKING").often().reply("OK")
    other.expect("MGET").error("TRYAGAIN Multiple keys request during rehashing of slot")
    owner.expect("MGET").error(f"MOVED {SLOT} {other.address}")
    other.expect("MGET").reply([b"1", b"2"])
    assert client.mget("{a}1", "{a}2") == [b"1", b"2"]


def test_error_of_an_asked_node_is_the_callers(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    other, owner, _ = nodes
    client = make_client(pair)
    owner.expect("INCRBY", "a").error(f"ASK {SLOT} {other.address}")
    other.expect("ASKING").reply("OK")
    other.expect("INCRBY", "a").error("WRONGTYPE Operation against a key holding the wrong kind of value")
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE|wrong kind"):
        client.incr("a")


# -- later --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "CLUSTERDOWN Hash slot not served",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    ],
)
def test_passing_trouble_is_waited_for(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient, error: str
) -> None:
    client = make_client(scripted)
    node.expect("INCRBY", "a").error(error)
    node.expect("INCRBY", "a").error(error)
    node.expect("INCRBY", "a").reply(1)
    node.expect("GET", "a").error(error)
    node.expect("GET", "a").reply(b"1")
    assert client.incr("a") == 1
    assert client.pipeline().get("a").execute() == [b"1"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ("CLUSTERDOWN The cluster is down", redis.exceptions.ClusterDownError),
        ("LOADING Redis is loading the dataset in memory", redis.BusyLoadingError),
    ],
)
def test_lasting_trouble_is_raised(
    scripted: ScriptedCluster,
    node: ScriptedNode,
    make_client: MakeClient,
    error: str,
    raised: type[Exception],
) -> None:
    client = make_client(scripted, cluster_error_retry_attempts=2)
    node.expect("GET", "a").often().error(error)
    with pytest.raises(raised):
        client.get("a")
    assert node.count("GET") == 3
    with pytest.raises(raised):
        client.pipeline().get("a").execute()
    assert client.pipeline().get("a").execute(raise_on_error=False)[0].__class__ is raised


@pytest.mark.parametrize(
    "error", ["MOVED", "MOVED x", "MOVED 1", "MOVED 1 nowhere", "ASK 99999", "MOVED 1 a:b"]
)
def test_odd_redirects_are_errors_and_nothing_worse(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient, error: str
) -> None:
    client = make_client(scripted)
    node.expect("GET", "a").error(error)
    node.expect("GET", "b").reply(b"b")
    with pytest.raises(redis.ResponseError):
        client.get("a")
    assert client.get("b") == b"b"


def test_moved_for_a_slot_that_does_not_exist(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, reinitialize_steps=0)
    node.expect("GET", "a").error(f"MOVED 16384 {node.address}")
    node.expect("GET", "b").reply(b"b")
    with pytest.raises(redis.ResponseError):
        client.get("a")
    assert client.get("b") == b"b"


# -- pipelines ----------------------------------------------------------------------------------


def test_redirected_commands_go_again_in_one_batch_per_node(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    other, owner, new = nodes
    client = make_client(pair, reinitialize_steps=0)
    moved = [f"{{{tag}}}" for tag in range(200) if key_slot(str(tag)) > 8191][:20]
    asked = [f"{{{tag}}}" for tag in range(500) if key_slot(str(tag)) > 8191][20:40]
    stay = [f"{{{tag}}}" for tag in range(200) if key_slot(str(tag)) <= 8191][:20]
    pipe = client.pipeline()
    for n, keys in enumerate(zip(moved, asked, stay, strict=True)):
        gone, migrating, staying = keys
        owner.expect("INCRBY", gone).error(f"MOVED {key_slot(gone)} {other.address}")
        other.expect("INCRBY", gone).reply(n)
        owner.expect("INCRBY", migrating).error(f"ASK {key_slot(migrating)} {new.address}")
        new.expect("ASKING").reply("OK")
        new.expect("INCRBY", migrating).reply(100 + n)
        other.expect("INCRBY", staying).reply(0)
        pipe.incr(gone).incr(migrating).incr(staying)
    assert pipe.execute() == [value for n in range(20) for value in (n, 100 + n, 0)]
    # The first round brought what stays, the second everything that moved; nothing came twice.
    assert [len(read.commands) for read in other.reads] == [20, 20]
    assert [len(read.commands) for read in new.reads] == [40]
    assert [len(read.commands) for read in owner.reads] == [40]
    again = [command[1].decode() for command in other.reads[1].commands]
    assert again == moved


@pytest.mark.parametrize("reply", [0, None, b"", [], "OK"])
def test_acknowledged_commands_are_never_sent_again(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient, reply: object
) -> None:
    """Whatever their reply: redis-py's asyncio pipeline repeats those that were answered 0, None or empty."""
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("EVAL").reply(reply)
    owner.expect("INCRBY", "a").error(f"MOVED {SLOT} {other.address}")
    other.expect("INCRBY", "a").reply(1)
    pipe = client.pipeline()
    pipe.execute_command("EVAL", "return ARGV[1]", 1, "{a}script")
    pipe.incr("a")
    results = pipe.execute()
    assert results[1] == 1
    assert not results[0] or results[0] == b"OK"
    assert owner.count("EVAL") == 1


def test_pipeline_in_a_circle_of_moved_ends(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    other, owner, _ = nodes
    client = make_client(pair, reinitialize_steps=0)
    owner.expect("GET", "a").often().error(f"MOVED {SLOT} {other.address}")
    other.expect("GET", "a").often().error(f"MOVED {SLOT} {owner.address}")
    owner.expect("GET", "{a}b").often().reply(b"b")
    (error,) = client.pipeline().get("a").execute(raise_on_error=False)
    assert isinstance(error, redis.exceptions.ClusterError)
    assert owner.count("GET") + other.count("GET") <= 18


def test_retries_that_are_used_up_end_only_what_needed_them(
    pair: ScriptedCluster, nodes: Nodes, make_client: MakeClient
) -> None:
    other, owner, new = nodes
    client = make_client(pair, reinitialize_steps=0, cluster_error_retry_attempts=0)
    owner.expect("GET", "{a}down").error("CLUSTERDOWN The cluster is down")
    owner.expect("GET", "{a}moved").error(f"MOVED {SLOT} {other.address}")
    owner.expect("GET", "{a}asked").error(f"ASK {SLOT} {new.address}")
    other.expect("GET", "{a}moved").reply(b"moved")
    new.expect("ASKING").reply("OK")
    new.expect("GET", "{a}asked").reply(b"asked")
    pipe = client.pipeline().get("{a}down").get("{a}moved").get("{a}asked")
    down, moved, asked = pipe.execute(raise_on_error=False)
    assert isinstance(down, redis.exceptions.ClusterDownError)
    assert (moved, asked) == (b"moved", b"asked")
