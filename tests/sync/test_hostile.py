"""A node that sends what no node sends: its callers are told, its connection is closed, others notice nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from slotwise import RedisCluster
from slotwise.errors import ConnectionError, UnknownOutcomeError
from slotwise.testing import ScriptedCluster
from tests.sync.conftest import MakeClient

HOSTILE = {
    b"*2111123456\r\n": "announces more than 4294967296 bytes",
    b"$999999999999999999\r\n": "announces more than 4294967296 bytes",
    b"*1\r\n" * 300: "256 aggregates inside one another",
    b"$3\r\nabcde": "malformed",
    b"GET / HTTP/1.1\r\n": "malformed",
}


@pytest.fixture
def pair() -> Iterator[ScriptedCluster]:
    """Two primaries, the second of which serves key ``a``."""
    with ScriptedCluster(2, store=True) as cluster:
        yield cluster


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:12]))
def test_a_call_is_told(pair: ScriptedCluster, make_client: MakeClient, data: bytes) -> None:
    client = make_client(pair)
    client.set("b", "1")
    pair.nodes[1].expect("SET", "a", "1").send(data)
    with pytest.raises(UnknownOutcomeError, match=HOSTILE[data]):
        client.set("a", "1")
    assert client.get("b") == b"1"
    # Over another connection.
    assert client.set("a", "2")


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:12]))
def test_a_lane_and_a_pipeline_are_told(pair: ScriptedCluster, make_client: MakeClient, data: bytes) -> None:
    client = make_client(pair)
    pair.nodes[1].expect("BLPOP", "a", "1").send(data)
    with pytest.raises(ConnectionError, match=HOSTILE[data]):
        client.blpop("a", 1)
    pair.nodes[1].expect("SET", "a", "1").send(data)
    with client.pipeline() as pipeline:
        first, second = pipeline.set("a", "1").set("b", "1").execute(raise_on_error=False)
    assert isinstance(first, UnknownOutcomeError)
    assert second is True


def test_max_reply_size(pair: ScriptedCluster, make_client: MakeClient) -> None:
    client = make_client(pair, max_reply_size=70_000, cluster_error_retry_attempts=0)
    client.set("b", "x" * 60_000)
    client.set("a", "x" * 80_000)
    with pytest.raises(ConnectionError, match="more than 70000 bytes"):
        client.get("a")
    assert len(client.get("b")) == 60_000


@pytest.mark.parametrize("value", [0, 65_535, "much", None, True, 2**63])
def test_no_size(value: Any) -> None:
    with pytest.raises(redis.DataError, match="max_reply_size must be a number of bytes from 65536 on"):
        RedisCluster.from_url("redis://127.0.0.1:1", max_reply_size=value)
