"""A node's connections under asyncio: one that all tasks share, and a bounded pool of others that one task owns.

redis-py's asyncio ``Connection`` opens each socket: TLS, HELLO, AUTH, credential providers, client name. The link then
takes its transport over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from slotwise._aiolink import AsyncEndpoint, AsyncLink
from slotwise.errors import ClosedClientError, ConnectionError, MaxConnectionsError, TimeoutError

# Seconds to wait for a connection of one's own; redis-py raises at once.
POOL_TIMEOUT = 20.0

CLOSED = "the client was closed"

OnPush = Callable[[list[Any]], None]


class AsyncNodePool:
    """The links of one node. At most ``max_connections`` beside the shared one; who needs another waits."""

    def __init__(
        self,
        node: ClusterNode,
        *,
        encoding: tuple[str, str] | None,
        on_push: OnPush | None,
        on_shared: Callable[[Any], Any] | None,
        pool_timeout: float = POOL_TIMEOUT,
    ) -> None:
        self.node = node
        self._encoding = encoding
        self._on_push = on_push
        self._on_shared = on_shared
        self._pool_timeout = pool_timeout
        self._lanes: list[AsyncLink] = []
        self._taken = 0
        self._waiters: deque[asyncio.Future[bool]] = deque()
        self._opening: asyncio.Task[AsyncLink] | None = None
        self._links: set[AsyncLink] = set()
        self._retired = False

    async def shared(self, endpoint: AsyncEndpoint) -> AsyncLink:
        """The node's open shared link. The first task opens it; the others wait for that, and its end ends none."""
        link = endpoint.link
        if link is not None and not link.retired:
            return link
        opening = self._opening
        if opening is None:
            opening = self._opening = asyncio.create_task(self._open_shared(endpoint))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():
                raise ClosedClientError(CLOSED) from None
            raise

    async def _open_shared(self, endpoint: AsyncEndpoint) -> AsyncLink:
        try:
            link = endpoint.link = await self.open(self._on_shared)
            return link
        finally:
            if self._opening is asyncio.current_task():
                self._opening = None

    async def open(self, prepare: Callable[[Any], Any] | None = None) -> AsyncLink:
        """A new link to the node."""
        kwargs = {
            **self.node.connection_kwargs,
            "retry": Retry(NoBackoff(), 0, supported_errors=(ConnectionError,)),
        }
        connection = self.node.connection_class(**kwargs)
        try:
            await connection.connect()
            if prepare is not None:
                await prepare(connection)
        except BaseException as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                error.sent = False  # type: ignore[union-attr]
            await connection.disconnect(nowait=True)
            raise
        reader: Any = connection._reader
        writer: Any = connection._writer
        # From here on the transport is the link's.
        connection._reader = connection._writer = None
        loop = asyncio.get_running_loop()
        # The writer lives as long as the link: it would close the transport.
        link = AsyncLink(
            (connection, writer),
            loop,
            writer.transport,
            connection.socket_timeout,
            self._encoding,
            self._on_push,
        )
        writer.transport.set_protocol(link)
        left = bytes(reader._buffer)
        if left:
            link.data_received(left)
        self._links = {known for known in self._links if not known.closed}
        self._links.add(link)
        return link

    async def take(self) -> AsyncLink:
        """An idle link that is the caller's until :meth:`give_back`; waits for one, then raises MaxConnectionsError."""
        if self._taken < self.node.max_connections:
            self._taken += 1
        else:
            await self._place()
        try:
            while self._lanes:
                link = self._lanes.pop()
                if link.idle:
                    return link
                link.close()
            return await self.open()
        except BaseException:
            self._left()
            raise

    async def _place(self) -> None:
        """Waits, in order, for the place that another caller leaves."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.append(waiter)
        # Not wait_for: before Python 3.12 it forgets a cancellation that comes together with the place.
        timer = loop.call_later(self._pool_timeout, _expire, waiter)
        try:
            placed = await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():
                self._left()
            raise
        finally:
            timer.cancel()
        if not placed:
            raise MaxConnectionsError(
                f"No connection of {self.node.name} became free within {self._pool_timeout} seconds; "
                f"raise max_connections ({self.node.max_connections})"
            )

    def give_back(self, link: AsyncLink, *, discard: bool = False) -> None:
        """Ends the caller's ownership. A link that is not idle or is to be discarded is closed."""
        if discard or self._retired or not link.idle:
            link.close("the call ended")
        else:
            self._lanes.append(link)
        self._left()

    def _left(self) -> None:
        """Passes a place on to the oldest waiter."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return
        self._taken -= 1

    def retire(self, endpoint: AsyncEndpoint) -> None:
        """The node left the cluster: closes what is idle now, and the rest when it becomes so."""
        self._retired = True
        if endpoint.link is not None:
            endpoint.link.retire()
        for link in self._lanes:
            link.close()
        self._lanes.clear()

    def close(self) -> None:
        """Closes every link; what is under way fails."""
        for link in self._links:
            link.close()
        self._links.clear()
        self._lanes.clear()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
