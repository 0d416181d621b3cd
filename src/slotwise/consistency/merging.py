"""Which of two copies of a key is right, and how it gets to the other cluster.

What is carried over is read in one script with its expiry, so that both belong together whoever writes meanwhile, and is
written by a script that looks again first.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from slotwise._versions import NotSealed, header
from slotwise.consistency.digests import ABSENT, DAMAGED, FETCH, VERSIONED, WRITE_IF_SAME, Look
from slotwise.consistency.nodes import Wire
from slotwise.consistency.repair import put

Side = Literal["a", "b"]


def rank(look: Look) -> tuple[int, bytes, bytes, float]:
    """Last write wins as a total order of copies: nothing, damaged, then by version. Of equal ones the later expiry."""
    order = {ABSENT: 0, VERSIONED: 2}.get(look.letter, 1)
    expires = float("inf") if look.expires == -1 else look.expires
    return order, look.version or b"", look.digest, expires


def merge(one: Look, other: Look) -> Look:
    """The one of two copies that is to be everywhere. Commutative, associative, idempotent."""
    return max(one, other, key=rank)


def decide(a: Look, b: Look, prefer: Side | None, same: bool) -> Side | None:
    """Whose copy both are to have; None for a conflict.

    ``same`` says that only their expiries differ, ``prefer`` settles what versions cannot.
    """
    known = {VERSIONED, DAMAGED, ABSENT}
    if same or (VERSIONED in (a.letter, b.letter) and {a.letter, b.letter} <= known):
        return "a" if merge(a, b) is a else "b"
    if prefer is None:
        return None
    # What only one side has is carried over, and never deleted.
    if not a.exists or not b.exists:
        return "a" if a.exists else "b"
    return prefer


class Copy(NamedTuple):
    """A copy of a key, and where it is."""

    wire: Wire
    look: Look
    #: What scripts call it, who leave judging a large versioned value to us.
    letter: str


def carry(key: bytes, winner: Copy, loser: Copy, same: bool) -> bool | None:
    """Makes one copy the other, and says whether it is; None: what is there by now is as new.

    ``same`` says that only their expiries differ. What a server refuses is raised.
    """
    there = loser.wire
    seen = loser.letter.encode() + loser.look.digest
    if same:
        return bool(there.run(WRITE_IF_SAME, there.exact, seen, winner.look.expires, "", key=key))
    found = winner.wire.run(FETCH, winner.wire.exact, key=key)
    if not found:
        return False
    kind, expires, value = found
    if winner.look.version is not None and loser.look.letter in (VERSIONED, DAMAGED, ABSENT):
        version = _version(value) if kind == b"string" else None
        if version is None or version < winner.look.version:
            return False
        if version != loser.look.version:
            return True if put(there, key, value, expires) == 1 else None
        # Two values of one version: `rank` has chosen by digest.
    return bool(there.run(WRITE_IF_SAME, there.exact, seen, expires, kind, value, key=key))


def _version(value: bytes) -> bytes | None:
    """That of a versioned value; None if it is none, or damaged."""
    try:
        version, _ = header(value)
    except NotSealed:
        return None
    return bytes(version) if hashlib.sha1(value[8:]).digest()[:4] == value[4:8] else None
