"""What a store saw acknowledged, so that it can tell after a failover what the cluster has forgotten.

A primary that dies takes with it what its replicas had not received, acknowledged or not. Nobody tells its writers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from slotwise._versions import TOMBSTONE, NotSealed, Version, header
from slotwise.consistency.errors import BatchError
from slotwise.consistency.requests import AT_ONCE, Command, Steps, chunks
from slotwise.consistency.scripts import DONE, HEAD, WRITE, Script


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

    key: Any
    """As it was given to the store."""

    version: Version
    sealed: bytes | None
    """Its stored form, as long as there is room."""

    expires: float | None
    """Seconds of the monotonic clock, no later than when the server lets the value expire; None: never."""


class Memory:
    """The last ``limit`` keys written, and the values of as many of them as fit in ``value_bytes``.

    Keys are told apart by their bytes. Threads may share it.
    """

    def __init__(self, limit: int, value_bytes: int) -> None:
        self._limit = limit
        self._bytes = self._room = value_bytes
        # Both in the order of the last write, the oldest first.
        self._versions: OrderedDict[bytes, tuple[Any, Version, float | None]] = OrderedDict()
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self.renew()

    def renew(self) -> None:
        """In a child process: a lock that nobody holds."""
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._versions)

    def note(self, name: bytes, key: Any, version: Version, sealed: bytes, expires: float | None) -> None:
        """A write of ``key``, which is ``name`` on the wire, was acknowledged; an older one than is known changes nothing."""
        with self._lock:
            known = self._versions.get(name)
            if known is not None and version < known[1]:
                return
            self._drop(name)
            self._versions[name] = (key, version, expires)
            if len(sealed) <= self._bytes:
                while self._room < len(sealed):
                    self._room += len(self._values.popitem(last=False)[1])
                self._values[name] = sealed
                self._room -= len(sealed)
            if len(self._versions) > self._limit:
                self._drop(next(iter(self._versions)))

    def meet(self, name: bytes, version: Version) -> None:
        """A version was seen there. One that is newer than what is known is somebody else's, and theirs to remember."""
        with self._lock:
            known = self._versions.get(name)
            if known is not None and known[1] < version:
                self._drop(name)

    def all(self) -> list[Remembered]:
        """What is remembered at this moment, the oldest first."""
        with self._lock:
            return [
                Remembered(key, version, self._values.get(name), expires)
                for name, (key, version, expires) in self._versions.items()
            ]

    def _drop(self, name: bytes) -> None:
        self._versions.pop(name, None)
        value = self._values.pop(name, None)
        if value is not None:
            self._room += len(value)


def find_lost(
    memory: Memory,
    rewrite: bool,
    send: Callable[[list[Command], Script], Steps[tuple[list[Any], set[int]]]],
    write: Callable[[Any, bytes, bytes | int, bytes], Command],
) -> Steps[list[LostWrite]]:
    """The steps of `lost_writes`. ``send`` sends calls of a script, ``write(key, sealed, px, action)`` makes one of `WRITE`."""
    lost: dict[Any, LostWrite] = {}
    errors: dict[Any, Exception] = {}
    for some in chunks(memory.all(), AT_ONCE):
        replies, _ = yield from send([("EVALSHA", HEAD.sha, 1, known.key) for known in some], HEAD)
        now = time.monotonic()
        again: list[tuple[Any, Command]] = []
        for reply, (key, version, sealed, expires) in zip(replies, some, strict=True):
            if isinstance(reply, Exception):
                errors[key] = reply
                continue
            try:
                found = header(reply)[0]
            except NotSealed:
                found = None
            if found is not None and found >= version:
                continue
            if found is None and expires is not None and now >= expires:
                continue
            lost[key] = LostWrite(key, version, found)
            if rewrite and sealed is not None:
                px = b"" if expires is None else max(1, int((expires - now) * 1000))
                action = b"d" if header(sealed)[1] & TOMBSTONE else b"s"
                again.append((key, write(key, sealed, px, action)))
        if not again:
            continue
        replies, _ = yield from send([command for _, command in again], WRITE)
        for reply, (key, _) in zip(replies, again, strict=True):
            if isinstance(reply, Exception):
                errors[key] = reply
                del lost[key]
            elif type(reply) is int and reply in DONE:
                lost[key] = replace(lost[key], rewritten=True)
    if errors:
        raise BatchError(lost, errors)
    return list(lost.values())
