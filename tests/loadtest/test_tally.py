"""What was counted is what there was: against plain Python, over chunks that end in any order."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import redis.exceptions
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.errors import NotSentError, UnknownOutcomeError, UnknownOutcomeTimeoutError
from slotwise.loadtest import analysis
from slotwise.loadtest.faults import Fault, Struck
from slotwise.loadtest.generator import Unfinished
from slotwise.loadtest.result import Shard
from slotwise.loadtest.stream import Chunk
from slotwise.loadtest.tally import SILENCE, Cell, Tally, Totals, _merged, outcome_is_unknown

KINDS, SHARDS, SECONDS = 2, 3, 4.0
WRITES = [False, True]
#: On the clock of the chunks.
ZERO = 1000.0
SHARD_LIST = [Shard(f"{number}", f"host:{number}") for number in range(SHARDS)]


@dataclass(frozen=True)
class Operation:
    #: Seconds of the run.
    ended: float
    took: float
    kind: int
    shard: int
    keys: int
    error: type[Exception] | None = None

    @property
    def counts(self) -> bool:
        return 0 <= self.ended < SECONDS


def nothing() -> None:
    pass


def chunk_of(operations: Sequence[Operation]) -> Chunk:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(each, name) for each in operations], np.int64)

    size = len(operations)
    return Chunk([nothing] * size, [()] * size, column("kind"), column("shard"), column("keys"))


def end(chunk: Chunk, number: int, operation: Operation) -> None:
    if operation.error is not None:
        chunk.failed[number] = operation.error("it failed")
    chunk.took[number] = operation.took
    chunk.ended[number] = ZERO + operation.ended


def counted(operations: Sequence[Operation], totals: Totals, generator: int, size: int, every: int) -> None:
    """They end in the order of their times, are counted after each `every` of them, and told after each fourth count."""
    tally = Tally(KINDS, SHARDS, WRITES, ZERO, SECONDS)
    chunks = [chunk_of(operations[at : at + size]) for at in range(0, len(operations), size)]
    order = sorted(range(len(operations)), key=lambda number: operations[number].ended)
    left = chunks
    for done, number in enumerate(order, 1):
        end(chunks[number // size], number % size, operations[number])
        if done % every == 0:
            left = tally.count(left)
        if done % (4 * every) == 0:
            totals.add(generator, pickle.loads(pickle.dumps(tally.take(ZERO + operations[number].ended))))
    assert tally.count(left) == []
    totals.add(generator, tally.finish(ZERO + SECONDS))


def count_all(tally: Tally, totals: Totals, chunk: Chunk, drawn: Sequence[Operation]) -> None:
    """All end, and the run is over."""
    for number, operation in enumerate(drawn):
        end(chunk, number, operation)
    assert tally.count([chunk]) == []
    totals.add(0, tally.finish(ZERO + SECONDS))


ERRORS = [redis.exceptions.ConnectionError, redis.exceptions.ResponseError, UnknownOutcomeError, NotSentError]
operations = st.lists(
    st.builds(
        Operation,
        # A grid on which no difference is about as long as a silence; warm-up and what comes after the end as well.
        ended=st.integers(-64, int(SECONDS + 1) * 64).map(lambda number: number / 64),
        took=st.floats(1e-6, 100),
        kind=st.integers(0, KINDS - 1),
        # The last stands for several at once.
        shard=st.integers(0, SHARDS),
        keys=st.integers(1, 100),
        error=st.sampled_from([None, None, None, *ERRORS]),
    ),
    max_size=120,
)


def percentile(latencies: Sequence[float] | np.ndarray, share: float) -> float:
    """In milliseconds, of the raw data."""
    return float(np.quantile(np.array(latencies) * 1e3, share, method="inverted_cdf"))


def contents(cell: Cell) -> list[list[int]]:
    """All latencies, and how often each."""
    return [column.tolist() for column in _merged(cell._parts)]


def flat(spans: Iterable[tuple[float, float]]) -> list[float]:
    return [at for span in sorted(spans) for at in span]


# The histograms are of plain Python, and take most of the time.
@settings(max_examples=25)
@given(operations, st.integers(1, 40), st.integers(1, 20))
def test_against_plain_python(drawn: list[Operation], size: int, every: int) -> None:
    totals = Totals(KINDS, SHARDS, 1)
    counted(drawn, totals, 0, size, every)
    answered = [each for each in drawn if each.counts and each.error is None]
    failed = [each for each in drawn if each.counts and each.error is not None]
    total, by_kind, by_shard, imbalance = analysis.parts(totals, ["get", "set"], SHARD_LIST, SECONDS)

    def check(part: analysis.Part, ours: list[Operation], errors: list[Operation]) -> None:
        assert part.operations == len(ours)
        assert part.keys == sum(each.keys for each in ours)
        assert part.rate == len(ours) / SECONDS
        assert part.errors == Counter(each.error.__name__ for each in errors if each.error)
        kept = HdrHistogram.decode(part.histogram)
        assert kept.get_total_count() == len(ours)
        if ours:
            latencies = [each.took for each in ours]
            for share, found in ((0.5, part.latency.p50), (0.99, part.latency.p99), (1, part.latency.max)):
                assert found == pytest.approx(percentile(latencies, share), rel=2e-3)
            assert part.latency.mean == pytest.approx(float(np.mean(latencies)) * 1e3, rel=2e-3)

    check(total, answered, failed)
    for kind, part in enumerate(by_kind):
        check(part, [e for e in answered if e.kind == kind], [e for e in failed if e.kind == kind])
    for shard, part in enumerate(by_shard):
        check(part, [e for e in answered if e.shard == shard], [e for e in failed if e.shard == shard])
    numbers = [part.keys for part in by_shard]
    if sum(numbers):
        assert imbalance == pytest.approx(max(numbers) * SHARDS / sum(numbers))
    else:
        assert imbalance != imbalance

    timeline = analysis.timeline(totals, SHARDS, int(SECONDS))
    assert sum(second.operations for second in timeline) == total.operations
    for second in timeline:
        now = [each for each in answered if int(each.ended) == second.second]
        wrong = [each for each in failed if int(each.ended) == second.second]
        assert second.operations == len(now)
        assert second.errors == Counter(each.error.__name__ for each in wrong if each.error)
        if now:
            assert second.p99_ms == pytest.approx(percentile([each.took for each in now], 0.99), rel=1e-3)
        else:
            assert second.p50_ms is second.p99_ms is second.max_ms is None
        for shard, part in enumerate(second.shards):
            here = [each.took for each in now if each.shard == shard]
            assert part.operations == len(here)
            assert sum(part.errors.values()) == sum(each.shard == shard for each in wrong)
            assert part.max_ms == (pytest.approx(max(here) * 1e3, rel=1e-3) if here else None)


@settings(max_examples=40)
@given(operations, operations, st.integers(1, 20))
def test_several_generators_add_up_to_one(
    first: list[Operation], second: list[Operation], every: int
) -> None:
    several, one = Totals(KINDS, SHARDS, 2), Totals(KINDS, SHARDS, 1)
    counted(first, several, 0, 16, every)
    counted(second, several, 1, 16, every)
    counted(first + second, one, 0, 16, every)
    assert several.errors == one.errors
    assert (several.keys == one.keys).all()
    assert several.seconds.keys() == one.seconds.keys()
    for at in one.seconds:
        assert contents(several.seconds[at]) == contents(one.seconds[at])
    for at in one.places:
        assert contents(several.places[at]) == contents(one.places[at])
    for shard in range(SHARDS):
        # Who of several has waited until when is not told as exactly.
        found = several.silences(shard)
        for began, ended in one.silences(shard):
            assert any(a <= began + 1e-9 and ended <= b + 1e-9 for a, b in found)


@given(operations, st.integers(1, 30))
def test_silences(drawn: list[Operation], every: int) -> None:
    """From the last answer on, or since one who got an answer after it had waited for that."""
    totals = Totals(KINDS, SHARDS, 1)
    # Of two at the same moment, the first that is counted ends it.
    drawn = list({each.ended: each for each in drawn}.values())
    counted(drawn, totals, 0, 32, every)
    for shard in range(SHARDS):
        here = [each for each in drawn if each.shard == shard and each.ended > 0]
        answers = sorted(each.ended for each in here if each.counts and not each.error)
        expected = []
        for last, answer in pairwise([0.0, *answers, SECONDS]):
            waited = [each.ended - each.took for each in here if each.ended > last]
            began = max(last, min(waited, default=math.inf))
            if answer - began >= SILENCE:
                expected.append((began, answer))
        assert flat(totals.silences(shard)) == pytest.approx(flat(expected))


def test_nobody_who_waits_means_no_silence() -> None:
    """Of ten operations a second each is answered at once."""
    totals = Totals(KINDS, SHARDS, 1)
    counted([Operation(at / 4, 0.01, 0, 0, 1) for at in range(1, 15)], totals, 0, 4, 3)
    assert totals.silences(0) == totals.silences(1) == []


@pytest.mark.parametrize("every", [1, 2, 4])
def test_who_waited_longest_may_be_answered_last(every: int) -> None:
    """A call that begins when the shard is there again overtakes those that look for it."""
    totals = Totals(KINDS, SHARDS, 1)
    waited = [Operation(3.0, 0.01, 0, 0, 1), Operation(3.05, 1.9, 0, 0, 1), Operation(3.1, 2.0, 0, 0, 1)]
    counted([Operation(1.0, 0.01, 0, 0, 1), *waited], totals, 0, 4, every)
    assert flat(totals.silences(0)) == pytest.approx([1.1, 3.0])


def test_a_silence_is_common_to_all_generators() -> None:
    totals = Totals(KINDS, SHARDS, 2)
    # One waits from 1.3 to 2, the other has nothing to ask between 0.8 and 1.95.
    counted([Operation(1.0, 0.01, 0, 0, 1), Operation(2.0, 0.7, 0, 0, 1)], totals, 0, 1, 1)
    counted([Operation(0.8, 0.01, 0, 0, 1), Operation(1.95, 0.01, 0, 0, 1)], totals, 1, 1, 1)
    assert flat(totals.silences(0)) == pytest.approx([1.3, 1.95])


# -- open loops -----------------------------------------------------------------------------------


def test_an_open_loop_has_the_latencies_of_what_was_due() -> None:
    """What was answered a little after the end as well: else the slowest ones of the end were none."""
    totals, tally = Totals(KINDS, SHARDS, 1), Tally(KINDS, SHARDS, WRITES, ZERO, SECONDS)
    drawn = [
        Operation(0.5, 1.0, 0, 0, 1),  # was due in the warm-up
        Operation(1.5, 0.2, 0, 0, 1),
        Operation(SECONDS + 0.5, 0.9, 0, 1, 1),  # was due in time
        Operation(SECONDS + 0.5, 0.2, 0, 1, 1),  # was not
        Operation(SECONDS + 0.5, 0.9, 1, 2, 1, redis.exceptions.ConnectionError),
    ]
    chunk = chunk_of(drawn)
    chunk.late = [0.0] * len(drawn)
    count_all(tally, totals, chunk, drawn)
    total, _, by_shard, _ = analysis.parts(totals, ["get", "set"], SHARD_LIST, SECONDS)
    # Rates are of what was answered in the time.
    assert total.operations == total.keys == 2
    assert [part.operations for part in by_shard] == [2, 0, 0]
    assert [second.operations for second in analysis.timeline(totals, SHARDS, int(SECONDS))] == [1, 1, 0, 0]
    kept = HdrHistogram.decode(total.histogram)
    assert kept.get_total_count() == 2
    assert total.latency.max == pytest.approx(900, rel=1e-3)
    assert by_shard[1].latency.p50 == pytest.approx(900, rel=1e-3)
    assert total.errors == {"ConnectionError": 1}
    assert next(iter(totals.errors))[0] == SECONDS * 100 - 1


def test_what_could_not_begin_is_told() -> None:
    totals, tally = Totals(KINDS, SHARDS, 1), Tally(KINDS, SHARDS, WRITES, ZERO, SECONDS)
    spans = [(-0.5, 0.3), (1.0, 1.05), (2.0, 2.5), (2.4, 3.0), (3.8, 9.0)]
    totals.add(0, tally.finish(ZERO + SECONDS, [(ZERO + a, ZERO + b) for a, b in spans]))
    assert flat(analysis.held(totals, SECONDS)) == pytest.approx([0.0, 0.3, 2.0, 3.0, 3.8, SECONDS])


# -- faults ---------------------------------------------------------------------------------------


def paused(text: str, shard: int | None = 0) -> Struck:
    fault = Fault.parse(text)
    return Struck(fault, fault.at, fault.at + (fault.lasts or 0.0), shard, None)


def test_each_fault_has_its_own_silence() -> None:
    """One operation a hundredth on each shard; the first is silent twice, and its callers wait."""
    silent = [(1.0, 1.25), (1.5, 2.5)]
    drawn = []
    for at in range(1, int(SECONDS * 100)):
        for shard in range(SHARDS):
            due = at / 100
            until = next((b for a, b in silent if shard == 0 and a <= due < b), due)
            error = UnknownOutcomeError if shard == 0 and due in (1.1, 2.1) else None
            drawn.append(Operation(until + 0.001, until - due + 0.001, 0, shard, 1, error))
    totals = Totals(KINDS, SHARDS, 1)
    counted(drawn, totals, 0, 40, 7)
    faults = [paused("pause@1s:250ms"), paused("pause@1.5s:1s"), paused("pause@3s:500ms", 1)]
    first, second, third = analysis.fault_reports(totals, faults, SHARDS, SECONDS)
    assert first.recovered_after == pytest.approx(0.251, abs=0.001)
    assert second.recovered_after == pytest.approx(1.001, abs=0.001)
    assert third.recovered_after == 0
    assert [each.silence is None for each in (first, second, third)] == [False, False, True]
    assert [sum(each.errors.values()) for each in (first, second, third)] == [1, 1, 0]
    assert first.others_p99_during == pytest.approx(1, rel=1e-3)
    # What a generator that stands still does to all shards is none of theirs.
    totals.held.append((1.6, 2.0))
    held = analysis.fault_reports(totals, faults, SHARDS, SECONDS)
    assert [each.others_p99_during is None for each in held] == [False, True, False]


# -- operations on several shards -----------------------------------------------------------------


def test_what_has_to_do_with_several_shards_counts_for_each() -> None:
    totals, tally = Totals(KINDS, SHARDS, 1), Tally(KINDS, SHARDS, WRITES, ZERO, SECONDS, wide=True)
    drawn = [
        Operation(0.5, 0.1, 0, 0, 1),
        Operation(1.0, 0.2, 0, SHARDS, 5),
        Operation(1.5, 0.3, 1, SHARDS, 5),
        Operation(3.5, 2.0, 1, SHARDS, 5, redis.exceptions.ConnectionError),
    ]
    chunk = chunk_of(drawn)
    chunk.spread = np.array([[0, 0, 0], [3, 2, 0], [5, 0, 0], [0, 0, 5]], np.int64)
    count_all(tally, totals, chunk, drawn)
    total, by_kind, by_shard, imbalance = analysis.parts(totals, ["get", "set"], SHARD_LIST, SECONDS)
    assert total.operations == sum(part.operations for part in by_kind) == 3
    assert total.keys == 11
    assert [part.operations for part in by_shard] == [3, 1, 0]
    assert [part.keys for part in by_shard] == [9, 2, 0]
    assert imbalance == pytest.approx(9 / (11 / 3))
    assert by_shard[1].latency.max == pytest.approx(200, rel=1e-3)
    timeline = analysis.timeline(totals, SHARDS, int(SECONDS))
    assert [second.operations for second in timeline] == [1, 2, 0, 0]
    assert [[shard.operations for shard in second.shards] for second in timeline[:2]] == [
        [1, 0, 0],
        [2, 1, 0],
    ]
    # Each was waited for since somebody had begun whom it had to answer.
    assert flat(totals.silences(0)) == pytest.approx([0.8, 1.0, 1.2, 1.5])
    assert flat(totals.silences(1)) == pytest.approx([0.8, 1.0])
    assert flat(totals.silences(2)) == pytest.approx([1.5, SECONDS])


def test_who_is_counted_late_makes_no_silence() -> None:
    """Threads are counted one after the other, and go on meanwhile."""
    tally = Tally(KINDS, 1, WRITES, ZERO, SECONDS)
    first, second = (chunk_of([Operation(0, 0.001, 0, 0, 1)] * 2) for _ in range(2))
    for chunk, number, at in ((first, 0, 0.5), (second, 0, 1.0)):
        end(chunk, number, Operation(at, 0.001, 0, 0, 1))
    left = tally.count([first, second])
    # Ended before the last one that is counted already.
    end(first, 1, Operation(0.75, 0.001, 0, 0, 1))
    end(second, 1, Operation(1.25, 0.001, 0, 0, 1))
    tally.count(left)
    gaps = [(began, until) for _, began, until, _ in tally.finish(ZERO + 1.3).gaps]
    assert flat(gaps) == pytest.approx([0.0, 0.5, 0.5, 1.0, 1.0, 1.25, 1.25, SECONDS])


def test_bins_are_exact_to_a_thousandth() -> None:
    seconds = np.geomspace(1e-6, 999, 20_000)
    for values in np.array_split(seconds, 50):
        totals = Totals(1, 1, 1)
        tally = Tally(1, 1, [False], ZERO, SECONDS)
        drawn = [Operation(1.0, float(value), 0, 0, 1) for value in values]
        count_all(tally, totals, chunk_of(drawn), drawn)
        cell = totals.second(1)
        for share in (0.01, 0.5, 0.9, 1.0):
            assert cell.at(share) == pytest.approx(percentile(values, share), rel=1e-3)
        kept = HdrHistogram.decode(cell.histogram().encode())
        assert kept.get_max_value() == pytest.approx(values[-1] * 1e9, rel=2e-3)


def test_what_is_too_short_or_long_counts_as_the_bounds() -> None:
    totals, tally = Totals(1, 1, 1), Tally(1, 1, [False], ZERO, SECONDS)
    chunk = chunk_of([Operation(1, 0, 0, 0, 1)] * 3)
    for number, took in enumerate((0.0, 1e-9, 1e6)):
        end(chunk, number, Operation(1, took, 0, 0, 1))
    tally.count([chunk])
    totals.add(0, tally.finish(ZERO + SECONDS))
    cell = totals.second(1)
    assert cell.at(0.5) == pytest.approx(100e-6, rel=1e-3)
    assert cell.at(1.0) == pytest.approx(1000e3, rel=1e-3)


def test_nothing() -> None:
    cell = Cell()
    assert cell.operations == 0
    assert cell.at(0.5) is None
    cell.settle()
    assert cell.histogram().get_total_count() == 0


def test_percentiles_against_numpy_on_many() -> None:
    rng = np.random.default_rng(3)
    took = rng.lognormal(-7, 1.2, 50_000)
    drawn = [Operation(1.5, float(value), 1, 2, 1) for value in took]
    totals = Totals(KINDS, SHARDS, 1)
    tally = Tally(KINDS, SHARDS, WRITES, ZERO, SECONDS)
    for at in range(0, len(drawn), 1000):
        chunk = chunk_of(drawn[at : at + 1000])
        for number, operation in enumerate(drawn[at : at + 1000]):
            end(chunk, number, operation)
        assert tally.count([chunk]) == []
        totals.add(0, tally.take(ZERO + 1.5))
    for share in (0.5, 0.9, 0.99, 0.999):
        assert totals.second(1).at(share) == pytest.approx(percentile(took, share), rel=1e-3)
    latency = analysis.latency(totals.second(1).histogram())
    assert latency.p999 == pytest.approx(percentile(took, 0.999), rel=2e-3)
    # Five are slower than the p99.99: which of them it is is a matter of rounding.
    slowest = np.sort(took)[-7:-3] * 1e3
    assert slowest[0] * 0.998 <= latency.p9999 <= slowest[-1] * 1.002


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (UnknownOutcomeError("x"), True),
        (UnknownOutcomeTimeoutError("x"), True),
        (NotSentError("x"), False),
        (redis.exceptions.ConnectionError("x"), True),
        (redis.exceptions.TimeoutError("x"), True),
        (TimeoutError("x"), True),
        (ConnectionResetError("x"), True),
        (type("ClosingError", (Exception,), {})("x"), True),
        (Unfinished(), True),
        (redis.exceptions.ResponseError("x"), False),
        (redis.exceptions.ClusterDownError("x"), False),
        (redis.exceptions.DataError("x"), False),
        (type("RequestError", (Exception,), {})("x"), False),
        # Of the client itself: whether it had sent the command by then nobody knows.
        (ValueError("x"), True),
        (AttributeError("x"), True),
        (BrokenPipeError("x"), True),
        (type("ExceptionGroup", (Exception,), {"exceptions": (NotSentError("x"), OSError("x"))})("x"), True),
        (type("ExceptionGroup", (Exception,), {"exceptions": (NotSentError("x"),)})("x"), False),
    ],
)
def test_outcomes(error: Exception, unknown: bool) -> None:
    assert outcome_is_unknown(error) is unknown


@given(operations)
def test_only_writes_have_unknown_outcomes(drawn: list[Operation]) -> None:
    totals = Totals(KINDS, SHARDS, 1)
    counted(drawn, totals, 0, 16, 8)
    found: Counter[bool] = Counter()
    for (_, _, _, _, unknown), times in totals.errors.items():
        found[unknown] += times
    failed = [each for each in drawn if each.counts and each.error]
    expected = [
        each for each in failed if WRITES[each.kind] and each.error and outcome_is_unknown(each.error("x"))
    ]
    assert found[True] == len(expected)
    assert found.total() == len(failed)


def test_what_is_never_answered_counts_in_the_last_moment() -> None:
    totals, tally = Totals(KINDS, SHARDS, 1), Tally(KINDS, SHARDS, WRITES, ZERO, SECONDS)
    chunk = chunk_of([Operation(0, 0, 1, 0, 1)] * 2)
    # A refusal after the end is nothing that was measured.
    end(chunk, 0, Operation(SECONDS + 1, 1, 1, 0, 1, Unfinished))
    end(chunk, 1, Operation(SECONDS + 1, 1, 1, 0, 1, redis.exceptions.ResponseError))
    assert tally.count([chunk]) == []
    totals.add(0, tally.finish(ZERO + SECONDS + 1))
    assert dict(totals.errors) == {(int(SECONDS * 100) - 1, 1, 0, "Unfinished", True): 1}


# -- how late -------------------------------------------------------------------------------------


def test_late_beginnings_are_counted_one_by_one() -> None:
    """Those of the warm-up are not, and a run of fewer operations than a chunk has some."""
    tally = Tally(KINDS, SHARDS, WRITES, ZERO, SECONDS)
    chunk = chunk_of([Operation(0, 0, 0, 0, 1)] * 5)
    chunk.late = [0.5, 0.00021, 0.00021, 0.003, 0.0]
    for number, at in enumerate((-0.5, 0.5, 1.0, 1.5)):
        end(chunk, number, Operation(at, 0.01, 0, 0, 1, UnknownOutcomeError if number == 3 else None))
    assert tally.count([chunk]) == [chunk]
    assert tally.count([chunk]) == [chunk]
    assert tally.finish(ZERO + SECONDS).late == {21: 2, 300: 1}


# -- memory ---------------------------------------------------------------------------------------


def test_a_second_that_is_over_takes_little_memory() -> None:
    rng = np.random.default_rng(1)
    seconds, size = 10, 3000
    tally = Tally(KINDS, SHARDS, WRITES, ZERO, seconds)
    totals = Totals(KINDS, SHARDS, 1)
    for half in range(2 * seconds):
        times = half / 2 + rng.random(size) / 2
        drawn = [
            Operation(float(at), float(took), number % KINDS, number % SHARDS, 1)
            for number, (at, took) in enumerate(zip(times, rng.lognormal(-7, 1, size), strict=True))
        ]
        chunk = chunk_of(drawn)
        for number, operation in enumerate(drawn):
            end(chunk, number, operation)
        tally.count([chunk])
        totals.add(0, tally.take(ZERO + (half + 1) / 2))
    assert sum(cell.operations for cell in totals.seconds.values()) == 2 * seconds * size
    kept = sum(
        len(cell._packed) + sum(bins.nbytes + counts.nbytes for bins, counts in cell._open)
        for cell in totals.seconds.values()
    )
    # Of three shards; before it is settled it takes ten times as much.
    assert kept / seconds < 8_000
