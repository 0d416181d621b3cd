"""Asks primaries how far replication has come: in a thread of its own, and only while reads depend on it.

Each primary has a connection for it, so that nobody's replies wait behind the question. The thread keeps no client alive,
and ends with it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from redis._parsers.helpers import parse_info

from slotwise._locks import holding
from slotwise.routing.inquiry import FAILURES
from slotwise.routing.replicas import ANSWER_TIMEOUT, LINGER
from slotwise.routing.topology import Address

if TYPE_CHECKING:
    from slotwise.sync.nodes import NodesManager

logger = logging.getLogger("slotwise")

# True for a wish, None for the end.
_Wishes = SimpleQueue[bool | None]


class Offsets:
    """The questions of one client to its primaries, every so many seconds."""

    def __init__(self, nodes: NodesManager, every: float) -> None:
        self._nodes = weakref.ref(nodes)
        self._every = every
        self._connections: dict[Address, Any] = {}
        # The thread uses the connections.
        self._asking = False
        # When somebody last wanted to know.
        self._wanted = 0.0
        self._lock = threading.RLock()
        self._renew()

    def _renew(self) -> None:
        self._thread: threading.Thread | None = None
        self._wishes: _Wishes = SimpleQueue()
        # The thread waits for a wish.
        self._idle = True

    def want(self, now: float) -> None:
        """Somebody wants to know, and does not wait. Next to nothing while the thread asks anyway."""
        self._wanted = now
        if self._idle:
            self._idle = False
            self._wishes.put(True)
            self._start()

    @holding("_lock")
    def _start(self) -> None:
        if self._thread is None:
            wishes = self._wishes
            me = weakref.ref(self, lambda _: wishes.put(None))
            thread = threading.Thread(target=_run, args=(me, wishes), name="slotwise-offsets", daemon=True)
            # The interpreter is about to end: it starts none any more, and reads go to primaries.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread

    @holding("_lock")
    def end(self) -> None:
        """Ends the thread and closes the connections; a wish begins anew."""
        if self._thread is not None:
            self._wishes.put(None)
        self._renew()
        connections, self._connections = self._connections, {}
        for connection in list(connections.values()):
            if self._asking:
                # Its user sees the end of the stream, and closes it.
                with contextlib.suppress(OSError, AttributeError):
                    connection._sock.shutdown(socket.SHUT_RDWR)
            else:
                connection.disconnect()

    def forget(self) -> None:
        """In a child process, which has no threads: another starts on first use, with a lock of its own."""
        self._lock = threading.RLock()
        self._asking = False
        self.end()

    def ask(self) -> float | None:
        """The thread's part: asks every primary once. Seconds until the next time; None: nobody wants to know."""
        began = time.monotonic()
        nodes = self._nodes()
        if nodes is None or began - self._wanted > LINGER:
            self._idle = True
            return None
        self._asking = True
        connections = self._connections
        try:
            self._ask(nodes, connections)
        except Exception:
            # The thread has to live on: nobody would start another.
            logger.exception("primaries could not be asked how far replication has come")
        finally:
            self._asking = False
            if connections is not self._connections:
                for connection in connections.values():
                    connection.disconnect()
        return max(0.0, began + self._every - time.monotonic())

    def _ask(self, nodes: NodesManager, connections: dict[Address, Any]) -> None:
        readers = nodes.readers
        assert readers is not None, "or nobody would want to know"
        shards = {shard[0].node: shard for shard in nodes.engine.table.shards if len(shard) > 1}
        for gone in connections.keys() - shards.keys():
            connections.pop(gone).disconnect()
        # A node that hangs holds up those behind it once: from then on it has no connection, and is the last.
        asked = {address: self._send(address, connections) for address in list(connections)}
        new = [address for address in shards if address not in connections]
        for address in (*asked, *new):
            if address in new:
                self._connect(nodes, address, connections)
                asked[address] = self._send(address, connections)
            at = asked[address]
            try:
                if at is None:
                    continue
                told = parse_info(connections[address].read_response())
                if not readers.replicated(shards[address], at, told) and not nodes.closed:
                    nodes.refresher.want()
            except FAILURES:
                connections.pop(address).disconnect()

    def _connect(self, nodes: NodesManager, address: Address, connections: dict[Address, Any]) -> None:
        connection = nodes.make_connection(address, ANSWER_TIMEOUT)
        try:
            connection.connect()
        except FAILURES:
            connection.disconnect()
        else:
            connections[address] = connection

    def _send(self, address: Address, connections: dict[Address, Any]) -> float | None:
        """Reads the clock and asks; None where nobody can be asked."""
        now = time.monotonic()
        try:
            connections[address].send_command("INFO", "replication")
        except KeyError:
            return None
        except FAILURES:
            connections.pop(address).disconnect()
            return None
        return now


def _run(reference: weakref.ref[Offsets], wishes: _Wishes) -> None:
    while wishes.get() is not None:
        pause: float | None = 0.0
        while pause is not None:
            offsets = reference()
            if offsets is None:
                return
            pause = offsets.ask()
            del offsets
            with contextlib.suppress(Empty):
                if pause is not None and wishes.get(timeout=pause) is None:
                    return
