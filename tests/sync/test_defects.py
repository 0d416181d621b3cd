"""Defects of redis-py 8.1's client for threads, each beside redis-py itself: there it shows, here it must not.

Should redis-py mend one, its half fails, and the claim goes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis
import redis.cluster
from redis.backoff import NoBackoff
from redis.retry import Retry

from slotwise import RedisCluster, key_slot
from slotwise.testing.scripted import ScriptedCluster
from tests.sync.threads import PATIENCE, background

both = pytest.mark.parametrize(
    ("client_class", "shows"),
    [
        pytest.param(RedisCluster, False, id="slotwise"),
        pytest.param(redis.cluster.RedisCluster, True, id="redis-py"),
    ],
)

#: The slots of both are served by the last of two primaries.
KEY, OTHER = "key", "{key}other"
SLOT = key_slot(KEY)
#: Served by the first of two primaries.
ELSEWHERE = next(key for key in map(str, range(100)) if key_slot(key) < 8192)
# redis-py asks for the table of commands; arity, flags, first key, last key, step.
TABLE = [[name, -2, [], 1, 1, 1, [], [], [], []] for name in (b"get", b"incrby")]


@contextlib.contextmanager
def scripted(primaries: int, others: int = 0) -> Iterator[ScriptedCluster]:
    with ScriptedCluster(primaries, others) as cluster:
        for node in cluster.nodes:
            node.expect("COMMAND").often().reply(TABLE)
        yield cluster


@contextlib.contextmanager
def open_client(client_class: Any, cluster: ScriptedCluster, **options: Any) -> Iterator[Any]:
    client = client_class.from_url(cluster.url, **options)
    yield client
    client.close()


@both
def test_the_slot_of_a_call_is_computed_once(
    client_class: Any, shows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 1: twice, in Python; the compiled modules compute it while they write the command."""
    computed: list[bytes] = []
    real = redis.cluster.key_slot

    def counting(key: bytes, *args: Any) -> int:
        computed.append(key)
        return int(real(key, *args))

    monkeypatch.setattr(redis.cluster, "key_slot", counting)
    with scripted(1) as cluster, open_client(client_class, cluster) as client:
        cluster.nodes[0].expect("GET").often().reply(b"value")
        client.get(KEY)
        computed.clear()
        assert client.get(KEY) == b"value"
    assert len(computed) == (2 if shows else 0)


@both
def test_ask_to_a_node_that_owns_no_slot_yet(client_class: Any, shows: bool) -> None:
    """Defect 3 (issue 4015): the first slot that moves to a new node ends in an AttributeError."""
    with scripted(2, others=1) as cluster:
        _, owner, new = cluster.nodes
        owner.expect("GET", KEY).often().error(f"ASK {SLOT} {new.address}")
        new.expect("ASKING").often().reply("OK")
        new.expect("GET", KEY).often().reply(b"value")
        with open_client(client_class, cluster) as client:
            if shows:
                with pytest.raises(AttributeError):
                    client.get(KEY)
            else:
                assert client.get(KEY) == b"value"


@both
def test_the_topology_is_not_asked_for_again_and_again(client_class: Any, shows: bool) -> None:
    """Defect 6 (issues 4049, 4074): no rate limit, so every call that fails asks, of every client."""
    with scripted(1) as cluster:
        node = cluster.nodes[0]
        times: list[float] = []

        def answer(_: Any) -> Any:
            times.append(time.monotonic())
            return cluster.slots_reply()

        with open_client(client_class, cluster, retry=Retry(NoBackoff(), 3)) as client:
            client.get_node_from_key(KEY)
            cluster.answers_shards = False
            node.expect("CLUSTER", "SLOTS").often().reply(answer)
            for _ in range(3):
                node.expect("GET", KEY).error("CLUSTERDOWN The cluster is down")
                node.expect("GET", KEY).reply(b"value")
                assert client.get(KEY) == b"value"
        assert len(times) == 3
        assert all(later - earlier < 0.9 for earlier, later in pairwise(times)) is shows


@both
def test_redirected_commands_of_a_pipeline_go_again_together(client_class: Any, shows: bool) -> None:
    """Defect 7: one at a time, a round trip each."""
    with scripted(2) as cluster:
        new, old = cluster.nodes
        count = 5
        old.expect("GET").often().error(f"MOVED {SLOT} {new.address}")
        new.expect("GET").often().reply(b"value")
        with open_client(client_class, cluster, reinitialize_steps=0) as client:
            pipe = client.pipeline()
            for _ in range(count):
                pipe.get(KEY)
            assert pipe.execute() == [b"value"] * count
        reads = [read for read in new.reads if read.commands[0][0] == b"GET"]
        assert sum(len(read.commands) for read in reads) == count
        assert (len(reads) > 1) is shows


