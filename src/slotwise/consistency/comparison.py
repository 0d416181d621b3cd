"""`compare` and `reconcile`: two clusters, slot by slot.

The keys of many slots are summed up on both sides; where the sums differ, those of the halves are asked for, and so on
down to one slot, whose keys are then looked at. What is equal costs two short replies for some hundred keys.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from redis.exceptions import AskError, RedisClusterException, ResponseError

from slotwise._versions import MAGIC
from slotwise.consistency import large
from slotwise.consistency.digests import COUNTS, ELSEWHERE, LARGE, LARGE_ELEMENTS, SLOTS, Look
from slotwise.consistency.findings import Failure, Verdict, about_key
from slotwise.consistency.merging import Copy, Side, carry, decide
from slotwise.consistency.nodes import AT_ONCE, FAILURES, View, Wire
from slotwise.consistency.nodes import SLOTS as ALL_SLOTS
from slotwise.consistency.repair import look_at
from slotwise.consistency.values import check_client

#: Differences that a report keeps; the others are counted.
KEPT = 10_000
# Keys, and slots, in one sum.
_KEYS, _SLOTS = 500, 1024
_TASKS = 16
_PROGRESS = 0.2
# Tries at slots that are on their way, and seconds between them.
_TRIES, _PAUSE = 4, 0.25
# Milliseconds by which an expiry that nobody touches may seem to change: before Redis 7.0 it is reckoned at each look.
_STILL = 10


@dataclass(frozen=True)
class Difference:
    """One key that two clusters do not have alike. The key is left out of its text."""

    #: only_in_a, only_in_b, different, wrong_ttl, or busy: it changed each time it was looked at.
    kind: str
    slot: int
    type: str
    #: "a" or "b", whose version is the newer one, or which of them is versioned at all; None if nobody can tell.
    newer: str | None
    #: Whether both are alike now; None if nobody tried, False for a conflict that was left as well.
    reconciled: bool | None = None
    key: bytes = field(default=b"", repr=False)

    def as_dict(self, show_keys: bool = False) -> dict[str, Any]:
        """For JSON; a key that is not UTF-8 is shown with backslashes."""
        return about_key(self, self.key, show_keys)


@dataclass
class ComparisonReport(Verdict):
    """What came of a comparison."""

    #: Unix time.
    began: float
    seconds: float = 0.0
    #: Keys of either side when their slots were counted.
    keys_a: int = 0
    keys_b: int = 0
    #: Slots whose keys had to be looked at one by one.
    slots_looked_into: int = 0
    #: Kind -> how many, also of those beyond the differences that are kept.
    counts: Counter[str] = field(default_factory=Counter)
    reconciled: int = 0
    #: Left as they are, because no version says who is right.
    conflicts: int = 0
    #: What a server refused, or what changed meanwhile.
    not_reconciled: int = 0
    #: Slots that were on their way at each try, or for whose keys a node did not answer: not looked at, or not as a whole.
    moving: int = 0
    differences: list[Difference] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    stopped: bool = False

    @property
    def equal(self) -> bool:
        """Whether all was looked at and is alike."""
        return super().equal and not self.moving

    @property
    def mended(self) -> bool:
        """Whether all is alike now: it was, or was reconciled."""
        return self._are_mended(self.reconciled) and not self.moving

    def as_dict(self, show_keys: bool = False) -> dict[str, Any]:
        """For JSON."""
        told = asdict(self)
        told["differences"] = [difference.as_dict(show_keys) for difference in self.differences]
        return {"equal": self.equal, "mended": self.mended, **told, "counts": dict(self.counts)}


# -- the comparison ----------------------------------------------------------------------------------------------------


class _Cluster:
    """One of the two: its primaries by their own words."""

    def __init__(self, client: Any, timeout: float, fail: Callable[[str, BaseException], None]) -> None:
        self._client = client
        self._timeout = timeout
        self._fail = fail
        self.primaries: dict[str, tuple[Any, View]] = {}

    def discover(self, anew: bool) -> None:
        """Asks all nodes who they are; ``anew``: others may have come."""
        self.primaries = {}
        if anew:
            try:
                self._client.nodes_manager.initialize()
            except (*FAILURES, RedisClusterException) as error:
                self._fail("-", error)
        for node in sorted(self._client.get_nodes(), key=lambda node: str(node.name)):
            try:
                wire = self.wire(node)
            except FAILURES as error:
                self._fail(node.name, error)
                continue
            try:
                view = wire.view()
                if not view.primary_id:
                    self.primaries[node.name] = node, view
            except FAILURES as error:
                self._fail(node.name, error)
            finally:
                wire.close()

    def wire(self, node: Any) -> Wire:
        wire = Wire(self._client, node, self._timeout)
        wire.open()
        return wire

    def owners(self) -> list[str | None]:
        owners: list[str | None] = [None] * ALL_SLOTS
        for name, (_, view) in self.primaries.items():
            for slot in range(ALL_SLOTS):
                if view.owned[slot]:
                    owners[slot] = name
        return owners


class _Comparison:
    def __init__(
        self,
        a: Any,
        b: Any,
        *,
        reconcile: bool,
        prefer: Side | None,
        ttl_tolerance: float,
        timeout: float,
        kept: int,
        progress: Callable[[int, int], object] | None,
        stop: threading.Event,
    ) -> None:
        for client in (a, b):
            check_client(client, awaited=False, taker="compare")
        self.report = ComparisonReport(time.time())
        self._lock = threading.Lock()
        self.clusters = [_Cluster(client, timeout, self.fail) for client in (a, b)]
        self.reconcile = reconcile
        self.prefer: Side | None = prefer
        #: In milliseconds.
        self.tolerance = ttl_tolerance * 1000
        self._kept = kept
        self._progress = progress
        self.stop = stop
        self._slots_done = 0
        # Slots to try once more, and the keys of such slots that have been told.
        self._left: list[int] = []
        self._told: dict[int, set[bytes]] = {}

    def fail(self, node: str, error: BaseException) -> None:
        """A node has failed. The same failure is told once, however many keys it meets."""
        failure = Failure(node, str(error) or type(error).__name__)
        with self._lock:
            if failure not in self.report.failures:
                self.report.failures.append(failure)

    def run(self) -> ComparisonReport:
        began = time.monotonic()
        slots, uncovered = list(range(ALL_SLOTS)), 0
        for attempt in range(_TRIES):
            if attempt and self.stop.wait(_PAUSE):
                break
            slots, uncovered = self._compare(slots, anew=attempt > 0)
            if not slots or self.report.failures:
                break
        if uncovered:
            self.fail("-", RuntimeError(f"{uncovered:,} slots are not served by both clusters"))
        self.report.moving = len(slots) - uncovered
        self.report.seconds = time.monotonic() - began
        self.report.stopped = self.stop.is_set()
        return self.report

    def _compare(self, slots: list[int], anew: bool) -> tuple[list[int], int]:
        """Compares slots between those that own them now: those that are left, and how many of these nobody owns."""
        for cluster in self.clusters:
            cluster.discover(anew)
        owners = [cluster.owners() for cluster in self.clusters]
        pairs: dict[tuple[str, str], list[int]] = {}
        left: list[int] = []
        for slot in slots:
            mine, theirs = owners[0][slot], owners[1][slot]
            if mine is None or theirs is None:
                left.append(slot)
            else:
                pairs.setdefault((mine, theirs), []).append(slot)
        uncovered = len(left)
        self._left = []
        if pairs:
            with ThreadPoolExecutor(min(_TASKS, len(pairs)), "slotwise-compare") as pool:
                running: set[Future[None]] = {
                    pool.submit(self._compare_nodes, mine, theirs, some)
                    for (mine, theirs), some in pairs.items()
                }
                try:
                    while running:
                        done, running = wait(running, _PROGRESS, FIRST_EXCEPTION)
                        for future in done:
                            future.result()
                        if self._progress is not None:
                            self._progress(self._slots_done, ALL_SLOTS)
                except BaseException:
                    self.stop.set()
                    raise
        return left + self._left, uncovered

    def _compare_nodes(self, mine: str, theirs: str, slots: list[int]) -> None:
        wires: list[Wire] = []
        name = mine
        try:
            for name, cluster in zip((mine, theirs), self.clusters, strict=True):
                wires.append(cluster.wire(cluster.primaries[name][0]))
            _Pair(self, wires[0], wires[1]).compare(slots)
        except FAILURES as error:
            self.fail(f"{mine} and {theirs}" if len(wires) == 2 else name, error)
        finally:
            for wire in wires:
                wire.close()

    def passed(self, slots: int, left: set[int], keys: Sequence[int]) -> None:
        """So many slots are done, and so many keys of both sides in them; others are to be tried once more."""
        with self._lock:
            self._slots_done += slots
            self._left += left
            self.report.keys_a += keys[0]
            self.report.keys_b += keys[1]

    def told_before(self, slot: int) -> set[bytes]:
        """The keys of a slot that were told at an earlier try."""
        return self._told.get(slot, set())

    def keep(self, slot: int, told: set[bytes]) -> None:
        """The keys that are not to be told again when the slot is tried once more."""
        self._told[slot] = told

    def looking_into_a_slot(self) -> None:
        with self._lock:
            self.report.slots_looked_into += 1

    def found(self, difference: Difference, conflict: bool = False) -> None:
        with self._lock:
            report = self.report
            report.counts[difference.kind] += 1
            report.reconciled += difference.reconciled is True
            report.conflicts += conflict
            report.not_reconciled += difference.reconciled is False and not conflict
            if len(report.differences) < self._kept:
                report.differences.append(difference)


class _Pair:
    """The slots that one primary of a and one of b have in common."""

    def __init__(self, whole: _Comparison, a: Wire, b: Wire) -> None:
        self._whole = whole
        self._a, self._b = a, b
        # Milliseconds that an expiry may be off where servers reckon it.
        self._rounded = 0 if a.exact and b.exact else 2
        # Slots to try once more, and those whose keys were looked at while they stood still.
        self._left: set[int] = set()
        self._done: set[int] = set()

    def compare(self, slots: list[int]) -> None:
        for start in range(0, len(slots), _SLOTS):
            some = slots[start : start + _SLOTS]
            self._left = self._on_their_way(some)
            counts = [list(map(int, text.split(b","))) for text in self._both(COUNTS, *some)]
            group: list[int] = []
            keys = 0
            for slot, mine, theirs in zip(some, *counts, strict=True):
                if self._whole.stop.is_set():
                    return
                most = max(mine, theirs)
                if most > LARGE_ELEMENTS or slot in self._left:
                    self._look_into(slot)
                    continue
                if group and keys + most > _KEYS:
                    self._sum_up(group)
                    group, keys = [], 0
                if most:
                    group.append(slot)
                    keys += most
            if group:
                self._sum_up(group)
            # What has gone meanwhile may have been half there when it was summed up.
            self._left |= self._on_their_way(some) - self._done
            done = [place for place, slot in enumerate(some) if slot not in self._left]
            self._whole.passed(len(done), self._left, [sum(all_[i] for i in done) for all_ in counts])

    def _on_their_way(self, slots: Sequence[int]) -> set[int]:
        """Those of the slots that are being moved, or do not belong to the two any more."""
        views = self._a.view(), self._b.view()
        return {slot for slot in slots if any(slot in view.moving or not view.owned[slot] for view in views)}

    def _both(self, script: Any, *arguments: Any, exact: bool = False) -> tuple[Any, Any]:
        """The script on both sides at the same time."""
        for wire in (self._a, self._b):
            wire.send(script, *((wire.exact,) if exact else ()), *arguments)
        return self._a.receive(), self._b.receive()

    def _sum_up(self, slots: list[int]) -> None:
        """Compares the sums of slots, and those of the halves where they differ."""
        mine, theirs = (list(map(int, text.split())) for text in self._both(SLOTS, *slots, exact=True))
        # What one expiry may be off, and not what all of them may: two servers that were told the same times agree.
        close = abs(mine[3] - theirs[3]) <= self._whole.tolerance + self._rounded * mine[2]
        if mine[:3] == theirs[:3] and close and mine[0] >= 0 and mine[4] == theirs[4] == 0:
            return
        if len(slots) == 1:
            self._look_into(slots[0])
            return
        half = len(slots) // 2
        self._sum_up(slots[:half])
        self._sum_up(slots[half:])

    def _look_into(self, slot: int) -> None:
        """Compares the keys of a slot one by one."""
        self._whole.looking_into_a_slot()
        told = self._whole.told_before(slot)
        keys: set[bytes] = set()
        for wire in (self._a, self._b):
            count = wire.call("CLUSTER", "COUNTKEYSINSLOT", slot)
            keys.update(wire.call("CLUSTER", "GETKEYSINSLOT", slot, count) if count else ())
        ordered = sorted(keys - told)
        answered = True
        for start in range(0, len(ordered), AT_ONCE):
            if self._whole.stop.is_set():
                return
            answered &= self._look_at(slot, ordered[start : start + AT_ONCE], told)
        if slot in self._left or not answered or self._on_their_way([slot]):
            self._left.add(slot)
            self._whole.keep(slot, told)
        else:
            self._done.add(slot)

    def _look_at(self, slot: int, keys: list[bytes], told: set[bytes]) -> bool:
        """Tells of keys that differ, and adds them to ``told``; whether the nodes answered for all."""
        seen: dict[bytes, tuple[Look, Look]] = {}
        pending = keys
        answered = True
        for _ in range(large.LOOKS):
            mine, theirs = self._a.details(pending), self._b.details(pending)
            following = []
            for key in pending:
                a, b = mine[key], theirs[key]
                if ELSEWHERE in (a.letter, b.letter):
                    answered = False
                    continue
                try:
                    settled = self._settle(slot, key, a, b, seen.get(key), told)
                except AskError:
                    # It went while its pieces were read.
                    answered = False
                    continue
                if not settled:
                    seen[key] = a, b
                    following.append(key)
            pending = following
            if not pending:
                break
        for key in pending:
            self._whole.found(Difference("busy", slot, seen[key][0].type, None, None, key))
            told.add(key)
        return answered

    def _settle(
        self, slot: int, key: bytes, a: Look, b: Look, before: tuple[Look, Look] | None, told: set[bytes]
    ) -> bool:
        """Whether a key is done with: it is alike, or stood still for two looks, differs, and was told."""
        same = self._same_value(key, a, b)
        if same and self._expire_alike(a, b):
            return True
        if same is None or before is None or not all(map(self._stands, before, (a, b))):
            return False
        self._tell(slot, key, a, b, same)
        told.add(key)
        return True

    def _same_value(self, key: bytes, a: Look, b: Look) -> bool | None:
        """Whether two copies differ in nothing but their expiries; None: a large one changes each time."""
        if a.value == b.value and a.letter == LARGE:
            return large.same(self._a, self._b, key, a.type, lambda: None)
        return a.value == b.value

    def _expire_alike(self, a: Look, b: Look) -> bool:
        if (a.expires < 0) != (b.expires < 0):
            return False
        return abs(a.expires - b.expires) <= self._whole.tolerance + self._rounded

    def _stands(self, before: Look, now: Look) -> bool:
        """Whether nobody has written a key between two looks."""
        if (before.expires < 0) != (now.expires < 0) or abs(before.expires - now.expires) > _STILL:
            return False
        return before.value == now.value

    def _tell(self, slot: int, key: bytes, a: Look, b: Look, same: bool) -> None:
        """Tells of a difference, and reconciles it if asked to."""
        kind = "wrong_ttl" if same else "different"
        if not a.exists or not b.exists:
            kind = "only_in_a" if a.exists else "only_in_b"
        copies = []
        for wire, look in ((self._a, a), (self._b, b)):
            judged = self._judge(wire, key, look)
            if judged is None:
                self._whole.found(Difference("busy", slot, a.type, None, None, key))
                return
            copies.append(Copy(wire, judged, look.letter))
        mine, theirs = copies
        versions = mine.look.version or b"", theirs.look.version or b""
        newer: Side | None = None if versions[0] == versions[1] else "a" if versions[0] > versions[1] else "b"
        told = Difference(kind, slot, a.type or b.type, newer, None, key)
        if self._whole.reconcile:
            side = decide(mine.look, theirs.look, self._whole.prefer, same)
            winner, loser = (mine, theirs) if side == "a" else (theirs, mine)
            told = replace(told, reconciled=side is not None and self._reconcile(key, winner, loser, same))
            self._whole.found(told, conflict=side is None)
        else:
            self._whole.found(told)

    def _judge(self, wire: Wire, key: bytes, look: Look) -> Look | None:
        """A look at a large versioned value, told as one at a small one would be; None if it has changed since."""
        if look.letter != LARGE or not look.header.startswith(MAGIC):
            return look
        now = look_at(wire, key)
        return look._replace(letter=now.letter) if now.digest == look.digest else None

    def _reconcile(self, key: bytes, winner: Copy, loser: Copy, same: bool) -> bool:
        """Whether both sides have one copy now. What a server refuses does not keep others from theirs."""
        try:
            done = carry(key, winner, loser, same)
            if done is None:
                a, b = (wire.details([key])[key] for wire in (self._a, self._b))
                done = bool(self._same_value(key, a, b)) and self._expire_alike(a, b)
        except ResponseError as error:
            where = f"{self._a.name} and {self._b.name}"
            self._whole.fail(where, RuntimeError(f"a key was not reconciled: {error}"))
            return False
        return done


def compare(
    a: Any,
    b: Any,
    *,
    ttl_tolerance: float = 2.0,
    timeout: float = 5.0,
    kept: int = KEPT,
    progress: Callable[[int, int], object] | None = None,
    stop: threading.Event | None = None,
) -> ComparisonReport:
    """Compares all keys of two clusters, given as clients: values, types, and expiry within ``ttl_tolerance`` seconds.

    Only primaries are looked at. What is equal costs almost nothing on the wire. A difference has to be there in two looks.
    ``timeout`` is the seconds that a node has for an answer, ``kept`` how many differences the report keeps. ``progress``
    is called about five times a second with the slots done and 16,384, ``stop`` ends it early.
    """
    return _Comparison(
        a,
        b,
        reconcile=False,
        prefer=None,
        ttl_tolerance=ttl_tolerance,
        timeout=timeout,
        kept=kept,
        progress=progress,
        stop=stop or threading.Event(),
    ).run()


def reconcile(
    a: Any,
    b: Any,
    *,
    prefer: Side | None = None,
    ttl_tolerance: float = 2.0,
    timeout: float = 5.0,
    kept: int = KEPT,
    progress: Callable[[int, int], object] | None = None,
    stop: threading.Event | None = None,
) -> ComparisonReport:
    """Compares two clusters as `compare` does, and merges them both ways: of versioned values the newer one wins.

    What no version can decide is a conflict and left, unless ``prefer`` ("a" or "b") says who is right; keys that only one
    side has are then carried over. Nothing is deleted.
    """
    if prefer not in (None, "a", "b"):
        raise ValueError(f"prefer is {prefer!r}: 'a', 'b' or None")
    return _Comparison(
        a,
        b,
        reconcile=True,
        prefer=prefer,
        ttl_tolerance=ttl_tolerance,
        timeout=timeout,
        kept=kept,
        progress=progress,
        stop=stop or threading.Event(),
    ).run()
