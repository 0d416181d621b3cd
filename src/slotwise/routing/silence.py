"""Half-open connections: whoever held the other end is gone or cut off, and nobody says so.

A link that owes replies and is silent may lead to a node that is busy, stopped or replaced; or its packets get lost
while the node is well. The node itself knows: asked over a new connection, it tells (CLIENT LIST) whether it still has
something to do or to send for the old one. If not, nothing more will come, and who waits need not wait for the time-out.
It is no proof against a node that is paused (CLIENT PAUSE) or works on a long command: that counts as having to do.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from redis.utils import str_if_bytes

from slotwise.routing.inquiry import FAILURES, MALFORMED
from slotwise.routing.topology import Address

# Seconds that the node has to answer, and that a reply which was on its way then has to arrive.
ANSWER_TIMEOUT = 1.0
GRACE = 0.25

L = TypeVar("L", bound=Hashable)


class Suspects(Generic[L]):
    """The links that are silent, each of which is looked into once, until it speaks again."""

    def __init__(self) -> None:
        self._silent: frozenset[L] = frozenset()

    def new(self, silent: Iterable[L]) -> list[L]:
        """Those of the links ``silent`` at this look that were not at the last one."""
        before, self._silent = self._silent, frozenset(silent)
        return [link for link in self._silent if link not in before]


def client_id(hello: Mapping[Any, Any] | None) -> int | None:
    """The server's number of a connection, from its reply to HELLO; None under RESP2, which has none."""
    number = None if hello is None else hello.get(b"id", hello.get("id"))
    return number if isinstance(number, int) else None


def has_answered_all(address: Address, number: int) -> Generator[Address | str, Any, bool]:
    """Asks the node at ``address`` whether it has answered all that has reached it over the connection of that CLIENT ID.

    False also when it does not know the connection, as behind some proxies, may not tell, or does not answer. Driven as
    the generators of `slotwise.routing.inquiry` are.
    """
    try:
        yield address
        told = str_if_bytes((yield f"CLIENT LIST ID {number}"))
        # Source: CLIENT LIST. Flag b: in a blocking command or paused; the rest: bytes and replies in its buffers.
        client = dict(field.split("=", 1) for field in told.split() if "=" in field)
        return "b" not in client["flags"] and all(client[name] == "0" for name in ("qbuf", "obl", "oll"))
    except (*FAILURES, *MALFORMED):
        return False
