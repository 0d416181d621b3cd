"""Stores of the tests, for threads and for asyncio alike: both are called without await."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest

import slotwise
import slotwise.asyncio
from slotwise.cli._in_loop import InLoop
from slotwise.consistency.store import AsyncVersionedStore, VersionedStore
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster

MakeStore = Callable[..., Any]


class Awaited:
    """An asyncio store whose methods are awaited for the caller."""

    def __init__(self, looped: InLoop, store: AsyncVersionedStore) -> None:
        self.looped = looped
        self.store = store

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.store, name)
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *args, **options: self.looped.run(value(*args, **options))


@pytest.fixture(params=["threads", "asyncio"])
def make_store(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[MakeStore]:
    """``make_store(cluster, client={...}, **options)``: a store, by default of the run's cluster and with all defaults.

    ``client`` has keywords of its client.
    """
    with ExitStack() as stack:

        def make(
            of: LocalCluster | ScriptedCluster = cluster, client: dict[str, Any] | None = None, **options: Any
        ) -> Any:
            if request.param == "threads":
                made = slotwise.RedisCluster.from_url(of.url, **(client or {}))
                stack.callback(made.close)
                return VersionedStore(made, **options)
            connecting = partial(slotwise.asyncio.RedisCluster.from_url, of.url, **(client or {}))
            looped = stack.enter_context(closing(InLoop(connecting)))
            return Awaited(looped, AsyncVersionedStore(looped.client, **options))

        yield make


@pytest.fixture
def raw(cluster: LocalCluster) -> Iterator[slotwise.RedisCluster]:
    """A client of the run's cluster, to look behind the store's back."""
    with slotwise.RedisCluster.from_url(cluster.url) as client:
        yield client


@pytest.fixture
def key() -> str:
    """A key of no other test."""
    return f"key:{secrets.token_hex(6)}"


@pytest.fixture
def keys() -> list[str]:
    """Some keys of no other test, all over the slots."""
    prefix = secrets.token_hex(6)
    return [f"{prefix}:{number}" for number in range(60)]
