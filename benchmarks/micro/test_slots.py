"""Key to slot beside redis-py, which takes bytes only. Target: a batch of 100,000 keys >= 10 times its loop."""

import random
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from redis.crc import key_slot as redis_key_slot

from slotwise import key_slot, key_slots

COUNT = 100_000
_chance = random.Random(1)
KEYS = {
    "short": [f"user:{i}" for i in range(COUNT)],
    "long": [f"session:{_chance.getrandbits(128):032x}" for _ in range(COUNT)],
    "tagged": [f"cart:{{user{i}}}:items" for i in range(COUNT)],
}


def redis_py_loop(keys: list[bytes]) -> None:
    for key in keys:
        redis_key_slot(key)


@pytest.mark.parametrize("shape", KEYS)
@pytest.mark.parametrize("way", ["redis-py, bytes", "slotwise, bytes", "slotwise, text"])
def test_batch(benchmark: BenchmarkFixture, shape: str, way: str) -> None:
    benchmark.group = f"slots of {COUNT:,} {shape} keys"
    keys: list[Any] = KEYS[shape]
    if way != "slotwise, text":
        keys = [key.encode() for key in keys]
    benchmark(redis_py_loop if way == "redis-py, bytes" else key_slots, keys)


@pytest.mark.parametrize("shape", KEYS)
@pytest.mark.parametrize("way", ["redis-py, bytes", "slotwise, bytes", "slotwise, text"])
def test_one(benchmark: BenchmarkFixture, shape: str, way: str) -> None:
    benchmark.group = f"slot of one {shape} key"
    key: Any = KEYS[shape][COUNT // 2]
    if way != "slotwise, text":
        key = key.encode()
    # Many calls a round: one is shorter than a look at the clock.
    slot_of = redis_key_slot if way == "redis-py, bytes" else key_slot
    benchmark.pedantic(slot_of, (key,), iterations=1000, rounds=300, warmup_rounds=1)
