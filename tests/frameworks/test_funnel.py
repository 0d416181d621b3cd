"""The ways in which libraries get between a caller and the server, and what they see there."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.cluster import ClusterNode, ClusterPipeline

import slotwise
from tests.frameworks import workload
from tests.frameworks.conftest import CLASSES, classes_restored, empty

Connect = Callable[..., Any]
Seen = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with classes_restored():
        yield


def shown(words: tuple[Any, ...]) -> tuple[Any, ...]:
    """A command's words, with text for bytes: which of both a method chooses is its own affair."""
    return tuple(word.decode("latin-1") if isinstance(word, bytes) else word for word in words)


def replaced_on_redis_py(seen: Seen, name: str = "execute_command") -> None:
    """As tracers do it: the class of redis-py, a function around the one that was there."""
    original = getattr(redis.RedisCluster, name)

    @functools.wraps(original)
    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(shown(args))
        return original(self, *args, **kwargs)

    setattr(redis.RedisCluster, name, traced)


def replaced_with_descriptor(seen: Seen) -> None:
    """As wrapt does it: an object of another type that binds itself."""

    class Wrapper:
        def __init__(self, wrapped: Any) -> None:
            self.wrapped = wrapped

        def __get__(self, instance: Any, owner: type) -> Any:
            bound = self.wrapped.__get__(instance, owner)

            def traced(*args: Any, **kwargs: Any) -> Any:
                seen.append(shown(args))
                return bound(*args, **kwargs)

            return traced

    redis.RedisCluster.execute_command = Wrapper(vars(redis.RedisCluster)["execute_command"])  # type: ignore[method-assign,assignment]


