"""The ways over the keys of a node: all by SCAN, or handfuls from random places."""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Any

import numpy as np

from slotwise.consistency.digests import DIGITS, EXISTS, LOOK, SCAN
from slotwise.consistency.nodes import FAILURES, SLOTS, Wire
from slotwise.consistency.suspects import Suspects

if TYPE_CHECKING:
    from slotwise.consistency.auditing import Audit, Shard

# Suspects, and seconds after the first, until they are looked at again.
_SUSPECTS, _PATIENCE = 200, 1.0
# Keys that a sample takes from one place of a node's table.
_HANDFUL = 16
# A pattern that few keys match: random places without a match until the sample is given up.
_IN_VAIN = 200

_ABSENT, _ELSEWHERE = b"-"[0], b"?"[0]
# What is to be looked at more closely though both copies are alike: large, left for later, damaged, unknown, elsewhere.
_REMARKABLE = frozenset(b"B.du?")


class Places:
    """The cursors from which a walk scans: one after the other, or at random until it has its share of a sample."""

    # Of a sample: the keys that it has, and how many keys slots up to each have, where each slot has its own table.
    _seen: set[bytes]
    _keys_up_to: list[int]

    def __init__(self, audit: Audit, wire: Wire, share: int, keys: int) -> None:
        self._state = audit.state(wire)
        # A sample of everything is everything.
        self._left = share if audit.options.sample is not None and share < keys else None
        self._in_vain = 0
        self.count = audit.options.batch if self._left is None else min(_HANDFUL, audit.options.batch)
        self.done: bool = self._state["done"]
        #: Where to scan next.
        self.cursor: int = self._state["cursor"]
        if self._left is not None:
            self._seen = set()
            self._keys_up_to = list(accumulate(wire.counts())) if wire.tables else []
            self.cursor = self._anywhere()

    def scanned(self, cursor: int, keys: Sequence[bytes]) -> Sequence[bool]:
        """A scan has come back, with where it would go on. Which of its keys are not in the sample yet."""
        if self._left is None:
            self.cursor = cursor
            self.done = cursor == 0
            return [True] * len(keys)
        fresh = [key not in self._seen for key in keys]
        self._seen.update(keys)
        self._left -= sum(fresh)
        self._in_vain = 0 if any(fresh) else self._in_vain + 1
        self.cursor = self._anywhere()
        self.done = self._left <= 0 or self._in_vain > _IN_VAIN
        return fresh

    def _anywhere(self) -> int:
        """A random cursor, from which each key is as likely to come as any other."""
        somewhere = random.getrandbits(48)
        if not self._keys_up_to or not self._keys_up_to[-1]:
            return somewhere
        # Of all slots most are other nodes', and from those a scan goes on to the same few keys always.
        slot = bisect_right(self._keys_up_to, random.randrange(self._keys_up_to[-1]))
        return somewhere - somewhere % SLOTS + slot

    def keep(self) -> None:
        """All before is looked at to the end: a later audit may go on from here."""
        self._state.update(cursor=self.cursor, done=self.done)


class PrimaryWalk:
    """Compares the keys of a primary with those of its replicas, a batch at a time.

    While the replicas look at a batch, the primary scans the next.
    """

    def __init__(self, audit: Audit, shard: Shard) -> None:
        self._audit = audit
        self._shard = shard
        self._replicas = list(shard.replicas)
        self._suspects = Suspects(audit, shard)
        self._since = 0.0

    def run(self) -> None:
        audit, wire = self._audit, self._shard.wire
        try:
            places = Places(audit, wire, self._shard.share, self._shard.keys)
            if not places.done:
                self._walk(places)
        except FAILURES as error:
            audit.fail(wire.name, error)

    def _walk(self, places: Places) -> None:
        audit, primary = self._audit, self._shard.wire
        self._ask(primary, places)
        while True:
            cursor, keys, letters, digests, times, size = primary.receive()
            audit.throttle.take(len(keys))
            fresh = places.scanned(int(cursor), keys)
            if not all(fresh):
                keys, letters, digests, times = _only(fresh, keys, letters, digests, times)
            asked = self._ask_replicas(keys)
            goes_on = not places.done and not audit.stop.is_set()
            if goes_on:
                self._ask(primary, places)
            if keys:
                self._count(letters, size, len(asked) * len(keys))
                self._remark(keys, letters)
                for node, replica in asked:
                    self._compare(node, replica, keys, (letters, digests, times))
            self._settle(now=not goes_on)
            # The batch under way is the one after: its place is not moved on before it has come.
            if self._suspects.settled:
                places.keep()
            if not goes_on:
                return

    def _ask(self, primary: Wire, places: Places) -> None:
        pattern = self._audit.options.pattern
        primary.send(SCAN, primary.exact, places.cursor, places.count, "" if pattern == "*" else pattern)

    def _ask_replicas(self, keys: list[bytes]) -> list[tuple[Any, Wire]]:
        asked = []
        for node, replica in self._replicas if keys else ():
            try:
                replica.send(LOOK, replica.exact, *keys)
                asked.append((node, replica))
            except FAILURES as error:
                self._lose(replica, error)
        return asked

    def _lose(self, replica: Wire, error: BaseException) -> None:
        """A replica does not answer: the others are looked at without it."""
        self._audit.fail(replica.name, error)
        self._replicas = [pair for pair in self._replicas if pair[1] is not replica]
        self._suspects.lose(replica.name)

    def _count(self, letters: bytes, size: int, copies: int) -> None:
        gone = letters.count(_ABSENT) + letters.count(_ELSEWHERE)
        versioned = letters.count(b"v") + letters.count(b"d") + letters.count(b"u")
        report = self._audit.report
        with self._audit.lock:
            report.keys += len(letters) - gone
            report.copies += copies
            report.bytes += size
            report.versioned += versioned
            report.unversioned += len(letters) - gone - versioned

    def _remark(self, keys: list[bytes], letters: bytes) -> None:
        if _REMARKABLE.isdisjoint(letters):
            return
        for key, letter in zip(keys, letters, strict=True):
            if letter == _ELSEWHERE:
                self._suspects.elsewhere(key)
            elif letter in _REMARKABLE:
                self._suspects.add(key)

    def _compare(self, node: Any, replica: Wire, keys: list[bytes], mine: tuple[bytes, bytes, bytes]) -> None:
        letters, digests, times = mine
        try:
            their_letters, their_digests, their_times, _ = replica.receive()
        except FAILURES as error:
            self._lose(replica, error)
            return
        odd: set[int] = set()
        if letters != their_letters or digests != their_digests:
            odd.update(_differing(letters, digests, their_letters, their_digests))
        if times != their_times:
            apart = np.abs(_times(times) - _times(their_times)) > self._audit.options.ttl_tolerance * 1000
            odd.update(apart.nonzero()[0].tolist())
        for i in odd:
            # What has gone from the primary is the replica's walk to tell.
            if letters[i] not in (_ABSENT, _ELSEWHERE):
                self._suspects.add(keys[i], replica.name)

    def _settle(self, now: bool) -> None:
        waiting = self._suspects.waiting
        if not waiting:
            self._since = time.monotonic()
        elif now or waiting >= _SUSPECTS or time.monotonic() - self._since > _PATIENCE:
            self._suspects.resolve()


