"""Signals in the middle of a reply: the interrupted call ends, every other reply reaches its caller.

Every program runs in an interpreter of its own, with a scripted node on a thread of it.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from slotwise import ReadFrom, RedisCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.fixtures.replicated import ReplicatedShard
from tests.sync import programs
from tests.sync.threads import PATIENCE, background


def interrupt_after(event: threading.Event, number: int = signal.SIGINT, pause: float = 0.1) -> None:
    """Sends this process a signal soon after ``event``: by then the main thread waits for its reply."""

    def fire() -> None:
        event.wait(PATIENCE)
        time.sleep(pause)
        os.kill(os.getpid(), number)

    threading.Thread(target=fire, daemon=True).start()


@contextmanager
def handling(handler: Callable[[], Any], number: int = signal.SIGUSR1) -> Iterator[list[Any]]:
    """The results of ``handler``, called whenever the signal comes."""
    results: list[Any] = []
    signal.signal(number, lambda *_: results.append(handler()))
    yield results


def interrupted(call: Callable[[], Any]) -> bool:
    try:
        call()
    except KeyboardInterrupt:
        return True
    return False


class Alarm(Exception):
    """An exception of the user's own, as time-out libraries raise it."""


def ring(*_: Any) -> None:
    raise Alarm


def interrupt_the_leader() -> None:
    with ScriptedCluster() as scripted:
        node = scripted.nodes[0]
        client = RedisCluster.from_url(scripted.url)
        waiting, release = threading.Event(), threading.Event()
        # Half of the reply is read already when the signal comes.
        node.expect("GET", "a").send(b"$5\r\nwr").then(waiting).until(release).send(b"ong\r\n")
        node.expect("GET", "b").reply(b"right")
        node.expect("GET", "c").reply(b"right too")
        interrupt_after(waiting)
        assert interrupted(lambda: client.get("a"))
        follower = background(client.get, "b")
        time.sleep(0.1)
        release.set()
        assert follower.result(PATIENCE) == b"right"
        assert client.get("c") == b"right too"
        client.close()


def interrupt_a_leader_with_followers() -> None:
    with ScriptedCluster() as scripted:
        node = scripted.nodes[0]
        client = RedisCluster.from_url(scripted.url)
        waiting, release = threading.Event(), threading.Event()
        node.expect("GET", "a").send(b"$5\r\nwr").then(waiting).until(release).send(b"ong\r\n")
        for i in range(8):
            node.expect("GET", f"k{i}").reply(b"value of k%d" % i)

        def follow(i: int) -> Any:
            waiting.wait(PATIENCE)
            return client.get(f"k{i}")

        followers = [background(follow, i) for i in range(8)]
        interrupt_after(waiting, pause=0.3)
        assert interrupted(lambda: client.get("a"))
        release.set()
        assert [f.result(PATIENCE) for f in followers] == [b"value of k%d" % i for i in range(8)]
        client.close()


def interrupt_a_follower() -> None:
    with ScriptedCluster() as scripted:
        node = scripted.nodes[0]
        client = RedisCluster.from_url(scripted.url)
        waiting, release = threading.Event(), threading.Event()
        node.expect("GET", "leader").then(waiting).until(release).reply(b"leader's")
        node.expect("INCRBY", "a").often().reply(1)
        node.expect("GET", "b").reply(b"right")
        leader = background(client.get, "leader")
        waiting.wait(PATIENCE)
        interrupt_after(waiting)
        assert interrupted(lambda: client.incr("a"))
        release.set()
        assert leader.result(PATIENCE) == b"leader's"
        assert client.get("b") == b"right"
        assert node.count("INCRBY") <= 1
        client.close()


def interrupt_a_pipeline() -> None:
    with ScriptedCluster(2) as scripted:
        client = RedisCluster.from_url(scripted.url)
        waiting, release = threading.Event(), threading.Event()
        low, high = scripted.nodes
        low.expect("GET").reply(b"low").often()
        high.expect("GET").then(waiting).send(b"$4\r\nhi").until(release).send(b"gh\r\n")
        high.expect("GET").reply(b"high again").often()
        keys = [f"k{i}" for i in range(20)]
        pipe = client.pipeline()
        for key in keys:
            pipe.get(key)
        interrupt_after(waiting)
        assert interrupted(pipe.execute)
        release.set()
        for key in keys:
            owner = client.nodes_manager.get_node_from_slot(client.keyslot(key)).port
            assert client.get(key) == (b"low" if owner == low.port else b"high again")
            assert client.pipeline().get(key).execute() == [client.get(key)]
        client.close()


