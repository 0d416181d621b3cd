"""MOVED, ASK and lost connections, told by scripted nodes."""

import asyncio
import threading
import traceback
from datetime import datetime
from typing import Any

import pytest
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from slotwise import key_slot
from slotwise.asyncio import RedisCluster
from slotwise.asyncio.connection import AsyncNodePool, own_copy
from slotwise.errors import (
    ConnectionError,
    NodeUnavailableError,
    NotSentError,
    TimeoutError,
    UnknownOutcomeError,
)
from slotwise.routing.topology import Address
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run

SLOT = key_slot("key")


@pytest.mark.parametrize("known", [True, False], ids=["serves other slots", "serves none"])
def test_asking_and_the_command_in_one_write(known: bool) -> None:
    """redis-py 8.1 sends them one after the other, over different pooled connections; it does not know the second."""
    with ScriptedCluster(2) if known else ScriptedCluster(1, others=1) as cluster:
        assert SLOT >= 8192
        *_, old = cluster.nodes[: 2 if known else 1]
        new = next(node for node in cluster.nodes if node is not old)
        old.expect("GET", "key").error(f"ASK {SLOT} {new.address}")
        new.expect("ASKING").reply("OK")
        new.expect("GET", "key").reply(b"value")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                assert await client.get("key") == b"value"

        run(main)
        assert [(b"ASKING",), (b"GET", b"key")] in [read.commands for read in new.reads]


def test_asking_in_a_pipeline() -> None:
    with ScriptedCluster(1, others=1) as cluster:
        old, new = cluster.nodes
        old.expect("GET", "key").error(f"ASK {SLOT} {new.address}")
        old.expect("GET", "other").reply(b"there")
        new.expect("ASKING").reply("OK")
        new.expect("GET", "key").reply(b"here")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                assert await client.pipeline().get("key").get("other").execute() == [b"here", b"there"]

        run(main)
        assert [(b"ASKING",), (b"GET", b"key")] in [read.commands for read in new.reads]


@pytest.mark.parametrize("lost", ["MOVED", "connection"])
def test_acknowledged_pipeline_commands_are_not_sent_again(lost: str) -> None:
    """redis-py 8.1 repeats those whose reply was falsy: an INCRBY to 0, an empty list."""
    with ScriptedCluster(1, others=1) as cluster:
        old, new = cluster.nodes
        old.expect("INCRBY", "{key}n", 0).reply(0)
        old.expect("LRANGE", "{key}l").reply([])
        old.expect("HGET", "{key}h").reply(None)
        if lost == "MOVED":
            old.expect("GET", "key").error(f"MOVED {SLOT} {new.address}")
            new.expect("GET", "key").reply(b"moved")
        else:
            old.expect("GET", "key").close()
            old.expect("GET", "key").reply(b"moved")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client:
                pipe = (
                    client.pipeline().incr("{key}n", 0).lrange("{key}l", 0, -1).hget("{key}h", "f").get("key")
                )
                assert await pipe.execute() == [0, [], None, b"moved"]

        run(main)
        assert old.count("INCRBY") == 1
        assert old.count("LRANGE") == 1


def test_moved_leaves_connections_with_pending_replies_alone() -> None:
    """redis-py 8.1 closes every connection of every node at each fifth MOVED."""
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        bystander = "b"
        assert key_slot(bystander) < 8192, "served by the first node"
        release = threading.Event()
        first.expect("GET", bystander).until(release).reply(b"late")
        movers = [key for key in map(str, range(1000)) if key_slot(key) >= 8192][:20]
        for key in movers:
            second.expect("GET", key).error(f"MOVED {key_slot(key)} {first.address}")
            first.expect("GET", key).reply(b"moved")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client:
                pending = asyncio.create_task(client.get(bystander))
                while not first.count("GET", bystander):
                    await asyncio.sleep(0.001)
                cluster.slots = [(0, 16383, [first])]
                moved = asyncio.gather(*map(client.get, movers))
                while second.count("GET") < len(movers) and not pending.done():
                    await asyncio.sleep(0.001)
                assert not pending.done()
                release.set()
                assert await pending == b"late"
                assert await moved == [b"moved"] * len(movers)

        run(main)


