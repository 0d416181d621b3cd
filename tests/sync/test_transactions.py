"""MULTI/EXEC with WATCH on one slot: values as redis-py gives them, and never a second execution."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from slotwise import RedisCluster, key_slot
from slotwise.errors import UnknownOutcomeError, WatchError
from slotwise.routing.topology import Address
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync.conftest import MakeClient
from tests.sync.threads import together


def test_transaction_on_one_slot(client: RedisCluster) -> None:
    client.delete("{t}a", "{t}b")
    with client.pipeline(transaction=True) as pipe:
        pipe.set("{t}a", 1).incr("{t}a").get("{t}b")
        assert pipe.execute() == [b"OK", 2, None]


def test_transaction_over_two_slots_is_refused(client: RedisCluster) -> None:
    client.delete("a", "b")
    with client.pipeline(transaction=True) as pipe:
        pipe.set("a", 1)
        with pytest.raises(redis.exceptions.CrossSlotTransactionError, match=r"[Ss]lot"):
            pipe.set("b", 1).execute()
    assert client.exists("a", "b") == 0
    with client.pipeline(transaction=True) as pipe:
        assert pipe.set("a", 1).execute() == [b"OK"]


def test_watch(client: RedisCluster) -> None:
    client.set("{w}a", 1)
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("{w}a")
        assert pipe.get("{w}a") == b"1"
        pipe.multi()
        pipe.incr("{w}a")
        assert pipe.execute() == [2]
        pipe.watch("{w}a")
        client.set("{w}a", 10)
        pipe.multi()
        pipe.incr("{w}a")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get("{w}a") == b"10"


def test_watch_over_two_slots_is_refused(client: RedisCluster) -> None:
    with client.pipeline(transaction=True) as pipe:
        with pytest.raises(redis.exceptions.RedisClusterException):
            pipe.watch("a", "b")
        assert pipe.set("a", 1).execute() == [b"OK"]


def test_transaction_helper_counts_exactly(client: RedisCluster) -> None:
    client.set("{w}n", 0)

    def add(pipe: Any) -> None:
        value = int(pipe.get("{w}n"))
        pipe.multi()
        pipe.set("{w}n", value + 1)

    together([lambda: [client.transaction(add, "{w}n") for _ in range(20)] for _ in range(4)])
    assert client.get("{w}n") == b"80"


def test_errors_in_a_transaction(client: RedisCluster) -> None:
    client.set("{t}text", "x")
    with client.pipeline(transaction=True) as pipe:
        pipe.set("{t}c", 1).lpush("{t}text", 1).get("{t}c")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            pipe.execute()
        pipe.set("{t}c", 2).lpush("{t}text", 1).get("{t}c")
        set_, error, value = pipe.execute(raise_on_error=False)
        assert (set_, value) == (b"OK", b"2")
        assert isinstance(error, redis.ResponseError)


def play_transaction(node: ScriptedNode, *exec_replies: Any) -> None:
    """The node's part in transactions of one INCR; an EXEC closes the connection where its reply is None."""
    node.expect("WATCH").often().reply("OK")
    node.expect("UNWATCH").often().reply("OK")
    node.expect("MULTI").often().reply("OK")
    node.expect("INCRBY").often().reply("QUEUED")
    for reply in exec_replies:
        if reply is None:
            node.expect("EXEC").close()
        else:
            node.expect("EXEC").reply(reply)


def test_transaction_whose_reply_was_lost_is_not_sent_again(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted)
    play_transaction(node, None)
    with client.pipeline(transaction=True) as pipe:
        with pytest.raises(UnknownOutcomeError):
            pipe.incr("a").execute()
        assert node.count("EXEC") == 1
        # The pipeline can be used again.
        node.expect("EXEC").reply([2])
        assert pipe.incr("a").execute() == [2]


def test_transaction_that_could_not_be_sent_is_sent_again(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted)
    play_transaction(node, [1])
    node.expect("HELLO").close()
    with client.pipeline(transaction=True) as pipe:
        assert pipe.incr("a").execute() == [1]


