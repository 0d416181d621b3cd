"""A connection on which nothing comes any more while its node is well is left long before the time-out."""

from __future__ import annotations

import time

import pytest

from slotwise import key_slot
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.testing import Chaos
from slotwise.testing.chaos import can_be_proxied
from tests.sync.conftest import MakeClient
from tests.sync.threads import background

# Seconds: far more than any of it takes.
PATIENCE = 60


def test_a_half_open_link_is_left(faulty_cluster: LocalCluster, make_client: MakeClient) -> None:
    if not can_be_proxied(faulty_cluster.binary):
        pytest.skip("Redis 6.2 cannot announce another port while it runs")
    with Chaos(faulty_cluster) as chaos:
        client = make_client(faulty_cluster, socket_timeout=PATIENCE)
        assert client.set("a", 1)
        began = time.monotonic()
        chaos.freeze(chaos.owner_of("a"))
        read = background(client.get, "a")
        write = background(client.incr, "a")
        assert read.result(PATIENCE) == b"1", "over a new connection"
        with pytest.raises(UnknownOutcomeError):
            write.result(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        assert client.get("a") == b"1"
        client.close()


def test_a_node_that_is_paused_is_waited_for(faulty_cluster: LocalCluster, make_client: MakeClient) -> None:
    """It answers others, and owes the write."""
    client = make_client(faulty_cluster, socket_timeout=PATIENCE)
    assert client.set("a", 1)
    faulty_cluster.owner_of(key_slot("a")).call("CLIENT", "PAUSE", 3000, "WRITE")
    began = time.monotonic()
    assert client.incr("a") == 2
    assert time.monotonic() - began > 2