def overridden(kind: Any, seen: Seen) -> type:
    """A subclass that calls super."""

    class Traced(kind):
        def execute_command(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(shown(args))
            return super().execute_command(*args, **kwargs)

    return Traced


def overridden_for_each_node(kind: Any, seen: Seen) -> type:
    """A subclass that is told the node as well."""

    class Traced(kind):
        def _execute_command(self, target_node: Any, *args: Any, **kwargs: Any) -> Any:
            assert isinstance(target_node, ClusterNode)
            seen.append((target_node.name, *shown(args)))
            return super()._execute_command(target_node, *args, **kwargs)

    return Traced


# -- the class replaced ------------------------------------------------------------------------


@pytest.mark.parametrize("replace", [replaced_on_redis_py, replaced_with_descriptor])
@pytest.mark.parametrize("work", workload.ALL)
def test_replaced_on_the_class_it_sees_what_it_sees_of_redis_py(
    replace: Callable[[Seen], None], work: Callable[[Any], None], connect: Connect, reader: redis.RedisCluster
) -> None:
    clients = [connect(redis.RedisCluster), connect(slotwise.RedisCluster)]
    calls = []
    for client in clients:
        empty(reader)
        seen: Seen = []
        with classes_restored():
            replace(seen)
            work(client)
        calls.append(seen)

    assert calls[1] == calls[0]


def test_shortcuts_are_seen_by_name_and_arguments(client: Any) -> None:
    seen: Seen = []
    replaced_on_redis_py(seen)

    assert client.set("key", "value") is True
    assert client.get("key") == b"value"
    assert client.incr("number") == 1
    assert client.hset("hash", "field", 1) == 1

    assert seen == [
        ("SET", "key", "value"),
        ("GET", "key"),
        ("INCRBY", "number", 1),
        ("HSET", "hash", "field", 1),
    ]


def test_a_replacement_may_change_arguments_and_replies(client: Any, reader: redis.RedisCluster) -> None:
    original = redis.RedisCluster.execute_command

    def prefixed(self: Any, name: str, key: str, *args: Any, **kwargs: Any) -> Any:
        return ("seen", original(self, name, "prefix:" + key, *args, **kwargs))

    redis.RedisCluster.execute_command = prefixed  # type: ignore[method-assign,assignment]
    answers = client.set("key", "value"), client.get("key")
    redis.RedisCluster.execute_command = original  # type: ignore[method-assign]

    assert answers == (("seen", True), ("seen", b"value"))
    assert reader.get("prefix:key") == b"value"
    assert reader.get("key") is None


def test_a_replacement_may_refuse(client: Any) -> None:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(args[0])

    redis.RedisCluster.execute_command = refuse  # type: ignore[method-assign,assignment]

    with pytest.raises(PermissionError, match="GET"):
        client.get("key")


def test_once_put_back_nothing_more_is_seen(client: Any) -> None:
    seen: Seen = []
    with classes_restored():
        replaced_on_redis_py(seen)
        client.get("during")

    client.get("after")
    client.set("after", 1)

    assert seen == [("GET", "during")]


def test_slotwise_own_class_can_be_replaced_as_well(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who patches the class he imported, as sentry's helper for custom clients does."""
    seen: Seen = []
    client = connect(slotwise.RedisCluster)
    original = slotwise.RedisCluster.execute_command

    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(shown(args))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(slotwise.RedisCluster, "execute_command", traced)

    client.set("key", 1)
    client.get("key")

    assert seen == [("SET", "key", 1), ("GET", "key")]


# -- the class derived from --------------------------------------------------------------------


@pytest.mark.parametrize("derive", [overridden, overridden_for_each_node])
@pytest.mark.parametrize("work", workload.ALL)
def test_overridden_it_sees_what_it_sees_of_redis_py(
    derive: Callable[[type, Seen], type],
    work: Callable[[Any], None],
    connect: Connect,
    reader: redis.RedisCluster,
) -> None:
    calls = []
    for kind in (redis.RedisCluster, slotwise.RedisCluster):
        empty(reader)
        seen: Seen = []
        client = connect(derive(kind, seen))
        del seen[:]
        work(client)
        calls.append(seen)

    expected, got = calls
    assert [call for call in got if "SCAN" not in call] == [call for call in expected if "SCAN" not in call]
    assert sorted(map(repr, got)) == sorted(map(repr, expected))


def test_an_override_of_one_node_may_replace_the_reply(client_class: Any, connect: Connect) -> None:
    class Loud(client_class):
        def _execute_command(self, target_node: Any, *args: Any, **kwargs: Any) -> Any:
            reply = super()._execute_command(target_node, *args, **kwargs)
            return ("loud", reply) if args[0] in ("GET", "SET") else reply

    client = connect(Loud)

    assert client.set("key", "value") == ("loud", True)
    assert client.get("key") == ("loud", b"value")


def test_an_override_and_a_replacement_both_see(client_class: Any, connect: Connect) -> None:
    outer: Seen = []
    inner: Seen = []
    client = connect(overridden(client_class, outer))
    del outer[:]
    replaced_on_redis_py(inner)

    client.get("key")

    assert outer == inner == [("GET", "key")]


# -- one client --------------------------------------------------------------------------------


def test_replaced_on_one_client(client: Any) -> None:
    seen: Seen = []
    original = client.execute_command

    def traced(*args: Any, **kwargs: Any) -> Any:
        seen.append(shown(args))
        return original(*args, **kwargs)

    client.execute_command = traced
    client.set("key", "value")
    client.get("key")
    client.mget("{t}a", "{t}b")
    del client.execute_command
    client.get("unseen")

    assert seen == [("SET", "key", "value"), ("GET", "key"), ("MGET", "{t}a", "{t}b")]


def test_replaced_on_one_client_others_are_not_seen(client_class: type, connect: Connect) -> None:
    seen: Seen = []
    one, other = connect(client_class), connect(client_class)
    original = one.execute_command
    one.execute_command = lambda *args, **kwargs: seen.append(args) or original(*args, **kwargs)

    one.get("key")
    other.get("key")

    assert seen == [("GET", "key")]


# -- pipelines ---------------------------------------------------------------------------------


def test_patched_pipelines_are_seen_with_their_commands(client: Any) -> None:
    """What tracers read of a pipeline before it is executed."""
    seen: list[Any] = []
    original = ClusterPipeline.execute

    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        queue = self._execution_strategy.command_queue
        seen.append(
            {
                "commands": [command.args for command in queue],
                "positions": [command.position for command in queue],
                "length": len(self),
                "old stack": type(self.command_stack),
                "address": self.get_default_node().host,
                "pool": hasattr(self, "connection_pool"),
                "class": isinstance(self, ClusterPipeline) and isinstance(self, redis.RedisCluster),
            }
        )
        return original(self, *args, **kwargs)

    ClusterPipeline.execute = traced  # type: ignore[method-assign]
    replies = client.pipeline().set("one", 1).get("one").hset("two", mapping={"a": 1}).execute()

    assert replies == [True, b"1", 1]
    assert seen == [
        {
            "commands": [("SET", "one", 1), ("GET", "one"), ("HSET", "two", "a", 1)],
            "positions": [0, 1, 2],
            "length": 3,
            "old stack": list,
            "address": "127.0.0.1",
            "pool": False,
            "class": True,
        }
    ]


@pytest.mark.parametrize("work", workload.ALL)
def test_patched_pipelines_are_seen_as_those_of_redis_py(
    work: Callable[[Any], None], connect: Connect, reader: redis.RedisCluster
) -> None:
    calls = []
    for kind in (redis.RedisCluster, slotwise.RedisCluster):
        empty(reader)
        client = connect(kind)
        seen: Seen = []
        with classes_restored():
            original = ClusterPipeline.execute

            def traced(
                self: Any, *args: Any, seen: Seen = seen, original: Any = original, **kwargs: Any
            ) -> Any:
                seen.append(tuple(shown(command.args) for command in self._execution_strategy.command_queue))
                return original(self, *args, **kwargs)

            ClusterPipeline.execute = traced  # type: ignore[method-assign]
            work(client)
        calls.append(seen)

    assert calls[1] == calls[0]


def test_commands_of_a_pipeline_pass_its_execute_command(client: Any) -> None:
    seen: Seen = []
    original = ClusterPipeline.execute_command

    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        return original(self, *args, **kwargs)

    ClusterPipeline.execute_command = traced  # type: ignore[method-assign]

    assert client.pipeline().set("one", 1).get("one").execute() == [True, b"1"]
    assert seen == [("SET", "one", 1), ("GET", "one")]


def test_commands_of_a_pipeline_are_not_seen_by_a_replaced_execute_command(client: Any) -> None:
    seen: Seen = []
    replaced_on_redis_py(seen)

    client.pipeline().set("one", 1).get("one").execute()

    assert seen == []


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_of_a_pipeline_leaves_through_the_patch(kind: type, connect: Connect) -> None:
    client = connect(kind)
    errors = []
    original = ClusterPipeline.execute

    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except redis.RedisError as error:
            errors.append(str(error))
            raise

    ClusterPipeline.execute = traced  # type: ignore[method-assign]
    with pytest.raises(redis.ResponseError):
        client.pipeline().set("one", "text").incr("one").execute()

    [message] = errors
    assert message.startswith("Command # 2 (INCRBY")
