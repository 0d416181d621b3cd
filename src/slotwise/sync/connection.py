"""A node's connections: one that all threads share, and a bounded pool of others that one caller owns at a time.

redis-py's ``Connection`` opens each socket: name look-up, TLS, HELLO, AUTH, credential providers, client name, the
user's connect function. The shared link and the lanes then take the socket over (`slotwise._link`).

A *lane* is a link out of the pool: blocking commands, batches and commands that change a connection's state run on one.
Pub/sub, MONITOR and transactions get redis-py connections from the same pool, so ``max_connections`` bounds them all.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis.auth.token import TokenInterface
from redis.connection import BlockingConnectionPool

from slotwise._link import Endpoint, Link, LinkFailure
from slotwise.errors import ConnectionError, MaxConnectionsError, TimeoutError
from slotwise.sync.forks import remember

# Connections per node beside the shared one, unless max_connections says otherwise (redis-py's default).
MAX_CONNECTIONS = 100
# Seconds to wait for a free connection, unless the keyword `timeout` says otherwise (redis-py's default).
POOL_TIMEOUT = 20

OnPush = Callable[[list[Any]], None]


class NodePool(BlockingConnectionPool):
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
        self._waiting = 0
        # Reentrant: a signal handler or a finalizer may call the client while its thread opens the link.
        self._shared_lock = threading.RLock()
        self._link_options = (socket_timeout, reply_encoding, on_push)
        # Called with the redis-py connection of each new shared link, before the link takes it over.
        self._on_shared = on_shared
        self._shared: Link | None = None
        super().__init__(
            max_connections=max_connections or MAX_CONNECTIONS,
            timeout=timeout,
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
                return Link(connection, *self._link_options)
            except BaseException:
                self.release(connection)
                raise

    def give_back(self, link: Link, *, discard: bool = False) -> None:
        """Ends the caller's ownership. A link that is closed, not idle or to be discarded leaves the pool."""
        # Who waits while places are free is only connecting.
        if discard or not link.idle or (self._waiting and self.pool.empty()):
            self._release(link)
        else:
            self._lanes.append(link)

    def make_connection(self) -> Any:
        """A new redis-py connection. Never one that reads replies from a cache: the shared links keep that."""
        connection = self.connection_class(**self.connection_kwargs)
        self._connections.append(connection)
        return connection

    def _release(self, link: Link) -> None:
        link.close()
        self.release(link.connection)

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A redis-py connection, for pub/sub, MONITOR and transactions."""
        if self.pool.empty():
            # An idle lane holds a place that this caller needs.
            with suppress(IndexError):
                self._release(self._lanes.pop())
        self._waiting += 1
        try:
            return super().get_connection()
        except ConnectionError as error:
            if isinstance(error.__context__, queue.Empty):
                raise MaxConnectionsError(
                    f"No connection available: all {self.max_connections} of this node were in use for "
                    f"{self.timeout} s. Raise max_connections, or timeout to wait longer."
                ) from None
            raise
        finally:
            self._waiting -= 1

    # -- the end -----------------------------------------------------------------------------------------------------

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Closes the shared link and the idle connections; those in use too, unless told otherwise."""
        while self._lanes:
            self._release(self._lanes.pop())
        shared, self._shared = self._shared, None
        if shared is not None and inuse_connections:
            shared.close()
        elif shared is not None:
            shared.retire()
        super().disconnect(inuse_connections)

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
        for link in (*self._lanes, self._shared):
            if link is not None:
                link.forget()
        self._lanes = []
        self._shared = None
        self._waiting = 0
        self._shared_lock = threading.RLock()


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
