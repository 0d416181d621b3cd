"""A node's connections under asyncio: those that all tasks share, and a bounded pool of others that one task owns.

redis-py's asyncio ``Connection`` opens each socket: TLS, HELLO, AUTH, credential providers, client name. The link then
takes its transport over.

A *lane* is a link out of the pool: blocking commands, and those that change a connection's state, run on one. Pub/sub and
transactions get redis-py connections from the same pool, so ``max_connections`` bounds them all.
"""

from __future__ import annotations

import asyncio
import copy
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.auth.token import TokenInterface
from redis.backoff import NoBackoff

from slotwise._aioengine import AsyncEndpoint, AsyncEngine
from slotwise._aiolink import AsyncLink, Unusual
from slotwise._reply import ServerError
from slotwise.asyncio.waking import wake
from slotwise.errors import (
    ClosedClientError,
    ConnectionError,
    InvalidResponse,
    MaxConnectionsError,
    NotSentError,
    TimeoutError,
    parse_error,
    with_our_errors,
)
from slotwise.routing.breaker import Breaker, BreakerPolicy
from slotwise.routing.remedies import explain

# Seconds to wait for a connection of one's own; redis-py raises at once.
POOL_TIMEOUT = 20.0

# Seconds that replies have at the end of `async with`; those that nobody awaits any more may never come.
DRAIN_TIMEOUT = 1.0

CLOSED = "the client was closed"
NAMELESS = "A command needs a name: pass it as the first argument, e.g. 'GET'."

T = TypeVar("T")

OnPush = Callable[[list[Any]], None]


def _wake(waiting: list[asyncio.Future[None]], opening: asyncio.Task[AsyncLink]) -> None:
    if not opening.cancelled():
        # Retrieved, though everybody may have gone away.
        opening.exception()
    wake(waiting)


class _ProtocolLink(AsyncLink, asyncio.BufferedProtocol):
    """A link that transports take for a buffered protocol: they ask by ``isinstance``."""

    __slots__ = ()


