"""Pipelines: order, errors in place, size, and bytes that flow both ways at once."""

from __future__ import annotations

import gc
import os
import resource
import threading
import weakref
from typing import Any

import pytest
import redis

from slotwise import RedisCluster
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.routing.topology import Address
from slotwise.sync.connection import NodePool
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync import programs
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background, together

STRESS = os.environ.get("SLOTWISE_STRESS") == "1"
MIB = 1 << 20


# -- replies and errors -------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_calls(client: RedisCluster) -> None:
    pipe = client.pipeline()
    for n in range(2000):
        pipe.set(f"order{n}", n)
        pipe.get(f"order{n}")
        pipe.strlen(f"order{n}")
    expected: list[Any] = []
    for n in range(2000):
        expected += [True, str(n).encode(), len(str(n))]
    assert pipe.execute() == expected
    assert pipe.execute() == [], "executing empties it"


def test_errors_stand_in_place(client: RedisCluster) -> None:
    client.set("text", "x")
    pipe = client.pipeline()
    pipe.get("text").incr("text").lpush("text", 1).get("text")
    first, second, third, last = pipe.execute(raise_on_error=False)
    assert (first, last) == (b"x", b"x")
    assert isinstance(second, redis.ResponseError)
    assert isinstance(third, redis.ResponseError)
    assert "WRONGTYPE" in str(third)


def test_first_error_is_raised_with_its_command(client: RedisCluster) -> None:
    client.set("text", "x")
    pipe = client.pipeline()
    pipe.set("after", 0).get("text").incr("text").lpush("text", 1).incr("after")
    with pytest.raises(redis.ResponseError, match=r"Command # 3 \(INCRBY\) of pipeline"):
        pipe.execute()
    # The others were executed all the same, and the pipeline can be used again.
    assert client.get("after") == b"1"
    assert pipe.get("after").execute() == [b"1"]


def test_errors_inside_a_reply(client: RedisCluster) -> None:
    pipe = client.pipeline()
    pipe.execute_command("EVAL", "return {1, redis.error_reply('INNER one'), 2}", 1, "a").get("text")
    ((one, error, two), _) = pipe.execute()
    assert (one, two) == (1, 2)
    assert isinstance(error, redis.ResponseError)


def test_pipeline_ends_with_its_last_reference(client: RedisCluster) -> None:
    """No cycle: what a pipeline holds does not wait for the garbage collector."""
    gc.disable()
    try:
        pipe = client.pipeline()
        assert pipe.set("ends", 1).execute_command("GET", "ends").execute() == [True, b"1"]
        ended = weakref.ref(pipe)
        del pipe
        assert ended() is None
    finally:
        gc.enable()


def test_threads_with_a_pipeline_each(client: RedisCluster) -> None:
    def work(name: str) -> None:
        for i in range(30):
            pipe = client.pipeline()
            keys = [f"{name}:{n}" for n in range(50)]
            for key in keys:
                pipe.set(key, f"{key}={i}").get(key)
            assert pipe.execute() == [x for key in keys for x in (True, f"{key}={i}".encode())]

    together([lambda n=n: work(f"thread{n}") for n in range(6)])


# -- lost connections ---------------------------------------------------------------------------


def test_lost_in_the_middle(scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient) -> None:
    """Answered: kept. Unanswered reads: again. Unanswered writes: unknown, and once only."""
    client = make_client(scripted)
    node.expect("INCRBY", "one").reply(0)
    node.expect("EVAL").reply(None)
    node.expect("GET", "empty").reply(b"")
    node.expect("INCRBY", "two").close()
    node.expect("GET", "later").often().reply(b"later's")
    node.expect("INCRBY", "three").often().reply(3)
    pipe = client.pipeline()
    pipe.incr("one").execute_command("EVAL", "return nil", 1, "a").get("empty")
    pipe.incr("two").get("later").incr("three")
    one, nothing, empty, two, later, three = pipe.execute(raise_on_error=False)
    assert (one, nothing, empty, later) == (0, None, b"", b"later's")
    assert isinstance(two, UnknownOutcomeError)
    assert isinstance(three, UnknownOutcomeError)
    assert {name: node.count(*name) for name in [("INCRBY", "one"), ("EVAL",), ("GET", "empty")]} == {
        ("INCRBY", "one"): 1,
        ("EVAL",): 1,
        ("GET", "empty"): 1,
    }
    assert node.count("INCRBY", "two") == 1
    assert node.count("INCRBY", "three") <= 1
    assert str(node.port) in str(two), "the message names the node"


def test_lost_write_is_raised(scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient) -> None:
    client = make_client(scripted)
    node.expect("INCRBY").close()
    with pytest.raises(UnknownOutcomeError, match=r"Command # 1 \(INCRBY\)"):
        client.pipeline().incr("a").execute()


