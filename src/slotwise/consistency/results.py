"""What a versioned store answers."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from slotwise._versions import Version

Outcome = Literal["applied", "discarded", "unknown"]
Action = Literal["set", "delete"]


class Versioned(NamedTuple):
    """A value and its version."""

    value: Any
    """None where it was deleted."""

    version: Version | None
    """None for a foreign value that was adopted: it is older than every version."""

    deleted: bool = False
    """A tombstone: the key was deleted by this version."""


@dataclass(slots=True)
class WriteResult:
    """What became of a write. It is true when the write was applied."""

    outcome: Outcome
    """"applied"; "discarded": something newer (or not what was expected) is there, and stays; "unknown": the reply was lost
    and sending the write again did not tell."""

    version: Version
    """That of the write itself."""

    current: Version | None
    """The version that is there, as far as is known: this write's, or the one that won. None: nothing, or not known."""

    replicas: int | None = None
    """How many replicas have it, counted up to ``wait_timeout``; None where nobody asked."""

    def __bool__(self) -> bool:
        return self.outcome == "applied"


class HistoryEntry(NamedTuple):
    """One write of a key."""

    version: Version
    writer: int
    """The writer's 64-bit number, from the version."""

    action: Action
    outcome: Literal["applied", "discarded"]
    at: float
    """Seconds since 1970 when it was sent, by its sender's clock."""


# Milliseconds since 1970 (6 bytes), action, outcome, version.
_ENTRY = struct.Struct(">HIss16s")


def history_entry(data: bytes) -> HistoryEntry | None:
    """An entry of a history as it is stored; None for what is none."""
    if type(data) is not bytes or len(data) != _ENTRY.size:
        return None
    high, low, action, outcome, raw = _ENTRY.unpack(data)
    version = Version.from_bytes(raw)
    return HistoryEntry(
        version,
        version.writer,
        "delete" if action == b"d" else "set",
        "applied" if outcome == b"A" else "discarded",
        (high << 32 | low) / 1000,
    )


@dataclass(slots=True)
class StoreStats:
    """What one store has counted since it was made."""

    applied: int = 0
    discarded: int = 0
    unknown: int = 0
    refused: int = 0
    """Writes that the store or the script did not do: foreign and damaged values, collections, versions from the future."""

    failed: int = 0
    """Writes that ended in any other error: none of them was executed."""

    repeated: int = 0
    """Writes that were sent once more because their reply was lost."""

    unconfirmed: int = 0
    """Writes that fewer than ``wait_replicas`` replicas confirmed in time."""

    drifted: int = 0
    """Reads that found a version from the far future."""
