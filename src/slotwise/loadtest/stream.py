"""Operations drawn in chunks ahead of their time, so that a caller takes the next one and does nothing else.

A chunk is drawn with numpy, a fifth of a microsecond an operation. Callers write into it when each operation ended and how
long it took, and `slotwise.loadtest.tally` reads that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slotwise._slots import key_slots
from slotwise.loadtest.keys import KeySpace, Objects, distribution, objects
from slotwise.loadtest.steps import COMPOSED, index_of
from slotwise.loadtest.values import values
from slotwise.loadtest.workload import KINDS, Family, Workload

#: Keys in a chunk, and operations if each has one. To draw and to count one keeps the callers of an event loop waiting for
#: about 0.3 ms; with half as many the generator is slower by 1.5 %.
SIZE = 2048
#: YCSB's records: fields, and how many keys a scan asks for at the most.
FIELDS = 10
LONGEST_SCAN = 100
# Operations that take a key and nothing else.
_KEY_ALONE = frozenset({"get", "delete", "incr", "hgetall", "vget"})

Call = Callable[..., Any]


class Chunk:
    """Operations, and what has come of them."""

    __slots__ = (
        "args",
        "calls",
        "due",
        "ended",
        "failed",
        "keys",
        "kinds",
        "late",
        "left",
        "shards",
        "spread",
        "took",
    )

    def __init__(
        self,
        calls: list[Call],
        args: list[tuple[Any, ...]],
        kinds: NDArray[np.int64],
        shards: NDArray[np.int64],
        keys: NDArray[np.int64],
        spread: NDArray[np.int64] | None = None,
    ) -> None:
        self.calls = calls
        self.args = args
        #: Index into the mix, and into the shards; the number of shards stands for several at once.
        self.kinds = kinds
        self.shards = shards
        self.keys = keys
        #: By operation and shard, how many keys those on several shards have there; None where there are none.
        self.spread = spread
        #: When each ended, on the clock of `time.perf_counter`, 0 before; how long it took, in seconds.
        self.ended = [0.0] * len(calls)
        self.took = [0.0] * len(calls)
        #: What each was ended by that failed, by its index.
        self.failed: dict[int, BaseException] = {}
        #: In an open loop, when each is due to begin and by how much later it began.
        self.due: list[float] = []
        self.late: list[float] = []
        #: The tally's: which it has not counted yet; None: any.
        self.left: list[int] | None = None

    def touched(self, number: int, several: int) -> list[int]:
        """The shards that an operation has to do with."""
        shard = int(self.shards[number])
        if shard < several:
            return [shard]
        return [] if self.spread is None else np.flatnonzero(self.spread[number]).tolist()

    def numbered(self) -> Iterator[tuple[int, Call, tuple[Any, ...], Chunk]]:
        """The operations in order: number, call, arguments, this chunk."""
        return zip(range(len(self.calls)), self.calls, self.args, repeat(self), strict=False)


class Material:
    """What operations are made of: keys, values, and how often each. All streams of a process share it.

    A thread's own would be 16 MB for each 100,000 keys.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        self.seed = seed
        self.distribution = distribution(workload.distribution, workload.keys, seed)
        self.spaces = {family: space_of(workload, family) for family in workload.families}
        pool = values(workload.value_size, np.random.default_rng(seed))
        self.values = objects(pool, len(pool))
        self.fields = objects(({f"field{i % FIELDS}": value} for i, value in enumerate(pool)), len(pool))


