"""Connections that one caller owns: bounded, waited for, and never the shared one."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import redis

import slotwise.sync.connection
from slotwise import RedisCluster
from slotwise._link import LinkFailure
from slotwise.errors import CommandRefusedError
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync.conftest import MakeClient
from tests.sync.threads import PATIENCE, background, together


def connections_of(client: RedisCluster, key: str) -> int:
    """How many connections the server of ``key`` has from clients with this one's name."""
    node = client.get_node_from_key(key)
    return sum(entry["name"] == "under-test" for entry in client.client_list(target_nodes=node))


def test_full_pool_is_waited_for_and_then_an_error(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, max_connections=2, timeout=1)
    release, arrived = threading.Event(), threading.Semaphore(0)
    node.expect("GET", "a").often().reply(b"a")
    for n in range(2):
        event = threading.Event()
        node.expect("BLPOP", f"q{n}").then(event).until(release).reply([b"q", b"popped"])
        background(client.blpop, f"q{n}", 5).add_done_callback(lambda _: arrived.release())
        assert event.wait(PATIENCE)
    started = time.monotonic()
    with pytest.raises(redis.ConnectionError, match=r"(?i)connection"):
        client.blpop("q3", 5)
    waited = time.monotonic() - started
    assert 1 <= waited < 3.5, "the error comes after `timeout` and not once more for every retry"
    with pytest.raises(redis.ConnectionError):
        client.pipeline().get("a").execute()
    assert client.get("a") == b"a", "the shared connection does not need a place"
    # A place that becomes free is taken by who waits.
    node.expect("BLPOP", "q4").reply([b"q4", b"x"])
    waiting = background(client.blpop, "q4", 5)
    time.sleep(0.1)
    release.set()
    assert waiting.result(PATIENCE) == (b"q4", b"x")
    assert arrived.acquire(timeout=PATIENCE)
    assert arrived.acquire(timeout=PATIENCE)


@pytest.mark.parametrize("second", ["blpop", "pipeline"])
def test_who_waits_gets_the_connection_of_who_is_done(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient, second: str
) -> None:
    """Open as it is: to connect and authenticate for every caller anew would cost far more than the call."""
    client = make_client(scripted, max_connections=2)
    release, begun = threading.Event(), {"q1": threading.Event(), "q2": threading.Event()}
    for name, event in begun.items():
        node.expect("BLPOP", name).then(event).until(release).reply([b"q", b"x"])
    node.expect("BLPOP", "q3").often().reply([b"q3", b"y"])
    for key in ("a", "b"):
        node.expect("GET", key).often().reply(b"z")

    def use() -> None:
        if second == "blpop":
            assert client.blpop("q3", 5) == (b"q3", b"y")
        else:
            assert client.pipeline().get("a").get("b").execute() == [b"z", b"z"]

    client.ping()
    owners = [background(client.blpop, name, 5) for name in begun]
    assert all(event.wait(PATIENCE) for event in begun.values())
    opened = node.accepted
    pool = client.get_redis_connection(client.get_primaries()[0]).connection_pool
    waiting = [background(use) for _ in range(3)]
    while len(pool.waiting) < 3:
        time.sleep(0.001)
    release.set()
    for each in (*owners, *waiting):
        each.result(PATIENCE)
    together([use, use])
    assert node.accepted == opened


def test_everybody_has_a_turn(cluster: LocalCluster, make_client: MakeClient) -> None:
    """Nobody who comes later overtakes, not even who has just given the connection back and runs already."""
    client = make_client(cluster, max_connections=2, timeout=PATIENCE)
    counts = [0] * 12
    until = time.monotonic() + 2

    def work(number: int) -> None:
        while time.monotonic() < until:
            pipe = client.pipeline(transaction=number % 3 == 0)
            pipe.set("{p}x", number).get("{p}x").execute()
            counts[number] += 1

    together([functools.partial(work, number) for number in range(len(counts))])
    assert min(counts) > max(counts) / 4 > 1, counts


def test_who_waited_and_is_gone_holds_nobody_up(cluster: LocalCluster, make_client: MakeClient) -> None:
    """An exception that was raised into a thread can leave it in line, not only out of it."""
    client = make_client(cluster, max_connections=1, timeout=PATIENCE)
    client.delete("{p}x")
    pool = client.get_redis_connection(client.get_node_from_key("{p}")).connection_pool
    pool.waiting.append(slotwise.sync.connection._Waiter())
    assert client.pipeline().get("{p}x").get("{p}x").execute() == [None, None]
    assert not pool.waiting