def handler_calls_while_leading() -> None:
    with ScriptedCluster() as scripted:
        node = scripted.nodes[0]
        client = RedisCluster.from_url(scripted.url)
        waiting, release = threading.Event(), threading.Event()
        node.expect("GET", "a").send(b"$5\r\nri").then(waiting).until(release).send(b"ght\r\n")
        node.expect("GET", "handler").then(release).reply(b"handler's")
        interrupt_after(waiting, signal.SIGUSR1)
        with handling(lambda: client.get("handler")) as results:
            assert client.get("a") == b"right"
        assert results == [b"handler's"]
        client.close()


def handler_calls_while_following() -> None:
    with ScriptedCluster() as scripted:
        node = scripted.nodes[0]
        client = RedisCluster.from_url(scripted.url, socket_timeout=30, cluster_error_retry_attempts=0)
        waiting, release = threading.Event(), threading.Event()
        node.expect("GET", "leader").then(waiting).until(release).reply(b"leader's")
        node.expect("GET", "a").reply(b"right")
        node.expect("GET", "handler").reply(b"handler's")
        leader = background(client.get, "leader")
        waiting.wait(PATIENCE)
        interrupt_after(waiting, signal.SIGUSR1)

        def handler() -> Any:
            # The leader is done while this thread is in here: whom does it hand the lead to?
            threading.Timer(0.1, release.set).start()
            return client.get("handler")

        started = time.monotonic()
        with handling(handler) as results:
            assert client.get("a") == b"right"
        assert time.monotonic() - started < 15
        assert results == [b"handler's"]
        assert leader.result(PATIENCE) == b"leader's"
        client.close()


def handler_calls_while_connecting() -> None:
    with ScriptedCluster() as scripted:
        node = scripted.nodes[0]
        client = RedisCluster.from_url(scripted.url)
        waiting, release = threading.Event(), threading.Event()
        node.expect("HELLO").then(waiting).until(release).reply({b"proto": 3})
        node.expect("GET", "a").reply(b"right")
        node.expect("GET", "handler").reply(b"handler's")
        node.expect("GET", "b").reply(b"right too")
        interrupt_after(waiting, signal.SIGUSR1)

        def handler() -> Any:
            threading.Timer(0.2, release.set).start()
            return client.get("handler")

        with handling(handler) as results:
            assert client.get("a") == b"right"
        assert results == [b"handler's"]
        assert client.get("b") == b"right too"
        client.close()


def alarm_in_a_blocking_call() -> None:
    with ScriptedCluster() as scripted:
        node = scripted.nodes[0]
        client = RedisCluster.from_url(scripted.url)
        arrived, release = threading.Event(), threading.Event()
        signal.signal(signal.SIGALRM, ring)
        node.expect("BLPOP").then(arrived).until(release).reply([b"q", b"wrong"])
        node.expect("BLPOP").reply([b"q", b"right"])
        interrupt_after(arrived, signal.SIGALRM)
        with pytest.raises(Alarm):
            client.blpop("q", 10)
        release.set()
        assert client.blpop("q", 10) == (b"q", b"right")
        client.close()


def alarm_in_a_write() -> None:
    """It reaches the caller as it is, and nothing is sent a second time."""
    writes: list[Callable[[RedisCluster], Any]] = [
        lambda c: c.incr("a"),
        lambda c: c.set("a", 1),
        lambda c: c.execute_command("APPEND", "a", 1),
        lambda c: c.mset({"{a}1": 1, "{a}2": 2}),
        lambda c: c.lpush("a", 1),
        lambda c: c.blpop("a", 5),
        lambda c: c.flushall(target_nodes="primaries"),
        lambda c: c.pipeline().incr("a").execute(),
        lambda c: c.mset_nonatomic({"a": 1}),
    ]
    names = ["INCRBY", "SET", "APPEND", "MSET", "LPUSH", "BLPOP", "FLUSHALL", "INCRBY", "MSET"]
    for exception in (Alarm, KeyError, IndexError, RuntimeError, TimeoutError, redis.TimeoutError):

        def raise_it(*_: Any, exception: type[Exception] = exception) -> None:
            raise exception("from the handler")

        for name, write in zip(names, writes, strict=True):
            with ScriptedCluster() as scripted:
                node = scripted.nodes[0]
                client = RedisCluster.from_url(scripted.url)
                waiting, release = threading.Event(), threading.Event()
                node.expect(name).then(waiting).until(release).reply(1)
                node.expect("GET", "b").reply(b"right")
                signal.signal(signal.SIGUSR1, raise_it)
                interrupt_after(waiting, signal.SIGUSR1, pause=0.02)
                with pytest.raises(
                    exception if exception is not TimeoutError else (TimeoutError, redis.TimeoutError)
                ):
                    write(client)
                release.set()
                assert client.get("b") == b"right"
                assert node.count(name) == 1, (name, exception)
                client.close()


