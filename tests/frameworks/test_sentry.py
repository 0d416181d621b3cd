"""sentry-sdk's redis integration, with a transport in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import slotwise
from tests.frameworks import workload
from tests.frameworks.conftest import classes_restored, empty

pytest.importorskip("sentry_sdk", reason="needs sentry-sdk")

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.redis import RedisIntegration
from sentry_sdk.transport import Transport

Connect = Callable[..., Any]


class Memory(Transport):
    """Keeps what would be sent."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.transactions: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_transaction_event()) is not None:
            self.transactions.append(event)

    def spans_of(self, work: Callable[[], object]) -> list[dict[str, Any]]:
        del self.transactions[:]
        with sentry_sdk.start_transaction(name="test"):
            work()
        sentry_sdk.flush()
        [transaction] = self.transactions
        return transaction["spans"]


@pytest.fixture(scope="module")
def memory() -> Iterator[Memory]:
    """The integration patches redis-py's classes once a process, so once for all tests here."""
    with classes_restored():
        memory = Memory()
        sentry_sdk.init(
            dsn="http://key@127.0.0.1:1/1",
            transport=memory,
            traces_sample_rate=1.0,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[RedisIntegration(cache_prefixes=["cache:"])],
            send_default_pii=True,
        )
        yield memory
        sentry_sdk.get_client().close()
        sentry_sdk.init()


def facts(spans: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What a span says, without its times, ids and the port of the default node.

    redis-py asks a server where the keys of some commands are; these spans are its own.
    """
    return [
        (
            span["op"],
            span["description"],
            span.get("status"),
            {name: value for name, value in span["tags"].items() if "port" not in name},
            {
                name: value
                for name, value in span["data"].items()
                if "thread" not in name and "port" not in name
            },
        )
        for span in spans
        if not span["description"].startswith("COMMAND GETKEYS")
    ]


@pytest.mark.parametrize("work", workload.ALL)
def test_spans_equal_redis_py(
    work: Callable[[Any], None], memory: Memory, connect: Connect, reader: redis.RedisCluster
) -> None:
    oracle, subject = connect(redis.RedisCluster), connect(slotwise.RedisCluster)
    expected = facts(memory.spans_of(lambda: work(oracle)))
    empty(reader)

    got = facts(memory.spans_of(lambda: work(subject)))

    assert [description for _, description, *_ in got] == [description for _, description, *_ in expected]
    assert got == expected


def test_span_of_a_command(memory: Memory, client: Any, reader: redis.RedisCluster) -> None:
    [span] = memory.spans_of(lambda: client.set("traced", "value"))

    assert (span["op"], span["description"]) == ("db.redis", "SET 'traced' 'value'")
    assert span["tags"]["redis.command"] == "SET"
    assert span["tags"]["redis.is_cluster"] in (True, "True", "true")
    assert span["data"]["server.address"] == "127.0.0.1"
    assert span["data"]["server.port"] == client.get_default_node().port
    assert reader.get("traced") == b"value"


def test_span_of_a_pipeline(memory: Memory, client: Any) -> None:
    [span] = memory.spans_of(lambda: client.pipeline().set("one", 1).get("two").execute())

    assert (span["op"], span["description"]) == ("db.redis", "redis.pipeline.execute")
    assert span["data"]["redis.commands"] == {"count": 2, "first_ten": ["SET 'one' 1", "GET 'two'"]}
    assert span["data"]["server.address"] == "127.0.0.1"


def test_span_of_a_cache_hit(memory: Memory, client: Any) -> None:
    client.set("cache:user", "value")

    cache, database = memory.spans_of(lambda: client.get("cache:user"))

    assert (cache["op"], cache["description"]) == ("cache.get", "cache:user")
    assert cache["data"]["cache.hit"] is True
    assert cache["data"]["cache.item_size"] == 5
    assert (database["op"], database["description"]) == ("db.redis", "GET 'cache:user'")


def test_breadcrumbs_of_an_error(memory: Memory, client: Any) -> None:
    client.set("text", "value")
    with sentry_sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("text")
        crumbs = list(scope._breadcrumbs)

    assert [crumb["message"] for crumb in crumbs] == ["INCRBY 'text' 1"]
