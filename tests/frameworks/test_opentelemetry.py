"""opentelemetry-instrumentation-redis, with an exporter in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import slotwise
from tests.frameworks import workload
from tests.frameworks.conftest import classes_restored, empty

pytest.importorskip("opentelemetry.instrumentation.redis", reason="needs opentelemetry-instrumentation-redis")

from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

Connect = Callable[..., Any]


class Spans:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def of(self, work: Callable[[], object]) -> list[ReadableSpan]:
        self._exporter.clear()
        work()
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


@pytest.fixture
def instrumented(spans: Spans) -> Iterator[Spans]:
    """All classes traced, as an application does at its start."""
    with classes_restored():
        instrumentor = RedisInstrumentor()
        instrumentor.instrument(tracer_provider=spans.provider)
        yield spans
        instrumentor.uninstrument()


def facts(spans: list[ReadableSpan]) -> list[tuple[Any, ...]]:
    """What a span says, without its times and ids.

    redis-py asks a server where the keys of some commands are; these spans are its own.
    """
    return [
        (
            span.name,
            span.kind.name,
            span.status.status_code.name,
            {name: value for name, value in (span.attributes or {}).items() if "port" not in name},
            [event.name for event in span.events],
        )
        for span in spans
        if span.name != "COMMAND GETKEYS"
    ]


@pytest.mark.parametrize("work", workload.ALL)
def test_spans_equal_redis_py(
    work: Callable[[Any], None], instrumented: Spans, connect: Connect, reader: redis.RedisCluster
) -> None:
    oracle, subject = connect(redis.RedisCluster), connect(slotwise.RedisCluster)
    expected = facts(instrumented.of(lambda: work(oracle)))
    empty(reader)

    got = facts(instrumented.of(lambda: work(subject)))

    assert [name for name, *_ in got] == [name for name, *_ in expected]
    assert got == expected


def test_span_of_a_command(instrumented: Spans, client: Any, reader: redis.RedisCluster) -> None:
    [span] = instrumented.of(lambda: client.set("traced", "value"))

    assert span.name == "SET"
    assert span.attributes is not None
    assert span.attributes["db.statement"] == "SET ? ?"
    assert span.attributes["db.redis.args_length"] == 3
    assert reader.get("traced") == b"value"


def test_span_of_a_pipeline(instrumented: Spans, client: Any) -> None:
    def work() -> None:
        client.pipeline().set("one", 1).get("two").incr("three").execute()

    [span] = instrumented.of(work)

    assert span.name == "SET GET INCRBY"
    assert span.attributes is not None
    assert span.attributes["db.statement"] == "SET ? ?\nGET ?\nINCRBY ? ?"
    assert span.attributes["db.redis.pipeline_length"] == 3


def test_an_error_marks_its_span(instrumented: Spans, client: Any) -> None:
    client.set("text", "value")

    def work() -> None:
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("text")

    [span] = instrumented.of(work)

    assert span.status.status_code.name == "ERROR"
    assert [event.name for event in span.events] == ["exception"]


def test_a_client_made_before_is_traced_as_well(spans: Spans, client: Any) -> None:
    client.get("warm")
    with classes_restored():
        instrumentor = RedisInstrumentor()
        instrumentor.instrument(tracer_provider=spans.provider)
        try:
            traced = spans.of(lambda: client.get("later"))
        finally:
            instrumentor.uninstrument()

    assert [span.name for span in traced] == ["GET"]
    assert spans.of(lambda: client.get("after")) == []


def test_only_one_client_instrumented(spans: Spans, client_class: type, connect: Connect) -> None:
    traced, other = connect(client_class), connect(client_class)
    RedisInstrumentor.instrument_client(traced, tracer_provider=spans.provider)

    seen = spans.of(lambda: [client.set("key", 1) and client.get("key") for client in (traced, other)])

    assert [span.name for span in seen] == ["SET", "GET"]


def test_hooks_see_arguments_and_replies(spans: Spans, client: Any) -> None:
    requests, replies = [], []
    with classes_restored():
        instrumentor = RedisInstrumentor()
        instrumentor.instrument(
            tracer_provider=spans.provider,
            request_hook=lambda span, instance, args, kwargs: requests.append((instance, args)),
            response_hook=lambda span, instance, response: replies.append(response),
        )
        try:
            client.set("hooked", "value")
            client.get("hooked")
        finally:
            instrumentor.uninstrument()

    assert requests == [(client, ("SET", "hooked", "value")), (client, ("GET", "hooked"))]
    assert replies == [True, b"value"]
