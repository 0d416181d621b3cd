"""Defects of redis-py 8.1's asyncio client, each beside redis-py itself: there it shows, here it must not.

Should redis-py mend one, its half fails, and the claim goes.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis.asyncio

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.asyncio.loops import run

both = pytest.mark.parametrize(
    ("client_class", "shows"),
    [
        pytest.param(RedisCluster, False, id="slotwise"),
        pytest.param(redis.asyncio.RedisCluster, True, id="redis-py"),
    ],
)

SLOT = key_slot("key")
# redis-py asks for the table of commands; arity, flags, first key, last key, step.
TABLE = [
    [name, -2, [], 1, 1, 1, [], [], [], []]
    for name in (b"get", b"set", b"incrby", b"lrange", b"hget", b"blpop")
]


def scripted(primaries: int) -> ScriptedCluster:
    cluster = ScriptedCluster(primaries)
    for node in cluster.nodes:
        node.expect("COMMAND").often().reply(TABLE)
    return cluster


async def reached(node: ScriptedNode, count: int, *words: str) -> None:
    """Waits until the node has read so many commands that begin with ``words``."""
    while node.count(*words) < count:
        await asyncio.sleep(0.001)


def play(main: Callable[[], Coroutine[Any, Any, Any]], shows: bool) -> Any:
    """The result of ``main()``. redis-py leaves nodes unclosed and tasks behind as well; that is not the point here."""
    if not shows:
        return run(main)
    result = asyncio.run(main())
    # Here, not in the event loop of the next test.
    gc.collect()
    return result


@both
def test_asking_leaves_with_its_command(client_class: Any, shows: bool) -> None:
    """Defect 2: ASKING over one pooled connection, the command over another, where it is answered with MOVED again."""
    with scripted(2) as cluster:
        new, old = cluster.nodes
        assert SLOT >= 8192, "served by the second node"
        release = threading.Event()
        at_new = next(key for key in map(str, range(100)) if key_slot(key) < 8192)
        new.expect("GET", at_new).until(release).reply(b"")
        new.expect("GET", at_new).often().reply(b"")
        new.expect("ASKING").often().reply("OK")
        new.expect("GET", "key").reply(b"value")
        old.expect("GET", "key").error(f"ASK {SLOT} {new.address}")

        async def main() -> None:
            async with client_class.from_url(cluster.url) as client:
                # Two at once: where calls have connections of their own, the node now has two.
                two = [asyncio.create_task(client.get(at_new)) for _ in range(2)]
                await reached(new, 1, "GET", at_new)
                release.set()
                await asyncio.gather(*two)
                assert await client.get("key") == b"value"

        play(main, shows)
        (asking,) = (read.connection for read in new.reads if (b"ASKING",) in read.commands)
        (command,) = (read.connection for read in new.reads if (b"GET", b"key") in read.commands)
        assert (asking != command) is shows


@both
def test_acknowledged_commands_of_a_pipeline_run_once(client_class: Any, shows: bool) -> None:
    """Defect 4: when one command has to be tried again, those with a falsy reply run again."""
    with scripted(1) as cluster:
        node = cluster.nodes[0]
        node.expect("INCRBY", "{key}n", 0).often().reply(0)
        node.expect("LRANGE", "{key}l").often().reply([])
        node.expect("HGET", "{key}h").often().reply(None)
        node.expect("GET", "key").error("CLUSTERDOWN The cluster is down")
        node.expect("GET", "key").reply(b"up")

        async def main() -> None:
            async with client_class.from_url(cluster.url) as client:
                pipe = client.pipeline()
                pipe.incrby("{key}n", 0).lrange("{key}l", 0, -1).hget("{key}h", "f").get("key")
                assert await pipe.execute() == [0, [], None, b"up"]

        play(main, shows)
        assert node.count("GET") == 2
        for name in ("INCRBY", "LRANGE", "HGET"):
            assert (node.count(name) > 1) is shows, name


@both
def test_redirects_leave_the_connections_of_others_alone(client_class: Any, shows: bool) -> None:
    """Defect 5: every fifth MOVED closes all connections of all nodes, with the replies of others on their way."""
    with scripted(2) as cluster:
        first, second = cluster.nodes
        release = threading.Event()
        bystander = "b"
        assert key_slot(bystander) < 8192, "served by the first node"
        first.expect("INCRBY", bystander).until(release).reply(1)
        first.expect("INCRBY", bystander).often().reply(2)
        movers = [key for key in map(str, range(1000)) if key_slot(key) >= 8192][:20]
        for key in movers:
            second.expect("GET", key).often().error(f"MOVED {key_slot(key)} {first.address}")
            first.expect("GET", key).often().reply(b"moved")

        async def main() -> bool:
            async with client_class.from_url(cluster.url) as client:
                pending = asyncio.create_task(client.incrby(bystander, 1))
                await reached(first, 1, "INCRBY")
                moving = asyncio.gather(*map(client.get, movers), return_exceptions=True)
                if client_class is RedisCluster:
                    # They stand behind the bystander on the one connection.
                    await reached(second, len(movers), "GET")
                    release.set()
                await moving
                release.set()
                (outcome,) = await asyncio.gather(pending, return_exceptions=True)
                return outcome != 1 or first.count("INCRBY") > 1

        assert play(main, shows) is shows


@both
def test_a_full_pool_waits(client_class: Any, shows: bool) -> None:
    """Defect 12, its first half: the call that finds no connection free raises at once."""
    with scripted(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("BLPOP", "key").until(release).reply([b"key", b"1"])
        node.expect("BLPOP", "key").often().reply([b"key", b"2"])

        async def main() -> list[Any]:
            async with client_class.from_url(cluster.url, max_connections=1, socket_timeout=20) as client:
                await client.initialize()
                calls = [asyncio.create_task(client.blpop("key", timeout=10)) for _ in range(2)]
                await reached(node, 1, "BLPOP")
                release.set()
                return await asyncio.gather(*calls, return_exceptions=True)

        outcomes = play(main, shows)
        assert any(isinstance(outcome, redis.exceptions.MaxConnectionsError) for outcome in outcomes) is shows
        assert sum(isinstance(outcome, (list, tuple)) for outcome in outcomes) == (1 if shows else 2)


@both
def test_a_fresh_client_used_by_many_tasks(cluster: LocalCluster, client_class: Any, shows: bool) -> None:
    """Defect 14: 20 tasks and no ``initialize()``: AttributeErrors, and writes that are executed twice.

    It showed in 86 and 95 of 100 rounds with redis-py: that it does in none of 20 is out of the question.
    """

    async def main() -> bool:
        async with RedisCluster.from_url(cluster.url) as counter:
            for number in range(20):
                key = f"aio:fresh:{number}"
                await counter.delete(key)
                client = client_class.from_url(cluster.url)
                calls = (client.incrby(key, 1) for _ in range(20))
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                await client.aclose()
                acknowledged = [outcome for outcome in outcomes if isinstance(outcome, int)]
                if len(acknowledged) < 20 or int(await counter.get(key)) != len(acknowledged):
                    return True
        return False

    assert play(main, shows) is shows
