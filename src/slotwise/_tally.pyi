from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHORTEST: int
LONGEST: int
FINE: int
LEAST: int
BINS: int
AFTER: int

def count(
    ended: list[float],
    took: list[float],
    late: list[float],
    failed: dict[int, Any],
    left: list[int] | None,
    kinds: NDArray[np.int64],
    shards: NDArray[np.int64],
    keys: NDArray[np.int64],
    spread: NDArray[np.int64] | None,
    zero: float,
    seconds: float,
    table_of: Callable[[int], NDArray[np.uint32]],
    key_sums: NDArray[np.int64],
    shard_sums: NDArray[np.int64],
    newest: NDArray[np.float64],
    lates: dict[int, int],
) -> tuple[list[int], list[int], bool]: ...
