"""A client of asyncio in the hands of blocking code."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any


class InLoop:
    """A client in an event loop of its own, which runs only during `run`: so clients can take turns.

    What `connecting` returns is entered in the loop, and left in `close`. Raises what it raises.
    """

    def __init__(
        self,
        connecting: Callable[[], AbstractAsyncContextManager[Any]],
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._loop = new_loop()
        self._closing = self._loop.create_future()
        opened = self._loop.create_future()
        self._life = self._loop.create_task(self._live(connecting, opened))
        self.run(asyncio.wait([self._life, opened], return_when=asyncio.FIRST_COMPLETED))
        if self._life.done():
            self.close()
        self.client: Any = opened.result()

    async def _live(
        self, connecting: Callable[[], AbstractAsyncContextManager[Any]], opened: "asyncio.Future[Any]"
    ) -> None:
        # One task from end to end: clients with task groups inside must be left by the task that entered them.
        async with connecting() as client:
            opened.set_result(client)
            await self._closing

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Runs the loop until `main` is done, and returns its result."""
        return self._loop.run_until_complete(main)

    def close(self) -> None:
        """Ends what an interrupted `run` left, then the client and the loop."""
        left = asyncio.all_tasks(self._loop) - {self._life}
        for task in left:
            task.cancel()
        self._closing.set_result(None)
        try:
            self.run(asyncio.wait([self._life, *left]))
            self._life.result()
        finally:
            self._loop.close()
