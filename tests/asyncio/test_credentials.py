"""Credentials that change while connections live (streaming credential providers)."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from redis.auth.token import SimpleToken, TokenInterface
from redis.credentials import StreamingCredentialProvider

from slotwise.asyncio import RedisCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run


class Provider(StreamingCredentialProvider):
    """Tells of new tokens when the test says so."""

    def __init__(self) -> None:
        self.token = self._token("first")
        self._listener: Callable[[TokenInterface], Awaitable[None]] | None = None

    @staticmethod
    def _token(value: str) -> TokenInterface:
        return SimpleToken(value, -1, 0, {"oid": "user"})

    def get_credentials(self) -> tuple[Any, Any]:
        return self.token.try_get("oid"), self.token.get_value()

    async def get_credentials_async(self) -> tuple[Any, Any]:
        return self.get_credentials()

    def on_next(self, callback: Any) -> None:
        self._listener = callback

    def on_error(self, callback: Any) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    async def renew(self, value: str) -> None:
        assert self._listener is not None
        self.token = self._token(value)
        await self._listener(self.token)


@pytest.mark.parametrize("connections", [1, 3])
def test_live_connections_get_the_new_credential(connections: int) -> None:
    """redis-py 8.1 tells its own idle connections."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET").often().reply(b"value")
        node.expect("BLPOP").until(release).reply(None)
        node.expect("BLPOP").often().reply(None)
        for name in ("MULTI", "AUTH"):
            node.expect(name).often().reply("OK")
        node.expect("INCRBY").often().reply("QUEUED")
        node.expect("EXEC").often().reply([1])

        async def main() -> None:
            provider = Provider()
            async with RedisCluster.from_url(
                cluster.url, credential_provider=provider, connections_per_node=connections
            ) as client:
                for _ in range(connections):
                    await client.get("key")
                await client.pipeline(transaction=True).incr("key").execute()
                blocked = asyncio.create_task(client.blpop("key", timeout=1))
                while not node.count("BLPOP"):
                    await asyncio.sleep(0.001)
                before = node.accepted
                await asyncio.wait_for(provider.renew("second"), 5)
                told = {
                    read.connection for read in node.reads if (b"AUTH", b"user", b"second") in read.commands
                }
                read = {read.connection for read in node.reads if (b"GET", b"key") in read.commands}
                assert len(read) == connections
                assert read <= told
                assert node.accepted == before, "they stay open"
                # An idle connection of the old credential is not used again; a busy one ends what it does.
                await client.pipeline(transaction=True).incr("key").execute()
                assert node.accepted == before + 1
                release.set()
                assert await blocked is None
                assert await client.get("key") == b"value"

        run(main)


def test_a_refused_credential_is_told() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("GET").often().reply(b"value")
        node.expect("AUTH").error("WRONGPASS invalid username-password pair")

        async def main() -> None:
            provider = Provider()
            async with RedisCluster.from_url(cluster.url, credential_provider=provider) as client:
                await client.get("key")
                with pytest.raises(redis.AuthenticationError):
                    await provider.renew("wrong")
                assert await client.get("key") == b"value"

        run(main)
