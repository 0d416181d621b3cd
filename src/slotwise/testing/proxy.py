"""TCP relays on loopback that can slow down, hold back or silence what passes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any, TypeAlias, cast

from slotwise.local.node import HOST

Address: TypeAlias = tuple[str, int]

# Bytes that may wait in one direction before its sender is made to wait, as a network does.
_MOST_WAITING = 1 << 20
# close() then sends RST.
_NO_LINGER = struct.pack("ii", 1, 0)


class _Side(asyncio.Protocol):
    """One of the two connections of a relayed one; passes on to its peer what it receives."""

    transport: asyncio.Transport
    #: The other side; set before anything is read.
    peer: _Side

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        #: What may leave for the peer, and when, in the loop's time.
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        #: Its socket takes no more for the time being.
        self._full = False
        #: It will say nothing more.
        self._ended = False
        #: Nothing passes any more, not even the end; what comes is thrown away.
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._relay.sides.add(self)

    def data_received(self, data: bytes) -> None:
        if self.silent:
            return
        self._waiting.append((self._loop.time() + self._relay.delay, data))
        self._size += len(data)
        if self._size > _MOST_WAITING:
            self.transport.pause_reading()
        self.pass_on()

    def eof_received(self) -> bool:
        self._ended = True
        self.pass_on()
        return True  # the other direction stays open

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.sides.discard(self)
        if error is not None and not self.silent and self.peer in self._relay.sides:
            self.peer.reset()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.peer.pass_on()

    def pass_on(self) -> None:
        """Gives the peer what is due."""
        if self.silent or self._relay.held:
            return
        while self._waiting and self._waiting[0][0] <= self._loop.time() and not self.peer._full:
            _, data = self._waiting.popleft()
            self._size -= len(data)
            self.peer.transport.write(data)
        if self._size <= _MOST_WAITING:
            self.transport.resume_reading()
        if self._waiting and not self.peer._full:
            self._loop.call_at(self._waiting[0][0], self.pass_on)
        elif self._ended and not self._waiting:
            if not self.peer.transport.is_closing():
                self.peer.transport.write_eof()
            if self.peer._ended and not self.peer._waiting:
                self.transport.close()
                self.peer.transport.close()

    def fall_silent(self) -> None:
        self.silent = True
        self._waiting.clear()

    def reset(self) -> None:
        """Ends the connection with RST."""
        sock = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


class Relay:
    """Passes connections to its port on to ``target``. To be used in the loop of its `Relays` only."""

    def __init__(self, target: Address) -> None:
        self.target = target
        #: Where it listens; chosen by the first `listen`.
        self.port = 0
        #: Seconds that everything takes longer, in each direction.
        self.delay = 0.0
        #: Nothing passes for the time being.
        self.held = False
        self.sides: set[_Side] = set()
        self._listener: socket.socket | None = None
        self._connecting: set[asyncio.Task[Any]] = set()

    async def listen(self) -> None:
        """Accepts connections. Does nothing when it does already."""
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port))
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            # Not a Server of asyncio: closed between accept() and connection_made() it forgets the connection, open.
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = listener.accept()
            # asyncio does so only where the listener names its protocol. Small replies would wait for each other.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(asyncio.get_running_loop().connect_accepted_socket(lambda: _Client(self), sock))

    def _start(self, connecting: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(connecting)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def refuse(self) -> None:
        """Ends all connections, and refuses new ones until `listen`."""
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        # What was accepted last is not a side yet.
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for side in list(self.sides):
            side.reset()

    async def hold(self) -> None:
        """Nothing passes on any connection, until `mend`."""
        self.held = True

    async def silence(self) -> None:
        """Nothing passes any more on the connections that there are; new ones are as ever."""
        for side in self.sides:
            side.fall_silent()

    async def slow(self, seconds: float) -> None:
        """From now on everything arrives so much later."""
        self.delay = seconds

    async def mend(self) -> None:
        """All is as ever: what was held is delivered, and silenced connections are reset."""
        self.held, self.delay = False, 0.0
        for side in list(self.sides):
            if side.silent:
                side.reset()
            else:
                side.pass_on()

    def reach_out(self, client: _Side) -> None:
        """Connects to the target on behalf of a new client."""
        server = _Side(self)
        server.peer, client.peer = client, server
        self._start(self._reach_out(client, server))

    async def _reach_out(self, client: _Side, server: _Side) -> None:
        client.transport.pause_reading()
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, *self.target)
        except OSError:
            client.reset()
        else:
            if client.transport.is_closing():
                server.reset()
            client.transport.resume_reading()


class _Client(_Side):
    """The side that a relay has accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._relay.reach_out(self)


class Relays:
    """One relay for each target, all run by one thread. Methods may be called from any other thread."""

    def __init__(self, targets: Iterable[Address]) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slotwise-relays", daemon=True)
        self._thread.start()
        self.relays = {target: Relay(target) for target in targets}
        for relay in self.relays.values():
            self.run(relay.listen())

    def run(self, what: Coroutine[Any, Any, None]) -> None:
        """Waits for a relay's method, such as ``run(relay.hold())``."""
        asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def replace(self, target: Address) -> Relay:
        """A relay on another port in place of the one before ``target``, which goes on until it is told to `refuse`.

        Returns the old one.
        """
        old, new = self.relays[target], Relay(target)
        self.run(new.listen())
        self.relays[target] = new
        return old

    def stop(self) -> None:
        """Ends all relays and their connections."""
        for relay in self.relays.values():
            self.run(relay.refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