def test_a_write_whose_reply_is_lost_is_not_repeated() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("INCRBY", "key").close()

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                with pytest.raises(UnknownOutcomeError):
                    await client.incr("key")

        run(main)
        assert node.count("INCRBY") == 1


def test_a_read_whose_reply_is_lost_is_repeated() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("GET", "key").close()
        node.expect("GET", "key").reply(b"value")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                assert await client.get("key") == b"value"

        run(main)


def test_a_node_that_hangs_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = AsyncNodePool.open

    async def hung_up(self: AsyncNodePool, *args: Any, **options: Any) -> Any:
        link = await original(self, *args, **options)
        link.close("hung up")
        return link

    with ScriptedCluster(1) as cluster:

        async def main() -> None:
            retry = Retry(NoBackoff(), 2)
            async with RedisCluster.from_url(cluster.url, retry=retry) as client:
                monkeypatch.setattr(AsyncNodePool, "open", hung_up)
                for call in (client.get("key"), client.pipeline().get("key").execute()):
                    with pytest.raises(NotSentError):
                        await asyncio.wait_for(call, 10)

        run(main)


# -- calls to nodes that redis-py chooses ----------------------------------------------------------------------------


def _one_node_goes(cluster: ScriptedCluster) -> None:
    """The second node is gone, and the first has its slots."""
    first, second = cluster.nodes
    cluster.slots = [(0, 16383, [first])]
    second.stop()


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda client: client.dbsize(), 7),
        (lambda client: client.dbsize(target_nodes="all"), 7),
        (lambda client: client.execute_command("DBSIZE", target_nodes="primaries"), 7),
        (lambda client: client.execute_command("DBSIZE", target_nodes="random"), 7),
        (lambda client: client.lastsave(target_nodes="default-node"), datetime.fromtimestamp(7)),
    ],
    ids=["by the command", "all", "primaries", "random", "default-node"],
)
@pytest.mark.parametrize("known", [True, False], ids=["open connections", "no connections"])
def test_nodes_are_chosen_anew_when_one_is_gone(call: Any, value: Any, known: bool) -> None:
    with ScriptedCluster(2) as cluster:
        for node in cluster.nodes:
            node.expect("DBSIZE").often().reply(7)
            node.expect("LASTSAVE").often().reply(7)

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 2)) as client:
                client.set_default_node(client.get_node("127.0.0.1", cluster.nodes[1].port))
                if known:
                    await client.dbsize(target_nodes="all")
                _one_node_goes(cluster)
                for _ in range(8):
                    assert await call(client) == value

        run(main)


def test_what_one_node_has_done_is_not_done_again_for_another() -> None:
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        first.expect("FUNCTION").reply(b"lib")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 2)) as client:
                _one_node_goes(cluster)
                with pytest.raises(ConnectionError, match=str(second.port)):
                    await client.execute_command("FUNCTION LOAD", "code", target_nodes="primaries")
                while not first.count("FUNCTION"):
                    await asyncio.sleep(0.001)
                # What surely was not sent goes to another node, if no other has it.
                first.expect("FUNCTION").often().reply(b"lib")
                for _ in range(8):
                    assert (
                        await client.execute_command("FUNCTION LOAD", "code", target_nodes="random") == b"lib"
                    )

        run(main)
        assert first.count("FUNCTION") == 9


def test_a_node_that_the_caller_names_is_not_replaced() -> None:
    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 2)) as client:
                named = client.get_node("127.0.0.1", second.port)
                _one_node_goes(cluster)
                with pytest.raises(ConnectionError, match=str(second.port)):
                    await client.dbsize(target_nodes=named)

        run(main)
        assert first.count("DBSIZE") == 0


def test_a_pipeline_whose_link_opens_late(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedCluster(1) as cluster:
        cluster.nodes[0].expect("INCRBY", "key").reply(1)

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 3)) as client:
                await client.initialize()
                original = Connection.connect
                late = 2

                async def slow(self: Connection) -> None:
                    nonlocal late
                    late -= 1
                    if late >= 0:
                        raise TimeoutError("Timeout connecting to server")
                    await original(self)

                monkeypatch.setattr(Connection, "connect", slow)
                assert await client.pipeline().incr("key").execute() == [1]

        run(main)