class AsyncNodePool:
    """The connections of one node. At most ``max_connections`` beside the shared ones; who needs another waits."""

    def __init__(
        self,
        node: ClusterNode,
        *,
        encoding: tuple[str, str] | None,
        on_push: OnPush | None,
        max_reply_size: int,
        on_shared: Callable[[Any], Any] | None,
        engine: AsyncEngine,
        pool_timeout: float = POOL_TIMEOUT,
    ) -> None:
        self.node = node
        self._encoding = encoding
        self._on_push = on_push
        self._max_reply_size = max_reply_size
        self._on_shared = on_shared
        self._engine = engine
        self._pool_timeout = pool_timeout
        # Idle ones, the last used at the end.
        self._lanes: list[AsyncLink] = []
        self._connections: list[Connection] = []
        # Places of those in use.
        self._taken = 0
        self._waiters: deque[asyncio.Future[bool]] = deque()
        # By place: who opens a shared link, and who waits for that.
        self._opening: dict[int, tuple[asyncio.Task[AsyncLink], list[asyncio.Future[None]]]] = {}
        self._links: set[AsyncLink] = set()
        # Every redis-py connection; false: not to be used again.
        self._made: weakref.WeakKeyDictionary[Connection, bool] = weakref.WeakKeyDictionary()
        self.breaker = Breaker(BreakerPolicy())
        # Another object for every credential that comes.
        self._credential = object()
        # Nobody may begin anything here.
        self.retired = False

    # -- shared links ------------------------------------------------------------------------------------------------

    async def shared(self, endpoint: AsyncEndpoint, place: int) -> AsyncLink:
        """The open shared link of a place. The first task opens it; the others wait for that, and its end ends none."""
        link = endpoint.links[place]
        if link is not None and not link.retired:
            return link
        if place not in self._opening:
            # Before a task and a connection are made, which thousands of calls would do who wait for the node.
            self.breaker.refuse(self.node.name, time.monotonic())
            opening = asyncio.create_task(self._open_shared(endpoint, place))
            self._opening[place] = opening, []
            opening.add_done_callback(partial(_wake, self._opening[place][1]))
        opening, waiting = self._opening[place]
        # A future each, and not `shield`: that searches all callbacks whenever one of those who wait is cancelled.
        opened = asyncio.get_running_loop().create_future()
        waiting.append(opened)
        await opened
        if opening.cancelled():
            if self._engine.loop is None:
                raise ClosedClientError(CLOSED)
            raise NotSentError(f"{self.node.name} has left the cluster, or another node has its slots now")
        error = opening.exception()
        if error is not None:
            raise own_copy(error)
        return opening.result()

    async def _open_shared(self, endpoint: AsyncEndpoint, place: int) -> AsyncLink:
        try:
            link = await self.open(self._on_shared, eager=True)
            endpoint.put(place, link)
            if self.retired:
                link.retire()
            return link
        finally:
            if place in self._opening and self._opening[place][0] is asyncio.current_task():
                del self._opening[place]

    async def _connect(self, prepare: Callable[[Any], Any] | None = None) -> Connection:
        """A new redis-py connection, open. While it is opened no command has left: a failure is safe to repeat."""
        kwargs = {
            **self.node.connection_kwargs,
            "retry": Retry(NoBackoff(), 0, supported_errors=(ConnectionError,)),
        }
        while True:
            credential = self._credential
            connection: Connection = with_our_errors(self.node.connection_class(**kwargs))
            try:
                with self.breaker.opening(self.node.name, time.monotonic):
                    await _greet(connection)
                    if prepare is not None:
                        await prepare(connection)
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if isinstance(error, InvalidResponse):
                    # Whoever has the address by now speaks another protocol.
                    error = ConnectionError(str(error))
                if isinstance(error, (ConnectionError, TimeoutError)):
                    explain(error)
                    error.sent = False  # type: ignore[union-attr]
                raise error
            if credential is self._credential:
                return connection
            # A new one came after this connection had been told the old.
            await connection.disconnect(nowait=True)

    async def open(self, prepare: Callable[[Any], Any] | None = None, *, eager: bool = False) -> AsyncLink:
        """A new link to the node; ``eager`` if its replies are likely to come at once."""
        connection = await self._connect(prepare)
        reader: Any = connection._reader
        writer: Any = connection._writer
        # From here on the transport is the link's.
        connection._reader = connection._writer = None
        turns = self._engine.turns
        assert turns is not None
        # The writer lives as long as the link: it would close the transport.
        link = _ProtocolLink(
            (connection, writer),
            turns,
            writer.transport,
            connection.socket_timeout,
            self._encoding,
            self._on_push,
            eager,
            self._max_reply_size,
        )
        writer.transport.set_protocol(link)
        left = bytes(reader._buffer)
        if left:
            link.feed(left)
        self._links = {known for known in self._links if not known.closed}
        self._links.add(link)
        return link

    # -- connections of one's own ------------------------------------------------------------------------------------

    async def take(self) -> AsyncLink:
        """An idle link that is the caller's until :meth:`give_back`; waits for one, then raises MaxConnectionsError."""
        await self._enter()
        try:
            while self._lanes:
                link = self._lanes.pop()
                if link.idle:
                    return link
                link.close()
            if self._full() and self._connections:
                await self._connections.pop(0).disconnect(nowait=True)
            return await apart(self.open(), AsyncLink.close)
        except BaseException:
            self._left()
            raise

    def give_back(self, link: AsyncLink, *, discard: bool = False) -> None:
        """Ends the caller's ownership. A link that is not idle or is to be discarded is closed."""
        if discard or self.retired or not link.idle:
            link.close("the call ended")
        else:
            self._lanes.append(link)
        self._left()

    async def connection(self) -> Connection:
        """A redis-py connection, open, that is the caller's until :meth:`release`; waits as :meth:`take` does."""
        await self._enter()
        try:
            while self._connections:
                connection = self._connections.pop()
                # What the server closed meanwhile must not cost a transaction its outcome.
                if connection._reader is not None and not connection._reader.at_eof():
                    return connection
                await connection.disconnect(nowait=True)
            if self._full() and self._lanes:
                self._lanes.pop(0).close()
            credential = self._credential
            connection = await apart(self._connect(), Connection._close)
        except BaseException:
            self._left()
            raise
        # Others have had their turn since it was opened.
        self._made[connection] = credential is self._credential
        return connection

    def release(self, connection: Connection) -> None:
        """Takes back what :meth:`connection` gave."""
        if self._made.get(connection) and connection.is_connected and not self.retired:
            self._connections.append(connection)
        else:
            self._made.pop(connection, None)
            connection._close()
        self._left()

    async def _enter(self) -> None:
        if self._taken < self.node.max_connections:
            self._taken += 1
        else:
            await self._place()

    def _full(self) -> bool:
        """Another connection would be one too many: an idle one of the other kind has to go."""
        return self._taken + len(self._lanes) + len(self._connections) > self.node.max_connections

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

    def _left(self) -> None:
        """Passes a place on to the oldest waiter."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return
        self._taken -= 1

    # -- the whole node ----------------------------------------------------------------------------------------------

    async def re_auth(self, token: TokenInterface, shared: Iterable[AsyncLink | None]) -> None:
        """Takes a new credential to the live connections (streaming credential providers)."""
        self._credential = object()
        self._close_idle()
        for connection in list(self._made):
            self._made[connection] = False
        call = ("AUTH", token.try_get("oid"), token.get_value())
        replies = {link: link.execute(call) for link in self._links if not link.retired}
        for link in shared:
            # A lane answers when its own command is over, which may be never.
            reply = await replies[link] if link in replies else None
            if isinstance(reply, Unusual) and isinstance(reply.what, ServerError):
                raise parse_error(reply.what.text)

    def retire(self, endpoint: AsyncEndpoint) -> None:
        """The node left the cluster, or the client was left: closes what is idle now, the rest when it becomes so."""
        self.retired = True
        for link in endpoint.links:
            if link is not None:
                link.retire()
        self._close_idle()

    def close(self, endpoint: AsyncEndpoint, reason: str = "the client was closed") -> None:
        """Closes every connection; what is under way fails."""
        for place in range(len(endpoint.links)):
            endpoint.put(place, None)
        self.end_openings()
        for link in self._links:
            link.close(reason)
        self._links.clear()
        self._lanes.clear()
        self._connections.clear()
        for connection in list(self._made):
            connection._close()

    def end_openings(self) -> None:
        """Sends those away who wait for a shared link that is being opened."""
        for opening, _ in self._opening.values():
            opening.cancel()
        self._opening.clear()

    def _close_idle(self) -> None:
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()
        for connection in self._connections:
            connection._close()
        self._connections.clear()


def own_copy(error: BaseException) -> BaseException:
    """``error`` for one of several who get it: each caller's words and traceback are added to his own."""
    try:
        mine = copy.copy(error)
    except Exception:  # it is made of more than its arguments
        return error
    mine.args, mine.__cause__ = error.args, error
    return mine


