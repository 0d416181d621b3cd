"""Names and signatures: slotwise's asyncio client against redis-py's, and against slotwise's own sync client."""

import inspect
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster

import slotwise
import slotwise.asyncio
from slotwise.asyncio.pipeline import ClusterPipeline

PAIRS = [
    (slotwise.asyncio.RedisCluster, redis.asyncio.RedisCluster),
    (ClusterPipeline, redis.asyncio.cluster.ClusterPipeline),
]


def _public(owner: type) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["client", "pipeline"])
def test_every_name_of_redis_py(ours: type, theirs: type) -> None:
    assert _public(theirs) - _public(ours) == set()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["client", "pipeline"])
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
    ours = inspect.signature(slotwise.asyncio.RedisCluster.__init__).parameters
    theirs = inspect.signature(redis.asyncio.RedisCluster.__init__).parameters
    assert [p.replace(annotation=Any) for p in ours.values()] == [
        p.replace(annotation=Any) for p in theirs.values()
    ]
    assert inspect.signature(slotwise.asyncio.RedisCluster).parameters["startup_nodes"].default is None


def test_sync_and_asyncio_differ_where_redis_py_does() -> None:
    """A name that one of slotwise's two clients has alone, redis-py has alone as well."""
    ours = _public(slotwise.RedisCluster) ^ _public(slotwise.asyncio.RedisCluster)
    theirs = _public(redis.RedisCluster) ^ _public(redis.asyncio.RedisCluster)
    # Distribution and grouping are slotwise's own.
    own = _public(slotwise.RedisCluster) - _public(redis.RedisCluster)
    assert ours - theirs - own == set()


def test_execute_command_is_a_coroutine_function() -> None:
    assert inspect.iscoroutinefunction(slotwise.asyncio.RedisCluster.execute_command)
    assert slotwise.asyncio.RedisCluster.execute_command.__name__ == "execute_command"


def test_no_connection_pool() -> None:
    """ddtrace and Script take the cluster path only where it is missing."""
    assert not hasattr(slotwise.asyncio.RedisCluster, "connection_pool")
