"""Counting in one pass, against the same in plain Python."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise._tally import BINS, FINE, LEAST, LONGEST, SHORTEST, count

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
    ),
    max_size=50,
)


class Books:
    """What is counted into."""

    def __init__(self) -> None:
        self.tables: dict[int, Any] = {}
        self.keys = np.zeros(PLACES, np.int64)
        self.newest = np.zeros(SHARDS)
        self.lates: dict[int, int] = {}

    def table(self, second: int) -> Any:
        return self.tables.setdefault(second, np.zeros(PLACES * BINS, np.uint32))

    def count(self, rows: list[Any], left: list[int] | None, ended: list[float], *, late: bool) -> Any:
        return count(
            ended,
            [row[1] for row in rows],
            [row[5] for row in rows] if late else [],
            {i: None for i, row in enumerate(rows) if row[6]},
            left,
            *(np.array([row[column] for row in rows], np.int64) for column in (2, 3, 4)),
            ZERO,
            SECONDS,
            self.table,
            self.keys,
            self.newest,
            self.lates,
        )


def bin_of(seconds: float) -> int:
    mantissa, exponent = math.frexp(min(max(seconds * 1e9, SHORTEST), LONGEST))
    return (exponent - LEAST) * FINE + int((mantissa - 0.5) * 2 * FINE)


@given(operations, st.lists(st.booleans(), min_size=50, max_size=50), st.booleans())
def test_counts_as_plain_python_does(rows: list[Any], first: list[bool], late: bool) -> None:
    """In two goes: what ends meanwhile is counted in the second, and nothing twice."""
    books, wrong = Books(), []
    left: list[int] | None = None
    ended = [row[0] if early else 0.0 for row, early in zip(rows, first, strict=False)]
    for _ in range(2):
        left, failed = books.count(rows, left, ended, late=late)
        assert left == [i for i, at in enumerate(ended) if not at]
        wrong += failed
        ended = [row[0] for row in rows]

    counted: Counter[tuple[int, int]] = Counter()
    keys, newest = [0] * PLACES, [0.0] * SHARDS
    lates: Counter[int] = Counter()
    for at, took, kind, shard, touched, tardy, failed in rows:
        at -= ZERO
        if at == -ZERO or not 0 <= at < SECONDS:
            continue
        if late:
            lates[int(tardy * 1e5)] += 1
        if failed:
            continue
        place = kind * SHARDS + shard
        counted[int(at), place * BINS + bin_of(took)] += 1
        keys[place] += touched
        newest[shard] = max(newest[shard], at)
    assert sorted(wrong) == [i for i, row in enumerate(rows) if row[6] and row[0]]
    found = {
        (second, int(code)): int(table[code])
        for second, table in books.tables.items()
        for code in np.flatnonzero(table)
    }
    assert found == counted
    assert books.keys.tolist() == keys
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
        "zero": ZERO,
        "seconds": SECONDS,
        "table_of": lambda second: np.zeros(PLACES * BINS, np.uint32),
        "key_sums": np.zeros(PLACES, np.int64),
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
