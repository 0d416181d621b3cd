"""Memory: little for what is in flight, none for what is over, bounded for what is large.

SLOTWISE_STRESS=1 makes it 10,000,000 commands and a value of 480 MB.
"""

import pytest

from slotwise.local import LocalCluster
from tests.asyncio.memory import VALUE
from tests.asyncio.programs import STRESS, program


@pytest.mark.parametrize("how", ["resident", "tracemalloc"])
def test_commands_in_flight(cluster: LocalCluster, how: str) -> None:
    """100,000 calls awaited by a task each, less than 1 KiB above what the tasks cost by themselves."""
    try:
        found, _ = program(
            f"tests.asyncio.memory:in_flight({cluster.url!r}, 100_000, {how == 'tracemalloc'})"
        )
    finally:
        for primary in cluster.primaries:
            primary.call("CLIENT", "UNPAUSE")
    assert found["a task alone"] > 300, "something was measured"
    assert found["with its task"] - found["a task alone"] - len(VALUE) < 1024, found


@pytest.mark.timeout(1800)
def test_it_is_where_it_was(cluster: LocalCluster) -> None:
    commands = 10_000_000 if STRESS else 300_000
    (before, half, after), _ = program(
        f"tests.asyncio.memory:growth({cluster.url!r}, {commands})", timeout=1700
    )
    # A leak of one small object for every command would be several times as much.
    assert after - half < 3_000_000 if STRESS else 2_000_000
    assert after - before < 8_000_000


def test_a_large_value(cluster: LocalCluster) -> None:
    size = (480 if STRESS else 64) * 1_000_000
    found, _ = program(f"tests.asyncio.memory:large({cluster.url!r}, {size})", timeout=200)
    # In pieces, straight from the caller's value and straight into the one that he gets.
    assert found["SET"]["peak"] < 20_000_000
    assert found["GET"]["peak"] < size + 20_000_000
    for each in found.values():
        assert each["of others"] > 20, "calls to other nodes go on"
        assert each["gap"] < 0.5