class Stream:
    """An endless supply of chunks, of one caller's thread or of all tasks of a process.

    ``calls`` are the client's methods by the name of the operation; ``shard_of_slot`` has an index for each slot. Streams
    of one run are told apart by ``number`` of ``streams``: each draws on its own, and new keys are no other's.
    """

    def __init__(
        self,
        material: Material,
        calls: Mapping[str, Call],
        shard_of_slot: NDArray[np.int64],
        shards: int,
        *,
        number: int = 0,
        streams: int = 1,
    ) -> None:
        workload = material.workload
        self._material, self._workload = material, workload
        self._calls = calls
        self._kinds = list(workload.mix)
        shares = np.array(list(workload.mix.values()))
        self._below = np.cumsum(shares / shares.sum())
        self._shard_of_slot = shard_of_slot
        self._several = shards
        self._rng = np.random.default_rng([material.seed, number])
        self._of_kind = objects((calls[self._name(kind)] for kind in self._kinds), len(self._kinds))
        # The key that was stored last, and those that this stream stores next.
        self._newest = workload.keys - 1
        self._next = workload.keys + number
        self._step = streams
        # Wide operations come in smaller chunks, which take no longer than others to draw.
        widest = max(workload.pipeline, workload.mget_keys if "mget" in workload.mix else 1)
        #: Operations in a chunk.
        self.size = max(1, SIZE // widest)

    def draw(self) -> Chunk:
        """The next operations."""
        size, width = self.size, self._workload.pipeline
        # Inserts of this chunk may come after its reads of the latest keys.
        newest = self._newest
        chosen = np.minimum(
            np.searchsorted(self._below, self._rng.random(size * width)), len(self._kinds) - 1
        )
        args = np.empty(size * width, object)
        shards = np.full(size * width, self._several)
        keys = np.ones(size * width, np.int64)
        spread = np.zeros((size, self._several), np.int64) if self._workload.wide else None
        for index, kind in enumerate(self._kinds):
            where = np.flatnonzero(chosen == index)
            if len(where):
                args[where], owners, touched = self._arguments(kind, len(where), newest)
                keys[where] = touched
                if owners.ndim == 1:
                    shards[where] = owners
                elif spread is not None:
                    spread[where] = self._spread(owners)
        if width > 1:
            return self._in_pipelines(chosen, args, shards.reshape(size, width))
        return Chunk(self._of_kind[chosen].tolist(), args.tolist(), chosen, shards, keys, spread)

    def _spread(self, owners: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many keys each shard has of each operation, from the shard of each key."""
        # Slots that nobody serves count as none.
        return np.stack([(owners == shard).sum(axis=1) for shard in range(self._several)], axis=1)

    def _in_pipelines(self, chosen: NDArray[np.int64], args: Objects, owners: NDArray[np.int64]) -> Chunk:
        size, width = owners.shape
        names = [self._name(kind) for kind in self._kinds]
        commands = [(names[i], arguments) for i, arguments in zip(chosen.tolist(), args, strict=True)]
        whole = [(commands[first : first + width],) for first in range(0, size * width, width)]
        return Chunk(
            [self._calls["pipeline"]] * size,
            whole,
            np.zeros(size, np.int64),
            np.full(size, self._several),
            np.full(size, width),
            self._spread(owners),
        )

    def _name(self, kind: str) -> str:
        return "setex" if kind == "set" and self._workload.ttl else kind

    def _arguments(self, kind: str, count: int, newest: int) -> tuple[Objects, NDArray[np.int64], Any]:
        """Arguments of ``count`` operations; the shard of each, or of each of its keys; how many keys they touch.

        A scan and an insert count for the shard on which they begin.
        """
        workload, family = self._workload, KINDS[kind].family
        material = self._material
        space = material.spaces[family]
        if kind == "insert":
            ids = self._next + self._step * np.arange(count)
            self._next += self._step * count
            self._newest = int(ids[-1])
        else:
            wanted = count * (workload.mget_keys if kind == "mget" else 1)
            ids = material.distribution.draw(self._rng, wanted, newest)
        if kind == "scan":
            lengths = self._rng.integers(1, LONGEST_SCAN + 1, count)
            firsts = ids.tolist()
            indices = [index_of(workload.prefix, first) for first in firsts]
            shards = self._shard_of_slot[key_slots(indices)]
            return objects(zip(indices, firsts, lengths.tolist(), strict=True), count), shards, lengths
        if kind in _KEY_ALONE:
            singles = space.singles(ids)
            return singles, self._shard_of_slot[space.slots(ids, (name for (name,) in singles))], 1
        names = space.names(ids)
        shards = self._shard_of_slot[space.slots(ids, names)]
        if kind == "mget":
            width = workload.mget_keys
            groups = ((names[i : i + width].tolist(),) for i in range(0, len(names), width))
            return objects(groups, count), shards.reshape(count, width), width
        if kind in ("set", "vset") and not workload.ttl:
            return objects(zip(names, self._some(material.values, count), strict=True), count), shards, 1
        if kind in ("set", "vset", "cached"):
            return (
                objects(zip(names, self._some(material.values, count), repeat(workload.ttl)), count),
                shards,
                1,
            )
        if kind in ("hset", "rmw"):
            return objects(zip(names, self._some(material.fields, count), strict=True), count), shards, 1
        # An insert.
        numbers = ids.tolist()
        records = map(record, self._some(material.values, count))
        indices = [index_of(workload.prefix, number) for number in numbers]
        return objects(zip(names, records, indices, numbers, strict=True), count), shards, 1

    def _some(self, pool: Objects, count: int) -> Objects:
        return pool[self._rng.integers(0, len(pool), count)]


def calls_of(client: Any, compose: Callable[[Any, Any], Call]) -> dict[str, Call]:
    """A client's calls by the name of the operation; ``compose`` makes calls of what takes several commands."""
    plain = ("get", "set", "setex", "delete", "mget", "incr", "hgetall", "hset", "pipeline")
    calls: dict[str, Call] = {name: getattr(client, name) for name in plain}
    # Others have no versioned values.
    calls |= {name: getattr(client, name) for name in ("vget", "vset") if hasattr(client, name)}
    calls |= {name: compose(steps, client) for name, steps in COMPOSED.items()}
    return calls


def space_of(workload: Workload, family: Family) -> KeySpace:
    """The keys of a family."""
    return KeySpace(workload.keys, workload.prefix + family.value)


def record(value: bytes) -> dict[str, bytes]:
    """A YCSB record."""
    return {f"field{i}": value for i in range(FIELDS)}
