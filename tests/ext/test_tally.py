"""Counting in one pass, against the same in plain Python."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise._tally import AFTER, BINS, FINE, LEAST, LONGEST, SHORTEST, count

KINDS, SHARDS, ZERO, SECONDS = 2, 3, 100.0, 5.0
PLACES = KINDS * SHARDS

operations = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(ZERO - 1, ZERO + SECONDS + 1)),  # ended
        st.floats(0, 2000),  # took
        st.integers(0, KINDS - 1),
        st.integers(0, SHARDS - 1),
        st.integers(1, 100),  # keys
        st.floats(0, 1),  # late
        st.booleans(),  # failed
        # Of the last shard, which stands for several: keys on each of the others.
        st.lists(st.integers(0, 3), min_size=SHARDS - 1, max_size=SHARDS - 1),
    ),
    max_size=50,
)


class Books:
    """What is counted into."""

    def __init__(self, *, wide: bool) -> None:
        self.wide = SHARDS - 1 if wide else 0
        self.shard_keys = np.zeros(self.wide, np.int64)
        self.tables: dict[int, Any] = {}
        self.keys = np.zeros(PLACES, np.int64)
        self.newest = np.zeros(SHARDS)
        self.lates: dict[int, int] = {}

    def table(self, second: int) -> Any:
        return self.tables.setdefault(second, np.zeros((PLACES + self.wide) * BINS, np.uint32))

    def count(self, rows: list[Any], left: list[int] | None, ended: list[float], *, late: bool) -> Any:
        return count(
            ended,
            [row[1] for row in rows],
            [row[5] for row in rows] if late else [],
            {i: None for i, row in enumerate(rows) if row[6]},
            left,
            *(np.array([row[column] for row in rows], np.int64) for column in (2, 3, 4)),
            np.array([row[7] for row in rows], np.int64).reshape(-1, SHARDS - 1) if self.wide else None,
            ZERO,
            SECONDS,
            self.table,
            self.keys,
            self.shard_keys,
            self.newest,
            self.lates,
        )


def bin_of(seconds: float) -> int:
    mantissa, exponent = math.frexp(min(max(seconds * 1e9, SHORTEST), LONGEST))
    return (exponent - LEAST) * FINE + int((mantissa - 0.5) * 2 * FINE)


@given(operations, st.lists(st.booleans(), min_size=50, max_size=50), st.booleans(), st.booleans())
def test_counts_as_plain_python_does(rows: list[Any], first: list[bool], late: bool, wide: bool) -> None:
    """In two goes: what ends meanwhile is counted in the second, and nothing twice."""
    books, wrong = Books(wide=wide), []
    any_after = False
    left: list[int] | None = None
    ended = [row[0] if early else 0.0 for row, early in zip(rows, first, strict=False)]
    for _ in range(2):
        left, failed, after = books.count(rows, left, ended, late=late)
        any_after = any_after or after
        assert left == [i for i, at in enumerate(ended) if not at]
        wrong += failed
        ended = [row[0] for row in rows]

    counted: Counter[tuple[int, int]] = Counter()
    keys, newest = [0] * PLACES, [0.0] * SHARDS
    lates: Counter[int] = Counter()
    shard_keys = [0] * books.wide
    for at, took, kind, shard, touched, tardy, failed, spread in rows:
        at -= ZERO
        due = at - took if late else at
        if at == -ZERO or at < 0 or due >= SECONDS:
            continue
        if late and due >= 0:
            lates[int(tardy * 1e5)] += 1
        if failed:
            continue
        # A closed loop's is over by the end; of an open one all count that were due.
        second = AFTER if at >= SECONDS else int(at) if due >= 0 else -1 - int(at)
        place = kind * SHARDS + shard
        counted[second, place * BINS + bin_of(took)] += 1
        parts = [(n, here) for n, here in enumerate(spread) if here and wide and shard == SHARDS - 1]
        for n, _ in parts:
            counted[second, (PLACES + n) * BINS + bin_of(took)] += 1
        if second == AFTER:
            continue
        keys[place] += touched
        newest[shard] = max(newest[shard], at)
        for n, here in parts:
            shard_keys[n] += here
            newest[n] = max(newest[n], at)
    assert any_after == any(row[0] - ZERO >= SECONDS for row in rows)
    assert sorted(wrong) == [i for i, row in enumerate(rows) if row[6] and row[0]]
    found = {
        (second, int(code)): int(table[code])
        for second, table in books.tables.items()
        for code in np.flatnonzero(table)
    }
    assert found == counted
    assert books.keys.tolist() == keys
    assert books.shard_keys.tolist() == shard_keys
    assert books.newest.tolist() == newest
    assert books.lates == lates


def one(**changes: Any) -> None:
    columns: dict[str, Any] = {
        "ended": [ZERO + 1],
        "took": [0.1],
        "late": [],
        "failed": {},
        "left": None,
        "kinds": np.zeros(1, np.int64),
        "shards": np.zeros(1, np.int64),
        "keys": np.ones(1, np.int64),
        "spread": None,
        "zero": ZERO,
        "seconds": SECONDS,
        "table_of": lambda second: np.zeros(PLACES * BINS, np.uint32),
        "key_sums": np.zeros(PLACES, np.int64),
        "shard_sums": np.zeros(0, np.int64),
        "newest": np.zeros(SHARDS),
        "lates": {},
    }
    count(**{**columns, **changes})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"took": []}, ValueError),
        ({"late": [0.1, 0.1]}, ValueError),
        ({"kinds": np.zeros(2, np.int64)}, ValueError),
        ({"kinds": np.array([KINDS])}, IndexError),
        ({"kinds": np.array([-1])}, IndexError),
        ({"shards": np.array([SHARDS])}, IndexError),
        ({"shards": np.array([-1])}, IndexError),
        ({"spread": np.ones((1, SHARDS), np.int64)}, ValueError),
        ({"spread": np.ones((2, 0), np.int64)}, ValueError),
        ({"shard_sums": np.zeros(SHARDS, np.int64)}, ValueError),
        ({"left": [1]}, IndexError),
        ({"left": [-1]}, IndexError),
        ({"table_of": lambda second: np.zeros(BINS, np.uint32)}, IndexError),
        ({"ended": [100]}, TypeError),
        ({"took": [1]}, TypeError),
        ({"ended": (ZERO,)}, TypeError),
    ],
)
def test_nothing_is_read_or_written_beyond_its_end(changes: dict[str, Any], error: type[Exception]) -> None:
    one()
    with pytest.raises(error):
        one(**changes)
