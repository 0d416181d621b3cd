"""TCP keepalive is on for every connection, and half-open ones are found within the time-out."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slotwise import RedisCluster
from slotwise.errors import TimeoutError
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync.conftest import MakeClient

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="sockets are listed in /proc")

# Linux's, as /proc is.
IDLE, INTERVAL, COUNT = (getattr(socket, f"TCP_KEEP{name}", 0) for name in ("IDLE", "INTVL", "CNT"))


def sockets_to(node: ScriptedNode) -> Iterator[socket.socket]:
    """This process's connections to a node."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            # Closed meanwhile: at the latest the one by which the folder was read.
            continue
        with copy:
            try:
                to_node = copy.getpeername()[1] == node.port
            except (OSError, IndexError):
                continue
            if to_node:
                yield copy


def options_of(node: ScriptedNode) -> set[tuple[int, ...]]:
    """SO_KEEPALIVE and its numbers, of each connection."""
    return {
        (
            copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(copy.getsockopt(socket.IPPROTO_TCP, option) for option in (IDLE, INTERVAL, COUNT)),
        )
        for copy in sockets_to(node)
    }


def shared(client: RedisCluster) -> Any:
    return client.get("a")


def pipeline(client: RedisCluster) -> Any:
    return client.pipeline().get("a").execute()


def blocking(client: RedisCluster) -> Any:
    return client.blpop("a", timeout=0.1)


def use(node: ScriptedNode, client: RedisCluster) -> None:
    """A shared link, a lane, and a connection for pub/sub, which stay open."""
    node.expect("GET", "a").often().reply(b"1")
    shared(client)
    pipeline(client)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1, 30, 5, 3)),
        ({"socket_keepalive_options": {IDLE: 7, INTERVAL: 2, COUNT: 4}}, (1, 7, 2, 4)),
    ],
    ids=["default", "chosen"],
)
def test_keepalive_of_every_connection(
    options: dict[str, Any],
    expected: tuple[int, ...],
    scripted: ScriptedCluster,
    node: ScriptedNode,
    make_client: MakeClient,
) -> None:
    client = make_client(scripted, **options)
    use(node, client)
    node.expect("SUBSCRIBE")
    with client.pubsub() as pubsub:
        pubsub.subscribe("a")
        assert len(list(sockets_to(node))) >= 3
        # The node's own ends of the connections lead to other ports.
        assert options_of(node) == {expected}


def test_keepalive_can_be_turned_off(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    use(node, make_client(scripted, socket_keepalive=False))
    assert {values[0] for values in options_of(node)} == {0}


@pytest.mark.parametrize("work", [shared, pipeline, blocking], ids=lambda work: work.__name__)
def test_half_open_connection_is_left(
    work: Callable[[RedisCluster], Any],
    scripted: ScriptedCluster,
    node: ScriptedNode,
    make_client: MakeClient,
) -> None:
    """It costs one call the time-out, and a read not even its reply: another connection has it."""
    client = make_client(scripted, socket_timeout=0.3)
    node.expect("GET", "a").often().reply(b"1")
    node.expect("BLPOP", "a").often().reply([b"a", b"1"])
    expected = work(client)
    node.half_open()
    began = time.monotonic()
    if work is blocking:
        # It takes what it returns, so nobody repeats it.
        with pytest.raises(TimeoutError):
            work(client)
    assert work(client) == expected
    assert time.monotonic() - began < 5
