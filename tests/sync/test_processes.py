"""fork() and the interpreter's end, with links open and threads in flight."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from slotwise import ReadFrom, RedisCluster
from slotwise.local import LocalCluster
from tests.local.processes import wait_until
from tests.sync import programs
from tests.sync.threads import PATIENCE, background

FORKS = 12


def keyed_work(client: RedisCluster, name: str, rounds: int) -> None:
    """Commands of all kinds whose replies carry their key."""
    for i in range(rounds):
        key = f"{name}:{i % 7}"
        value = f"{key}={i}".encode()
        assert client.set(key, value) is True
        assert client.get(key) == value
        assert client.pipeline().get(key).strlen(key).execute() == [value, len(value)]
        assert client.echo(value, target_nodes=client.get_node_from_key(key)) == value


def child(function: Callable[[], Any]) -> int:
    """Forks; the exit code of the child, which is 0 when ``function`` raised nothing there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_with_threads_in_flight(url: str) -> None:
    client = RedisCluster.from_url(url)
    keyed_work(client, "before", 3)
    stop = threading.Event()

    def work(name: str) -> None:
        while not stop.is_set():
            keyed_work(client, name, 5)

    workers = [background(work, f"parent{n}") for n in range(3)]
    workers.append(background(lambda: [client.blpop("{nobody}queue", 0.1) for _ in iter(stop.is_set, True)]))
    for n in range(FORKS):
        time.sleep(0.01)
        assert child(lambda n=n: keyed_work(client, f"child{n}", 5)) == 0
        keyed_work(client, "main", 2)
    stop.set()
    for worker in workers:
        worker.result(PATIENCE)
    client.close()


def fork_during_refreshes(url: str) -> None:
    """A lock that another thread holds at the fork is held for ever in the child."""
    client = RedisCluster.from_url(url)
    stop = threading.Event()

    def refresh() -> None:
        while not stop.is_set():
            client.nodes_manager.initialize()

    refreshing = background(refresh)
    for n in range(FORKS):

        def use(n: int = n) -> None:
            client.nodes_manager.initialize()
            keyed_work(client, f"child{n}", 1)

        assert child(use) == 0
    stop.set()
    refreshing.result(PATIENCE)
    client.close()


def fork_while_locks_are_held(url: str) -> None:
    """By a thread that the child does not have."""
    client = RedisCluster.from_url(url)
    keyed_work(client, "parent", 2)
    nodes = client.nodes_manager
    holders = [nodes, nodes.refresher, nodes._event_dispatcher]
    holders += [node.redis_connection.connection_pool for node in client.get_nodes() if node.redis_connection]
    names = [
        (holder, name)
        for holder in holders
        for name, lock in vars(holder).items()
        if name.endswith("_lock") and hasattr(lock, "acquire")
    ]
    assert {name for _, name in names} >= {"_initialization_lock", "_shared_lock", "_lock"}
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for holder, name in names:
                stack.enter_context(getattr(holder, name))
            held.set()
            release.wait(PATIENCE)

    holding = background(hold)
    assert held.wait(PATIENCE)

    def in_child() -> None:
        for holder, name in names:
            assert getattr(holder, name).acquire(timeout=1), (holder, name)
        nodes.initialize()
        keyed_work(client, "child", 2)

    assert child(in_child) == 0
    release.set()
    holding.result(PATIENCE)
    client.close()


def fork_and_refresh_in_the_child(url: str) -> None:
    """Threads do not cross a fork: the child begins one of its own when it opens a connection."""
    client = RedisCluster.from_url(url, topology_refresh_interval=0.05, topology_refresh_min_interval=0.01)

    def in_child() -> None:
        assert threading.active_count() == 1
        keyed_work(client, "child", 1)
        client.nodes_manager.nodes_cache.clear()
        client.nodes_manager.knowledge.stale = True
        until = time.monotonic() + PATIENCE
        while len(client.get_nodes()) < 6:
            assert time.monotonic() < until
            time.sleep(0.01)
        client.close()

    assert child(in_child) == 0
    client.close()


def fork_and_ask_for_offsets_in_the_child(url: str) -> None:
    """Nor do the connections over which primaries are asked."""
    client = RedisCluster.from_url(url, load_balancing_strategy=ReadFrom("round_robin_replicas", max_lag=60))
    readers, offsets = client.nodes_manager.readers, client.nodes_manager.offsets
    assert readers is not None
    assert offsets is not None

    def told() -> bool:
        client.get("key")
        return len(readers._histories) == 3

    def all_told_anew() -> None:
        assert not offsets._connections
        readers._histories.clear()
        wait_until(told)

    wait_until(told)
    sockets = [connection._sock for connection in offsets._connections.values()]
    assert len(sockets) == 3
    assert child(all_told_anew) == 0
    readers._histories.clear()
    wait_until(told)
    assert [connection._sock for connection in offsets._connections.values()] == sockets, (
        "the child left them alone"
    )
    client.close()


