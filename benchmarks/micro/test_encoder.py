"""Encoding beside hiredis' `pack_command`, which redis-py calls. Target: >= 3 times as fast, one or a batch.

Two are not meant by that: a float of many digits, whose shortest digits CPython finds for both, and a value of
100 KB, where both copy the same bytes, unless they leave through a batch, which does not copy them.
"""

from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from slotwise._encoder import Batch, encode_command, encode_commands

COUNT = 100
COMMANDS: dict[str, tuple[Any, ...]] = {
    "GET": ("GET", "key:12345"),
    "SET of 100 bytes": ("SET", "key:12345", b"x" * 100),
    "SET of 100 letters": ("SET", "key:12345", "x" * 100),
    "SET with EX": ("SET", "key:12345", b"x" * 100, "EX", 3600),
    "HSET of 6 fields": ("HSET", "key:12345", *(f"field{i}" for i in range(12))),
    "ZADD of a float": ("ZADD", "key:12345", 1.5, "member"),
    "ZADD of a long float": ("ZADD", "key:12345", 3.141592653589793, "member"),
    "MGET of 100 keys": ("MGET", *(f"key:{i}" for i in range(100))),
    "SET of 100 KB": ("SET", "key:12345", b"x" * 100_000),
}


def hiredis_loop(commands: list[tuple[Any, ...]]) -> list[bytes]:
    return [hiredis.pack_command(command) for command in commands]


def batch_with_slots(commands: list[tuple[Any, ...]]) -> Batch:
    """What a pipeline does: bytes and slot of each command in one pass, values of 100 KB not copied."""
    batch = Batch()
    for command in commands:
        batch.add(command, 1)
    return batch


MANY: dict[str, Callable[[list[tuple[Any, ...]]], object]] = {
    "hiredis": hiredis_loop,
    "slotwise": encode_commands,
    "slotwise, with slots": batch_with_slots,
}


@pytest.mark.parametrize("shape", COMMANDS)
@pytest.mark.parametrize("way", ["hiredis", "slotwise"])
def test_one(benchmark: BenchmarkFixture, shape: str, way: str) -> None:
    benchmark.group = f"one {shape}"
    command = COMMANDS[shape]
    # Many calls a round: one is shorter than a look at the clock.
    if way == "hiredis":
        benchmark.pedantic(hiredis.pack_command, (command,), iterations=200, rounds=300, warmup_rounds=1)
    else:
        benchmark.pedantic(encode_command, command, iterations=200, rounds=300, warmup_rounds=1)


@pytest.mark.parametrize("shape", COMMANDS)
@pytest.mark.parametrize("way", MANY)
def test_batch(benchmark: BenchmarkFixture, shape: str, way: str) -> None:
    benchmark.group = f"{COUNT} times {shape}"
    benchmark(MANY[way], [COMMANDS[shape]] * COUNT)
