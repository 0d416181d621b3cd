"""What a store saw acknowledged, so that it can tell after a failover what the cluster has forgotten.

A primary that dies takes with it what its replicas had not received, acknowledged or not. Nobody tells its writers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from slotwise._versions import Version


@dataclass(frozen=True, slots=True)
class LostWrite:
    """A key that went back in time."""

    key: Any
    """As it was given to the store."""

    acknowledged: Version
    """The newest version that the store saw acknowledged."""

    found: Version | None
    """What is there now: an older one, or None for nothing, or for a value without a version."""

    rewritten: bool = False
    """It is there again, because `lost_writes` was asked to write it."""


class Remembered(NamedTuple):
    """The last acknowledged write of a key."""

    version: Version
    sealed: bytes | None
    """Its stored form, as long as there is room."""

    expires: float | None
    """Seconds of the monotonic clock, no later than when the server lets the value expire; None: never."""


class Memory:
    """The last ``limit`` keys written, and the values of as many of them as fit in ``value_bytes``.

    Threads may share it.
    """

    def __init__(self, limit: int, value_bytes: int) -> None:
        self._limit = limit
        self._bytes = self._room = value_bytes
        # Both in the order of the last write, the oldest first.
        self._versions: OrderedDict[Any, tuple[Version, float | None]] = OrderedDict()
        self._values: OrderedDict[Any, bytes] = OrderedDict()
        self.renew()

    def renew(self) -> None:
        """In a child process: a lock that nobody holds."""
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._versions)

    def note(self, key: Any, version: Version, sealed: bytes, expires: float | None) -> None:
        """A write of ``key`` was acknowledged; one that is older than what is known changes nothing."""
        with self._lock:
            known = self._versions.get(key)
            if known is not None and version < known[0]:
                return
            self._drop(key)
            self._versions[key] = (version, expires)
            if len(sealed) <= self._bytes:
                while self._room < len(sealed):
                    self._room += len(self._values.popitem(last=False)[1])
                self._values[key] = sealed
                self._room -= len(sealed)
            if len(self._versions) > self._limit:
                self._drop(next(iter(self._versions)))

    def forget(self, key: Any) -> None:
        """Somebody else has written ``key`` since: it is theirs to remember."""
        with self._lock:
            self._drop(key)

    def all(self) -> list[tuple[Any, Remembered]]:
        """What is remembered at this moment, the oldest first."""
        with self._lock:
            return [
                (key, Remembered(version, self._values.get(key), expires))
                for key, (version, expires) in self._versions.items()
            ]

    def _drop(self, key: Any) -> None:
        self._versions.pop(key, None)
        value = self._values.pop(key, None)
        if value is not None:
            self._room += len(value)
