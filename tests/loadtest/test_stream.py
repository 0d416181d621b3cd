"""Operations drawn ahead of their time: how often each, on which keys, for which shard."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from slotwise import key_slot
from slotwise.loadtest.steps import index_of
from slotwise.loadtest.stream import FIELDS, SIZE, Chunk, Material, Stream
from slotwise.loadtest.workload import PRESETS, Workload
from tests.loadtest.streams import NAMED, SHARD_OF_SLOT, SHARDS, Named, stream


def operations(found: Stream, chunks: int = 1) -> list[tuple[str, tuple[Any, ...], int, int]]:
    """Name, arguments, shard and keys of each."""
    drawn = []
    for _ in range(chunks):
        chunk = found.draw()
        for call, args, shard, keys in zip(chunk.calls, chunk.args, chunk.shards, chunk.keys, strict=True):
            assert isinstance(call, Named)
            drawn.append((call.name, args, int(shard), int(keys)))
    return drawn


def number_of(key: str) -> int:
    return int(key.rpartition(":")[2])


def test_kinds_follow_the_mix() -> None:
    found = Counter(name for name, *_ in operations(stream(Workload({"get": 3, "set": 1, "incr": 0.5})), 100))
    total = sum(found.values())
    assert total == 100 * SIZE
    for name, share in {"get": 3 / 4.5, "set": 1 / 4.5, "incr": 0.5 / 4.5}.items():
        # Five standard deviations.
        assert found[name] == pytest.approx(total * share, abs=5 * (total * share * (1 - share)) ** 0.5)


def test_arguments_of_each_kind() -> None:
    kinds = ("get", "set", "delete", "incr", "hgetall", "hset", "insert", "scan", "rmw", "vget", "vset")
    workload = Workload(dict.fromkeys(kinds, 1.0), keys=3000, value_size="20")
    prefixes = {"get": "s", "set": "s", "delete": "s", "incr": "c", "vget": "v", "vset": "v"}
    seen = set()
    for name, args, shard, keys in operations(stream(workload), 3):
        seen.add(name)
        if name == "scan":
            index, first, count = args
            assert index == index_of(workload.prefix, first)
            assert 1 <= count == keys <= 100
            # There it begins.
            assert shard == SHARD_OF_SLOT[key_slot(index)]
            continue
        key = args[0]
        assert key.startswith(f"{workload.prefix}{prefixes.get(name, 'h')}:")
        assert keys == 1
        if name == "insert":
            _, fields, index, number = args
            assert number == number_of(key) >= workload.keys
            assert index == index_of(workload.prefix, number)
            assert fields.keys() == {f"field{i}" for i in range(FIELDS)}
            assert {len(value) for value in fields.values()} == {20}
            # The index lives in another slot.
            assert shard == SHARD_OF_SLOT[key_slot(key)]
            continue
        assert 0 <= number_of(key) < workload.keys
        assert shard == SHARD_OF_SLOT[key_slot(key)]
        if name in ("set", "vset"):
            assert len(args) == 2
            assert len(args[1]) == 20
        elif name in ("hset", "rmw"):
            ((field, value),) = args[1].items()
            assert field in {f"field{i}" for i in range(FIELDS)}
            assert len(value) == 20
        else:
            assert len(args) == 1
    assert seen == set(kinds)


def test_a_ttl_goes_to_what_sets_a_value_only() -> None:
    workload = Workload({"set": 1, "cached": 1, "get": 1, "incr": 1, "vget": 1, "vset": 1}, ttl=60)
    for name, args, *_ in operations(stream(workload)):
        assert name != "set"
        assert len(args) == (3 if name in ("setex", "cached", "vset") else 1)
        assert len(args) == 1 or args[2] == 60


def test_scans_ask_for_1_to_100_records_evenly() -> None:
    drawn = operations(stream(PRESETS["ycsb-e"].workload), 40)
    lengths = [args[2] for name, args, *_ in drawn if name == "scan"]
    found = np.bincount(lengths, minlength=101)[1:]
    assert len(found) == 100
    expected = len(lengths) / 100
    value = float(((found - expected) ** 2 / expected).sum())
    assert abs(value - 99) < 5 * (2 * 99) ** 0.5


@pytest.mark.parametrize("width", [1, 7, 100, 5000])
def test_mget(width: int) -> None:
    found = stream(Workload({"mget": 1}, mget_keys=width, keys=1000))
    drawn = operations(found)
    # As many keys in a chunk as others have: it takes no longer to draw.
    assert len(drawn) == max(1, SIZE // width)
    for _, (keys,), shard, touched in drawn:
        assert len(keys) == touched == width
        assert shard == SHARDS
        assert len(set(keys)) > 1 or width == 1


@pytest.mark.parametrize("width", [2, 50, 3000])
def test_pipelines(width: int) -> None:
    found = stream(Workload({"get": 1, "set": 3, "hset": 1}, pipeline=width, ttl=9))
    drawn = operations(found)
    assert len(drawn) == max(1, SIZE // width)
    commands: Counter[str] = Counter()
    for name, (batch,), shard, touched in drawn:
        assert (name, shard) == ("pipeline", SHARDS)
        assert len(batch) == touched == width
        commands.update(command for command, _ in batch)
        assert all(len(args) == {"get": 1, "setex": 3, "hset": 2}[command] for command, args in batch)
    assert commands.keys() == {"get", "setex", "hset"}
    assert commands["setex"] / commands.total() == pytest.approx(0.6, abs=0.08)


@pytest.mark.parametrize(
    "workload",
    [Workload({"mget": 1, "get": 1}, mget_keys=30), Workload({"get": 1, "set": 1}, pipeline=50)],
    ids=["mget", "pipeline"],
)
def test_where_the_keys_of_an_operation_lie(workload: Workload) -> None:
    chunk = stream(workload).draw()
    assert chunk.spread is not None
    for number, (first,) in enumerate(chunk.args):
        if isinstance(first, str):
            assert not chunk.spread[number].any()
            assert chunk.touched(number, SHARDS) == [SHARD_OF_SLOT[key_slot(first)]]
            continue
        keys = first if workload.pipeline == 1 else [args[0] for _, args in first]
        lies = Counter(int(SHARD_OF_SLOT[key_slot(key)]) for key in keys)
        assert chunk.spread[number].tolist() == [lies[shard] for shard in range(SHARDS)]
        assert chunk.touched(number, SHARDS) == sorted(lies)
    assert stream(Workload({"get": 1})).draw().spread is None


# -- several streams ------------------------------------------------------------------------------


def keys_of(chunk: Chunk) -> list[Any]:
    return [args[0] for args in chunk.args]


@pytest.mark.parametrize("preset", PRESETS)
def test_seeds_repeat_and_streams_differ(preset: str) -> None:
    workload = PRESETS[preset].workload
    first, again, other_seed, other = (
        stream(workload),
        stream(workload),
        stream(workload, seed=2),
        stream(workload, number=1, streams=2),
    )
    for _ in range(2):
        drawn = first.draw()
        repeated = again.draw()
        assert drawn.args == repeated.args
        assert drawn.calls == repeated.calls
        assert keys_of(drawn) != keys_of(other_seed.draw())
        assert keys_of(drawn) != keys_of(other.draw())


def test_inserts_of_streams_never_collide() -> None:
    workload = Workload({"insert": 1}, keys=100)
    drawn = [
        args[3]
        for number in range(4)
        for _, args, *_ in operations(stream(workload, number=number, streams=4), 2)
    ]
    assert len(drawn) == len(set(drawn)) == 8 * SIZE
    # And leave no key out.
    assert sorted(drawn) == list(range(100, 100 + 8 * SIZE))


@pytest.mark.parametrize("mix", [{"hgetall": 1, "insert": 1}, {"insert": 1, "hgetall": 1}])
def test_latest_reads_follow_inserts_and_are_never_ahead_of_them(mix: dict[str, float]) -> None:
    found = stream(Workload(mix, "latest:0.99", keys=1000))
    newest = 999
    for _ in range(20):
        drawn = operations(found)
        reads = [number_of(args[0]) for name, args, *_ in drawn if name == "hgetall"]
        assert max(reads) <= newest
        # The newest one is the most popular.
        assert Counter(reads).most_common(1)[0][0] == newest
        newest = max(args[3] for name, args, *_ in drawn if name == "insert")
    assert newest > 9000


def test_streams_of_a_process_share_keys_and_values() -> None:
    material = Material(Workload({"get": 1, "set": 1}, "zipf", keys=100_000), seed=1)
    tracemalloc.start()
    try:
        streams = [Stream(material, NAMED, SHARD_OF_SLOT, SHARDS, number=n, streams=50) for n in range(50)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(streams) == 50
    assert taken < 1_000_000
