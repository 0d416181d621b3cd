"""A client of asyncio in the hands of blocking code."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from slotwise.cli._in_loop import InLoop


class Diary:
    """A client that writes down what happens to it."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.tasks: set[object] = set()

    @asynccontextmanager
    async def connecting(self) -> AsyncIterator["Diary"]:
        self.entries.append("opened")
        self.tasks.add(asyncio.current_task())
        yield self
        self.tasks.add(asyncio.current_task())
        self.entries.append("closed")

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.entries.append("cancelled")


def test_life() -> None:
    diary = Diary()
    holder = InLoop(diary.connecting)
    assert holder.client is diary
    assert holder.run(asyncio.sleep(0, "result")) == "result"
    assert diary.entries == ["opened"]
    holder.close()
    assert diary.entries == ["opened", "closed"]
    assert len(diary.tasks) == 1


def test_what_an_interrupted_run_left_is_cancelled() -> None:
    diary = Diary()
    holder = InLoop(diary.connecting)

    async def interrupted() -> None:
        background.append(asyncio.create_task(diary.wait()))
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    background: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        holder.run(interrupted())
    holder.close()
    assert sorted(diary.entries) == ["cancelled", "closed", "opened"]


def test_a_failure_to_open_comes_out() -> None:
    @asynccontextmanager
    async def connecting() -> AsyncIterator[None]:
        raise ConnectionError("nobody there")
        yield

    with pytest.raises(ConnectionError, match="nobody there"):
        InLoop(connecting)
