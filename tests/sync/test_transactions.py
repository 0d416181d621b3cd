"""MULTI/EXEC with WATCH on one slot: values as redis-py gives them, and never a second execution."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from slotwise import RedisCluster, key_slot
from slotwise.errors import UnknownOutcomeError
from slotwise.routing.topology import Address
from tests.fixtures.scripted import ScriptedCluster, ScriptedNode
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


def test_slot_that_moved_after_watch(make_client: MakeClient) -> None:
    with ScriptedCluster(2) as scripted:
        other, owner = scripted.nodes
        client = make_client(scripted)
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
