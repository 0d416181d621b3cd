"""What is sent again, how long, and how much of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from slotwise import RedisCluster
from slotwise.errors import UnknownOutcomeError
from slotwise.routing.retry import RetryBudget
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode
from tests.sync.conftest import MakeClient


def test_writes_are_repeated_for_who_asks_for_that(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, retry_writes="always")
    for calls in (lambda: client.incr("a"), lambda: client.pipeline().incr("a").execute()[0]):
        node.expect("INCRBY", "a").close()
        node.expect("INCRBY", "a").reply(2)
        assert calls() == 2


def test_a_write_that_was_repeated_in_vain_is_unknown(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, retry_writes="always", retry=Retry(NoBackoff(), 2))
    node.expect("INCRBY", "a").often().close()
    with pytest.raises(UnknownOutcomeError):
        client.incr("a")
    assert node.count("INCRBY") == 3


UNBLOCKED = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"


def test_a_wait_that_a_failover_ended_begins_anew(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    for command, reply in (("BLPOP", [b"q", b"v"]), ("XREAD", {b"s": []})):
        for _ in range(2):
            node.expect(command).error(UNBLOCKED)
            node.expect(command).reply(reply)
    client = make_client(scripted, retry=Retry(NoBackoff(), 3))
    assert client.blpop("q", 1) == client.pipeline().blpop("q", 1).execute()[0] == (b"q", b"v")
    assert client.xread({"s": "$"}, block=1) == client.pipeline().xread({"s": "$"}, block=1).execute()[0]


def test_a_wait_begins_anew_only_so_often(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    node.expect("BLPOP").often().error(UNBLOCKED)
    client = make_client(scripted, retry=Retry(NoBackoff(), 2))
    for call in (client.blpop, lambda *args: client.pipeline().blpop(*args).execute()):
        with pytest.raises(redis.ResponseError, match="UNBLOCKED"):
            call("q", 1)
    assert node.count("BLPOP") == 6


def test_a_wait_that_somebody_ended_does_not_begin_anew(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    node.expect("BLPOP").error("UNBLOCKED client unblocked via CLIENT UNBLOCK")
    with pytest.raises(redis.ResponseError, match="CLIENT UNBLOCK"):
        make_client(scripted).blpop("q", 1)
    assert node.count("BLPOP") == 1


def test_what_may_have_begun_to_write_is_not_repeated(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """Commands of modules are sent away as well while another thread of the server executes them."""
    node.expect("FCALL").often().error(UNBLOCKED)
    client = make_client(scripted)
    for call in (client.fcall, lambda *args: client.pipeline().fcall(*args).execute()):
        with pytest.raises(redis.ResponseError, match="UNBLOCKED"):
            call("f", 1, "a")
    assert node.count("FCALL") == 2


@pytest.mark.parametrize("batch", [False, True], ids=["call", "pipeline"])
def test_no_try_begins_after_the_retry_timeout(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient, batch: bool
) -> None:
    client = make_client(scripted, retry=Retry(ConstantBackoff(10), 5), retry_timeout=9.0)
    node.expect("GET", "a").close()
    began = time.monotonic()
    with pytest.raises(redis.ConnectionError):
        client.pipeline().get("a").execute() if batch else client.get("a")
    assert node.count("GET") == 1
    assert time.monotonic() - began < 9, "nor is a pause made that leaves no time"


def test_repetitions_are_a_share_of_all_calls(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    """A node that answers nobody is not asked six times as often as one that is well."""
    client = make_client(scripted, retry=Retry(NoBackoff(), 5), topology_refresh_min_interval=0.001)
    node.expect("GET", "a").often().close()
    began = time.monotonic()
    client._dispatcher._budget = RetryBudget(began, share=0.1, per_second=10)
    calls = 300
    for _ in range(calls):
        with pytest.raises(redis.ConnectionError):
            client.get("a")
    seconds = time.monotonic() - began
    # Once for the connection; then a tenth, ten a second, and a hundred to begin with.
    allowed = calls + calls / 10 + 10 * seconds + 100
    assert calls < node.count("GET") <= calls + allowed


@pytest.mark.parametrize(
    "options", [{"retry_writes": "never"}, {"retry_timeout": 0}, {"retry_timeout": "soon"}], ids=str
)
def test_options_that_make_no_sense(scripted: ScriptedCluster, options: dict[str, Any]) -> None:
    with pytest.raises(redis.DataError, match=next(iter(options))):
        RedisCluster.from_url(scripted.url, **options)


def test_set_retry(scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient) -> None:
    client = make_client(scripted)
    client.set_retry(Retry(NoBackoff(), 1))
    node.expect("GET", "a").often().close()
    with pytest.raises(redis.ConnectionError):
        client.get("a")
    assert node.count("GET") == 2


def test_set_retry_reaches_sessions(
    scripted: ScriptedCluster, node: ScriptedNode, make_client: MakeClient
) -> None:
    client = make_client(scripted, read_from_replicas=True)
    session = client.session()
    client.set_retry(Retry(NoBackoff(), 1))
    node.expect("GET", "a").often().close()
    with pytest.raises(redis.ConnectionError):
        session.get("a")
    assert node.count("GET") == 2
