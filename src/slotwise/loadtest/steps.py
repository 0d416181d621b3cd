"""Operations of several commands, written once for threads and for asyncio.

Each is a generator: it yields a call and its arguments, and is sent the reply or thrown what the call has raised.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

Steps = Generator[tuple[Callable[..., Any], tuple[Any, ...]], Any, None]

# Keys of one index of the records that a scan goes through; a scan of the last keys of one is the shorter for it.
INDEXED = 1000


def index_of(prefix: str, number: int) -> str:
    """The key of the index that the record of that number is in."""
    return f"{prefix}i:{number // INDEXED:07}"


class _Reading:
    """What fails within has written nothing, whatever the exception says of its outcome."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            error.only_read = True  # type: ignore[attr-defined]


_READING = _Reading()


def cached(client: Any, key: str, value: bytes, ttl: int) -> Steps:
    """Cache-aside: the value that is there, else a new one is stored."""
    with _READING:
        found = yield client.get, (key,)
    if found is None:
        yield client.setex, (key, value, ttl)


def rmw(client: Any, key: str, fields: Mapping[str, bytes]) -> Steps:
    """YCSB's read-modify-write: reads a record, writes one of its fields."""
    with _READING:
        yield client.hgetall, (key,)
    yield client.hset, (key, fields)


def insert(client: Any, key: str, fields: Mapping[str, bytes], index: str, number: int) -> Steps:
    """A new record, which scans find from then on."""
    yield client.hset, (key, fields)
    yield client.zadd, (index, {key: number})


def scan(client: Any, index: str, first: int, count: int) -> Steps:
    """Up to ``count`` records from the number ``first`` on."""
    keys = yield client.zrangebyscore, (index, first, count)
    if keys:
        yield client.pipeline, ([("hgetall", (key,)) for key in keys],)


COMPOSED: Mapping[str, Callable[..., Steps]] = {"cached": cached, "rmw": rmw, "insert": insert, "scan": scan}


def blocking(steps: Callable[..., Steps], client: Any) -> Callable[..., None]:
    """The operation as a call of threads."""

    def call(*arguments: Any) -> None:
        going = steps(client, *arguments)
        try:
            step, of = next(going)
            while True:
                try:
                    reply = step(*of)
                except Exception as error:
                    going.throw(error)
                step, of = going.send(reply)
        except StopIteration:
            return

    return call


def awaited(steps: Callable[..., Steps], client: Any) -> Callable[..., Any]:
    """The operation as a call that is awaited."""

    async def call(*arguments: Any) -> None:
        going = steps(client, *arguments)
        try:
            step, of = next(going)
            while True:
                try:
                    reply = await step(*of)
                except Exception as error:
                    going.throw(error)
                step, of = going.send(reply)
        except StopIteration:
            return

    return call
