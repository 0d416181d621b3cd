"""Those who replace ``execute_command`` or ``ClusterPipeline.execute`` see everything that is called."""

from typing import Any

import pytest
import redis.asyncio
import redis.asyncio.cluster
from redis.asyncio.observability import recorder

import slotwise.asyncio
from slotwise.asyncio import RedisCluster
from slotwise.asyncio.pipeline import ClusterPipeline, PipelineStrategy
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


def test_the_step_to_each_node_replaced_on_the_class(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RedisCluster._execute_command
    seen: list[Any] = []

    async def watching(self: Any, target_node: Any, *args: Any, **options: Any) -> Any:
        seen.append(args[0])
        return await original(self, target_node, *args, **options)

    async def main() -> None:
        monkeypatch.setattr(RedisCluster, "_execute_command", watching)
        async with RedisCluster.from_url(cluster.url) as client:
            await _work(client)
            assert seen[: len(NAMES)] == NAMES

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


PIPELINE = [
    ("SET", "{f}a", 1),
    ("GET", "{f}a"),
    ("HGET", "{f}h", "f"),
    ("INCRBY", "{f}a", 2),
    ("INCRBY", "{f}a", 1),
    ("SET", "{f}a", "x", "EX", 9),
    ("LPUSH", "{f}l", "y"),
    ("DEL", "{f}a"),
    ("EXISTS", "{f}l"),
    ("UNLINK", "{f}l"),
]


def _pipeline_work(pipe: ClusterPipeline) -> ClusterPipeline:
    """Calls that end up as the commands of PIPELINE, in every way that they may take."""
    pipe.set("{f}a", 1).get("{f}a").hget("{f}h", "f").incrby("{f}a", 2).incr("{f}a")
    pipe.set("{f}a", "x", ex=9).lpush("{f}l", "y").delete("{f}a").exists("{f}l")
    return pipe.execute_command("UNLINK", "{f}l")


VALUES = [True, b"1", None, 3, 4, True, 1, 1, 1, 1]


@pytest.mark.parametrize("owner", [redis.asyncio.cluster.ClusterPipeline, ClusterPipeline])
def test_the_commands_of_a_pipeline_are_seen_on_a_class(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, owner: Any
) -> None:
    seen: list[tuple[Any, ...]] = []
    original = owner.execute_command

    def watching(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(args)
        return original(self, *args, **options)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            pipe = client.pipeline()
            assert await _pipeline_work(pipe).execute() == VALUES
            with monkeypatch.context() as patch:
                patch.setattr(owner, "execute_command", watching)
                for watched in (pipe, client.pipeline()):
                    seen.clear()
                    assert await _pipeline_work(watched).execute() == VALUES
                    assert seen == PIPELINE
            seen.clear()
            assert await _pipeline_work(pipe).execute() == VALUES
            assert seen == []

    run(main)


def test_the_commands_of_one_pipeline_are_seen(cluster: LocalCluster) -> None:
    seen: list[tuple[Any, ...]] = []

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            pipe: Any = client.pipeline()
            original = pipe.execute_command

            def watching(*args: Any, **options: Any) -> Any:
                seen.append(args)
                return original(*args, **options)

            pipe.execute_command = watching
            assert await _pipeline_work(client.pipeline()).execute() == VALUES
            assert seen == [], "another pipeline"
            assert await _pipeline_work(pipe).execute() == VALUES
            assert seen == PIPELINE
            del pipe.execute_command
            assert await _pipeline_work(pipe).execute() == VALUES
            assert seen == PIPELINE, "the short ways are back"

    run(main)


def test_a_pipeline_of_a_subclass_sees_its_commands(cluster: LocalCluster) -> None:
    seen: list[tuple[Any, ...]] = []

    class Watching(ClusterPipeline):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            seen.append(args)
            return super().execute_command(*args, **options)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            assert await _pipeline_work(Watching(client)).execute() == VALUES
            assert seen == PIPELINE

    run(main)


def test_what_has_a_short_way_into_a_pipeline_takes_it(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks: the strategy is asked for what has no short way, and for nothing else."""
    seen: list[str] = []
    original = PipelineStrategy.execute_command

    def watching(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(args[0])
        return original(self, *args, **options)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            assert await _pipeline_work(client.pipeline()).execute() == VALUES
            assert seen == ["SET", "LPUSH", "DEL", "EXISTS", "UNLINK"]
            seen.clear()
            _pipeline_work(client.pipeline(transaction=True))
            assert seen == [], "a transaction has a strategy of its own"

    monkeypatch.setattr(PipelineStrategy, "execute_command", watching)
    run(main)


def test_metrics_are_told_of_each_node(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    class Collector:
        def record_operation_duration(self, **facts: Any) -> None:
            told.append(facts)

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            keys = {client.get_node_from_key(key).port: key for key in map(str, range(100))}
            (wrong, key), *others = keys.items()
            await client.set(key, "text")
            monkeypatch.setattr(recorder, "_async_metrics_collector", Collector())
            pipe = client.pipeline()
            for each in keys.values():
                pipe.get(each)
            await pipe.incr(key).execute(raise_on_error=False)
            monkeypatch.undo()
            await client.delete(key)
            assert {facts["command_name"] for facts in told} == {"PIPELINE"}
            errors = {facts["server_port"]: facts["error_type"] for facts in told}
            assert len(told) == len(errors) == len(keys)
            assert isinstance(errors.pop(wrong), redis.ResponseError)
            assert errors == {port: None for port, _ in others}

    run(main)
