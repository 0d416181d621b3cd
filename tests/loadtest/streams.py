"""Operations of a workload without any cluster: calls that only have a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slotwise.loadtest.stream import Material, Stream
from slotwise.loadtest.workload import KINDS, Workload

SHARDS = 3
#: Runs of slots: the first third, the second, the rest.
SHARD_OF_SLOT = np.minimum(np.arange(16384) * SHARDS // 16384, SHARDS - 1)


class Named:
    """A call, known by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> None:
        pass


NAMED: dict[str, Callable[..., Any]] = {name: Named(name) for name in (*KINDS, "setex", "pipeline")}


def stream(
    workload: Workload,
    calls: dict[str, Callable[..., Any]] = NAMED,
    *,
    seed: int = 1,
    number: int = 0,
    streams: int = 1,
) -> Stream:
    return Stream(Material(workload, seed), calls, SHARD_OF_SLOT, SHARDS, number=number, streams=streams)
