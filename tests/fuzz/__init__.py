"""Random and damaged input for whatever reads what a server sent.

Each test is repeatable: its inputs follow from a seed, which a failure names. ``SLOTWISE_STRESS=1`` makes them 1,000,000,
``SLOTWISE_FUZZ_SEED`` chooses others.
"""

import os
import random
from collections.abc import Iterator

STRESS = bool(os.environ.get("SLOTWISE_STRESS"))
SEED = int(os.environ.get("SLOTWISE_FUZZ_SEED", "1"))


def numbers(count: int) -> Iterator[tuple[str, random.Random]]:
    """A name and a source of randomness for each of ``count`` inputs, 1,000,000 under SLOTWISE_STRESS."""
    for i in range(1_000_000 if STRESS else count):
        yield f"input {i} of SLOTWISE_FUZZ_SEED={SEED}", random.Random(SEED << 32 | i)
