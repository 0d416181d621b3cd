"""What a scripted node does when a command comes, one step after another."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slotwise._slots import key_slot
from slotwise.commands import keys_of
from slotwise.testing.resp import ErrorReply, encode

if TYPE_CHECKING:
    from slotwise.testing.node import ScriptedNode

#: A command as it came.
Words = tuple[bytes, ...]


class Closed(Exception):
    """The script closes the connection."""


@dataclass(eq=False)
class Connection:
    """One client's connection to a scripted node."""

    sock: socket.socket
    #: The n-th that the node accepted, from 1.
    number: int
    #: 2 or 3, as the client's HELLO chose.
    protocol: int = 2
    #: Silent for good: what comes is thrown away, nothing is said, and nothing closed.
    half_open: bool = False

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)


Step = Callable[[Connection, Words], object]


@dataclass(eq=False)
class Expectation:
    """A command, and what the node then does, in the order of the calls that add to it.

    Without any step the node reads the command and says nothing to it.
    """

    words: Words
    times: int = 1
    steps: list[Step] = field(default_factory=list)

    def reply(self, value: Any) -> Expectation:
        """Answers with ``value``, or with what it returns for the command when it is a function.

        bytes is a bulk string, str a simple one; int, list, dict and None are what they are in RESP.
        """

        def answer(peer: Connection, command: Words) -> None:
            peer.send(encode(value(command) if callable(value) else value, peer.protocol))

        self.steps.append(answer)
        return self

    def error(self, text: str) -> Expectation:
        """Answers with an error, such as ``TRYAGAIN Multiple keys request during rehashing of slot``."""
        return self.reply(ErrorReply(text))

    def moved(self, to: ScriptedNode) -> Expectation:
        """Answers that the slot of the command's first key lives at ``to``."""
        return self.reply(lambda command: ErrorReply(f"MOVED {slot_of(command)} {to.address}"))

    def ask(self, to: ScriptedNode) -> Expectation:
        """Answers that this one command has to be asked of ``to``, after ASKING."""
        return self.reply(lambda command: ErrorReply(f"ASK {slot_of(command)} {to.address}"))

    def clusterdown(self) -> Expectation:
        """Answers as a node that has lost sight of the majority of primaries."""
        return self.error("CLUSTERDOWN The cluster is down")

    def send(self, data: bytes) -> Expectation:
        """Sends raw bytes, such as a part of a reply."""
        self.steps.append(lambda peer, _: peer.send(data))
        return self

    def delay(self, seconds: float) -> Expectation:
        """Waits, and neither reads nor answers on this connection meanwhile."""
        self.steps.append(lambda *_: time.sleep(seconds))
        return self

    def until(self, event: threading.Event) -> Expectation:
        """Waits for the test to set ``event`` (30 s at most), and neither reads nor answers on this connection."""
        self.steps.append(lambda *_: event.wait(30))
        return self

    def then(self, event: threading.Event) -> Expectation:
        """Tells the test that it came so far."""
        self.steps.append(lambda *_: event.set())
        return self

    def half_open(self) -> Expectation:
        """Keeps the connection and never says anything on it again, as when a router has forgotten it."""

        def fall_silent(peer: Connection, _: Words) -> None:
            peer.half_open = True

        self.steps.append(fall_silent)
        return self

    def close(self) -> Expectation:
        """Closes the connection."""

        def end(*_: Any) -> None:
            raise Closed

        self.steps.append(end)
        return self

    def often(self) -> Expectation:
        """May be met any number of times, and need not be."""
        self.times = -1
        return self

    def matches(self, command: Words) -> bool:
        """Whether ``command`` begins with the words expected, and is still waited for."""
        name, *rest = self.words
        return (
            self.times != 0
            and command[0].upper() == name.upper()
            and list(command[1 : len(self.words)]) == rest
        )


def slot_of(command: Words) -> int:
    """The slot of a command's first key. Raises ValueError when it has none."""
    for key in keys_of(command):
        return key_slot(key)  # type: ignore[arg-type]
    raise ValueError(f"{command!r} has no key, and so no slot to redirect")