def test_what_never_left_is_sent_again(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """The connection ends while more waits to be written than socket and encoder hold."""
    client = make_client(scripted)
    node.expect("SET", "first").close()
    node.expect("SET").often().reply("OK")
    pipe = client.pipeline()
    pipe.set("first", b"x")
    for n in range(300):
        pipe.set(f"k{n}", b"x" * 100_000)
    results = pipe.execute(raise_on_error=False)
    assert isinstance(results[0], UnknownOutcomeError)
    unknown = [n for n, result in enumerate(results) if isinstance(result, UnknownOutcomeError)]
    done = [n for n, result in enumerate(results) if result is True]
    assert len(unknown) + len(done) == 301
    assert unknown == list(range(len(unknown)))
    assert done, "30 MB do not fit into a socket"
    keys = [command[1] for command in node.commands]
    assert len(set(keys)) == len(keys), "none was sent twice"


def test_other_nodes_answer_while_one_is_lost(make_client: MakeClient) -> None:
    with ScriptedCluster(3) as scripted:
        client = make_client(scripted)
        for node in scripted.nodes[1:]:
            node.expect("INCRBY").often().reply(1)
        scripted.nodes[0].expect("INCRBY").close()
        keys: dict[int, str] = {}
        for n in range(100):
            keys.setdefault(client.get_node_from_key(f"k{n}").port, f"k{n}")
        pipe = client.pipeline()
        for node in scripted.nodes:
            pipe.incr(keys[node.port])
        lost, *others = pipe.execute(raise_on_error=False)
        assert isinstance(lost, UnknownOutcomeError)
        assert others == [1, 1]


def test_a_connection_that_is_closed_while_others_are_opened(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a node that is left meanwhile: nothing has been sent over it, so its writes go again."""
    with ScriptedCluster(2) as scripted:
        client = make_client(scripted)
        for node in scripted.nodes:
            node.expect("INCRBY").often().reply(1)
        pools = {
            node.port: client.nodes_manager.pool_of(Address(node.host, node.port)) for node in scripted.nodes
        }
        keys = {client.get_node_from_key(f"k{n}").port: f"k{n}" for n in range(100)}
        # Connections are taken in the order of the addresses.
        first, second = sorted(keys)
        assert client.pipeline().incr(keys[first]).execute() == [1]
        (lane,) = pools[first].idle
        open_lane = NodePool.open_lane

        def open_late(pool: NodePool) -> Any:
            if pool is pools[second]:
                pools[first].disconnect()
            return open_lane(pool)

        monkeypatch.setattr(NodePool, "open_lane", open_late)
        assert client.pipeline().incr(keys[first]).incr(keys[second]).execute() == [1, 1]
        assert lane.closed
        assert sum(node.count("INCRBY") for node in scripted.nodes) == 3


def test_named_node_is_tried_again(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """A command without a key stays with the node that it was meant for."""
    client = make_client(scripted)
    node.expect("DBSIZE").close()
    node.expect("DBSIZE").reply(3)
    primary = client.get_primaries()[0]
    assert client.pipeline().execute_command("DBSIZE", target_nodes=primary).execute() == [3]


# -- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1_000_000 if STRESS else 100_000])
def test_very_many_commands(client: RedisCluster, count: int) -> None:
    pipe = client.pipeline()
    for n in range(count):
        pipe.set(f"many{n % 1000}", n)
    assert pipe.execute() == [True] * count
    for n in range(count):
        pipe.get(f"many{n % 1000}")
    values = pipe.execute()
    assert len(values) == count
    for n in range(1000):
        assert values[n] == str(count - 1000 + n).encode()


def test_big_replies_while_writing(client: RedisCluster) -> None:
    """Both sides have more to send than the sockets hold: who only writes waits for ever."""
    value = os.urandom(MIB)
    pipe = client.pipeline()
    keys = [f"both{n}" for n in range(6)]
    for key in keys:
        pipe.set(key, value)
    pipe.execute()
    for _ in range(8):
        for key in keys:
            pipe.get(key)
            pipe.getset(key, value)
    assert all(reply == value for reply in pipe.execute())
    client.unlink(*keys)


def test_big_values_one_by_one(client: RedisCluster) -> None:
    """On the shared connection, while others use it."""
    stop = threading.Event()

    def small() -> int:
        done = 0
        while not stop.is_set():
            key = f"small{done % 20}"
            client.set(key, key)
            assert client.get(key) == key.encode()
            done += 1
        return done

    others = [background(small) for _ in range(3)]
    value = os.urandom(8 * MIB)
    for n in range(4):
        assert client.set(f"big{n}", value) is True
        assert client.get(f"big{n}") == value
        assert client.getrange(f"big{n}", 0, 99) == value[:100]
        client.unlink(f"big{n}")
    stop.set()
    assert all(other.result(PATIENCE) > 0 for other in others)


def memory_of_a_pipeline(url: str, values: int) -> None:
    """Writes and reads back ``values`` of 64 MiB; prints the growth of the process over the values' own size."""
    client = RedisCluster.from_url(url, socket_timeout=60)
    # One object written often: what the process grows by is what the pipeline copies.
    value = os.urandom(64 * MIB)
    pipe = client.pipeline()
    pipe.set("warm", "up").execute()

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    before = peak()
    for n in range(values):
        pipe.set(f"{{big}}{n % 2}", value)
    assert pipe.execute() == [True] * values
    written = peak()
    for n in range(values):
        pipe.get(f"{{big}}{n % 2}")
    replies = pipe.execute()
    assert all(reply == value for reply in replies)
    read = peak()
    client.unlink("{big}0", "{big}1")
    print(written - before, read - written)


def test_memory_of_a_big_pipeline(cluster: LocalCluster) -> None:
    """A pipeline of 1 GiB (256 MiB by default) neither copies what it writes nor doubles what it reads."""
    values = 16 if STRESS else 4
    writing, reading = map(int, programs.run(memory_of_a_pipeline, cluster.url, values, within=240).split())
    assert writing < 16, "megabytes"
    # The replies themselves, and the parser's buffer for one of them.
    assert reading < values * 64 + 2.5 * 64
