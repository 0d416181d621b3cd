"""A node's connections: one that all threads share, and a bounded pool of others that one caller owns at a time.

redis-py's ``Connection`` opens each socket: name look-up, TLS, HELLO, AUTH, credential providers, client name, the
user's connect function. The shared link and the lanes then take the socket over (`slotwise._link`).

A *lane* is a link out of the pool: blocking commands, batches and commands that change a connection's state run on one.
Pub/sub, MONITOR and transactions get redis-py connections from the same pool, so ``max_connections`` bounds them all.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

from redis.auth.token import TokenInterface
from redis.connection import ConnectionPool

from slotwise._engine import Endpoint, Lanes
from slotwise._link import Link, LinkFailure
from slotwise._locks import holding, restoring
from slotwise._reply import ServerError
from slotwise.errors import (
    ConnectionError,
    InvalidResponse,
    MaxConnectionsError,
    TimeoutError,
    parse_error,
    with_our_errors,
)
from slotwise.routing.breaker import Breaker, BreakerPolicy
from slotwise.routing.remedies import explain
from slotwise.sync.forks import remember, renew_lock

# Connections per node beside the shared one, unless max_connections says otherwise (redis-py's default).
MAX_CONNECTIONS = 100
# Seconds to wait for a free connection, unless the keyword `timeout` says otherwise (redis-py's default).
POOL_TIMEOUT = 20
# Seconds after which who waits for a connection looks again, should nobody have told, and after which one who does not
# is taken for gone.
_LOOK_AGAIN, _GONE = 0.1, 1.0

OnPush = Callable[[list[Any]], None]


class NodePool(Lanes, ConnectionPool):
    """The connections of one node that are not shared. Waits ``timeout`` seconds for a free one, then raises."""

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        timeout: float | None = POOL_TIMEOUT,
        socket_timeout: float | None,
        reply_encoding: tuple[str, str] | None,
        on_push: OnPush | None,
        max_reply_size: int,
        on_shared: Callable[[Any], None] | None = None,
        **connection_kwargs: Any,
    ) -> None:
        self.timeout = timeout
        # Reentrant: a signal handler or a finalizer may call the client while its thread opens the link.
        self._shared_lock = threading.RLock()
        self._link_options = (socket_timeout, reply_encoding, on_push, max_reply_size)
        # Called with the redis-py connection of each new shared link, before the link takes it over.
        self._on_shared = on_shared
        self._shared: Link | None = None
        self.breaker = Breaker(BreakerPolicy())
        self._name = f"{connection_kwargs.get('host')}:{connection_kwargs.get('port')}"
        super().__init__(
            max_connections=max_connections or MAX_CONNECTIONS,
            socket_timeout=socket_timeout,
            **connection_kwargs,
        )
        remember(self)

    # -- the shared link ---------------------------------------------------------------------------------------------

    @holding("_shared_lock")
    def shared(self, endpoint: Endpoint) -> Link:
        """The node's open shared link; the first thread opens it, the others wait for that."""
        while True:
            link = endpoint.link
            if link is not None and not link.retired:
                return link
            credential = self._credential
            opened = self._open_shared()
            link = endpoint.link
            if link is None or link.retired:
                endpoint.link = self._shared = opened
            else:
                # A signal handler of this very thread opened one meanwhile.
                opened.close()
            if credential is not self._credential:
                # A new one came after this link had been told the old.
                opened.retire()

    def _open_shared(self) -> Link:
        connection = self.connection_class(**self.connection_kwargs)
        with _not_sent(), self.breaker.opening(self._name, time.monotonic):
            connection.connect()
            if self._on_shared is not None:
                self._on_shared(connection)
            return Link(connection, *self._link_options)

    # -- lanes -------------------------------------------------------------------------------------------------------

    def open_lane(self) -> Link:
        """A link for a caller who found none idle: a new one, or another caller's who has done with it."""
        with _not_sent():
            connection = self._place(lane=True)
            if type(connection) is Link:
                return connection
            try:
                link = Link(connection, *self._link_options)
                connection.lane = weakref.ref(link, partial(_append, self._lost, connection))
                link.outdated = connection in self._outdated
            except BaseException:
                # No longer the lane of a link that is about to go: its end would close the next owner's socket.
                connection.lane = None
                connection.disconnect()
                self.release(connection)
                raise
        return link

    def drop(self, link: Link) -> None:
        """Closes a link; its connection leaves its place."""
        link.connection.lane = None
        link.close()
        # What a signal handler raised may have ended the link's own closing, with replies still to come.
        link.connection.disconnect()
        self.release(link.connection)

    # -- places ------------------------------------------------------------------------------------------------------
    #
    # A connection takes a place as long as it exists. Nobody counts up and down: an exception that is raised into a
    # thread between any two steps here loses the connection, and its place is free again. For the same reason nothing
    # here waits in Python code, as queue.Queue and Condition do, whose locks could stay locked, and who waits stays in
    # line only as long as he shows that he is still there.

    def reset(self) -> None:
        """Forgets all connections."""
        super().reset()
        self._in_use_connections: Any = weakref.WeakSet()
        self.idle.clear()
        self.waiting.clear()
        # Another object for every credential that comes.
        self._credential = object()
        # Those in use that were opened with an earlier credential.
        self._outdated: weakref.WeakSet[Any] = weakref.WeakSet()
        # Connections whose lane is gone although nobody gave it back.
        self._lost: list[Any] = []

    @property
    def _dispatcher_lock(self) -> Any:
        return getattr(self._event_dispatcher, "_lock", None)

    def make_connection(self) -> Any:
        """A new redis-py connection. Never one that reads replies from a cache: the shared links keep that."""
        while self._lost:
            connection = self._lost.pop()
            self._in_use_connections.discard(connection)
            connection.disconnect()
        # Not its len(): that counts dead ones whose removal an exception raised into the thread has cut short.
        in_use = sum(1 for _ in self._in_use_connections)
        if len(self._available_connections) + in_use >= self.max_connections:
            raise _NoPlaceError
        return with_our_errors(self.connection_class(**self.connection_kwargs))

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A redis-py connection, for pub/sub, MONITOR and transactions."""
        return self._place()

    def _place(self, lane: bool = False) -> Any:
        """A redis-py connection; for who wants a ``lane``, the idle link of one who has done with it, if there is one."""
        if not self._first():
            found = self._find(lane)
            if found is not None:
                return found
        return self._stand_in_line(lane)

    @restoring("_lock", "_dispatcher_lock")
    def _find(self, lane: bool) -> Any:
        """What `_place` returns, None when all places are taken."""
        while True:
            if lane:
                with suppress(IndexError):
                    return self.idle.pop()
            credential = self._credential
            try:
                # An idle one is open already.
                idle = bool(self._available_connections)
                with nullcontext() if idle else self.breaker.opening(self._name, time.monotonic):
                    connection = super().get_connection()
            except _NoPlaceError:
                if lane or not self.idle:
                    return None
                # An idle lane holds a place that this caller needs.
                with suppress(IndexError):
                    self.drop(self.idle.pop())
            else:
                if credential is not self._credential:
                    # It may have been told the earlier one.
                    self._outdated.add(connection)
                return connection

    def _stand_in_line(self, lane: bool) -> Any:
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        collected = False
        me = _Waiter()
        try:
            while True:
                now = time.monotonic()
                me.gone_at = now + _GONE
                if me not in self.waiting:
                    self.waiting.append(me)
                if self._first() is me:
                    found = self._find(lane)
                    if found is not None:
                        return found
                left = _LOOK_AGAIN if deadline is None else min(deadline - now, _LOOK_AGAIN)
                if left > 0:
                    with suppress(queue.Empty):
                        me.woken.get(timeout=left)
                elif not collected:
                    # redis-py's connections refer to themselves: a lost one goes with the garbage.
                    gc.collect()
                    collected = True
                else:
                    raise MaxConnectionsError(
                        f"No connection available: all {self.max_connections} of this node were in use for "
                        f"{self.timeout} s. Raise max_connections, or timeout to wait longer."
                    )
        finally:
            with suppress(ValueError):
                self.waiting.remove(me)
            # More than one may have become free.
            self.wake()

    def _first(self) -> _Waiter | None:
        """Who waits longest."""
        now = time.monotonic()
        for waiter in list(self.waiting):
            if now < waiter.gone_at:
                return cast("_Waiter", waiter)
            with suppress(ValueError):
                self.waiting.remove(waiter)
        return None

    def wake(self) -> None:
        """Tells who waits longest that something may have become free."""
        with suppress(IndexError):
            self.waiting[0].woken.put(None)

    @restoring("_dispatcher_lock")
    @holding("_lock")
    def release(self, connection: Any) -> None:
        """Takes a connection back; who waits longest has it."""
        if connection in self._outdated:
            self._outdated.discard(connection)
            connection.disconnect()
        super().release(connection)
        self.wake()

    # -- the end -----------------------------------------------------------------------------------------------------

    @restoring("_lock")
    def disconnect(self, inuse_connections: bool = True) -> None:
        """Closes the shared link and the idle connections; those in use too, unless told otherwise."""
        while self.idle:
            self.drop(self.idle.pop())
        shared, self._shared = self._shared, None
        if not inuse_connections:
            if shared is not None:
                shared.retire()
            super().disconnect(False)
            return
        if shared is not None:
            shared.close()
        for connection in self._all():
            lane = _lane_of(connection)
            if lane is not None:
                # Its thread closes the descriptor: a number that is free may be another connection's at once.
                lane.close()
            else:
                connection.disconnect()

    @holding("_lock")
    def _all(self) -> list[Any]:
        return [*self._available_connections, *self._in_use_connections]

    def re_auth_callback(self, token: TokenInterface) -> None:
        """Takes a new credential to the live connections (streaming credential providers).

        The shared one authenticates anew, and `AuthenticationError` says that the server did not take the credential.
        Idle ones are opened anew when they are wanted; so are those in use, once they have come back.
        """
        self._credential = object()
        self._outdate()
        while self.idle:
            self.drop(self.idle.pop())
        shared = self._shared
        if shared is not None and not shared.retired:
            # A link that breaks is replaced by one that asks for credentials.
            with suppress(LinkFailure):
                reply = shared.execute(("AUTH", token.try_get("oid"), token.get_value()))
                if type(reply) is ServerError:
                    raise parse_error(reply.text)

    @holding("_lock")
    def _outdate(self) -> None:
        for connection in self._available_connections:
            connection.disconnect()
        for connection in self._in_use_connections:
            self._outdated.add(connection)
            if (lane := _lane_of(connection)) is not None:
                lane.outdated = True

    def forget(self) -> None:
        """In a child process: drops what belongs to the parent without touching it."""
        lanes = [_lane_of(connection) for connection in self._in_use_connections]
        for link in (*lanes, self._shared):
            if link is not None:
                link.forget()
        self._shared = None
        self.breaker = Breaker(BreakerPolicy())
        self._shared_lock = threading.RLock()
        self._lock = threading.RLock()
        self._fork_lock = threading.RLock()
        renew_lock(self._event_dispatcher)
        self.reset()


class _Waiter:
    """Who waits for a connection."""

    def __init__(self) -> None:
        self.woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        # When the others take him for gone, should he not say again that he waits.
        self.gone_at = 0.0


class _NoPlaceError(Exception):
    """Every place is taken at this moment."""


def _append(things: list[Any], thing: Any, _reference: object) -> None:
    things.append(thing)


def _lane_of(connection: Any) -> Link | None:
    """The open lane that has taken the connection's socket over."""
    reference: Callable[[], Link | None] | None = getattr(connection, "lane", None)
    lane = None if reference is None else reference()
    return None if lane is None or lane.closed else lane


@contextmanager
def _not_sent() -> Iterator[None]:
    """While a connection is opened, no command has left: a failure there is safe to repeat."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        explain(error)
        error.sent = False  # type: ignore[union-attr]
        raise
    except (OSError, InvalidResponse) as error:
        # Or whoever has the address by now speaks another protocol.
        failure = ConnectionError(str(error))
        explain(failure)
        failure.sent = False  # type: ignore[attr-defined]
        raise failure from error
