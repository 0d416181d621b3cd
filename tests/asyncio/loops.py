"""Runs a coroutine in an event loop of its own, and fails for what it left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Callable[..., Coroutine[Any, Any, T]], *args: Any, debug: bool | None = None) -> T:
    """The result of ``main(*args)``; no task may be left and nothing reported to the loop's exception handler."""

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        result = await main(*args)
        gc.collect()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left: {left}"
        assert not reported, f"reported to the loop: {reported}"
        return result

    return asyncio.run(guarded(), debug=debug)
