"""Names, signatures and what is awaitable: slotwise's clients against redis-py's, and against each other."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster

import slotwise
import slotwise.asyncio
import slotwise.sync.pipeline
from slotwise.asyncio.pipeline import ClusterPipeline

PAIRS = [
    pytest.param(slotwise.asyncio.RedisCluster, redis.asyncio.RedisCluster, id="asyncio client"),
    pytest.param(ClusterPipeline, redis.asyncio.cluster.ClusterPipeline, id="asyncio pipeline"),
    pytest.param(slotwise.RedisCluster, redis.RedisCluster, id="sync client"),
    pytest.param(slotwise.sync.pipeline.ClusterPipeline, redis.cluster.ClusterPipeline, id="sync pipeline"),
]

#: Public names of slotwise's own that one of its two clients has alone, and why.
ONLY_SYNC = {
    "commands_parser": "an attribute of redis-py's sync objects, which slotwise makes when somebody wants it",
    "parent_execute_command": "what redis-py's sync pipelines call the client's funnel",
}


def _public(owner: type) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_name_of_redis_py(ours: type, theirs: type) -> None:
    assert _public(theirs) - _public(ours) == set()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_what_redis_py_accepts_is_accepted(ours: type, theirs: type) -> None:
    """Parameters by name, place and default; a ``*args`` or ``**kwargs`` of ours takes the rest."""
    differing = []
    for name in sorted(_public(theirs)):
        mine, original = getattr(ours, name), getattr(theirs, name)
        if mine is original or not (inspect.isroutine(mine) and inspect.isroutine(original)):
            continue
        if not _accepts(inspect.signature(mine), inspect.signature(original)):
            differing.append(name)
    assert differing == []


def _accepts(mine: inspect.Signature, original: inspect.Signature) -> bool:
    kinds = {parameter.kind for parameter in mine.parameters.values()}
    places = [p for p in mine.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for index, (name, parameter) in enumerate(original.parameters.items()):
        if name in mine.parameters:
            default = mine.parameters[name].default
            if parameter.default is not inspect.Parameter.empty and default is inspect.Parameter.empty:
                return False
            continue
        if (
            parameter.kind is inspect.Parameter.VAR_KEYWORD
            or parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ):
            accepted = inspect.Parameter.VAR_KEYWORD in kinds
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            accepted = inspect.Parameter.VAR_POSITIONAL in kinds
        else:
            accepted = inspect.Parameter.VAR_POSITIONAL in kinds or (
                index < len(places) and parameter.name.startswith("_")
            )
        if not accepted:
            return False
    return True


def test_constructor_shows_every_option() -> None:
    """litellm reads the options that it may pass from here."""
    ours = list(inspect.signature(slotwise.asyncio.RedisCluster.__init__).parameters.values())
    theirs = list(inspect.signature(redis.asyncio.RedisCluster.__init__).parameters.values())
    own = ours[len(theirs) :]
    assert [p.replace(annotation=Any) for p in ours[: len(theirs)]] == [
        p.replace(annotation=Any) for p in theirs
    ]
    assert {p.name: p.default for p in own} == {
        "cache": None,
        "cache_config": None,
        "connections_per_node": 1,
        "topology_refresh_interval": 60.0,
        "topology_refresh_min_interval": 1.0,
        "topology_refresh_timeout": 2.0,
        "retry_writes": "safe",
        "retry_timeout": None,
        "max_reply_size": 2**32,
    }
    assert inspect.signature(slotwise.asyncio.RedisCluster).parameters["startup_nodes"].default is None


def test_sync_and_asyncio_differ_where_redis_py_does() -> None:
    """A name of redis-py's that one of slotwise's two clients has alone, redis-py has alone as well."""
    sync, asyncio = _public(slotwise.RedisCluster), _public(slotwise.asyncio.RedisCluster)
    theirs = _public(redis.RedisCluster) | _public(redis.asyncio.RedisCluster)
    alone = _public(redis.RedisCluster) ^ _public(redis.asyncio.RedisCluster)
    assert (sync ^ asyncio) & theirs <= alone
    assert sync - theirs - asyncio == ONLY_SYNC.keys() - theirs
    assert asyncio - theirs - sync == set()


@pytest.mark.parametrize(
    ("sync", "asyncio"),
    [
        (slotwise.connect, slotwise.asyncio.connect),
        (slotwise.RedisCluster.group_by_node, slotwise.asyncio.RedisCluster.group_by_node),
        (slotwise.RedisCluster.distribution, slotwise.asyncio.RedisCluster.distribution),
        (slotwise.RedisCluster.mget_nonatomic, slotwise.asyncio.RedisCluster.mget_nonatomic),
        (slotwise.RedisCluster.mset_nonatomic, slotwise.asyncio.RedisCluster.mset_nonatomic),
        (slotwise.RedisCluster.pipeline, slotwise.asyncio.RedisCluster.pipeline),
    ],
    ids=lambda function: function.__name__,
)
def test_own_functions_take_the_same(sync: Any, asyncio: Any) -> None:
    ours, twins = inspect.signature(sync).parameters, inspect.signature(asyncio).parameters
    assert [p.replace(annotation=Any) for p in ours.values()] == [
        p.replace(annotation=Any) for p in twins.values()
    ]


def test_own_functions_await_where_they_ask() -> None:
    assert inspect.iscoroutinefunction(slotwise.asyncio.connect)
    assert inspect.iscoroutinefunction(slotwise.asyncio.RedisCluster.distribution)
    assert not inspect.iscoroutinefunction(slotwise.asyncio.RedisCluster.group_by_node)


#: What a pipeline of redis-py's takes and then fails with when it is executed.
REFUSED_AT_ONCE = {
    "execute_command": "DataError",
    "psync": "CommandRefusedError",
    "sync": "CommandRefusedError",
}


def _made(kind: Any) -> Any:
    """A client that has not connected: what its methods give shows before anything is sent."""
    return kind(host="127.0.0.1", port=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Call to experimental:UserWarning")
@pytest.mark.parametrize(
    "of", [_made, lambda kind: _made(kind).pipeline()], ids=["asyncio client", "asyncio pipeline"]
)
def test_what_redis_py_makes_awaitable_is_awaitable(of: Callable[[Any], Any]) -> None:
    """Every public method, called with a string for each argument that it must have."""
    ours, theirs = of(slotwise.asyncio.RedisCluster), of(redis.asyncio.RedisCluster)
    results = {}
    for name in sorted(_public(type(theirs))):
        if inspect.isroutine(original := getattr(theirs, name)):
            results[name] = (_given(getattr(ours, name), original), _given(original, original))
    differing = {name: pair[0] for name, pair in results.items() if pair[0] != pair[1]}
    assert differing.items() <= REFUSED_AT_ONCE.items()
    assert sum(kind == "awaitable" for kind, _ in results.values()) > 100


def _given(method: Any, original: Any) -> str:
    """What ``method`` gives for the arguments that redis-py's ``original`` needs."""
    required = [
        "x"
        for parameter in inspect.signature(original).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    try:
        result = method(*required)
    except Exception as error:
        return type(error).__name__
    if inspect.iscoroutine(result):
        result.close()
        return "awaitable"
    if inspect.isawaitable(result):
        return "awaitable"
    return "async iterable" if hasattr(result, "__aiter__") else "value"


def test_execute_command_is_a_coroutine_function() -> None:
    assert inspect.iscoroutinefunction(slotwise.asyncio.RedisCluster.execute_command)
    assert slotwise.asyncio.RedisCluster.execute_command.__name__ == "execute_command"


def test_no_connection_pool() -> None:
    """ddtrace and Script take the cluster path only where it is missing."""
    assert not hasattr(slotwise.asyncio.RedisCluster, "connection_pool")