def fork_with_a_cache(url: str) -> None:
    from redis.cache import CacheConfig

    client = RedisCluster.from_url(url, cache_config=CacheConfig())
    client.set("cached", "old")
    assert client.get("cached") == b"old"

    def in_child() -> None:
        assert client.get("cached") == b"old"
        client.set("cached", "new")
        assert client.get("cached") == b"new"

    assert child(in_child) == 0
    deadline = time.monotonic() + PATIENCE
    while client.get("cached") != b"new":
        assert time.monotonic() < deadline
    client.close()


def child_of_a_child(url: str) -> None:
    client = RedisCluster.from_url(url)
    keyed_work(client, "parent", 2)

    def in_child() -> None:
        keyed_work(client, "child", 2)
        assert child(lambda: keyed_work(client, "grandchild", 2)) == 0
        keyed_work(client, "child", 2)

    assert child(in_child) == 0
    keyed_work(client, "parent", 2)


def close_in_the_child(url: str) -> None:
    """The child closes the client; the parent's connections do not notice."""
    client = RedisCluster.from_url(url)
    keyed_work(client, "parent", 2)
    before = client.client_id(target_nodes=client.get_node_from_key("a"))
    assert child(client.close) == 0
    assert child(lambda: None) == 0
    assert client.client_id(target_nodes=client.get_node_from_key("a")) == before


def _pool_worker(client: RedisCluster, name: str) -> str:
    keyed_work(client, name, 5)
    return name


_inherited: RedisCluster | None = None


def _inherited_worker(name: str) -> str:
    assert _inherited is not None
    return _pool_worker(_inherited, name)


def multiprocessing_pool(url: str) -> None:
    global _inherited
    _inherited = RedisCluster.from_url(url)
    keyed_work(_inherited, "parent", 3)
    names = [f"worker{n}" for n in range(8)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        result = pool.map_async(_inherited_worker, names)
        keyed_work(_inherited, "parent", 10)
        assert result.get(PATIENCE) == names
    keyed_work(_inherited, "parent", 3)


def exit_with_daemon_threads_waiting(url: str) -> None:
    client = RedisCluster.from_url(url, socket_timeout=None)

    def wait(name: str) -> None:
        while True:
            keyed_work(client, name, 100)

    for n in range(4):
        threading.Thread(target=wait, args=(f"exit{n}",), daemon=True).start()
        threading.Thread(target=lambda: client.blpop("{nobody}queue", 0), daemon=True).start()
    time.sleep(0.3)
    print("leaving")


def exit_without_close(url: str) -> None:
    client = RedisCluster.from_url(url)
    keyed_work(client, "exit", 2)
    globals()["kept"] = client
    pipe = client.pipeline()
    pipe.get("a")
    globals()["pipe"] = pipe
    print("leaving")


def exit_with_a_finalizer_that_calls(url: str) -> None:
    client = RedisCluster.from_url(url)
    client.set("last", "words")

    class Farewell:
        def __del__(self) -> None:
            # May fail so late, must not hang or crash.
            print(client.get("last"), flush=True)

    globals()["farewell"] = Farewell()


def test_fork_with_threads_in_flight(cluster: LocalCluster) -> None:
    programs.run(fork_with_threads_in_flight, cluster.url)


def test_fork_while_locks_are_held(cluster: LocalCluster) -> None:
    programs.run(fork_while_locks_are_held, cluster.url)


def test_fork_during_refreshes(cluster: LocalCluster) -> None:
    programs.run(fork_during_refreshes, cluster.url)


def test_fork_with_a_cache(cluster: LocalCluster) -> None:
    programs.run(fork_with_a_cache, cluster.url)


def test_child_of_a_child(cluster: LocalCluster) -> None:
    programs.run(child_of_a_child, cluster.url)


def test_close_in_the_child(cluster: LocalCluster) -> None:
    programs.run(close_in_the_child, cluster.url)


def test_multiprocessing_pool(cluster: LocalCluster) -> None:
    programs.run(multiprocessing_pool, cluster.url)


def test_exit_with_daemon_threads_waiting(cluster: LocalCluster) -> None:
    assert programs.run(exit_with_daemon_threads_waiting, cluster.url) == "leaving\n"


def test_exit_without_close(cluster: LocalCluster) -> None:
    assert programs.run(exit_without_close, cluster.url) == "leaving\n"


def test_exit_with_a_finalizer_that_calls(cluster: LocalCluster) -> None:
    said = programs.run(exit_with_a_finalizer_that_calls, cluster.url)
    # TLS takes imports that the interpreter does no more.
    assert said in ("b'words'\n", "") or "Python is likely shutting down" in said


def test_offsets_are_asked_for_in_a_forked_process(cluster: LocalCluster) -> None:
    programs.run(fork_and_ask_for_offsets_in_the_child, cluster.url)


def test_refreshes_go_on_in_a_forked_process(cluster: LocalCluster) -> None:
    programs.run(fork_and_refresh_in_the_child, cluster.url)
