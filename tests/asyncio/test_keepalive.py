"""TCP keepalive is on for every connection, and half-open ones are found within the time-out; see the sync tests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from slotwise.asyncio import RedisCluster
from slotwise.errors import TimeoutError
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run
from tests.sync.test_keepalive import COUNT, IDLE, INTERVAL, options_of, pytestmark, sockets_to

__all__ = ["pytestmark"]


async def shared(client: RedisCluster) -> Any:
    return await client.get("a")


async def pipeline(client: RedisCluster) -> Any:
    return await client.pipeline().get("a").execute()


async def blocking(client: RedisCluster) -> Any:
    return await client.blpop("a", timeout=0.1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1, 30, 5, 3)),
        ({"socket_keepalive_options": {IDLE: 7, INTERVAL: 2, COUNT: 4}}, (1, 7, 2, 4)),
    ],
    ids=["default", "chosen"],
)
def test_keepalive_of_every_connection(options: dict[str, Any], expected: tuple[int, ...]) -> None:
    """Of a shared link, of a lane and of pub/sub."""
    with ScriptedCluster(1) as cluster:
        (node,) = cluster.nodes
        node.expect("GET", "a").reply(b"1")
        node.expect("BLPOP", "a").reply(None)
        node.expect("SUBSCRIBE")

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, **options) as client, client.pubsub() as pubsub:
                await shared(client)
                await blocking(client)
                await pubsub.subscribe("a")
                assert len(list(sockets_to(node))) >= 3
                assert options_of(node) == {expected}

        run(main)


@pytest.mark.parametrize("work", [shared, pipeline, blocking], ids=lambda work: work.__name__)
def test_half_open_connection_is_left(work: Callable[[RedisCluster], Awaitable[Any]]) -> None:
    """It costs one call the time-out, and a read not even its reply: another connection has it."""
    with ScriptedCluster(1) as cluster:
        (node,) = cluster.nodes
        node.expect("GET", "a").often().reply(b"1")
        node.expect("BLPOP", "a").often().reply([b"a", b"1"])

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url, socket_timeout=0.3) as client:
                expected = await work(client)
                node.half_open()
                began = time.monotonic()
                if work is blocking:
                    # It takes what it returns, so nobody repeats it.
                    with pytest.raises(TimeoutError):
                        await work(client)
                assert await work(client) == expected
                assert time.monotonic() - began < 5

        run(main)