@both
def test_a_write_that_may_have_been_executed_is_not_repeated(client_class: Any, shows: bool) -> None:
    """Defect 7 (issue 977): INCR twice for a call, and nobody is told."""
    with scripted(1) as cluster:
        node = cluster.nodes[0]
        node.expect("INCRBY", KEY).close()
        node.expect("INCRBY", KEY).times = -1
        node.expectations[-1].reply(2)
        with open_client(client_class, cluster) as client:
            if shows:
                assert client.incr(KEY) == 2
            else:
                with pytest.raises(redis.ConnectionError):
                    client.incr(KEY)
        assert node.count("INCRBY") == (2 if shows else 1)


@both
def test_a_pipeline_reads_all_nodes_at_once(client_class: Any, shows: bool) -> None:
    """Defect 8: the second node's replies wait, unread, until the first has sent all of its own."""
    size = 16 << 20
    with scripted(2) as cluster:
        first, second = cluster.nodes
        sent, release = threading.Event(), threading.Event()
        first.expect("GET", ELSEWHERE).until(release).reply(b"late")
        # More than the sockets hold between them.
        second.expect("GET", KEY).reply(b"x" * size).then(sent)
        with open_client(client_class, cluster, socket_timeout=PATIENCE) as client:
            running = background(client.pipeline().get(ELSEWHERE).get(KEY).execute)
            assert sent.wait(1 if shows else PATIENCE) is not shows
            release.set()
            assert running.result(PATIENCE) == [b"late", b"x" * size]


@both
def test_keys_are_found_without_asking(client_class: Any, shows: bool) -> None:
    """Defect 9 (issue 2836): a COMMAND GETKEYS each, where the position depends on the arguments."""
    with scripted(1) as cluster:
        node = cluster.nodes[0]
        node.expectations.clear()
        for name in ("COMMAND", "COMMAND GETKEYS"):
            reply = (
                [KEY.encode()] if " " in name else [[b"eval", -3, [b"movablekeys"], 0, 0, 0, [], [], [], []]]
            )
            node.expect(*name.split()).often().reply(reply)
        node.expectations.reverse()
        node.expect("EVAL").often().reply(1)
        with open_client(client_class, cluster) as client:
            for _ in range(3):
                assert client.eval("return 1", 1, KEY) == 1
        assert bool(node.count("COMMAND")) is shows


@both
def test_address_remap_counts_for_redirects(client_class: Any, shows: bool) -> None:
    """Defect 10 (issue 3382): a MOVED leads to the inner address, which cannot be reached from here."""
    with scripted(2) as cluster:
        new, old = cluster.nodes
        inner = {("10.9.9.9", 1000): ("127.0.0.1", new.port)}
        old.expect("GET", KEY).error(f"MOVED {SLOT} 10.9.9.9:1000")
        old.expect("GET", KEY).often().error(f"MOVED {SLOT} {new.address}")
        new.expect("GET", KEY).often().reply(b"value")
        options: dict[str, Any] = {
            "address_remap": lambda address: inner.get(address, address),
            "reinitialize_steps": 0,
            "socket_connect_timeout": 0.2,
            "retry": Retry(NoBackoff(), 1),
        }
        with open_client(client_class, cluster, **options) as client:
            client.get_node_from_key(KEY)
            with contextlib.suppress(redis.RedisError):
                client.get(KEY)
            names = {node.name for node in client.get_nodes()}
        assert ("10.9.9.9:1000" in names) is shows


@both
def test_moved_keeps_the_replicas(client_class: Any, shows: bool) -> None:
    """Defect 10: a slot that moved to another shard has lost that shard's replicas until the next refresh."""
    with scripted(2, others=1) as cluster:
        new, old, replica = cluster.nodes
        cluster.slots[0] = (0, 8191, [new, replica])
        old.expect("GET", KEY).error(f"MOVED {SLOT} {new.address}")
        new.expect("GET", KEY).reply(b"value")
        with open_client(client_class, cluster, reinitialize_steps=0) as client:
            assert client.get(KEY) == b"value"
            names = [node.name for node in client.nodes_manager.slots_cache[SLOT]]
        assert names[0] == new.address
        assert (replica.address in names) is not shows
