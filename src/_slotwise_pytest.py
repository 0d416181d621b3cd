"""The pytest plugin of slotwise: the fixtures `redis_cluster`, `scripted_cluster` and `chaos`.

It lies outside of the package, and imports of it where a fixture is used: importing anything of slotwise imports the
client, and every run of pytest imports the plugins that are installed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from slotwise.local import LocalCluster
    from slotwise.testing import Chaos, ScriptedCluster

OPTION = "slotwise_server"
# How long a silent node counts as alive, where tests wait for that.
CHAOS_NODE_TIMEOUT_MS = 1000


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "Redis or Valkey server of the fixtures redis_cluster and chaos: a path, or a command that becomes it by exec"
    parser.getgroup("slotwise").addoption("--slotwise-server", dest=OPTION, metavar="COMMAND", help=what)
    parser.addini(OPTION, what)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "scripted_cluster(primaries=3, ...): arguments of slotwise.testing.ScriptedCluster for the fixture of that name",
    )


def _start(config: pytest.Config, node_timeout_ms: int) -> LocalCluster:
    """A cluster that is ready; skips the test when nobody named a server and there is none."""
    from slotwise.local import LocalCluster, ServerNotFoundError
    from slotwise.local.binary import ENVIRONMENT_VARIABLE

    named = config.getoption(OPTION) or config.getini(OPTION)
    try:
        cluster = LocalCluster(3, 1, server=shlex.split(named) or None, node_timeout_ms=node_timeout_ms)
    except ServerNotFoundError as error:
        if named or ENVIRONMENT_VARIABLE in os.environ:
            raise
        pytest.skip(str(error))
    return cluster


@pytest.fixture(scope="session")
def redis_cluster(pytestconfig: pytest.Config) -> Iterator[LocalCluster]:
    """A real cluster of three primaries with a replica each, on free ports of 127.0.0.1; shared by the whole run.

    Its keys are left alone between tests. Tests that change its nodes take `chaos`.
    """
    with _start(pytestconfig, 2000) as cluster:
        yield cluster


@pytest.fixture
def scripted_cluster(request: pytest.FixtureRequest) -> Iterator[ScriptedCluster]:
    """Three nodes that say what the test wants them to say; fails the test when the dialogue went another way.

    The marker of the same name takes other arguments: ``@pytest.mark.scripted_cluster(primaries=2, store=True)``.
    """
    from slotwise.testing import ScriptedCluster

    marker = request.node.get_closest_marker("scripted_cluster")
    arguments = {"primaries": 3, **(marker.kwargs if marker else {})}
    with ScriptedCluster(**arguments) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _chaos(pytestconfig: pytest.Config) -> Iterator[Chaos]:
    from slotwise.testing import Chaos
    from slotwise.testing.chaos import can_be_proxied

    with (
        _start(pytestconfig, CHAOS_NODE_TIMEOUT_MS) as cluster,
        Chaos(cluster, proxied=can_be_proxied(cluster.binary)) as chaos,
    ):
        yield chaos


@pytest.fixture
def chaos(_chaos: Chaos) -> Iterator[Chaos]:
    """Faults in a real cluster of its own, three primaries with a replica each; healed and emptied after each test.

    Before Redis 7 it does without relays, and so without faults of the network.
    """
    yield _chaos
    _chaos.heal()
    for node in _chaos.primaries:
        node.call("FLUSHALL")
