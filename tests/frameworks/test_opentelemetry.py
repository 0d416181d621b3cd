"""opentelemetry-instrumentation-redis, with an exporter in memory."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

import slotwise
import slotwise.asyncio
from slotwise.local import LocalCluster
from tests.asyncio.loops import run
from tests.frameworks import workload, workload_asyncio
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
            seen = spans.of(lambda: client.get("later"))
        finally:
            instrumentor.uninstrument()

    assert [span.name for span in seen] == ["GET"]
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


# -- asyncio -------------------------------------------------------------------------------------------------------------


def traced(
    spans: Spans, cluster: LocalCluster, kind: Any, work: Callable[[Any], Awaitable[object]]
) -> list[ReadableSpan]:
    """The spans of ``work`` with a client of class ``kind``, which knows the cluster by then."""
    seen: list[ReadableSpan] = []

    async def main() -> None:
        async with kind.from_url(cluster.url) as client:
            await client.get("connected")
            spans._exporter.clear()
            await work(client)
            seen.extend(spans._exporter.get_finished_spans())

    run(main)
    return seen


@pytest.mark.parametrize("work", workload_asyncio.ALL)
def test_async_spans_equal_redis_py(
    work: Callable[[Any], Awaitable[None]],
    instrumented: Spans,
    cluster: LocalCluster,
    reader: redis.RedisCluster,
) -> None:
    expected = facts(traced(instrumented, cluster, redis.asyncio.RedisCluster, work))
    empty(reader)

    got = facts(traced(instrumented, cluster, slotwise.asyncio.RedisCluster, work))

    if work is workload_asyncio.together:
        # Tasks end in the order of their replies.
        expected.sort(key=str)
        got.sort(key=str)
    assert [name for name, *_ in got] == [name for name, *_ in expected]
    assert got == expected


def test_async_spans_one_for_each(
    instrumented: Spans, cluster: LocalCluster, async_class: Any, reader: redis.RedisCluster
) -> None:
    async def work(client: Any) -> None:
        await asyncio.gather(*(client.set(f"one:{number}", number) for number in range(100)))
        await client.pipeline().set("two", 1).get("two").incr("three").execute()

    *single, pipeline = traced(instrumented, cluster, async_class, work)

    assert [span.name for span in single] == ["SET"] * 100
    assert {span.attributes["db.statement"] for span in single if span.attributes} == {"SET ? ?"}
    assert pipeline.name == "SET GET INCRBY"
    assert pipeline.attributes is not None
    assert pipeline.attributes["db.statement"] == "SET ? ?\nGET ?\nINCRBY ? ?"
    assert pipeline.attributes["db.redis.pipeline_length"] == 3
    assert [reader.get(f"one:{number}") for number in range(100)] == [b"%d" % n for n in range(100)]


def test_async_spans_belong_to_their_callers(
    instrumented: Spans, cluster: LocalCluster, async_class: Any, reader: redis.RedisCluster
) -> None:
    """Commands of several tasks leave in one write; each span has its own task's as its parent."""
    tracer = instrumented.provider.get_tracer("test")

    async def task(client: Any, number: int) -> None:
        with tracer.start_as_current_span(f"task {number}"):
            await client.set(f"key:{number}", number)
            await client.get(f"key:{number}")

    async def work(client: Any) -> None:
        await asyncio.gather(*(task(client, number) for number in range(20)))

    spans = traced(instrumented, cluster, async_class, work)
    parents = {span.context.span_id: span.name for span in spans if span.name.startswith("task")}
    found = sorted((parents[span.parent.span_id], span.name) for span in spans if span.parent is not None)
    assert found == sorted((f"task {number}", name) for number in range(20) for name in ("SET", "GET"))


def test_async_client_made_before_is_traced_as_well(
    spans: Spans, cluster: LocalCluster, async_class: Any
) -> None:
    async def main() -> None:
        async with async_class.from_url(cluster.url) as client:
            await client.get("warm")
            with classes_restored():
                instrumentor = RedisInstrumentor()
                instrumentor.instrument(tracer_provider=spans.provider)
                try:
                    await client.get("later")
                finally:
                    instrumentor.uninstrument()
            await client.get("after")

    assert [span.name for span in spans.of(lambda: run(main))] == ["GET"]


def test_async_only_one_client_instrumented(spans: Spans, cluster: LocalCluster, async_class: Any) -> None:
    async def main() -> None:
        async with async_class.from_url(cluster.url) as client, async_class.from_url(cluster.url) as other:
            RedisInstrumentor.instrument_client(client, tracer_provider=spans.provider)
            for one in (client, other):
                await one.set("key", 1)
                await one.get("key")
                await one.pipeline().get("key").incr("key").execute()

    assert [span.name for span in spans.of(lambda: run(main))] == ["SET", "GET", "GET INCRBY"]


def test_async_error_marks_its_span(instrumented: Spans, cluster: LocalCluster, async_class: Any) -> None:
    async def work(client: Any) -> None:
        await client.set("text", "value")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            await client.incr("text")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            await client.pipeline().get("text").incr("text").execute()

    ok, command, pipeline = traced(instrumented, cluster, async_class, work)

    assert [span.status.status_code.name for span in (ok, command, pipeline)] == ["UNSET", "ERROR", "ERROR"]
    assert [event.name for event in command.events] == ["exception"]


def test_async_hooks_see_arguments_and_replies(
    spans: Spans, cluster: LocalCluster, async_class: Any, reader: redis.RedisCluster
) -> None:
    requests: list[Any] = []
    replies: list[Any] = []

    async def work(client: Any) -> None:
        requests.clear()
        replies.clear()
        await client.set("hooked", "value")
        await client.get("hooked")

    with classes_restored():
        instrumentor = RedisInstrumentor()
        instrumentor.instrument(
            tracer_provider=spans.provider,
            request_hook=lambda span, instance, args, kwargs: requests.append((type(instance), args)),
            response_hook=lambda span, instance, response: replies.append(response),
        )
        try:
            traced(spans, cluster, async_class, work)
        finally:
            instrumentor.uninstrument()

    assert requests == [(async_class, ("SET", "hooked", "value")), (async_class, ("GET", "hooked"))]
    assert replies == [True, b"value"]
