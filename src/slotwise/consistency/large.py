"""Compares two copies of a large value, piece by piece: no server is blocked, and this process holds one piece at a time.

Each piece is one command that both nodes answer. A piece that changes meanwhile is looked at again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from slotwise._versions import FORMAT, HEADER_SIZE, MAGIC
from slotwise.consistency.digests import LARGE_BYTES, LARGE_ELEMENTS, STREAM_STATE
from slotwise.consistency.nodes import Wire

#: Looks at something that keeps changing before it is told as busy.
LOOKS = 6

_ORDERED = {"string": ("GETRANGE", "STRLEN", LARGE_BYTES), "list": ("LRANGE", "LLEN", LARGE_ELEMENTS)}
_KEYED = {"set": ("SSCAN", "SMISMEMBER", "SCARD"), "hash": ("HSCAN", "HMGET", "HLEN")}
_KEYED["zset"] = ("ZSCAN", "ZMSCORE", "ZCARD")

_Read = Callable[[Wire], Any]


def same(one: Wire, other: Wire, key: bytes, kind: str, catch_up: Callable[[], object]) -> bool | None:
    """Whether the copy of ``other`` is that of ``one``, the primary; None: it changes each time.

    ``catch_up`` returns when the other has applied what the first had written at the call.
    """
    for read in _pieces(one, key, kind):
        if read(one) == read(other):
            continue
        differed = False
        for _ in range(LOOKS):
            before = read(one)
            catch_up()
            theirs = read(other)
            if theirs == before:
                break
            after = read(one)
            if theirs == after:
                break
            if before == after:
                if differed:
                    return False
                differed = True
        else:
            return None
    return True


def _pieces(one: Wire, key: bytes, kind: str) -> Iterator[_Read]:
    if kind in _ORDERED:
        command, length, step = _ORDERED[kind]
        yield lambda wire: wire.on_key(length, key)
        for start in range(0, one.on_key(length, key), step):
            yield lambda wire, start=start: wire.on_key(command, key, start, start + step - 1)  # type: ignore[misc]
    elif kind == "stream":
        yield lambda wire: wire.run(STREAM_STATE, key)
        yield lambda wire: wire.on_key("XLEN", key)
        begin = b"-"
        while entries := one.on_key("XRANGE", key, begin, "+", "COUNT", LARGE_ELEMENTS):
            first, last = entries[0][0], entries[-1][0]
            yield lambda wire, first=first, last=last: wire.on_key("XRANGE", key, first, last)  # type: ignore[misc]
            begin = b"(" + last
    else:
        # Elements come in another order on every server: all of one are with the other, and there are as many.
        scan, ask, length = _KEYED[kind]
        cursor: Any = b"0"
        while True:
            cursor, found = one.on_key(scan, key, cursor, "COUNT", LARGE_ELEMENTS)
            names = found if kind == "set" else found[::2]
            if names and kind == "zset":
                # Servers write the same score in different ways.
                yield lambda wire, names=names: [  # type: ignore[misc]
                    None if score is None else float(score) for score in wire.on_key(ask, key, *names)
                ]
            elif names:
                yield lambda wire, names=names: wire.on_key(ask, key, *names)  # type: ignore[misc]
            if int(cursor) == 0:
                break
        yield lambda wire: wire.on_key(length, key)


def fault(ask: Callable[..., Any], key: bytes) -> str | None:
    """What is wrong with a large string that begins as versioned values do: "damaged", "unknown_format" or None.

    ``ask`` sends a command to the node that has it: `Wire.on_key` or `Wire.asking`.
    """
    for _ in range(LOOKS):
        header = ask("GETRANGE", key, 0, HEADER_SIZE - 1)
        if header[: len(MAGIC)] != MAGIC:
            return None
        if header[3] != FORMAT:
            return "unknown_format"
        checksum, start = hashlib.sha1(), 8
        while piece := ask("GETRANGE", key, start, start + LARGE_BYTES - 1):
            checksum.update(piece)
            start += len(piece)
        if checksum.digest()[:4] == header[4:8]:
            return None
        # Written in between: the header has another version.
        if ask("GETRANGE", key, 0, HEADER_SIZE - 1) == header:
            return "damaged"
    return None
