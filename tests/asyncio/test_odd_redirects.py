"""Redirects that no sane cluster sends: progress or a named error, and never a topology that is wrong elsewhere."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from slotwise.asyncio import RedisCluster
from slotwise.errors import ResponseError
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run
from tests.odd_redirects import (
    KEY,
    SENSELESS,
    SLOT,
    UNREACHABLE,
    is_asked_by_another_protocol,
    say,
    say_in_transaction,
)

# Seconds that a call may take, with all that it tries.
DEADLINE = 10.0


Way = Callable[[RedisCluster], Awaitable[Any]]


async def call(client: RedisCluster) -> Any:
    return await client.get(KEY)


async def pipeline(client: RedisCluster) -> Any:
    return (await client.pipeline().get(KEY).execute())[0]


async def transaction(client: RedisCluster) -> Any:
    return (await client.pipeline(transaction=True).get(KEY).execute())[0]


WAYS = pytest.mark.parametrize("way", [call, pipeline, transaction], ids=lambda way: way.__name__)
CODES = pytest.mark.parametrize("code", ["MOVED", "ASK"])


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    """Two primaries, the second of which serves KEY."""
    with ScriptedCluster(2) as cluster:
        yield cluster


@WAYS
@CODES
@pytest.mark.parametrize("rest", SENSELESS.values(), ids=SENSELESS.keys())
def test_senseless(way: Way, code: str, rest: str, pair: ScriptedCluster) -> None:
    (say_in_transaction if way is transaction else say)(pair, f"{code} {rest}")

    async def main() -> None:
        async with RedisCluster.from_url(pair.url) as client:
            before = dict(client.nodes_manager.slots_cache)
            with pytest.raises(ResponseError):
                await way(client)
            # Nothing was learnt from it, and the connection goes on.
            assert client.nodes_manager.slots_cache == before
            assert await way(client) == b"1"

    run(main)


@WAYS
@CODES
@pytest.mark.parametrize("rest", UNREACHABLE.values(), ids=UNREACHABLE.keys())
def test_unreachable(way: Way, code: str, rest: str, pair: ScriptedCluster) -> None:
    (say_in_transaction if way is transaction else say)(pair, f"{code} {rest}")

    async def main() -> None:
        async with RedisCluster.from_url(pair.url, topology_refresh_min_interval=0.1) as client:
            began = time.monotonic()
            assert await way(client) == b"1"
            assert time.monotonic() - began < DEADLINE
            assert client.get_node_from_key(KEY).port == pair.nodes[1].port
            assert client.get_node_from_key("b").port == pair.nodes[0].port

    run(main)


@CODES
def test_another_protocol(code: str) -> None:
    """The address answers, and not as a node of Redis does."""
    with ScriptedCluster(2, others=1) as cluster:
        other, owner, web = cluster.nodes
        is_asked_by_another_protocol(web)
        owner.expect("GET", KEY).error(f"{code} {SLOT} {web.address}")
        owner.expect("GET", KEY).often().reply(b"1")
        other.expect("GET", "b").reply(b"2")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, topology_refresh_min_interval=0.1) as client:
                began = time.monotonic()
                assert await client.get(KEY) == b"1"
                assert time.monotonic() - began < DEADLINE
                assert await client.get("b") == b"2"

        run(main)


def test_transaction_follows_a_moved_without_a_host(pair: ScriptedCluster) -> None:
    other, owner = pair.nodes
    for node in pair.nodes:
        node.expect("MULTI").reply("OK")
    owner.expect("GET", KEY).error(f"MOVED {SLOT} :{other.port}")
    owner.expect("EXEC").error("EXECABORT Transaction discarded because of previous errors.")
    other.expect("GET", KEY).reply("QUEUED")
    other.expect("EXEC").reply([b"1"])

    async def main() -> None:
        async with RedisCluster.from_url(pair.url, reinitialize_steps=0) as client:
            assert await transaction(client) == b"1"

    run(main)
