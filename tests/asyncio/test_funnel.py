"""Those who replace ``execute_command`` or ``ClusterPipeline.execute`` see everything that is called."""

from typing import Any

import pytest
import redis.asyncio
import redis.asyncio.cluster

import slotwise.asyncio
from slotwise.asyncio import RedisCluster
from slotwise.local import LocalCluster
from tests.asyncio.loops import run

NAMES = ["SET", "GET", "HGET", "INCRBY", "INCRBY", "LPUSH"]


async def _work(client: RedisCluster) -> None:
    await client.set("aio:funnel", 1)
    assert await client.get("aio:funnel") == b"1"
    assert await client.hget("aio:funnel:none", "f") is None
    assert await client.incrby("aio:funnel", 2) == 3
    assert await client.incr("aio:funnel") == 4
    await client.lpush("aio:funnel:list", "x")
    await client.delete("aio:funnel", "aio:funnel:list")


@pytest.mark.parametrize("owner", [redis.asyncio.RedisCluster, slotwise.asyncio.RedisCluster])
def test_replaced_on_a_class(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, owner: Any) -> None:
    seen: list[str] = []
    original = owner.execute_command

    async def watching(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(args[0])
        return await original(self, *args, **options)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await _work(client)
            assert seen == []
            with monkeypatch.context() as patch:
                patch.setattr(owner, "execute_command", watching)
                await _work(client)
            assert seen[: len(NAMES)] == NAMES
            seen.clear()
            await _work(client)
            assert seen == [], "the short ways are back"

    run(main)


def test_a_subclass_that_overrides_it(cluster: LocalCluster) -> None:
    seen: list[str] = []

    class Watching(RedisCluster):
        async def execute_command(self, *args: Any, **options: Any) -> Any:
            seen.append(args[0])
            return await super().execute_command(*args, **options)

    async def main() -> None:
        async with Watching.from_url(cluster.url) as client:
            await _work(client)
            assert seen[: len(NAMES)] == NAMES

    run(main)


def test_replaced_on_an_object(cluster: LocalCluster) -> None:
    seen: list[str] = []

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            original = client.execute_command

            async def watching(*args: Any, **options: Any) -> Any:
                seen.append(args[0])
                return await original(*args, **options)

            client.execute_command = watching
            await _work(client)
            assert seen[: len(NAMES)] == NAMES
            del client.execute_command
            seen.clear()
            await _work(client)
            assert seen == []

    run(main)


def test_a_subclass_that_sees_each_node(cluster: LocalCluster) -> None:
    seen: list[str] = []

    class PerNode(RedisCluster):
        async def _execute_command(self, target_node: Any, *args: Any, **options: Any) -> Any:
            seen.append(target_node.name)
            return await super()._execute_command(target_node, *args, **options)

    async def main() -> None:
        async with PerNode.from_url(cluster.url) as client:
            await client.set("aio:funnel", 1)
            assert await client.get("aio:funnel") == b"1"
            assert seen == [client.get_node_from_key("aio:funnel").name] * 2

    run(main)


def test_pipelines_are_seen(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[Any, ...]]] = []
    original = redis.asyncio.cluster.ClusterPipeline.execute

    async def watching(self: Any, *args: Any, **options: Any) -> Any:
        seen.append([command.args for command in self.command_stack])
        assert [command.args for command in self._execution_strategy._command_queue] == seen[-1]
        assert isinstance(self.cluster_client, RedisCluster)
        return await original(self, *args, **options)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            monkeypatch.setattr(redis.asyncio.cluster.ClusterPipeline, "execute", watching)
            assert await client.pipeline().set("{f}a", 1).get("{f}a").execute() == [True, b"1"]
            assert await client.pipeline(transaction=True).set("{f}a", 2).get("{f}a").execute() == [
                True,
                b"2",
            ]
            assert seen == [
                [("SET", "{f}a", 1), ("GET", "{f}a")],
                [("SET", "{f}a", 2), ("GET", "{f}a")],
            ]

    run(main)
