"""Operations of several commands: in order, on one reply after the other, and honest about what has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from slotwise.errors import ConnectionError
from slotwise.loadtest.steps import COMPOSED, awaited, blocking
from slotwise.loadtest.tally import outcome_is_unknown


class Diary:
    """A client that writes down its calls; replies and failures by name."""

    def __init__(self, replies: dict[str, Any], fails: str = "") -> None:
        self.calls: list[str] = []
        self._replies, self._fails = replies, fails

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name == self._fails:
                raise ConnectionError("lost")
            return self._replies.get(name)

        return call


class AwaitedDiary(Diary):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = super().__getattr__(name)

        async def later(*arguments: Any) -> Any:
            await asyncio.sleep(0)
            return call(*arguments)

        return later


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cached": ("key", b"value", 60),
    "rmw": ("key", {"field0": b"value"}),
    "insert": ("key", {"field0": b"value"}, "index", 7),
    "scan": ("index", 5, 10),
}


def done(kind: str, replies: dict[str, Any], fails: str = "", *, tasks: bool = False) -> list[str]:
    """The calls of an operation. Raises what it raises."""
    diary = (AwaitedDiary if tasks else Diary)(replies, fails)
    if tasks:
        asyncio.run(awaited(COMPOSED[kind], diary)(*ARGUMENTS[kind]))
    else:
        blocking(COMPOSED[kind], diary)(*ARGUMENTS[kind])
    return diary.calls


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize(
    ("kind", "replies", "calls"),
    [
        ("cached", {"get": b"there"}, ["get"]),
        ("cached", {"get": b""}, ["get"]),
        ("cached", {}, ["get", "setex"]),
        ("rmw", {}, ["hgetall", "hset"]),
        ("insert", {}, ["hset", "zadd"]),
        ("scan", {"zrangebyscore": [b"a"]}, ["zrangebyscore", "pipeline"]),
        ("scan", {"zrangebyscore": []}, ["zrangebyscore"]),
    ],
)
def test_calls(kind: str, replies: dict[str, Any], calls: list[str], tasks: bool) -> None:
    assert done(kind, replies, tasks=tasks) == calls


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize(
    ("kind", "fails", "unknown"),
    [
        # A read has written nothing; of a write nobody knows.
        ("cached", "get", False),
        ("cached", "setex", True),
        ("rmw", "hgetall", False),
        ("rmw", "hset", True),
        ("insert", "hset", True),
        ("insert", "zadd", True),
    ],
)
def test_failures(kind: str, fails: str, unknown: bool, tasks: bool) -> None:
    with pytest.raises(ConnectionError, match="lost") as caught:
        done(kind, {}, fails, tasks=tasks)
    assert outcome_is_unknown(caught.value) is unknown
