"""Which keys a load test uses, and how often each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slotwise._slots import key_slots

#: All keys of load tests begin so, unless ``--prefix`` says otherwise.
PREFIX = "slotwise:load:"
#: The largest key space: a Zipf distribution keeps 16 bytes a key.
MOST_KEYS = 10_000_000
# Names are kept up to here, some 150 bytes each; beyond it they are made as they are needed.
_KEPT = 1_000_000

Ids = NDArray[np.int64]
Objects = NDArray[np.object_]


class KeySpace:
    """``size`` numbered keys, and their slots.

    Arrays of objects: numpy picks a thousand keys in the time in which a loop picks a hundred.
    """

    def __init__(self, size: int, prefix: str = PREFIX) -> None:
        self.size = size
        self._prefix = prefix
        self._kept = size <= _KEPT
        kept = range(size if self._kept else 0)
        self._names = objects(self._make(kept), len(kept))
        self._singles = objects(((name,) for name in self._names), len(kept))
        self._slots = key_slots(self._names)

    def names(self, ids: Ids) -> Objects:
        """The keys of these numbers; those from ``size`` on are new ones."""
        if self._knows(ids):
            return self._names[ids]
        return objects(self._make(ids.tolist()), len(ids))

    def singles(self, ids: Ids) -> Objects:
        """The keys of these numbers, each as the only argument of a call."""
        if self._knows(ids):
            return self._singles[ids]
        return objects(((name,) for name in self._make(ids.tolist())), len(ids))

    def slots(self, ids: Ids, names: Iterable[str]) -> NDArray[np.uint16]:
        """The slots of the keys of these numbers, which are the ``names``: those are looked at if there is no table."""
        return self._slots[ids] if self._knows(ids) else key_slots(names)

    def _knows(self, ids: Ids) -> bool:
        return self._kept and (not len(ids) or int(ids.max()) < self.size)

    def _make(self, ids: Iterable[int]) -> Iterator[str]:
        prefix = self._prefix
        return (f"{prefix}{i:010}" for i in ids)


def objects(items: Iterable[Any], count: int) -> Objects:
    """An array of Python objects, one dimension even where they are sequences."""
    return np.fromiter(items, object, count)


class Distribution(Protocol):
    """Draws the numbers of keys."""

    def draw(self, rng: np.random.Generator, count: int, newest: int) -> Ids:
        """``count`` numbers from 0 up to ``newest``, the number of the key that was stored last."""


@dataclass(frozen=True)
class Uniform:
    """Every key as often as every other."""

    size: int

    def draw(self, rng: np.random.Generator, count: int, newest: int) -> Ids:
        return rng.integers(0, self.size, count)


class Zipf:
    """The key of rank r is drawn in proportion to 1 / r ** theta; ranks lie scattered over the key space.

    Source: Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994, which YCSB follows. Drawn by
    the inverse of the whole distribution instead of its approximation. The ranks are shuffled by ``seed``, the same in all
    processes of a run.
    """

    def __init__(self, size: int, theta: float, seed: int) -> None:
        self._below = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -theta)
        self._of_rank: Ids = np.random.default_rng(seed).permutation(size)

    def draw(self, rng: np.random.Generator, count: int, newest: int) -> Ids:
        return self._of_rank[_ranks(self._below, rng, count)]


class Latest:
    """As `Zipf` without the shuffling: the key that was stored last is the one of rank 1, as in YCSB's workload D."""

    def __init__(self, size: int, theta: float) -> None:
        self._below = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -theta)

    def draw(self, rng: np.random.Generator, count: int, newest: int) -> Ids:
        return np.maximum(newest - _ranks(self._below, rng, count), 0)


@dataclass(frozen=True)
class HotSet:
    """A ``share`` of the keys gets ``traffic``, a share of all operations; within and without it is even."""

    size: int
    share: float
    traffic: float
    seed: int

    def draw(self, rng: np.random.Generator, count: int, newest: int) -> Ids:
        hot = max(1, round(self.size * self.share))
        cold = max(1, self.size - hot)
        is_hot = rng.random(count) < self.traffic
        numbers = np.where(is_hot, rng.integers(0, hot, count), hot + rng.integers(0, cold, count))
        # Scattered by a permutation that needs no table: a multiple prime to the size. Else the hot keys were neighbours.
        return (np.minimum(numbers, self.size - 1) * _prime_to(self.size, self.seed)) % self.size


def distribution(text: str, size: int, seed: int) -> Distribution:
    """``uniform``, ``zipf`` or ``zipf:0.99``, ``hot:0.2:0.8`` (a fifth of the keys, four fifths of the operations),
    ``latest`` or ``latest:0.99``.

    Raises ValueError that says what is allowed.
    """
    kind, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers]
        if kind == "uniform" and not values:
            return Uniform(size)
        if kind in ("zipf", "latest") and len(values) <= 1:
            theta = values[0] if values else 0.99
            if 0 < theta <= 10:
                return Zipf(size, theta, seed) if kind == "zipf" else Latest(size, theta)
        if kind == "hot" and len(values) == 2 and all(0 < value < 1 for value in values):
            return HotSet(size, values[0], values[1], seed)
    except ValueError:
        pass
    raise ValueError(
        f"{text!r} is no distribution of keys: uniform, zipf[:THETA], hot:SHARE_OF_KEYS:SHARE_OF_TRAFFIC such as "
        "hot:0.2:0.8, or latest[:THETA]"
    )


def _ranks(below: NDArray[np.float64], rng: np.random.Generator, count: int) -> Ids:
    ranks: Ids = np.searchsorted(below, rng.random(count) * below[-1], side="right")
    # The product may round up to the whole.
    return np.minimum(ranks, len(below) - 1)


def _prime_to(size: int, seed: int) -> int:
    factor = 2_654_435_761 + 2 * seed  # Knuth's multiplier: neighbours land far apart
    while np.gcd(factor, size) != 1:
        factor += 1
    return factor % size or 1
