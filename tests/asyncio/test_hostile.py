"""The same of tasks as `tests.sync.test_hostile`."""

import asyncio
from collections.abc import Iterator

import pytest
import redis

from slotwise.asyncio import RedisCluster
from slotwise.errors import ConnectionError, UnknownOutcomeError
from slotwise.testing import ScriptedCluster
from tests.sync.test_hostile import HOSTILE


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    """Two primaries, the second of which serves key ``a``."""
    with ScriptedCluster(2, store=True) as cluster:
        yield cluster


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:12]))
def test_all_callers_are_told(pair: ScriptedCluster, data: bytes) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(pair.url) as client:
            await client.set("b", "1")
            pair.nodes[1].expect("SET", "a", "1").send(data)
            pair.nodes[1].expect("SET", "a", "2")
            calls = [client.set("a", "1"), client.set("a", "2"), client.get("b")]
            first, second, other = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(first, UnknownOutcomeError)
            assert HOSTILE[data] in str(first)
            assert isinstance(second, UnknownOutcomeError)
            assert other == b"1"
            assert await client.set("a", "3")
            pair.nodes[1].expect("BLPOP", "a", "1").send(data)
            with pytest.raises(ConnectionError, match=HOSTILE[data]):
                await client.blpop("a", 1)

    asyncio.run(main())


def test_max_reply_size(pair: ScriptedCluster) -> None:
    async def main() -> None:
        options = {"max_reply_size": 70_000, "cluster_error_retry_attempts": 0}
        async with RedisCluster.from_url(pair.url, **options) as client:
            await client.set("b", "x" * 60_000)
            await client.set("a", "x" * 80_000)
            with pytest.raises(ConnectionError, match="more than 70000 bytes"):
                await client.get("a")
            assert len(await client.get("b")) == 60_000

    asyncio.run(main())


def test_no_size() -> None:
    with pytest.raises(redis.DataError, match="max_reply_size must be a number of bytes from 65536 on"):
        RedisCluster.from_url("redis://127.0.0.1:1", max_reply_size=0)
