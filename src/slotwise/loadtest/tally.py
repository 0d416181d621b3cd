"""What was answered, when, and how fast: counted in the generators, added up over all of them, read as percentiles.

A latency is kept with 10 significant bits, an error of 0.05 % at the most. A generator has a table for each second, with a
number for each latency, kind of operation and shard, and sends what is not 0. The sums of the whole run are HdrHistograms.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from slotwise._tally import AFTER, BINS, FINE, LEAST, LONGEST
from slotwise._tally import count as count_chunk
from slotwise.errors import NotSentError, UnknownOutcomeError
from slotwise.loadtest.result import Latency
from slotwise.loadtest.stream import Chunk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DIGITS = 3
#: A shard that answers nobody for so many seconds is silent, if somebody waits for it.
SILENCE = 0.1
# Seconds after the end of a silence in which everybody has got an answer who has waited through it.
_SETTLED = 5.0
# Errors are told by the hundredth of a second.
_TICKS = 100
#: What callers got that were still waiting when the run had been over for a while.
UNFINISHED = "Unfinished"
# By these an exception, or a class that it is derived from, says that the server has refused, or was not asked.
_REFUSED = frozenset({"ResponseError", "RequestError", "DataError"})
_LOST = ("Connection", "Timeout", "Closing", UNFINISHED)

#: A shard, from when to when nobody was answered, and since when somebody waited for it meanwhile, else infinity.
Gap = tuple[int, float, float, float]


@dataclass
class Counts:
    """What one generator has counted since it told last; a picklable message."""

    #: Of each second, and what `slotwise._tally` has besides: which numbers of its table are not 0, and what they are.
    tables: list[tuple[int, Ints, Ints]]
    #: Keys by kind and shard, flat; those of operations on several shards, by shard.
    keys: Ints
    shard_keys: Ints
    #: (hundredth of a second, kind, shard, exception, whether its outcome is unknown) -> how often.
    errors: dict[tuple[int, int, int, str, bool], int]
    #: How many hundredths of milliseconds late operations were begun, and how many (open loop).
    late: Counter[int] = field(default_factory=Counter)
    #: When this was counted, in seconds of the run.
    at: float = 0.0
    #: At the end, of the whole run: silences, and times in which the generator could begin nothing that was due.
    gaps: list[Gap] = field(default_factory=list)
    held: list[tuple[float, float]] = field(default_factory=list)


class Tally:
    """Counts chunks in one generator. Times are seconds from ``zero``.

    Rates are of what ended from then on and before ``seconds``. Latencies as well, in a closed loop; in an open one they are
    those of the operations that were due in that time, or the slowest ones of its end would be none. ``wide`` if there are
    operations on several shards.
    """

    def __init__(
        self, kinds: int, shards: int, writes: list[bool], zero: float, seconds: float, *, wide: bool = False
    ) -> None:
        self._kinds, self._shards = kinds, shards + 1
        self._wide = shards if wide else 0
        self._writes = writes
        self._zero, self._seconds = zero, seconds
        #: When each shard was answered last, and several at once; since when somebody has waited for an answer that did
        #: not come since then.
        self._last = np.zeros(shards + 1)
        self._waiting = [math.inf] * shards
        # Told at the end: who had waited through one may come to light later. Those of each shard of which that may be, by
        # their index.
        self._gaps: list[Gap] = []
        self._recent: list[list[int]] = [[] for _ in range(shards)]
        self._clear()

    def _clear(self) -> None:
        self._tables: dict[int, NDArray[np.uint32]] = {}
        self._keys = np.zeros(self._kinds * self._shards, np.int64)
        self._shard_keys = np.zeros(self._wide, np.int64)
        self._errors: Counter[tuple[int, int, int, str, bool]] = Counter()
        self._late: dict[int, int] = {}

    def count(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Counts what has ended in ``chunks`` since they were counted last; those that have something to come."""
        chunks = list(chunks)
        before = self._last.copy()
        # The shards of which more is to be known than when each was answered last.
        unclear: set[int] = set()
        for chunk in chunks:
            chunk.left, failed, any_after = count_chunk(
                chunk.ended,
                chunk.took,
                chunk.late,
                chunk.failed,
                chunk.left,
                chunk.kinds,
                chunk.shards,
                chunk.keys,
                chunk.spread,
                self._zero,
                self._seconds,
                self._table,
                self._keys,
                self._shard_keys,
                self._last,
                self._late,
            )
            if any_after:
                unclear.update(range(self._shards - 1))
            for number in failed:
                self._count_error(chunk, number)
                unclear.update(chunk.touched(number, self._shards - 1))
        moved = self._last[:-1] - before[:-1]
        unclear.update(np.flatnonzero(moved >= SILENCE).tolist())
        for shard, gaps in enumerate(self._recent):
            gaps[:] = [gap for gap in gaps if self._last[shard] - self._gaps[gap][2] < _SETTLED]
            if gaps:
                unclear.add(shard)
        for shard in np.flatnonzero(moved).tolist():
            if shard not in unclear:
                self._waiting[shard] = math.inf
        for shard in unclear:
            self._find_gaps(shard, before[shard], chunks)
        return [chunk for chunk in chunks if chunk.left]

    def _table(self, second: int) -> NDArray[np.uint32]:
        if second not in self._tables:
            self._tables[second] = np.zeros((len(self._keys) + self._wide) * BINS, np.uint32)
        return self._tables[second]

    def _count_error(self, chunk: Chunk, index: int) -> None:
        kind, error = int(chunk.kinds[index]), chunk.failed[index]
        name = type(error).__name__
        at = chunk.ended[index] - self._zero
        if name == UNFINISHED or (chunk.late and at - chunk.took[index] < self._seconds):
            # Of the run, though it ended later: counts as of its last moment.
            at = min(at, self._seconds - 0.5 / _TICKS)
        if 0 <= at < self._seconds:
            unknown = self._writes[kind] and outcome_is_unknown(error)
            self._errors[int(at * _TICKS), kind, int(chunk.shards[index]), name, unknown] += 1

    def _find_gaps(self, shard: int, last: float, chunks: Iterable[Chunk]) -> None:
        """Looks through what has ended since ``last``, when the shard had been answered before."""
        ended, began, answered = self._ends(shard, last, chunks)
        # Who began later may be answered first, and those who have waited for long a moment after that.
        for number in self._recent[shard]:
            _, since, until, waiting = self._gaps[number]
            self._gaps[number] = shard, since, until, float(min(waiting, began.min(initial=math.inf)))
        # Threads go on while they are counted one after the other: what came after the last that is counted comes later.
        answers = ended[answered & (ended <= self._last[shard])]
        edges = np.concatenate([[last], answers])
        for place in np.flatnonzero(np.diff(edges) >= SILENCE).tolist():
            waiting = began[ended > edges[place]].min(initial=math.inf)
            if not place:
                waiting = min(waiting, self._waiting[shard])
            self._recent[shard].append(len(self._gaps))
            self._gaps.append((shard, float(edges[place]), float(edges[place + 1]), float(waiting)))
        if len(answers):
            self._waiting[shard] = math.inf
        others = began[(ended > edges[-1]) & ~(answered & (ended < self._seconds))]
        self._waiting[shard] = min(self._waiting[shard], float(others.min(initial=math.inf)))

    def _ends(
        self, shard: int, since: float, chunks: Iterable[Chunk]
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """When operations of a shard ended, from ``since`` on and in that order; when they began; whether with an answer."""
        found: list[tuple[Floats, Floats, NDArray[np.bool_]]] = [
            (np.zeros(0), np.zeros(0), np.zeros(0, bool))
        ]
        for chunk in chunks:
            ended = np.array(chunk.ended) - self._zero
            here = chunk.shards == shard
            if chunk.spread is not None:
                here |= chunk.spread[:, shard] > 0
            numbers = np.flatnonzero(here & (ended > since))
            began = ended[numbers] - np.array(chunk.took)[numbers]
            found.append((ended[numbers], began, ~np.isin(numbers, list(chunk.failed))))
        ended, began, answered = (np.concatenate(columns) for columns in zip(*found, strict=True))
        order = np.argsort(ended, kind="stable")
        return ended[order], began[order], answered[order]

    def take(self, now: float) -> Counts:
        """What was counted since this was last called; ``now`` on the clock of the chunks."""
        tables = []
        for second, table in self._tables.items():
            used = np.flatnonzero(table)
            tables.append((second, used, table[used].astype(np.int64)))
        errors = dict(self._errors)
        taken = Counts(tables, self._keys, self._shard_keys, errors, Counter(self._late), now - self._zero)
        self._clear()
        return taken

    def finish(self, now: float, held: Iterable[tuple[float, float]] = ()) -> Counts:
        """The same for the last time: a shard that answered nobody any more was silent until the end.

        ``held`` are the times, on the clock of the chunks, in which nothing could be begun that was due.
        """
        for shard, last in enumerate(self._last[:-1].tolist()):
            if self._seconds - last >= SILENCE:
                self._gaps.append((shard, last, self._seconds, self._waiting[shard]))
        taken = self.take(now)
        taken.gaps, self._gaps = self._gaps, []
        taken.held = [(began - self._zero, until - self._zero) for began, until in held]
        return taken


def _of_bins(bins: Ints) -> Ints:
    """The middle of each bin, in nanoseconds."""
    middles = 0.5 + (bins % FINE + 0.5) / (2 * FINE)
    return np.round(np.ldexp(middles, bins // FINE + LEAST)).astype(np.int64)


def outcome_is_unknown(error: BaseException) -> bool:
    """True when an exception leaves open whether the server has done what it was asked for.

    slotwise tells by its class. Of others only a refusal by the server says that nothing was done: after a lost connection,
    a time-out or an error of the client itself nobody knows. What only read has done nothing.
    """
    if getattr(error, "only_read", False):
        return False
    if isinstance(error, (UnknownOutcomeError, NotSentError)):
        return isinstance(error, UnknownOutcomeError)
    grouped: tuple[BaseException, ...] | None = getattr(error, "exceptions", None)
    if grouped:
        return any(map(outcome_is_unknown, grouped))
    if any(word in type(error).__name__ for word in _LOST):
        return True
    return _REFUSED.isdisjoint(each.__name__ for each in type(error).__mro__)


def _merged(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    codes, where = np.unique(np.concatenate([codes for codes, _ in parts]), return_inverse=True)
    counts = np.bincount(where, np.concatenate([counts for _, counts in parts]), minlength=len(codes))
    return codes.astype(np.int64), counts.astype(np.int64)


# -- adding up -------------------------------------------------------------------------------------------------------


class Cell:
    """How often each latency came: of one second and shard, or of many of them."""

    def __init__(self) -> None:
        # Bins, and how often each.
        self._open: list[tuple[Ints, Ints]] = []
        # Those of a second that is over, packed.
        self._packed = b""

    @property
    def _parts(self) -> list[tuple[Ints, Ints]]:
        if not self._packed:
            return self._open
        columns = np.frombuffer(zlib.decompress(self._packed), np.uint32).reshape(2, -1).astype(np.int64)
        return [(np.cumsum(columns[0]), columns[1]), *self._open]

    def add(self, bins: Ints, counts: Ints) -> None:
        self._open.append((bins, counts))
        if len(self._open) > 32:
            self._open = [_merged(self._open)]

    def settle(self) -> None:
        """Nothing more comes: takes as little memory as it can, some kB of a second."""
        bins, counts = _merged(self._parts)
        # From one bin to the next, which is mostly 1: that packs well.
        columns = np.stack([np.diff(bins, prepend=0), counts]).astype(np.uint32)
        self._open, self._packed = [], zlib.compress(columns.tobytes(), 1)

    def extend(self, other: Cell) -> None:
        """Everything that is in ``other`` as well."""
        self._open += other._parts

    @property
    def operations(self) -> int:
        return int(sum(int(counts.sum()) for _, counts in self._parts))

    def at(self, share: float) -> float | None:
        """The latency that ``share`` of the operations did not exceed, in milliseconds; None without any."""
        bins, counts = _merged(self._parts)
        if not len(bins):
            return None
        below = np.cumsum(counts)
        found = np.searchsorted(below, share * below[-1])
        return float(_of_bins(bins[found : found + 1])[0]) / 1e6

    def histogram(self) -> HdrHistogram:
        # With 100 as the lowest it would round everything below 0.1 ms to 64 ns.
        histogram = HdrHistogram(1, LONGEST, _DIGITS)
        bins, counts = _merged(self._parts)
        for value, count in zip(_of_bins(bins).tolist(), counts.tolist(), strict=True):
            histogram.record_value(value, count)
        return histogram


def latency(histogram: HdrHistogram) -> Latency:
    """The usual percentiles, in milliseconds."""
    if not histogram.get_total_count():
        nothing = float("nan")
        return Latency(nothing, nothing, nothing, nothing, nothing, nothing, nothing)

    def at(percentile: float) -> float:
        return float(histogram.get_value_at_percentile(percentile)) / 1e6

    mean, most = histogram.get_mean_value() / 1e6, histogram.get_max_value() / 1e6
    return Latency(mean, at(50), at(90), at(99), at(99.9), at(99.99), most)


class Totals:
    """The sum over all generators."""

    def __init__(self, kinds: int, shards: int, generators: int) -> None:
        self.kinds, self.shards = kinds, shards
        #: By second and shard, the number of shards for several at once; by kind and shard. Those on several by shard.
        self.seconds: dict[tuple[int, int], Cell] = {}
        self.places: dict[tuple[int, int], Cell] = {}
        self.wide_seconds: dict[tuple[int, int], Cell] = {}
        self.wide_places: dict[int, Cell] = {}
        #: What ended in the time: operations and keys, by kind and shard.
        self.answered = np.zeros((kinds, shards + 1), np.int64)
        self.keys = np.zeros((kinds, shards + 1), np.int64)
        self.wide_answered = np.zeros(shards, np.int64)
        self.wide_keys = np.zeros(shards, np.int64)
        self.errors: Counter[tuple[int, int, int, str, bool]] = Counter()
        self.late: Counter[int] = Counter()
        #: Times in which some generator could begin nothing that was due.
        self.held: list[tuple[float, float]] = []
        # Of each generator: its gaps by shard, and how far it has counted.
        self._gaps: list[list[Gap]] = [[] for _ in range(generators)]
        self.at = [0.0] * generators
        # All seconds before it are settled.
        self._settled = 0

    def add(self, generator: int, counts: Counts) -> None:
        """Takes what one generator has counted."""
        for second, used, numbers in counts.tables:
            places, bins = np.divmod(used, BINS)
            for place in np.unique(places).tolist():
                here = places == place
                kind, shard = divmod(place, self.shards + 1)
                self._add(second, kind, shard, bins[here], numbers[here])
        self.keys += counts.keys.reshape(self.keys.shape)
        if len(counts.shard_keys):
            self.wide_keys += counts.shard_keys
        self.held += counts.held
        self.errors.update(counts.errors)
        self.late.update(counts.late)
        self._gaps[generator] += counts.gaps
        self.at[generator] = max(self.at[generator], counts.at)
        # What a second is made of takes some 100 kB.
        while self._settled < int(min(self.at)):
            for shard in range(self.shards + 1):
                for cells in (self.seconds, self.wide_seconds):
                    if (self._settled, shard) in cells:
                        cells[self._settled, shard].settle()
            self._settled += 1

    def _add(self, second: int, kind: int, shard: int, bins: Ints, numbers: Ints) -> None:
        # After all kinds come those on several shards once more, by shard.
        is_wide = kind == self.kinds
        if second != AFTER:
            seconds, answered = (
                (self.wide_seconds, self.wide_answered) if is_wide else (self.seconds, self.answered[kind])
            )
            answered[shard] += numbers.sum()
            # What was due before the first second is in the tables of -1 - second.
            seconds.setdefault((max(second, -1 - second), shard), Cell()).add(bins, numbers)
        if second >= 0:
            cell = (
                self.wide_places.setdefault(shard, Cell())
                if is_wide
                else self.places.setdefault((kind, shard), Cell())
            )
            cell.add(bins, numbers)

    def cell(self, cells: Iterable[Cell | None]) -> Cell:
        """Several as one."""
        whole = Cell()
        for each in cells:
            if each is not None:
                whole.extend(each)
        return whole

    def second(self, second: int) -> Cell:
        """All that was answered in a second."""
        return self.cell(self.seconds.get((second, shard)) for shard in range(self.shards + 1))

    def of_shard(self, second: int, shard: int) -> Cell:
        """What a shard had to do with in a second, alone or with others."""
        return self.cell((self.seconds.get((second, shard)), self.wide_seconds.get((second, shard))))

    def silences(self, shard: int) -> list[tuple[float, float]]:
        """When no generator was answered by a shard, and one waited for it."""
        common: list[Gap] | None = None
        for gaps in self._gaps:
            mine = [gap for gap in gaps if gap[0] == shard]
            common = mine if common is None else list(_intersections(common, mine))
        found = ((max(began, waiting), ended) for _, began, ended, waiting in common or ())
        return [(began, ended) for began, ended in found if ended - began >= SILENCE]


def _intersections(ours: list[Gap], theirs: list[Gap]) -> Iterator[Gap]:
    """Both in the order of their times, none of which overlap."""
    left, right = iter(ours), iter(theirs)
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        began, ended = max(a[1], b[1]), min(a[2], b[2])
        if began < ended:
            yield a[0], began, ended, min(a[3], b[3])
        if a[2] < b[2]:
            a = next(left, None)
        else:
            b = next(right, None)