def test_who_waits_for_one_opening_gets_an_error_of_his_own() -> None:
    """Each adds words and a traceback to it: one for all would have those of a hundred callers."""
    with ScriptedCluster(1) as cluster:

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 0)) as client:
                await client.initialize()
                cluster.nodes[0].stop()
                works = [client.pipeline().set("key", n).execute() for n in range(50)]
                works += [client.set("key", n) for n in range(50)]
                errors = await asyncio.gather(*works, return_exceptions=True)
                assert {type(error) for error in errors} == {ConnectionError}
                assert len({id(error) for error in errors}) == 100
                assert {str(error).count("Command # 1 (SET)") for error in errors[:50]} == {1}
                assert {str(error).count("Command #") for error in errors[50:]} == {0}
                assert all(len(traceback.extract_tb(error.__traceback__)) < 20 for error in errors)
                assert all(error.sent is False and error.__cause__ is not None for error in errors)

        run(main)


def test_an_error_of_ones_own_says_the_same() -> None:
    class Odd(Exception):
        def __init__(self, *, node: str) -> None:
            super().__init__(f"of {node}")

    class Worded(Exception):
        def __init__(self, node: str) -> None:
            super().__init__(f"of {node}")

    unavailable = NodeUnavailableError("asleep", retry_in=2.5)
    made = own_copy(unavailable)
    assert isinstance(made, NodeUnavailableError)
    assert (str(made), made.retry_in, made.sent, made.__cause__) == ("asleep", 2.5, False, unavailable)
    worded = own_copy(Worded("it"))
    assert type(worded) is Worded
    assert str(worded) == "of it"
    odd = Odd(node="it")
    assert own_copy(odd) is odd, "nobody knows how to make another"


async def one_call(client: RedisCluster) -> Any:
    return await client.get("a")


async def one_of_a_pipeline(client: RedisCluster) -> Any:
    return (await client.pipeline().get("a").execute())[0]


@pytest.mark.parametrize("call", [one_call, one_of_a_pipeline])
def test_late_redirects_do_not_blame_their_target(call: Any) -> None:
    """By then another task has put it into the table, but it is not the target that named itself."""
    with ScriptedCluster(2) as cluster:
        other, owner = cluster.nodes
        owner.expect("GET", "a").reply(b"0")
        owner.expect("GET", "a").often().moved(other)
        other.expect("GET", "a").often().reply(b"1")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, reinitialize_steps=0) as client:
                # Opens the link: from now on there is a short way.
                assert await call(client) == b"0"
                assert await asyncio.gather(*(call(client) for _ in range(3))) == [b"1"] * 3
                assert not client.nodes_manager._reconnected

        run(main)


@pytest.mark.parametrize("call", [one_call, one_of_a_pipeline])
def test_a_late_failure_does_not_blame_the_successor(call: Any) -> None:
    with ScriptedCluster(2) as cluster:
        other, owner = cluster.nodes
        owner.expect("GET", "a").reply(b"0")
        owner.expect("GET", "a").half_open()
        other.expect("GET", "a").reply(b"1")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, reinitialize_steps=0, socket_timeout=0.5) as client:
                assert await call(client) == b"0"
                failed: list[Any] = []
                want = client.nodes_manager.refresher.want

                def heard(failed_node: Address | None = None, told: Address | None = None) -> None:
                    failed.append(failed_node)
                    want(failed_node, told)

                client.nodes_manager.refresher.want = heard  # type: ignore[method-assign]
                late = asyncio.create_task(call(client))
                while owner.count("GET", "a") < 2:
                    await asyncio.sleep(0.001)
                cluster.move_slots(key_slot("a"), key_slot("a"), other)
                # Another task met the MOVED.
                await client.nodes_manager.moved(key_slot("a"), Address("127.0.0.1", other.port))
                assert await late == b"1"
                assert failed
                assert Address("127.0.0.1", other.port) not in failed

        run(main)
