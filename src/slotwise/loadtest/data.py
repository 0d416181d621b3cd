"""The keys of a load test: stored before it, and deleted after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from slotwise.consistency import VersionedStore
from slotwise.loadtest.keys import KeySpace
from slotwise.loadtest.steps import INDEXED, index_of
from slotwise.loadtest.stream import record, space_of
from slotwise.loadtest.values import values
from slotwise.loadtest.workload import Family, Workload

if TYPE_CHECKING:
    from slotwise.sync.cluster import RedisCluster

# Keys in a pipeline.
_BATCH = 1000


class WrongDataError(RuntimeError):
    """What was read back is not what was stored: no figure of such a run would mean anything."""


def store(client: RedisCluster, workload: Workload, seed: int, after: Callable[[int], object]) -> None:
    """Stores every key of the workload and reads some of them back; ``after`` is told how many were stored just now.

    Raises `WrongDataError` when a value is another one.
    """
    pool = values(workload.value_size, np.random.default_rng(seed))
    for family in workload.families:
        if family is Family.COUNTER:
            # INCR makes them.
            continue
        space = space_of(workload, family)
        for first in range(0, workload.keys, _BATCH):
            ids = np.arange(first, min(first + _BATCH, workload.keys))
            _store(client, workload, family, space, ids, pool)
            after(len(ids))
        _check(client, workload, family, space, pool)


def _store(
    client: RedisCluster, workload: Workload, family: Family, space: KeySpace, ids: Any, pool: list[bytes]
) -> None:
    if family is Family.VERSIONED:
        pairs = zip(space.names(ids), ids.tolist(), strict=True)
        VersionedStore(client).set_many(
            {key: pool[number % len(pool)] for key, number in pairs}, workload.ttl or None
        )
        return
    pipeline = client.pipeline()
    indices: dict[str, dict[str, float]] = {}
    for number, key in zip(ids.tolist(), space.names(ids), strict=True):
        value = pool[number % len(pool)]
        if family is Family.STRING:
            pipeline.set(key, value, workload.ttl or None)
        else:
            pipeline.hset(key, mapping=record(value))  # type: ignore[arg-type]
            indices.setdefault(index_of(workload.prefix, number), {})[key] = number
    if "scan" in workload.mix or "insert" in workload.mix:
        for index, members in indices.items():
            pipeline.zadd(index, members)
    pipeline.execute()


def _check(
    client: RedisCluster, workload: Workload, family: Family, space: KeySpace, pool: list[bytes]
) -> None:
    ids = np.unique(np.linspace(0, space.size - 1, 100).astype(np.int64))
    for number, found in zip(ids.tolist(), _read(client, family, space.names(ids).tolist()), strict=True):
        if found is None and workload.ttl and family is not Family.HASH:
            continue  # it has expired meanwhile
        if found != pool[number % len(pool)]:
            raise WrongDataError(
                "a key that was stored holds another value: does somebody else use this --prefix?"
            )


def _read(client: RedisCluster, family: Family, names: list[str]) -> list[Any]:
    """What was stored at each of the keys, None where nothing is."""
    if family is Family.VERSIONED:
        found = VersionedStore(client).get_many(names)
        return [found.get(name) for name in names]
    pipeline = client.pipeline()
    for key in names:
        if family is Family.STRING:
            pipeline.get(key)
        else:
            pipeline.hget(key, "field0")
    replies: list[Any] = pipeline.execute()
    return replies


def delete(client: RedisCluster, workload: Workload) -> None:
    """Deletes what the load test has stored, new keys and indices too."""
    batch: list[bytes] = []
    for key in _keys(client, workload):
        batch.append(key)
        if len(batch) >= _BATCH:
            client.delete(*batch)
            batch.clear()
    if batch:
        client.delete(*batch)


def _keys(client: RedisCluster, workload: Workload) -> Iterator[bytes]:
    pattern = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in workload.prefix)
    # Ours have a letter and a number behind the prefix: who takes that of an application loses nothing.
    letters = "".join(family.value[0] for family in Family)
    yield from client.scan_iter(match=f"{pattern}[{letters}i]:[0-9]*", count=INDEXED)