def test_lost_connection_loses_the_watch(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """On a new connection nobody watches: executing there would overwrite what others have written."""
    client = make_client(scripted)
    play_transaction(node)
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("a")
        node.drop_connections()
        pipe.multi()
        pipe.incr("a")
        with pytest.raises((redis.WatchError, redis.ConnectionError)):
            pipe.execute()
    assert node.count("EXEC") == 0


def test_write_behind_watch_whose_reply_was_lost_ends_the_watch(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted)
    play_transaction(node)
    node.expect("APPEND").close()
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("a")
        with pytest.raises(UnknownOutcomeError):
            pipe.append("a", "more")
        pipe.multi()
        pipe.incr("a")
        with pytest.raises(WatchError, match="begin again"):
            pipe.execute()
    assert node.count("EXEC") == 0


def test_unwatch_that_is_not_answered_is_no_error(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """The end of its connection ends the WATCH as well."""
    client = make_client(scripted, socket_timeout=0.2)
    node.expect("WATCH").reply("OK")
    node.expect("UNWATCH").half_open()
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("a")
    node.expect("GET").reply(b"value")
    assert client.get("a") == b"value"


def test_slot_that_moved_after_watch(make_client: MakeClient) -> None:
    with ScriptedCluster(2) as scripted:
        other, owner = scripted.nodes
        client = make_client(scripted, reinitialize_steps=0)
        play_transaction(owner)
        with client.pipeline(transaction=True) as pipe:
            pipe.watch("a")
            # Another thread met a MOVED.
            client.nodes_manager.moved(key_slot("a"), Address("127.0.0.1", other.port))
            pipe.multi()
            pipe.incr("a")
            with pytest.raises(redis.WatchError):
                pipe.execute()
        assert owner.count("EXEC") == other.count("EXEC") == 0
        play_transaction(other, [1])
        with client.pipeline(transaction=True) as pipe:
            assert pipe.incr("a").execute() == [1]


def test_connections_go_back_to_the_pool(client: RedisCluster) -> None:
    """Also after errors: a hundred places would not last for more of them."""
    client.set("{t}text", "x")
    for _ in range(150):
        with client.pipeline(transaction=True) as pipe:
            pipe.watch("{t}text")
            pipe.multi()
            pipe.lpush("{t}text", 1)
            with pytest.raises(redis.ResponseError):
                pipe.execute()
    with client.pipeline(transaction=True) as pipe:
        assert pipe.get("{t}text").execute() == [b"x"]


@pytest.mark.parametrize("error", ["MOVED", "CLUSTERDOWN The cluster is down", "TRYAGAIN Multiple keys"])
@pytest.mark.parametrize("at", ["GET", "SET"])
def test_watch_that_was_refused_is_told(at: str, error: str, make_client: MakeClient) -> None:
    """Another node knows nothing of the WATCH, and a refusal has ended it here: to go on could lose an update."""
    with ScriptedCluster(1, others=1) as cluster:
        node, other = cluster.nodes
        text = "Slot rebalancing" if error == "MOVED" else error.partition(" ")[2]
        error = f"MOVED {key_slot('a')} {other.address}" if error == "MOVED" else error
        node.expect("WATCH", "a").reply("OK")
        if at == "GET":
            node.expect("GET", "a").error(error)
        else:
            node.expect("GET", "a").reply(b"1")
            node.expect("MULTI").reply("OK")
            node.expect("SET", "a").error(error)
            node.expect("EXEC").error("EXECABORT Transaction discarded because of previous errors.")
        pipe = make_client(cluster, reinitialize_steps=0).pipeline(transaction=True)
        pipe.watch("a")

        def double() -> None:
            value = int(pipe.get("a") or 0)
            pipe.multi()
            pipe.set("a", 2 * value)
            pipe.execute()

        with pytest.raises(WatchError, match=text):
            double()
        pipe.reset()
        assert not other.commands


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("CLUSTERDOWN The cluster is down", redis.exceptions.ClusterDownError),
        ("LOADING Redis is loading the dataset in memory", redis.BusyLoadingError),
        ("TRYAGAIN Multiple keys", redis.exceptions.TryAgainError),
    ],
)
@pytest.mark.parametrize("at", ["GET", "SET"])
def test_transaction_helper_ends_where_nothing_helps(
    at: str, error: str, kind: type[Exception], scripted: ScriptedCluster, make_client: MakeClient
) -> None:
    """A node may let pass a WATCH and refuse what comes behind it: it is asked a few times, with pauses."""
    (node,) = scripted.nodes
    node.expect("WATCH", "a").often().reply("OK")
    node.expect("UNWATCH").often().reply("OK")
    node.expect("MULTI").often().reply("OK")
    if at == "GET":
        node.expect("GET", "a").often().error(error)
    else:
        node.expect("GET", "a").often().reply(b"1")
        node.expect("SET", "a").often().error(error)
        node.expect("EXEC").often().error("EXECABORT Transaction discarded because of previous errors.")
    retry = Retry(ConstantBackoff(0.05), 2)
    client = make_client(scripted, retry=retry, topology_refresh_min_interval=0.05)

    def double(pipe: Any) -> None:
        value = int(pipe.get("a"))
        pipe.multi()
        pipe.set("a", 2 * value)

    began = time.monotonic()
    with pytest.raises(kind):
        client.transaction(double, "a")
    assert time.monotonic() - began >= 0.1
    assert node.count(at) == 3
