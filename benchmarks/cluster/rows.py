"""The rows of the table: a piece of work, who does it, and how fast slotwise has to be.

A new row is one entry of ROWS. A row of another kind of client brings its own mapping of
clients, and a `stretch` that knows how to run them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cluster.clients import SYNC, SyncClient
from benchmarks.cluster.data import KEYS, value_of
from benchmarks.cluster.reference import Load
from slotwise.cli._timing import Arguments, Call, Stretch, batches, timed
from slotwise.local import LocalCluster

# In no order, so that neighbours in a batch lie in different slots.
_SHUFFLED = random.Random(1).sample(KEYS, len(KEYS))


@dataclass(frozen=True)
class Target:
    """At least so many times the rate of another client; without one, so many commands a second."""

    least: float
    times: str | None = None

    def __str__(self) -> str:
        return f">= {self.least:g}x {self.times}" if self.times else f">= {self.least:,.0f}/s"


@dataclass(frozen=True)
class Row:
    """One piece of work."""

    #: For --rows.
    name: str
    title: str
    clients: Mapping[str, Callable[[LocalCluster], Any]]
    #: What times a client of `clients`, once the client has shown that it does the work rightly
    #: (else RuntimeError).
    stretch: Callable[[Any], Stretch]
    #: Reaching one of them is enough; none for a row that is there to be looked at.
    targets: Sequence[Target] = ()
    #: What makes redis-benchmark do the like of it.
    reference: Load | None = None


def _blocking(
    call: Callable[[SyncClient], Call],
    arguments: Arguments,
    is_right: Callable[[Any], bool],
    *,
    threads: int = 1,
    commands: int = 1,
) -> Callable[[SyncClient], Stretch]:
    """Times `call` of a client whose reply to the first of `arguments` `is_right`."""

    def stretch(client: SyncClient) -> Stretch:
        timed_call = call(client)
        reply = timed_call(*arguments[0])
        if not is_right(reply):
            raise RuntimeError(f"{timed_call} gave a wrong reply: {reply!r}")
        return timed(timed_call, arguments, threads=threads, commands=commands)

    return stretch


_SINGLE = [(key,) for key in _SHUFFLED]


def _is_first_value(reply: Any) -> bool:
    return bool(reply == value_of(_SHUFFLED[0]))


def _in_batches(call: Callable[[SyncClient], Call], size: int) -> Callable[[SyncClient], Stretch]:
    groups = batches(_SHUFFLED, size)
    expected = [value_of(key) for key in groups[0]]
    return _blocking(
        call, [(group,) for group in groups], lambda reply: bool(reply == expected), commands=size
    )


ROWS = (
    Row(
        "get-1",
        "sync GET, 1 thread",
        SYNC,
        _blocking(lambda client: client.get, _SINGLE, _is_first_value),
        [Target(2.5, "redis-py")],
        Load("get", connections=1),
    ),
    Row(
        "get-8",
        "sync GET, 8 threads",
        SYNC,
        _blocking(lambda client: client.get, _SINGLE, _is_first_value, threads=8),
        [Target(6, "redis-py")],
        Load("get", connections=50),
    ),
    Row(
        "set-1",
        "sync SET, 1 thread",
        SYNC,
        _blocking(lambda client: client.set, [(key, value_of(key)) for key in _SHUFFLED], bool),
        reference=Load("set", connections=1),
    ),
    Row(
        "pipeline-100",
        "pipeline of 100 GET",
        SYNC,
        _in_batches(lambda client: client.pipeline, 100),
        [Target(12, "redis-py")],
        Load("get", connections=1, pipeline=100),
    ),
    Row(
        "pipeline-1000",
        "pipeline of 1,000 GET",
        SYNC,
        _in_batches(lambda client: client.pipeline, 1_000),
        [Target(1_000_000), Target(0.5, "redis-benchmark")],
        Load("get", connections=50, pipeline=100),
    ),
    Row(
        "mget-100",
        "MGET of 100 keys over all slots",
        SYNC,
        _in_batches(lambda client: client.mget, 100),
        [Target(8, "redis-py")],
    ),
)
