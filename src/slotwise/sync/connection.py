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
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from redis.auth.token import TokenInterface
from redis.connection import ConnectionPool

from slotwise._link import Endpoint, Link, LinkFailure
from slotwise.errors import ConnectionError, MaxConnectionsError, TimeoutError
from slotwise.sync.forks import remember

# Connections per node beside the shared one, unless max_connections says otherwise (redis-py's default).
MAX_CONNECTIONS = 100
# Seconds to wait for a free connection, unless the keyword `timeout` says otherwise (redis-py's default).
POOL_TIMEOUT = 20
# Seconds after which who waits for a connection looks again, should nobody have told.
_LOOK_AGAIN = 0.1

OnPush = Callable[[list[Any]], None]


class NodePool(ConnectionPool):
    """The connections of one node that are not shared. Waits ``timeout`` seconds for a free one, then raises."""

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        timeout: float | None = POOL_TIMEOUT,
        socket_timeout: float | None,
        reply_encoding: tuple[str, str] | None,
        on_push: OnPush | None,
        on_shared: Callable[[Any], None] | None = None,
        **connection_kwargs: Any,
    ) -> None:
        self._lanes: list[Link] = []
        self.timeout = timeout
        # Reentrant: a signal handler or a finalizer may call the client while its thread opens the link.
        self._shared_lock = threading.RLock()
        self._link_options = (socket_timeout, reply_encoding, on_push)
        # Called with the redis-py connection of each new shared link, before the link takes it over.
        self._on_shared = on_shared
        self._shared: Link | None = None
        super().__init__(
            max_connections=max_connections or MAX_CONNECTIONS,
            socket_timeout=socket_timeout,
            **connection_kwargs,
        )
        remember(self)

    # -- the shared link ---------------------------------------------------------------------------------------------

    def shared(self, endpoint: Endpoint) -> Link:
        """The node's open shared link; the first thread opens it, the others wait for that."""
        with self._shared_lock:
            link = endpoint.link
            if link is None or link.retired:
                opened = self._open_shared()
                link = endpoint.link
                if link is None or link.retired:
                    link = endpoint.link = self._shared = opened
                else:
                    # A signal handler of this very thread opened one meanwhile.
                    opened.close()
            return link

    def _open_shared(self) -> Link:
        connection = self.connection_class(**self.connection_kwargs)
        with _not_sent():
            connection.connect()
            if self._on_shared is not None:
                self._on_shared(connection)
            return Link(connection, *self._link_options)

    # -- lanes -------------------------------------------------------------------------------------------------------

    def take(self) -> Link:
        """An idle link that is the caller's until :meth:`give_back`."""
        while True:
            try:
                link = self._lanes.pop()
            except IndexError:
                break
            # What the server closed meanwhile must not cost a command its outcome.
            if link.poll_pushes():
                return link
            self._release(link)
        with _not_sent():
            connection = self.get_connection()
            try:
                link = Link(connection, *self._link_options)
                connection.lane = weakref.ref(link, partial(_append, self._lost, connection))
            except BaseException:
                self.release(connection)
                raise
        return link

    def give_back(self, link: Link, *, discard: bool = False) -> None:
        """Ends the caller's ownership. A link that is closed, not idle or to be discarded leaves the pool."""
        if discard or not link.idle or self._is_awaited():
            self._release(link)
        else:
            self._lanes.append(link)

    def _release(self, link: Link) -> None:
        link.connection.lane = None
        link.close()
        self.release(link.connection)

    # -- places ------------------------------------------------------------------------------------------------------
    #
    # A connection takes a place as long as it exists. Nobody counts up and down: an exception that is raised into a
    # thread between any two steps here loses the connection, and its place is free again. For the same reason nothing
    # here waits in Python code, as queue.Queue and Condition do: their locks could stay locked.

    def reset(self) -> None:
        """Forgets all connections."""
        super().reset()
        self._in_use_connections: Any = weakref.WeakSet()
        self._lanes = []
        # Connections whose lane is gone although nobody gave it back.
        self._lost: list[Any] = []
        # Something for each connection that became free while somebody waited; until when somebody waits.
        self._freed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._awaited = 0.0

    def make_connection(self) -> Any:
        """A new redis-py connection. Never one that reads replies from a cache: the shared links keep that."""
        while self._lost:
            connection = self._lost.pop()
            self._in_use_connections.discard(connection)
            connection.disconnect()
        if len(self._available_connections) + len(self._in_use_connections) >= self.max_connections:
            raise _NoPlaceError
        return self.connection_class(**self.connection_kwargs)

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A redis-py connection, for pub/sub, MONITOR and transactions."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        collected = False
        while True:
            try:
                return super().get_connection()
            except _NoPlaceError:
                pass
            if self._lanes:
                # An idle lane holds a place that this caller needs.
                with suppress(IndexError):
                    self._release(self._lanes.pop())
                continue
            left = _LOOK_AGAIN if deadline is None else min(deadline - time.monotonic(), _LOOK_AGAIN)
            if left <= 0 and not collected:
                # redis-py's connections refer to themselves: a lost one goes with the garbage.
                gc.collect()
                collected = True
            elif left <= 0:
                raise MaxConnectionsError(
                    f"No connection available: all {self.max_connections} of this node were in use for "
                    f"{self.timeout} s. Raise max_connections, or timeout to wait longer."
                )
            else:
                self._awaited = time.monotonic() + left
                with suppress(queue.Empty):
                    self._freed.get(timeout=left)

    def release(self, connection: Any) -> None:
        """Takes a connection back; who waits longest has it."""
        super().release(connection)
        if self._is_awaited():
            self._freed.put(None)

    def _is_awaited(self) -> bool:
        return time.monotonic() < self._awaited

    # -- the end -----------------------------------------------------------------------------------------------------

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Closes the shared link and the idle connections; those in use too, unless told otherwise."""
        while self._lanes:
            self._release(self._lanes.pop())
        shared, self._shared = self._shared, None
        if not inuse_connections:
            if shared is not None:
                shared.retire()
            super().disconnect(False)
            return
        if shared is not None:
            shared.close()
        with self._lock:
            connections = [*self._available_connections, *self._in_use_connections]
        for connection in connections:
            lane = _lane_of(connection)
            if lane is not None:
                # Its thread closes the descriptor: a number that is free may be another connection's at once.
                lane.close()
            else:
                connection.disconnect()

    def re_auth_callback(self, token: TokenInterface) -> None:
        """Takes a new credential to the live connections (streaming credential providers)."""
        while self._lanes:
            self._release(self._lanes.pop())
        shared = self._shared
        if shared is not None and not shared.retired:
            with suppress(LinkFailure):
                shared.execute(("AUTH", token.try_get("oid"), token.get_value()))
        super().re_auth_callback(token)

    def forget(self) -> None:
        """In a child process: drops what belongs to the parent without touching it."""
        lanes = [_lane_of(connection) for connection in self._in_use_connections]
        for link in (*lanes, self._shared):
            if link is not None:
                link.forget()
        self._shared = None
        self._shared_lock = threading.RLock()
        self._lock = threading.RLock()
        self._fork_lock = threading.RLock()
        self.reset()


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
        error.sent = False  # type: ignore[union-attr]
        raise
    except OSError as error:
        failure = ConnectionError(str(error))
        failure.sent = False  # type: ignore[attr-defined]
        raise failure from error
