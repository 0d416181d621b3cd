"""What is sent again, how long, and how much of it: as of the client for threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff

from slotwise.asyncio import RedisCluster
from slotwise.errors import UnknownOutcomeError
from slotwise.routing.retry import RetryBudget
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run
from tests.sync.test_retries import UNBLOCKED


@pytest.fixture
def scripted() -> Iterator[ScriptedCluster]:
    """One scripted node that serves all slots."""
    with ScriptedCluster(1) as cluster:
        yield cluster


def test_writes_are_repeated_for_who_asks_for_that(scripted: ScriptedCluster) -> None:
    node = scripted.nodes[0]
    for _ in range(2):
        node.expect("INCRBY", "a").close()
        node.expect("INCRBY", "a").reply(2)

    async def main() -> None:
        async with RedisCluster.from_url(scripted.url, retry_writes="always") as client:
            assert await client.incr("a") == 2
            assert await client.pipeline().incr("a").execute() == [2]

    run(main)


def test_a_write_that_was_repeated_in_vain_is_unknown(scripted: ScriptedCluster) -> None:
    node = scripted.nodes[0]
    node.expect("INCRBY", "a").often().close()

    async def main() -> None:
        options: Any = {"retry_writes": "always", "retry": Retry(NoBackoff(), 2)}
        async with RedisCluster.from_url(scripted.url, **options) as client:
            with pytest.raises(UnknownOutcomeError):
                await client.incr("a")

    run(main)
    assert node.count("INCRBY") == 3


@pytest.mark.parametrize("batch", [False, True], ids=["call", "pipeline"])
def test_a_wait_that_a_failover_ended_begins_anew(scripted: ScriptedCluster, batch: bool) -> None:
    node = scripted.nodes[0]
    node.expect("BLPOP").error(UNBLOCKED)
    node.expect("BLPOP").reply([b"q", b"v"])
    node.expect("BLPOP").often().error("UNBLOCKED client unblocked via CLIENT UNBLOCK")

    async def main() -> None:
        async with RedisCluster.from_url(scripted.url, retry=Retry(NoBackoff(), 3)) as client:

            async def pop() -> Any:
                return (
                    (await client.pipeline().blpop("q", 1).execute())[0]
                    if batch
                    else await client.blpop("q", 1)
                )

            assert await pop() == (b"q", b"v")
            with pytest.raises(redis.ResponseError, match="CLIENT UNBLOCK"):
                await pop()

    run(main)
    assert node.count("BLPOP") == 3


@pytest.mark.parametrize("batch", [False, True], ids=["call", "pipeline"])
def test_no_try_begins_after_the_retry_timeout(scripted: ScriptedCluster, batch: bool) -> None:
    node = scripted.nodes[0]
    node.expect("GET", "a").close()

    async def main() -> None:
        options: Any = {"retry": Retry(ConstantBackoff(10), 5), "retry_timeout": 9.0}
        async with RedisCluster.from_url(scripted.url, **options) as client:
            began = time.monotonic()
            with pytest.raises(redis.ConnectionError):
                await (client.pipeline().get("a").execute() if batch else client.get("a"))
            assert time.monotonic() - began < 9, "nor is a pause made that leaves no time"

    run(main)
    assert node.count("GET") == 1


def test_repetitions_are_a_share_of_all_calls(scripted: ScriptedCluster) -> None:
    """A node that answers nobody is not asked six times as often as one that is well."""
    node = scripted.nodes[0]
    node.expect("GET", "a").often().close()
    calls = 300
    allowed = 0.0

    async def main() -> None:
        nonlocal allowed
        options: Any = {"retry": Retry(NoBackoff(), 5), "topology_refresh_min_interval": 0.001}
        async with RedisCluster.from_url(scripted.url, **options) as client:
            began = time.monotonic()
            client._budget = RetryBudget(began, share=0.1, per_second=10)
            for _ in range(calls):
                with pytest.raises(redis.ConnectionError):
                    await client.get("a")
            # Once for the connection; then a tenth, ten a second, and a hundred to begin with.
            allowed = calls + calls / 10 + 10 * (time.monotonic() - began) + 100

    run(main)
    assert calls < node.count("GET") <= calls + allowed


@pytest.mark.parametrize(
    "options", [{"retry_writes": "never"}, {"retry_timeout": 0}, {"retry_timeout": "soon"}], ids=str
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(redis.DataError, match=next(iter(options))):
        RedisCluster.from_url("redis://127.0.0.1:1", **options)
