"""What concurrent clients did and saw, and whether a server that keeps its word could have answered so."""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from slotwise.errors import DataError, NotSentError, ResponseError

#: After these a command was surely not executed; after any other exception nobody knows.
NOT_EXECUTED = (ResponseError, NotSentError, DataError)


@dataclass(eq=False, slots=True)
class Call:
    """One call of one client. Times are in seconds of the history's clock."""

    kind: Literal["write", "read", "add"]
    key: str
    #: What was written, or the amount that was added.
    value: Any
    invoked: float
    #: What a read saw, or an add was answered with; the client's code sets it.
    result: Any = None
    #: When the reply came; infinity while there is none.
    returned: float = math.inf
    #: "ok": acknowledged; "failed": surely not executed; "unknown": neither.
    outcome: Literal["ok", "failed", "unknown"] = "unknown"


class Violation(NamedTuple):
    """Something that cannot have happened if every acknowledged write was executed once and kept."""

    key: str
    text: str
    calls: tuple[Call, ...]

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


class History:
    """Calls and returns, recorded by any number of threads or tasks while faults run.

    ::

        history = History()
        with history.write("key", 1):
            client.set("key", 1)
        with history.read("key") as call:
            call.result = client.get("key")
        with history.add("hits") as call:
            call.result = client.incr("hits")
        assert history.violations() == []

    A block that ends without an exception is an acknowledged call. An error reply of the server, and what slotwise
    says was not sent, make it one that was not executed; any other exception leaves that open. Exceptions go on to the
    caller. A key is either written or added to, begins without a value, and is written each value once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: In the order of their beginning.
        self.calls: list[Call] = []

    @contextmanager
    def write(self, key: str, value: str | bytes | float) -> Iterator[Call]:
        """Around a SET of ``key`` to a value that nobody else writes to it."""
        with self._record(Call("write", key, value, self._clock())) as call:
            yield call

    @contextmanager
    def read(self, key: str) -> Iterator[Call]:
        """Around a GET of ``key``, which sets ``result``."""
        with self._record(Call("read", key, None, self._clock())) as call:
            yield call

    @contextmanager
    def add(self, key: str, amount: int = 1) -> Iterator[Call]:
        """Around an INCRBY of ``key``, which sets ``result``."""
        with self._record(Call("add", key, amount, self._clock())) as call:
            yield call

    @contextmanager
    def _record(self, call: Call) -> Iterator[Call]:
        self.calls.append(call)
        try:
            yield call
        except NOT_EXECUTED:
            call.outcome = "failed"
            raise
        call.outcome, call.returned = "ok", self._clock()

    def violations(self, lost: Iterable[Call] = ()) -> list[Violation]:
        """What cannot have happened; empty when all went well.

        A key that was written must have behaved as one register: as if each call had been executed at one moment between
        its beginning and its return. A key that was added to must always have been between what was acknowledged and
        what may have been applied besides. ``lost`` are acknowledged writes that the server is known to lose, such
        as those of the last moments before a crash; each of them may have vanished. Raises ValueError for a history
        that cannot be judged.
        """
        excused = set(lost)
        calls_of: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            calls_of[call.key].append(call)
        found: list[Violation] = []
        for key, calls in calls_of.items():
            kinds = {call.kind for call in calls}
            if {"write", "add"} <= kinds:
                raise ValueError(f"{key} was written and added to; a key is judged as one or the other")
            judge = _judge_counter if "add" in kinds else _judge_register
            found += judge(key, calls, excused)
        return found


# -- registers ----------------------------------------------------------------------------------
#
# With values that are written once each, a register's history can be judged in n log n (Gibbons and Korach, "Testing
# shared memories", 1997): all calls of one value are gathered, and its zone is the time between the earliest return and
# the latest beginning among them. Where the return comes first the value surely held all that time ("forward"); else the
# value need not have held for longer than some moment of the zone.


@dataclass(slots=True)
class _Zone:
    value: Any
    calls: list[Call]
    low: float
    high: float


def _judge_register(key: str, calls: Sequence[Call], lost: Collection[Call]) -> Iterator[Violation]:
    start = calls[0].invoked
    writes: dict[bytes, Call] = {}
    for call in calls:
        if call.kind == "write" and writes.setdefault(_plain(call.value), call) is not call:
            raise ValueError(
                f"{key} was written {call.value!r} twice; values must differ for reads to tell writes apart"
            )
    reads: dict[bytes | None, list[Call]] = defaultdict(list)
    for call in calls:
        if call.kind == "read" and call.outcome == "ok":
            seen = None if call.result is None else _plain(call.result)
            write = None if seen is None else writes.get(seen)
            if seen is not None and write is None:
                yield Violation(key, f"{call.result!r} was read, which nobody wrote", (call,))
            elif write is not None and write.outcome == "failed":
                yield Violation(key, f"{write.value!r} was read, whose write was refused", (write, call))
            elif write is not None and call.returned < write.invoked:
                yield Violation(key, f"{write.value!r} was read before it was written", (write, call))
            else:
                reads[seen].append(call)

    forward: list[_Zone] = []
    backward: list[_Zone] = []
    beginning = Call("write", key, None, -math.inf, returned=-math.inf, outcome="ok")
    for value, write in [(None, beginning), *writes.items()]:
        if write in lost or (write.outcome != "ok" and not reads[value]):
            continue  # it may have been there for a while, and it may never have been
        together = [write, *reads[value]]
        earliest = min(call.returned for call in together)
        latest = max(call.invoked for call in together)
        if earliest < latest:
            forward.append(_Zone(write.value, together, earliest, latest))
        else:
            backward.append(_Zone(write.value, together, latest, earliest))

    forward.sort(key=lambda zone: zone.low)
    holder = forward[0] if forward else None
    for zone in forward[1:]:
        assert holder is not None
        if zone.low < holder.high:
            yield _conflict(key, holder, zone, start)
        holder = max(holder, zone, key=lambda each: each.high)
    lows = [zone.low for zone in forward]
    for zone in backward:
        around = bisect_left(lows, zone.low) - 1
        if around >= 0 and zone.high < forward[around].high:
            yield _conflict(key, forward[around], zone, start)


def _conflict(key: str, holder: _Zone, other: _Zone, start: float) -> Violation:
    since = "from the beginning" if holder.low == -math.inf else f"at {holder.low - start:.6f} s"
    text = (
        f"{holder.value!r} was the value {since} and at {holder.high - start:.6f} s, though {other.value!r} was in "
        "between: a write vanished, or one was applied twice"
    )
    return Violation(key, text, (*holder.calls, *other.calls))


def _plain(value: Any) -> bytes:
    """A value as the server keeps it."""
    return value if isinstance(value, bytes) else str(value).encode()


# -- counters -----------------------------------------------------------------------------------


class _Sums:
    """How much had been added by a moment, in ups and downs."""

    def __init__(self, moments: Iterable[tuple[float, int]]) -> None:
        ordered = sorted(moments)
        self._times = [moment for moment, _ in ordered]
        self._ups = [0, *accumulate(max(0, amount) for _, amount in ordered)]
        self._downs = [0, *accumulate(min(0, amount) for _, amount in ordered)]

    def before(self, moment: float) -> tuple[int, int]:
        count = bisect_left(self._times, moment)
        return self._ups[count], self._downs[count]

    def until(self, moment: float) -> tuple[int, int]:
        count = bisect_right(self._times, moment)
        return self._ups[count], self._downs[count]


def _judge_counter(key: str, calls: Sequence[Call], lost: Collection[Call]) -> Iterator[Violation]:
    adds = [call for call in calls if call.kind == "add" and call.outcome != "failed"]
    kept = [call for call in adds if call.outcome == "ok" and call not in lost]
    surely = _Sums((call.returned, call.value) for call in kept)
    perhaps = _Sums((call.invoked, call.value) for call in adds)
    for call in calls:
        if call.outcome != "ok" or (call.kind == "add" and call.result is None):
            continue
        seen = int(call.result or 0)
        sure_ups, sure_downs = surely.before(call.invoked)
        ups, downs = perhaps.until(call.returned)
        own = call.value if call.kind == "add" else 0
        least, most = sure_ups + downs + max(0, own), sure_downs + ups + min(0, own)
        if seen < least:
            yield Violation(
                key, f"was {seen} where {least} at least was acknowledged: a write vanished", (call,)
            )
        elif seen > most:
            yield Violation(
                key, f"was {seen} where {most} at most was asked for: a write was applied twice", (call,)
            )

    if len(kept) == sum(call.outcome == "ok" for call in adds) and all(call.value > 0 for call in adds):
        # It only grew, so each answer was given once.
        answered: dict[int, Call] = {}
        for call in kept:
            if call.result is not None and (other := answered.setdefault(int(call.result), call)) is not call:
                yield Violation(key, f"two were answered with {call.result}: a write vanished", (other, call))