def test_no_more_connections_than_allowed(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(cluster, max_connections=3, client_name="under-test")
    most = 0
    stop = threading.Event()

    def watch() -> int:
        seen = 0
        while not stop.is_set():
            seen = max(seen, connections_of(client, "{p}"))
        return seen

    watching = background(watch)
    together(
        [lambda: [client.pipeline().get("{p}a").incr("{p}n").execute() for _ in range(50)] for _ in range(12)]
    )
    stop.set()
    most = watching.result(PATIENCE)
    assert 2 <= most <= 4, "three of the pool and the shared one"


def test_lost_connections_give_their_places_back(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """As when an exception is raised into a thread between two steps of the client."""
    client = make_client(scripted, max_connections=2, timeout=0.3)
    pool = client.get_redis_connection(client.get_primaries()[0]).connection_pool
    for _ in range(10):
        pool.take()
    for _ in range(5):
        pool.get_connection()
    node.expect("BLPOP").reply([b"q", b"x"])
    assert client.blpop("q", 1) == (b"q", b"x")


def test_a_lost_connection_whose_call_timed_out_gives_its_place_back(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """The failure's traceback knows the link, and the link still waits for the reply."""
    client = make_client(scripted, max_connections=1, timeout=0.3, socket_timeout=0.1)
    pool = client.get_redis_connection(client.get_primaries()[0]).connection_pool
    release = threading.Event()
    node.expect("BLPOP", "late").until(release).reply(None)

    def lose() -> None:
        link = pool.take()
        link.execute(("BLPOP", "late", 0))

    with contextlib.suppress(LinkFailure):
        lose()
    node.expect("BLPOP", "q").reply([b"q", b"x"])
    assert client.blpop("q", 0.05) == (b"q", b"x")
    release.set()


def test_a_place_outlives_an_exception_in_its_removal(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised into a thread may meet the callbacks by which a lost connection leaves the pool."""
    client = make_client(scripted, max_connections=2, timeout=0.3)
    pool = client.get_redis_connection(client.get_primaries()[0]).connection_pool
    raised = []

    def jolt(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_remove":
            raise ArithmeticError("into the callback")

    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_type))
    for _ in range(4):
        # Gone once it has raised.
        sys.setprofile(jolt)
        try:
            pool.get_connection()
            gc.collect()
        finally:
            sys.setprofile(None)
    assert ArithmeticError in raised
    node.expect("BLPOP").reply([b"q", b"x"])
    assert client.blpop("q", 1) == (b"q", b"x")


def test_pipelines_that_need_each_others_nodes_do_not_lock_up(
    cluster: LocalCluster, make_client: MakeClient
) -> None:
    """One place per node: who takes them in any order ends up waiting for who waits for him."""
    client = make_client(cluster, max_connections=1, timeout=20)
    keys: dict[str, str] = {}
    for n in range(100):
        keys.setdefault(client.get_node_from_key(f"k{n}").name, f"k{n}")
    forwards = list(keys.values())

    def work(order: list[str]) -> None:
        for _ in range(100):
            pipe = client.pipeline()
            for key in order:
                pipe.set(key, key).get(key)
            assert pipe.execute() == [x for key in order for x in (True, key.encode())]

    started = time.monotonic()
    together(
        [lambda: work(forwards), lambda: work(forwards[::-1]), lambda: work(forwards[1:] + forwards[:1])]
    )
    assert time.monotonic() - started < 20


def test_blocking_commands_do_not_stall_the_shared_connection(client: RedisCluster) -> None:
    client.delete("{b}q")
    waiting = [background(client.blpop, "{b}q", 20) for _ in range(8)]
    waiting.append(background(client.brpoplpush, "{b}q", "{b}other", 20))
    waiting.append(background(client.xread, {"{b}stream": "$"}, None, 20_000))
    deadline = time.monotonic() + PATIENCE
    node = client.get_node_from_key("{b}q")
    while client.info("clients", target_nodes=node)["blocked_clients"] < 10:
        assert time.monotonic() < deadline
    started = time.monotonic()
    for n in range(200):
        client.set("{b}x", n)
        assert client.get("{b}x") == str(n).encode()
    assert time.monotonic() - started < 15, "less than those wait"
    for n in range(9):
        client.rpush("{b}q", n)
    client.xadd("{b}stream", {"f": "v"})
    popped = [call.result(PATIENCE) for call in waiting]
    values = {int(value[1] if isinstance(value, tuple) else value) for value in popped[:9]}
    assert values == set(range(9))
    client.delete("{b}q", "{b}other", "{b}stream", "{b}x")


def test_pubsub_monitor_and_transactions_share_the_bound(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, max_connections=1, timeout=0.2)
    node.expect("WATCH").reply("OK")
    node.expect("UNWATCH").often().reply("OK")
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("a")
        with pytest.raises(redis.ConnectionError):
            client.blpop("q", 1)
        with pytest.raises(redis.ConnectionError), client.pipeline(transaction=True) as another:
            another.watch("a")
    node.expect("BLPOP").reply([b"q", b"x"])
    assert client.blpop("q", 1) == (b"q", b"x")


Call = Callable[[RedisCluster, Any], Any]

# Raw commands that change the state of the connection that they come over.
LEAVES_STATE: dict[str, Call] = {
    "SUBSCRIBE": lambda c, n: c.execute_command("SUBSCRIBE", "ch", target_nodes=n),
    "subscribe": lambda c, n: c.execute_command("subscribe", "ch", target_nodes=n),
    "SUBSCRIBE in bytes": lambda c, n: c.execute_command(b"SUBSCRIBE", "ch", target_nodes=n),
    "SUBSCRIBE in one string": lambda c, n: c.execute_command("SUBSCRIBE ch", target_nodes=n),
    "PSUBSCRIBE": lambda c, n: c.execute_command("PSUBSCRIBE", "*", target_nodes=n),
    "SSUBSCRIBE": lambda c, n: c.execute_command("SSUBSCRIBE", "a"),
    "UNSUBSCRIBE": lambda c, n: c.execute_command("UNSUBSCRIBE", target_nodes=n),
    "MONITOR": lambda c, n: c.execute_command("MONITOR", target_nodes=n),
    "MULTI": lambda c, n: c.execute_command("MULTI", target_nodes=n),
    "MULTI in a bytearray": lambda c, n: c.execute_command(bytearray(b"MULTI"), target_nodes=n),
    "MULTI in a memoryview": lambda c, n: c.execute_command(memoryview(b"MULTI"), target_nodes=n),
    "MULTI with spaces": lambda c, n: c.execute_command(" MULTI ", target_nodes=n),
    "EXEC": lambda c, n: c.execute_command("EXEC", target_nodes=n),
    "WATCH": lambda c, n: c.execute_command("WATCH", "a"),
    "CLIENT REPLY OFF": lambda c, n: c.execute_command("CLIENT REPLY", "OFF", target_nodes=n),
    "CLIENT REPLY SKIP": lambda c, n: c.execute_command("CLIENT", "REPLY", "SKIP", target_nodes=n),
    "client reply off": lambda c, n: c.execute_command("client", "reply", "off", target_nodes=n),
    "client_reply()": lambda c, n: c.client_reply("OFF", target_nodes=n),
    "RESET": lambda c, n: c.execute_command("RESET", target_nodes=n),
    "QUIT": lambda c, n: c.execute_command("QUIT", target_nodes=n),
    "SELECT": lambda c, n: c.execute_command("SELECT", 0, target_nodes=n),
    "HELLO 2": lambda c, n: c.execute_command("HELLO", 2, target_nodes=n),
    "HELLO 2 with a name": lambda c, n: c.execute_command("HELLO", 2, "SETNAME", "other", target_nodes=n),
    "AUTH": lambda c, n: c.execute_command("AUTH", "nobody", "wrong", target_nodes=n),
    "ASKING": lambda c, n: c.execute_command("ASKING", target_nodes=n),
    "READWRITE": lambda c, n: c.readwrite(target_nodes=n),
    "CLIENT KILL of its own": lambda c, n: c.execute_command(
        "CLIENT", "KILL", "ID", c.client_id(target_nodes=n), "SKIPME", "no", target_nodes=n
    ),
    "DEBUG SLEEP": lambda c, n: c.execute_command("DEBUG", "SLEEP", "0", target_nodes=n),
    "SYNC": lambda c, n: c.execute_command("SYNC", target_nodes=n),
}


@pytest.mark.parametrize("piped", [False, True], ids=["call", "pipeline"])
@pytest.mark.parametrize("call", LEAVES_STATE.values(), ids=LEAVES_STATE)
def test_raw_commands_leave_the_connections_alone(client: RedisCluster, call: Call, piped: bool) -> None:
    node = client.get_node_from_key("a")
    client.set("a", "value")
    if piped:
        pipe = client.pipeline()
        pipe.client_id = client.client_id
        with contextlib.suppress(redis.RedisError, redis.exceptions.RedisClusterException):
            call(pipe, node)
            pipe.execute()
    else:
        # Refused with the way to go, an error of the server, or done.
        with contextlib.suppress(redis.DataError, redis.ResponseError, redis.ConnectionError):
            call(client, node)
    for _ in range(3):
        assert client.get("a") == b"value"
        assert client.hset("{a}h", mapping={"f": "v"}) in (0, 1)
        assert client.hgetall("{a}h") == {b"f": b"v"}
        assert client.pipeline().get("a").hgetall("{a}h").execute() == [b"value", {b"f": b"v"}]
        assert client.client_info(target_nodes=node)["flags"] == "N"
        # Redis 6.2 does not tell the protocol.
        assert client.client_info(target_nodes=node).get("resp", "3") == "3"


@pytest.mark.parametrize("name", ["SUBSCRIBE", "MULTI", "WATCH", "MONITOR", "CLIENT REPLY OFF"])
def test_refusal_names_the_way_that_works(client: RedisCluster, name: str) -> None:
    with pytest.raises(CommandRefusedError, match=r"use (client\.|a pipeline)"):
        LEAVES_STATE[name](client, client.get_node_from_key("a"))
