"""HIMPORT, whose fieldsets are state of a connection: pipelines know those of redis-py's registry as well."""

from typing import Any

import pytest
from redis.exceptions import NoSuchFieldsetError

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.testing.scripted import Connection, ErrorReply, ScriptedCluster, ScriptedNode, Words, encode
from tests.asyncio.loops import run

pytestmark = pytest.mark.filterwarnings("ignore:Call to experimental method himport")


def play_himport(node: ScriptedNode) -> None:
    """A node that knows fieldsets by connection, as a server does."""
    known: set[tuple[int, bytes]] = set()

    def answer(peer: Connection, command: Words) -> None:
        reply: Any = ErrorReply("ERR no such fieldset")
        if command[1] == b"PREPARE":
            known.add((peer.number, command[2]))
            reply = "OK"
        elif command[1] == b"DISCARD":
            known.discard((peer.number, command[2]))
            reply = "OK"
        elif (peer.number, command[3]) in known:
            reply = "OK"
        peer.send(encode(reply, peer.protocol))

    node.expect("HIMPORT").often().steps.append(answer)


KEYS = ["a", "b"]


def test_fieldset_of_a_single_call() -> None:
    with ScriptedCluster(1) as cluster:
        play_himport(cluster.nodes[0])

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                await client.himport_prepare("one", ["x"])
                for _ in range(3):
                    assert await client.himport_set("a", "one", [1])

        run(main)


@pytest.mark.parametrize("connections", [1, 2])
def test_fieldsets_in_a_pipeline(connections: int) -> None:
    assert len({key_slot(key) < 8192 for key in KEYS}) == 2, "on two nodes"
    with ScriptedCluster(2) as cluster:
        for node in cluster.nodes:
            play_himport(node)
            node.expect("GET").often().reply(b"plain")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, connections_per_node=connections) as client:
                await client.himport_prepare("two", ["x", "y"])
                await client.himport_prepare("one", ["x"])
                for _ in range(3):
                    pipe = client.pipeline()
                    for key in KEYS:
                        pipe.himport_set(key, "two", [1, 2]).get(key).himport_set(key, "one", [1])
                    assert await pipe.execute() == [True, b"plain", True] * 2
                await client.himport_discard("one")
                pipe = client.pipeline().himport_set("a", "two", [1, 2]).himport_set("a", "one", [1])
                done, error = await pipe.execute(raise_on_error=False)
                assert done is True
                assert isinstance(error, NoSuchFieldsetError)

        run(main)


def test_fieldsets_follow_a_redirect() -> None:
    with ScriptedCluster(1, others=1) as cluster:
        old, new = cluster.nodes
        old.expect("HIMPORT", "SET").often().error(f"MOVED {key_slot('a')} {new.address}")
        old.expect("HIMPORT").often().reply("OK")
        play_himport(new)

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client:
                await client.himport_prepare("one", ["x"])
                assert await client.pipeline().himport_set("a", "one", [1]).execute() == [True]

        run(main)


def test_fieldsets_in_a_transaction() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("MULTI").reply("OK")
        node.expect("HIMPORT", "PREPARE").reply("OK")
        node.expect("HIMPORT", "SET").reply("QUEUED")
        node.expect("EXEC").reply([b"OK"])

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                await client.himport_prepare("one", ["x"])
                assert await client.pipeline(transaction=True).himport_set("a", "one", [1]).execute() == [
                    True
                ]

        run(main)
