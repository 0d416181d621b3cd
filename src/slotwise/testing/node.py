"""One node of a scripted cluster."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis

from slotwise.commands import find
from slotwise.testing.answers import (
    LISTEN_HOST,
    View,
    cluster_info,
    cluster_nodes,
    cluster_shards,
    cluster_slots,
    role,
)
from slotwise.testing.dialogue import Closed, Connection, Expectation, Words
from slotwise.testing.resp import ErrorReply, Push, encode
from slotwise.testing.session import Session

if TYPE_CHECKING:
    from slotwise.testing.scripted import ScriptedCluster


class Read(NamedTuple):
    """What one read from a socket brought."""

    connection: int
    commands: list[Words]


class ScriptedNode:
    """A node of a `ScriptedCluster`."""

    def __init__(self, cluster: ScriptedCluster, host: str, tls: ssl.SSLContext | None = None) -> None:
        self.cluster = cluster
        #: The host that the topology and redirects name; nodes may share one. "" stands for the host that was asked.
        self.host = host
        #: Commands by the read that completed them, those of the handshake left out.
        self.reads: list[Read] = []
        #: How often each command came, by its name ("GET", "CLUSTER SLOTS"), those of the handshake included.
        self.received: Counter[str] = Counter()
        #: What came and was neither scripted nor known to the store.
        self.unexpected: list[Words] = []
        self.expectations: list[Expectation] = []
        #: The connections that are open.
        self.connections: list[Connection] = []
        #: Connections accepted so far, also those that are closed again.
        self.accepted = 0
        #: Seconds that pass between a read (of 1 MiB at most) and its answers, on each connection by itself: a slow
        #: shard; small ones let a test fill the client's socket.
        self.pace = 0.0
        #: Exceptions that steps of the script raised.
        self._failures: list[Exception] = []
        self._old_view: View | None = None
        self._lock = threading.Lock()
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LISTEN_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    @property
    def id(self) -> bytes:
        """The name of the node in its cluster."""
        return b"%040d" % self.port

    @property
    def address(self) -> str:
        """``host:port``, as redirects name it."""
        return f"{self.host}:{self.port}"

    # -- what the test says ----------------------------------------------------------------

    def expect(self, *words: str | bytes | int) -> Expectation:
        """The node's part when a command comes that begins with ``words``."""
        expectation = Expectation(tuple(w if isinstance(w, bytes) else str(w).encode() for w in words))
        with self._lock:
            self.expectations.append(expectation)
        return expectation

    def push(self, *message: Any) -> None:
        """Sends a push message to every client that speaks RESP3."""
        for peer in list(self.connections):
            if peer.protocol == 3:
                with contextlib.suppress(OSError):
                    peer.send(encode(Push(message)))

    def isolate(self) -> None:
        """From now on the node believes in the topology of this moment, until `rejoin`."""
        self._old_view = self.cluster.view

    def rejoin(self) -> None:
        """The node learns the topology again."""
        self._old_view = None

    def half_open(self) -> None:
        """The connections that are open now stay so and fall silent for good; new ones are served."""
        for peer in list(self.connections):
            peer.half_open = True

    def drop_connections(self) -> None:
        """Closes every connection, as a restart does."""
        for peer in list(self.connections):
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which makes the rest of the stream plain text.
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)

    def stop(self) -> None:
        """Closes everything and refuses connections from then on, as a node that was killed."""
        # The shutdown wakes the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(1)

    def restart(self) -> None:
        """Serves again, on the same port, after `stop`."""
        self._listener = socket.create_server((LISTEN_HOST, self.port))
        self._start(self._accept, self._listener)

    # -- what the test asks ----------------------------------------------------------------

    @property
    def commands(self) -> list[Words]:
        """All commands in the order of their arrival, those of the handshake left out."""
        with self._lock:
            return [command for read in self.reads for command in read.commands]

    @property
    def topology_asked(self) -> int:
        """How often it was asked for the topology, in a way that it understands."""
        shards = self.received["CLUSTER SHARDS"] if self.cluster.answers_shards else 0
        return self.received["CLUSTER SLOTS"] + shards

    @property
    def view(self) -> View:
        """The topology that this node believes in."""
        return self._old_view or self.cluster.view

    def count(self, *words: str) -> int:
        """How many commands that begin with ``words`` have come, those of the handshake left out."""
        wanted = Expectation(tuple(word.encode() for word in words))
        return sum(wanted.matches(command) for command in self.commands)

    def verify(self) -> None:
        """Raises AssertionError when the dialogue went another way."""
        for failure in self._failures:
            raise AssertionError(f"node {self.port} could not play its part: {failure!r}") from failure
        if self.unexpected:
            raise AssertionError(f"node {self.port} did not expect {self.unexpected}")
        if missed := [expectation.words for expectation in self.expectations if expectation.times > 0]:
            raise AssertionError(f"node {self.port} waits in vain for {missed}")

    # -- the server ------------------------------------------------------------------------

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._start(self._serve, sock, self.accepted)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            peer = Connection(sock, number)
            store = self.cluster.store
            session = None if store is None else Session(self, store)
            self.connections.append(peer)
            try:
                for command in self._commands_of(peer):
                    self._answer(peer, session, command)
            finally:
                self.connections.remove(peer)
        except (OSError, Closed):
            pass
        except Exception as error:  # of a function in the script
            self._failures.append(error)
        finally:
            with contextlib.suppress(OSError):
                sock.close()

    def _commands_of(self, peer: Connection) -> Iterator[Words]:
        reader = hiredis.Reader()
        while data := peer.sock.recv(1 << 20):
            time.sleep(self.pace)
            if peer.half_open:
                continue
            reader.feed(data)
            commands: list[Words] = []
            while (command := reader.gets()) is not False:
                commands.append(tuple(command))
            with self._lock:
                for command in commands:
                    found = find(command)
                    self.received[found[0].name if found else command[0].upper().decode("latin-1")] += 1
                told = [command for command in commands if _name(command) not in _HANDSHAKE]
                if told:
                    self.reads.append(Read(peer.number, told))
            for command in commands:
                if not peer.half_open:
                    yield command

    def _answer(self, peer: Connection, session: Session | None, command: Words) -> None:
        with self._lock:
            met = next((e for e in self.expectations if e.matches(command)), None)
            if met is not None:
                met.times -= 1
        if command[0].upper() == b"HELLO" and len(command) > 1:
            peer.protocol = int(command[1])  # whoever answers it
        if met is not None:
            for step in met.steps:
                step(peer, command)
            return
        value = NotImplemented if session is None else session.answer(command)
        if value is NotImplemented:
            value = self._by_itself(command, peer)
        if value is NotImplemented:
            with self._lock:
                self.unexpected.append(command)
            value = ErrorReply(f"ERR nobody expected {command!r}")
        peer.send(encode(value, peer.protocol))

    def _by_itself(self, command: Words, peer: Connection) -> Any:
        """The answer to a command of the handshake, or about the topology."""
        match _name(command):
            case "HELLO":
                return {b"server": b"scripted", b"proto": peer.protocol}
            case "CLUSTER SLOTS":
                return cluster_slots(self.view)
            case "CLUSTER SHARDS" if self.cluster.answers_shards:
                return cluster_shards(self.view)
            case "CLUSTER NODES":
                return cluster_nodes(self.view, self)
            case "CLUSTER INFO":
                return cluster_info(self.view, self)
            case "ROLE":
                return role(self.view, self)
            case "PING":
                return "PONG"
            case "CLUSTER SHARDS" | "CLIENT MAINT_NOTIFICATIONS" as name:
                return ErrorReply(f"ERR unknown subcommand '{name.split()[1]}'")
            case name if name in _HANDSHAKE:
                return "OK"
            case _:
                return NotImplemented


#: What clients send on their own account: to connect, to learn the topology, to see whether the node lives.
_HANDSHAKE = {
    *("HELLO", "PING", "READONLY", "ROLE", "CLUSTER SLOTS", "CLUSTER SHARDS", "CLUSTER NODES"),
    *("CLIENT SETINFO", "CLIENT SETNAME", "CLIENT TRACKING", "CLIENT MAINT_NOTIFICATIONS"),
}


def _name(command: Words) -> str:
    """The command's name, in the words that tell one of the handshake from others."""
    words = [word.upper().decode("latin-1") for word in command[:2]]
    return words[0] if words[0] == "HELLO" else " ".join(words)
