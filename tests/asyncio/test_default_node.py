"""Commands without keys, when the node that answers them is gone: redis-py chooses another, and so does slotwise."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from slotwise.asyncio import RedisCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run

KEY_OF_THE_FIRST = "b"

both = pytest.mark.parametrize(
    "kind", [redis.asyncio.RedisCluster, RedisCluster], ids=["redis-py", "slotwise"]
)


@pytest.fixture
def scripted() -> Iterator[ScriptedCluster]:
    """Two primaries; the first is the default node of a new client. Neither is asked for COMMAND by slotwise."""
    with ScriptedCluster(2) as scripted:
        for node in scripted.nodes:
            node.expect("COMMAND").reply([]).often()
        yield scripted


def _client(kind: Any, scripted: ScriptedCluster) -> Any:
    return kind.from_url(scripted.url, retry=Retry(NoBackoff(), 3))


@both
def test_a_keyless_command_goes_on_at_another_node(kind: Any, scripted: ScriptedCluster) -> None:
    first, second = scripted.nodes
    first.expect("CLUSTER", "INFO").reply("cluster_state:ok")
    second.expect("CLUSTER", "INFO").reply("cluster_state:ok").often()

    async def main() -> None:
        async with _client(kind, scripted) as client:
            assert await client.cluster_info() == {"cluster_state": "ok"}
            assert client.get_default_node().port == first.port
            first.stop()
            assert await client.cluster_info() == {"cluster_state": "ok"}
            assert client.get_default_node().port == second.port
            assert await client.cluster_info() == {"cluster_state": "ok"}

    run(main)
    assert (first.count("CLUSTER", "INFO"), second.count("CLUSTER", "INFO")) == (1, 2)


@both
def test_a_node_that_was_named_is_not_replaced(kind: Any, scripted: ScriptedCluster) -> None:
    first, second = scripted.nodes
    second.expect("CLUSTER", "INFO").reply("cluster_state:ok")

    async def main() -> None:
        async with _client(kind, scripted) as client:
            await client.initialize()
            named = client.get_default_node()
            first.stop()
            with pytest.raises(ConnectionError):
                await client.cluster_info(target_nodes=named)
            assert second.count("CLUSTER", "INFO") == 0
            # The failure was noticed all the same.
            assert await client.cluster_info() == {"cluster_state": "ok"}
            assert client.get_default_node().port == second.port

    run(main)


def test_a_pipeline_without_keys_goes_on_at_another_node(scripted: ScriptedCluster) -> None:
    """redis-py 8.1 asks the dead node for COMMAND, and gives up."""
    first, second = scripted.nodes
    second.expect("CLUSTER", "INFO").reply("cluster_state:ok").often()

    async def main() -> None:
        async with _client(RedisCluster, scripted) as client:
            await client.initialize()
            first.stop()
            pipe = client.pipeline()
            pipe.cluster_info()
            pipe.cluster_info()
            assert await pipe.execute() == [{"cluster_state": "ok"}] * 2
            assert client.get_default_node().port == second.port

    run(main)
    assert second.count("CLUSTER", "INFO") == 2


def test_a_keyed_failure_moves_the_default_too(scripted: ScriptedCluster) -> None:
    """Whoever notices it: the next keyless command does not try the dead node first."""
    first, second = scripted.nodes
    second.expect("CLUSTER", "INFO").reply("cluster_state:ok")

    async def main() -> None:
        async with _client(RedisCluster, scripted) as client:
            await client.initialize()
            first.stop()
            with pytest.raises(ConnectionError):
                await client.get(KEY_OF_THE_FIRST)
            assert client.get_default_node().port == second.port
            assert await client.cluster_info() == {"cluster_state": "ok"}

    run(main)


def test_no_retries_still_notice_a_dead_node(scripted: ScriptedCluster) -> None:
    first, second = scripted.nodes
    second.expect("GET", KEY_OF_THE_FIRST).reply(b"there")

    async def main() -> None:
        async with RedisCluster.from_url(scripted.url, retry=Retry(NoBackoff(), 0)) as client:
            await client.initialize()
            first.stop()
            scripted.slots = [(0, 16383, [second])]
            with pytest.raises(ConnectionError):
                await client.get(KEY_OF_THE_FIRST)
            # The topology is asked for in the background.
            while client.get_node_from_key(KEY_OF_THE_FIRST).port != second.port:
                await asyncio.sleep(0.01)
            assert await client.get(KEY_OF_THE_FIRST) == b"there"

    run(main)


def test_a_pipeline_to_a_dead_node_tells_so_per_command(scripted: ScriptedCluster) -> None:
    first, second = scripted.nodes
    second.expect("GET", "a").reply(b"alive")

    async def main() -> None:
        async with _client(RedisCluster, scripted) as client:
            await client.initialize()
            first.stop()
            pipe = client.pipeline().get(KEY_OF_THE_FIRST).get("a")
            dead, alive = await pipe.execute(raise_on_error=False)
            assert isinstance(dead, ConnectionError)
            assert alive == b"alive"

    run(main)
