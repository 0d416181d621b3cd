"""Replies of a scripted node, from Python values to the bytes of the protocol."""

from __future__ import annotations

from typing import Any


class ErrorReply(str):
    """An error reply, without the leading minus."""


class Push(list[Any]):
    """A message that answers no command."""


def encode(value: Any, protocol: int = 3) -> bytes:
    """A reply in RESP: bytes a bulk string, str a simple one, int, list, dict, None, ErrorReply, Push."""
    match value:
        case None:
            return b"_\r\n" if protocol == 3 else b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case str():
            return (b"-" if isinstance(value, ErrorReply) else b"+") + value.encode() + b"\r\n"
        case dict():
            pairs = [part for pair in value.items() for part in pair]
            head = b"%%%d\r\n" % len(value) if protocol == 3 else b"*%d\r\n" % len(pairs)
            return head + b"".join(encode(part, protocol) for part in pairs)
        case _:
            head = b">" if isinstance(value, Push) else b"*"
            return head + b"%d\r\n" % len(value) + b"".join(encode(part, protocol) for part in value)
