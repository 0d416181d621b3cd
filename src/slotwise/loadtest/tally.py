"""What was answered, when, and how fast: counted in the generators, added up over all of them, read as percentiles.

A latency is kept with 10 significant bits, an error of 0.05 % at the most. A generator has a table for each second, with a
number for each latency, kind of operation and shard, and sends what is not 0. The sums of the whole run are HdrHistograms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from slotwise.errors import NotSentError, UnknownOutcomeError
from slotwise.loadtest.result import Latency
from slotwise.loadtest.stream import Chunk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Nanoseconds, of the histograms: what is shorter or longer counts as these.
_SHORTEST, _LONGEST = 100, 1_000_000_000_000
_DIGITS = 3
# A latency of m * 2 ** e nanoseconds, m from 0.5 up to 1, is in bin (e - _LEAST) * _FINE + (m - 0.5) * 2 * _FINE.
_FINE = 512
_LEAST = 7  # 2 ** 6 is below what counts as shortest
_BINS = (40 - _LEAST + 1) * _FINE
#: A shard that answers nobody for so many seconds is silent.
SILENCE = 0.1
# Errors are told by the hundredth of a second.
_TICKS = 100
#: What callers got that were still waiting when the run had been over for a while; counts as of the run's last moment.
UNFINISHED = "Unfinished"


@dataclass
class Counts:
    """What one generator has counted since it told last; a picklable message."""

    #: Of each second: which numbers of its table are not 0, and what they are.
    tables: list[tuple[int, Ints, Ints]]
    #: Keys by kind and shard, flat.
    keys: Ints
    #: (hundredth of a second, kind, shard, exception, whether its outcome is unknown) -> how often.
    errors: dict[tuple[int, int, int, str, bool], int]
    #: Times without an answer, by shard: from, to.
    gaps: list[tuple[int, float, float]]
    #: How many hundredths of milliseconds late operations were begun, and how many (open loop).
    late: Counter[int] = field(default_factory=Counter)
    #: When this was counted, in seconds of the run.
    at: float = 0.0


class Tally:
    """Counts chunks in one generator. Times are seconds from ``zero``; what ended before or after ``seconds`` is left out."""

    def __init__(self, kinds: int, shards: int, writes: list[bool], zero: float, seconds: float) -> None:
        self._kinds, self._shards = kinds, shards + 1
        self._writes = writes
        self._zero, self._seconds = zero, seconds
        self._last = [0.0] * shards
        self._clear()

    def _clear(self) -> None:
        self._tables: dict[int, NDArray[np.uint32]] = {}
        self._keys = np.zeros(self._kinds * self._shards, np.int64)
        self._errors: Counter[tuple[int, int, int, str, bool]] = Counter()
        self._gaps: list[tuple[int, float, float]] = []
        self._late: Counter[int] = Counter()

    def count(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Counts what has ended in ``chunks`` since they were counted last; those that have something to come."""
        unfinished, found = [], []
        for chunk in chunks:
            numbers = _new(chunk)
            if chunk.late:
                self._count_late(chunk, numbers)
            if chunk.failed:
                for number in [number for number in numbers.tolist() if number in chunk.failed]:
                    self._count_error(chunk, number, chunk.ended[number] - self._zero)
                    numbers = numbers[numbers != number]
            if len(numbers):
                ended = np.array(chunk.ended)[numbers] - self._zero
                took = np.array(chunk.took)[numbers]
                found.append((ended, took, chunk.kinds[numbers], chunk.shards[numbers], chunk.keys[numbers]))
            if chunk.left is None or len(chunk.left):
                unfinished.append(chunk)
        if found:
            columns: list[Any] = [np.concatenate(column) for column in zip(*found, strict=True)]
            self._add(*columns)
        return unfinished

    def _count_late(self, chunk: Chunk, numbers: Ints) -> None:
        ended = np.array(chunk.ended)[numbers] - self._zero
        within = numbers[(ended >= 0) & (ended < self._seconds)]
        late, times = np.unique((np.array(chunk.late)[within] * 1e5).astype(int), return_counts=True)
        self._late.update(dict(zip(late.tolist(), times.tolist(), strict=True)))

    def _count_error(self, chunk: Chunk, index: int, at: float) -> None:
        kind, error = int(chunk.kinds[index]), chunk.failed[index]
        name = type(error).__name__
        if name == UNFINISHED:
            at = min(at, self._seconds - 0.5 / _TICKS)
        if 0 <= at < self._seconds:
            unknown = self._writes[kind] and outcome_is_unknown(error)
            self._errors[int(at * _TICKS), kind, int(chunk.shards[index]), name, unknown] += 1

    def _add(self, ended: Floats, took: Floats, kinds: Ints, shards: Ints, keys: Ints) -> None:
        within = (ended >= 0) & (ended < self._seconds)
        ended, took = ended[within], took[within]
        kinds, shards, keys = kinds[within], shards[within], keys[within]
        if not len(ended):
            return
        place = kinds * self._shards + shards
        self._keys += np.bincount(place, keys, minlength=len(self._keys)).astype(np.int64)
        codes = place * _BINS + _bins(took)
        seconds = ended.astype(np.int64)
        for second in range(int(seconds.min()), int(seconds.max()) + 1):
            table = self._tables.get(second)
            if table is None:
                table = self._tables[second] = np.zeros(len(self._keys) * _BINS, np.uint32)
            np.add.at(table, codes[seconds == second], 1)
        for shard in range(self._shards - 1):
            times = ended[shards == shard]
            if len(times):
                newest = float(times.max())
                if newest - self._last[shard] >= SILENCE:
                    self._find_gaps(shard, np.sort(times))
                self._last[shard] = max(self._last[shard], newest)

    def _find_gaps(self, shard: int, times: Floats) -> None:
        # Threads go on while they are counted one after the other: some ended before the last that is counted already.
        times = np.maximum(times, self._last[shard])
        between = np.diff(times, prepend=self._last[shard])
        for index in np.flatnonzero(between >= SILENCE).tolist():
            until = float(times[index])
            self._gaps.append((shard, until - float(between[index]), until))

    def take(self, now: float) -> Counts:
        """What was counted since this was last called; ``now`` on the clock of the chunks."""
        tables = []
        for second, table in self._tables.items():
            used = np.flatnonzero(table)
            tables.append((second, used, table[used].astype(np.int64)))
        errors = dict(self._errors)
        taken = Counts(tables, self._keys, errors, self._gaps, self._late, now - self._zero)
        self._clear()
        return taken

    def finish(self, now: float) -> Counts:
        """The same for the last time: who was not answered at the end counts as silent until then."""
        for shard, last in enumerate(self._last):
            if self._seconds - last >= SILENCE:
                self._gaps.append((shard, last, self._seconds))
        return self.take(now)


