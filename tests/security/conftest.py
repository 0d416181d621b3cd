"""Clusters with TLS and users, whatever the rest of the run is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from slotwise.local import LocalCluster, ServerBinary

MakeCluster = Callable[[], AbstractContextManager[LocalCluster]]


@pytest.fixture(scope="session")
def make_cluster(server: ServerBinary) -> MakeCluster:
    """Three primaries with a replica each; the user "operator" is for the test's own calls."""

    @contextmanager
    def make() -> Iterator[LocalCluster]:
        with LocalCluster(
            3, 1, server=server.command, tls=True, username="operator", password="own"
        ) as cluster:
            yield cluster

    if not server.has_tls:
        pytest.skip(f"{server.name} {server.version} was built without TLS")
    return make


@pytest.fixture(scope="module")
def secure(make_cluster: MakeCluster) -> Iterator[LocalCluster]:
    """One such cluster for all tests of a file."""
    with make_cluster() as cluster:
        yield cluster
