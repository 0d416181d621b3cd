"""Links without a server: a socket pair whose far end has its replies ready before anybody asks.

All happens in one thread, so nobody waits, nothing is woken, and each round does exactly what the last one did.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from slotwise._aiolink import AsyncLink, Turns
from slotwise._batch import Job, exchange
from slotwise._encoder import Batch, Indices
from slotwise._link import Link

Call = tuple[Any, ...]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


VALUE = bulk(b"x" * 100)
# Replies by their shape, each with about a hundred values in it where it holds several.
REPLIES = {
    "100 bytes": VALUE,
    "an array of 100 values": b"*100\r\n" + VALUE * 100,
    "a map of 50 fields": b"%50\r\n"
    + b"".join(bulk(b"field:%d" % i) + bulk(b"value:%d" % i) for i in range(50)),
    "10 arrays of 10 integers": b"*10\r\n" + (b"*10\r\n" + b":1234\r\n" * 10) * 10,
}


class Peer:
    """The far end of `ours`. ``answer`` says the canned reply, ``forget`` reads what was asked."""

    def __init__(self, reply: bytes) -> None:
        self.ours, self._theirs = socket.socketpair()
        for end in (self.ours, self._theirs):
            # One send takes a round's commands or replies whole.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._reply = reply
        self._asked = bytearray(1 << 20)

    def answer(self) -> None:
        self._theirs.sendall(self._reply)

    def forget(self) -> None:
        self._theirs.recv_into(self._asked)

    def take_back(self) -> None:
        """Reads what ``answer`` has said, at the price of ``forget``."""
        self.ours.recv_into(self._asked)


def link_of(peer: Peer) -> Link:
    connection = SimpleNamespace(_sock=peer.ours, disconnect=peer.ours.close, host="canned", port=0)
    return Link(connection, None)


def one_by_one(call: Call, reply: bytes) -> Callable[[], Any]:
    """A function that sends `call` over a thread's link and returns the reply."""
    peer = Peer(reply)
    link = link_of(peer)

    def step() -> Any:
        peer.answer()
        found = link.execute(call)
        peer.forget()
        return found

    return step


def far_end_alone(reply: bytes) -> Callable[[], None]:
    """What the far end does in a step of :func:`one_by_one`."""
    peer = Peer(reply)

    def step() -> None:
        peer.answer()
        peer.take_back()

    return step


def batch_of(calls: list[Call], reply: bytes) -> Callable[[], list[Any]]:
    """A function that encodes `calls`, sends them over a link as one batch, and returns the replies."""
    peer = Peer(reply * len(calls))
    link = link_of(peer)
    indices = Indices(range(len(calls)))

    def step() -> list[Any]:
        batch = Batch()
        for call in calls:
            batch.add(call, 1)
        results: list[Any] = [None] * len(calls)
        peer.answer()
        exchange([Job(link, batch, indices)], results)
        peer.forget()
        return results

    return step


class _ProtocolLink(AsyncLink, asyncio.BufferedProtocol):
    """Transports ask by ``isinstance``."""

    __slots__ = ()


def together(calls: list[Call], reply: bytes) -> Callable[[], list[Any]]:
    """A function that sends `calls` over a link of an event loop in one turn, and returns the replies."""
    peer = Peer(reply * len(calls))
    peer.ours.setblocking(False)
    loop = asyncio.new_event_loop()
    link = _ProtocolLink(None, Turns(loop), None, None)
    loop.run_until_complete(loop.create_connection(lambda: link, sock=peer.ours))

    async def run() -> list[Any]:
        futures = [link.execute(call) for call in calls]
        # None of these is a reply to no command by now.
        peer.answer()
        await futures[-1]
        peer.forget()
        return [future.result() for future in futures]

    return lambda: loop.run_until_complete(run())