def _times(text: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(text.split(b","), np.float64)


def _only(
    wanted: Sequence[bool], keys: list[bytes], letters: bytes, digests: bytes, times: bytes
) -> tuple[list[bytes], bytes, bytes, bytes]:
    """What a script tells, of some of the keys."""
    each = (digests[i : i + DIGITS] for i in range(0, len(digests), DIGITS))
    return (
        list(compress(keys, wanted)),
        bytes(compress(letters, wanted)),
        b"".join(compress(each, wanted)),
        b",".join(compress(times.split(b","), wanted)),
    )


def _differing(letters: bytes, digests: bytes, others: bytes, their_digests: bytes) -> Iterator[int]:
    for i in range(len(letters)):
        here = slice(DIGITS * i, DIGITS * (i + 1))
        if letters[i] != others[i] or digests[here] != their_digests[here]:
            yield i


class ReplicaWalk:
    """Looks for keys that a replica has and its primary has not."""

    def __init__(self, audit: Audit, shard: Shard, node: Any, wire: Wire) -> None:
        self._audit = audit
        self._shard = shard
        self._node = node
        # The walk over the primary's keys uses that one.
        self._name = wire.name
        self._suspects = Suspects(audit, shard)

    def run(self) -> None:
        audit = self._audit
        try:
            wire = audit.wire(self._node)
            keys = int(wire.call("DBSIZE"))
        except FAILURES as error:
            audit.fail(self._name, error)
            return
        places = Places(audit, wire, self._shard.share, keys)
        if places.done:
            return
        try:
            primary = audit.wire(self._audit.nodes[self._shard.wire.name])
        except FAILURES as error:
            audit.fail(self._shard.wire.name, error)
            return
        self._walk(places, wire, primary)

    def _walk(self, places: Places, wire: Wire, primary: Wire) -> None:
        audit = self._audit
        match = () if audit.options.pattern == "*" else ("MATCH", audit.options.pattern)
        while not audit.stop.is_set():
            try:
                cursor, keys = wire.call("SCAN", places.cursor, *match, "COUNT", places.count)
            except FAILURES as error:
                audit.fail(wire.name, error)
                return
            audit.replica_throttle.take(len(keys))
            keys = list(compress(keys, places.scanned(int(cursor), keys)))
            if keys:
                try:
                    there = primary.run(EXISTS, *keys)
                except FAILURES as error:
                    audit.fail(primary.name, error)
                    return
                with audit.lock:
                    audit.report.replica_keys += len(keys)
                if there.count(b"1") != len(keys):
                    self._look_closer(keys, there, primary)
            if self._suspects.waiting >= _SUSPECTS or places.done or audit.stop.is_set():
                try:
                    self._suspects.resolve()
                except FAILURES as error:
                    audit.fail(primary.name, error)
                    return
            if self._suspects.settled:
                places.keep()
            if places.done:
                return

    def _look_closer(self, keys: list[bytes], there: bytes, primary: Wire) -> None:
        for key, letter in zip(keys, there, strict=True):
            if letter == _ELSEWHERE:
                # The primary's walk tells those that the primary holds as well.
                self._suspects.elsewhere(key, self._name)
            elif letter == b"0"[0]:
                self._suspects.add(key, self._name, extra=True)