def signals_again_and_again() -> None:
    """None of them prolongs the wait for a reply, and none ends it."""
    handled: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: handled.append(number))
    calls: list[Callable[[RedisCluster, str], Any]] = [
        lambda client, key: client.get(key),
        lambda client, key: client.pipeline().get(key).execute()[0],
    ]
    for call in calls:
        with ScriptedCluster(1) as scripted:
            node = scripted.nodes[0]
            client = RedisCluster.from_url(scripted.url, socket_timeout=1, cluster_error_retry_attempts=0)
            release = threading.Event()
            node.expect("GET", "late").delay(0.5).reply(b"right")
            node.expect("GET", "never").until(release).reply(b"wrong")
            handled.clear()
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
            assert call(client, "late") == b"right"
            # Who waits on gets a reply in the end.
            answer = threading.Timer(5, release.set)
            answer.start()
            began = time.monotonic()
            with pytest.raises(redis.TimeoutError):
                call(client, "never")
            assert 0.9 < time.monotonic() - began < 3
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert len(handled) >= 5
            answer.cancel()
            release.set()
            client.close()


def alarm_in_writes_of_a_session() -> None:
    """They may have been executed: the reads behind them go to the primary."""
    signal.signal(signal.SIGUSR1, ring)
    writes: list[Callable[[Any], Any]] = [
        lambda session: session.append("a", 1),
        lambda session: session.pipeline().append("a", 1).execute(),
        lambda session: session.execute_command("APPEND", "a", 1, target_nodes="primaries"),
    ]
    for write in writes:
        with ReplicatedShard() as shard:
            shard.lag = [500, 500]
            waiting, release = threading.Event(), threading.Event()
            shard.primary.expect("APPEND").then(waiting).until(release).reply(1)
            reads = ReadFrom("round_robin_replicas")
            with RedisCluster.from_url(shard.url, load_balancing_strategy=reads) as client:
                session = client.session()
                interrupt_after(waiting, signal.SIGUSR1, pause=0.02)
                with pytest.raises(Alarm):
                    write(session)
                release.set()
                assert session.get("a") == b"0"


def finalizers_call_the_client(url: str) -> None:
    """Objects that the garbage collector finds anywhere, also while a reply is parsed, call the client."""
    client = RedisCluster.from_url(url)
    client.set("finalizer", "f")
    client.delete("finalizer:list")
    client.rpush("finalizer:list", *[f"item {i}" for i in range(200)])
    seen: list[Any] = []

    class Loop:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            seen.append(client.get("finalizer"))

    gc.set_threshold(50, 2, 2)

    def work(name: str) -> None:
        for i in range(200):
            Loop()
            client.set(f"{name}{i}", f"{name}{i}")
            assert client.get(f"{name}{i}") == f"{name}{i}".encode()
            assert len(client.lrange("finalizer:list", 0, -1)) == 200
            assert client.pipeline().get(f"{name}{i}").get("finalizer").execute() == [
                f"{name}{i}".encode(),
                b"f",
            ]

    workers = [background(work, name) for name in "abc"]
    for worker in workers:
        worker.result(PATIENCE)
    gc.collect()
    assert len(seen) == 600
    assert set(seen) == {b"f"}
    client.delete("finalizer:list")
    client.delete("finalizer")
    client.close()


@pytest.mark.parametrize(
    "program",
    [
        interrupt_the_leader,
        interrupt_a_leader_with_followers,
        interrupt_a_follower,
        interrupt_a_pipeline,
        handler_calls_while_leading,
        handler_calls_while_following,
        handler_calls_while_connecting,
        alarm_in_a_blocking_call,
        alarm_in_a_write,
        alarm_in_writes_of_a_session,
        signals_again_and_again,
    ],
    ids=lambda program: program.__name__,
)
def test_signal(program: Callable[[], None]) -> None:
    programs.run(program)


def test_finalizers_may_call_the_client(cluster: Any) -> None:
    programs.run(finalizers_call_the_client, cluster.url)