def _new(chunk: Chunk) -> Ints:
    """The numbers of those that have ended since this was last called."""
    ended = chunk.ended
    if chunk.left is None:
        over = np.array(ended) > 0
        chunk.left = np.flatnonzero(~over).tolist()
        return np.flatnonzero(over)
    # A few stragglers.
    new = [number for number in chunk.left if ended[number]]
    chunk.left = [number for number in chunk.left if not ended[number]] if new else chunk.left
    return np.array(new, np.int64)


def _bins(seconds: Floats) -> Ints:
    mantissas, exponents = np.frexp(np.clip(seconds * 1e9, _SHORTEST, _LONGEST))
    return (exponents.astype(np.int64) - _LEAST) * _FINE + ((mantissas - 0.5) * (2 * _FINE)).astype(np.int64)


def _of_bins(bins: Ints) -> Ints:
    """The middle of each bin, in nanoseconds."""
    middles = 0.5 + (bins % _FINE + 0.5) / (2 * _FINE)
    return np.round(np.ldexp(middles, bins // _FINE + _LEAST)).astype(np.int64)


def outcome_is_unknown(error: BaseException) -> bool:
    """True when an exception leaves open whether the server has done what it was asked for.

    slotwise tells by its class; of others, a lost connection and a time-out do not tell. What only read has done nothing.
    """
    if getattr(error, "only_read", False):
        return False
    if isinstance(error, (UnknownOutcomeError, NotSentError)):
        return isinstance(error, UnknownOutcomeError)
    return any(word in type(error).__name__ for word in ("Connection", "Timeout", "Closing", UNFINISHED))


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
        self._parts: list[tuple[Ints, Ints]] = []

    def add(self, bins: Ints, counts: Ints) -> None:
        self._parts.append((bins, counts))
        if len(self._parts) > 32:
            self._parts = [_merged(self._parts)]

    def settle(self) -> None:
        """Nothing more comes: takes as little memory as it can, about 10 kB of a second."""
        bins, counts = _merged(self._parts)
        self._parts = [(bins.astype(np.uint16), counts.astype(np.uint32))]

    def extend(self, other: Cell) -> None:
        """Everything that is in ``other`` as well."""
        self._parts += other._parts

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
        histogram = HdrHistogram(1, _LONGEST, _DIGITS)
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
        #: By second and shard, the number of shards for several at once; by kind and shard.
        self.seconds: dict[tuple[int, int], Cell] = {}
        self.places: dict[tuple[int, int], Cell] = {}
        self.keys = np.zeros((kinds, shards + 1), np.int64)
        self.errors: Counter[tuple[int, int, int, str, bool]] = Counter()
        self.late: Counter[int] = Counter()
        # Of each generator: its gaps by shard, and how far it has counted.
        self._gaps: list[list[tuple[int, float, float]]] = [[] for _ in range(generators)]
        self.at = [0.0] * generators
        # All seconds before it are settled.
        self._settled = 0

    def add(self, generator: int, counts: Counts) -> None:
        """Takes what one generator has counted."""
        for second, used, numbers in counts.tables:
            places, bins = np.divmod(used, _BINS)
            for place in np.unique(places).tolist():
                here = places == place
                part = bins[here], numbers[here]
                kind, shard = divmod(place, self.shards + 1)
                self.seconds.setdefault((second, shard), Cell()).add(*part)
                self.places.setdefault((kind, shard), Cell()).add(*part)
        self.keys += counts.keys.reshape(self.keys.shape)
        self.errors.update(counts.errors)
        self.late.update(counts.late)
        self._gaps[generator] += counts.gaps
        self.at[generator] = max(self.at[generator], counts.at)
        # What a second is made of takes some 100 kB.
        while self._settled < int(min(self.at)):
            for shard in range(self.shards + 1):
                if (self._settled, shard) in self.seconds:
                    self.seconds[self._settled, shard].settle()
            self._settled += 1

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

    def silences(self, shard: int) -> list[tuple[float, float]]:
        """When no generator was answered by a shard."""
        common: list[tuple[float, float]] | None = None
        for gaps in self._gaps:
            mine = [(began, ended) for of, began, ended in gaps if of == shard]
            common = mine if common is None else _intersections(common, mine)
        return [(began, ended) for began, ended in common or () if ended - began >= SILENCE]


def _intersections(
    ours: list[tuple[float, float]], theirs: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    pairs = ((max(a, c), min(b, d)) for a, b in ours for c, d in theirs)
    return [(began, ended) for began, ended in pairs if began < ended]
