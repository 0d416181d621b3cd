"""fastapi-cache2: it asks isinstance whether its pipelines may be transactions."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from slotwise.local import LocalCluster
from tests.asyncio.loops import run

pytest.importorskip("fastapi_cache", reason="needs fastapi-cache2")

from fastapi import FastAPI
from fastapi_cache import FastAPICache
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.decorator import cache


@pytest.fixture(autouse=True)
def _reset(reader: redis.RedisCluster) -> Iterator[None]:
    yield
    FastAPICache.reset()


async def _get(app: FastAPI, path: str) -> tuple[dict[str, str], Any]:
    """A GET request by ASGI: the headers and the value of the response."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [],
        "app": app,
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert sent[0]["status"] == 200
    return headers, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def test_the_backend(async_class: Any, cluster: LocalCluster, reader: redis.RedisCluster) -> None:
    async def main() -> None:
        async with async_class.from_url(cluster.url) as client:
            backend = RedisBackend(client)
            assert backend.is_cluster
            await backend.set("name", b"value", expire=100)
            ttl, value = await backend.get_with_ttl("name")
            assert 0 < ttl <= 100
            assert value == await backend.get("name") == b"value"
            assert await backend.get_with_ttl("missing") == [-2, None]
            assert reader.get("name") == b"value"
            assert await backend.clear(key="name") == 1
            assert reader.exists("name") == 0

    run(main)


def test_responses_are_cached(async_class: Any, cluster: LocalCluster, reader: redis.RedisCluster) -> None:
    calls = []
    app = FastAPI()

    @app.get("/double/{number}")
    @cache(expire=100)
    async def double(number: int) -> dict[str, int]:
        calls.append(number)
        return {"double": number * 2}

    async def main() -> None:
        async with async_class.from_url(cluster.url) as client:
            FastAPICache.init(RedisBackend(client), prefix="web")
            answers = [await _get(app, f"/double/{number}") for number in (2, 2, 3, 2)]
        assert [value for _, value in answers] == [{"double": 4}, {"double": 4}, {"double": 6}, {"double": 4}]
        assert [headers["x-fastapi-cache"] for headers, _ in answers] == ["MISS", "HIT", "MISS", "HIT"]

    run(main)
    assert calls == [2, 3]
    stored = reader.keys("web:*", target_nodes="primaries")
    assert sorted(json.loads(reader.get(name))["double"] for name in stored) == [4, 6]
    assert all(0 < reader.ttl(name) <= 100 for name in stored)
