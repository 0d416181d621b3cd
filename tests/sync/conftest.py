"""Clients and scripted clusters of the tests of the client for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slotwise import RedisCluster
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode

MakeClient = Callable[..., RedisCluster]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """``make_client(cluster, **keywords)``: a client of a real or scripted cluster, closed after the test."""
    clients: list[RedisCluster] = []

    def make(cluster: LocalCluster | ScriptedCluster, **keywords: Any) -> RedisCluster:
        clients.append(RedisCluster.from_url(cluster.url, **keywords))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(cluster: LocalCluster, make_client: MakeClient) -> RedisCluster:
    """A client of the real cluster, with all defaults."""
    return make_client(cluster)


@pytest.fixture
def scripted() -> Iterator[ScriptedCluster]:
    """One scripted node that serves all slots."""
    with ScriptedCluster(1) as cluster:
        yield cluster


@pytest.fixture
def node(scripted: ScriptedCluster) -> ScriptedNode:
    """The node of ``scripted``."""
    return scripted.nodes[0]