async def _greet(connection: Any) -> None:
    """Connects, and keeps the reply to HELLO as ``handshake_metadata``, as redis-py's connections for threads do."""
    read = connection.read_response
    connection.handshake_metadata = None

    async def read_response(*args: Any, **kwargs: Any) -> Any:
        reply = await read(*args, **kwargs)
        if isinstance(reply, dict):
            # The handshake has no other map.
            connection.handshake_metadata = reply
        return reply

    connection.read_response = read_response
    try:
        await connection.connect()
    finally:
        del connection.read_response


async def apart(coroutine: Coroutine[Any, Any, T], undo: Callable[[T], object] = lambda _: None) -> T:
    """Awaits what connects, in a task of its own; ``undo`` is for a result that comes after a cancellation.

    Before Python 3.12 redis-py's connections lose a cancellation that comes together with a reply, by wait_for.
    """
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception() or undo(done.result()))
        while not task.done():
            # The first may be the one that is lost.
            task.cancel()
            await asyncio.wait([task], timeout=0.01)
        raise


async def drain(links: list[AsyncLink]) -> None:
    """Closes retired links when they have answered what is under way, or after DRAIN_TIMEOUT seconds."""
    # Replies come in order: this one is the last.
    last = [link.execute(("PING",)) for link in links]
    if last:
        await asyncio.wait(last, timeout=DRAIN_TIMEOUT)
    for link in links:
        link.close()
    # The transports end in the loop's next turn, and the loop may be closed right after this.
    await asyncio.sleep(0)


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
