"""The rows of the table: a piece of work, who does it, and how fast slotwise has to be.

A new row is one entry of ROWS. A row of another kind of client brings its own mapping of
clients, and a `stretch` that knows how to run them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks.cluster.async_clients import ASYNCIO, UVLOOP, AsyncClient
from benchmarks.cluster.clients import SYNC, SyncClient
from benchmarks.cluster.data import KEYS, value_of
from benchmarks.cluster.reference import NAME as REFERENCE
from benchmarks.cluster.reference import Load
from benchmarks.cluster.settings import Setting, setting
from benchmarks.cluster.targets import AnyOf, Latency, Rate, Target, Times
from slotwise.cli._in_loop import InLoop
from slotwise.cli._timing import Arguments, AsyncCall, Call, Stretch, batches, timed, timed_in_tasks
from slotwise.local import LocalCluster

# In no order, so that neighbours in a batch lie in different slots.
_SHUFFLED = random.Random(1).sample(KEYS, len(KEYS))


@dataclass(frozen=True)
class Row:
    """One piece of work."""

    #: For --rows.
    name: str
    title: str
    #: By their names. What follows a blank in a name says in what setting that client works.
    clients: Mapping[str, Callable[[LocalCluster], Any]]
    #: What times a client of `clients`, once the client has shown that it does the work rightly
    #: (else RuntimeError).
    stretch: Callable[[Any], Stretch]
    #: All of them have to be met; none for a row that is there to be looked at.
    targets: Sequence[Target] = ()
    #: What makes redis-benchmark do the like of it.
    reference: Load | None = None
    #: A package without which no client can do it.
    needs: str | None = None

    @property
    def can_run(self) -> bool:
        return self.needs is None or find_spec(self.needs) is not None


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
        _check(timed_call, timed_call(*arguments[0]), is_right)
        return timed(timed_call, arguments, threads=threads, commands=commands)

    return stretch


def _awaited(
    call: Callable[[AsyncClient], AsyncCall],
    arguments: Arguments,
    is_right: Callable[[Any], bool],
    *,
    tasks: int = 1,
    commands: int = 1,
) -> Callable[[InLoop], Stretch]:
    """The like of `_blocking` for a client of asyncio."""

    def stretch(loop: InLoop) -> Stretch:
        timed_call = call(loop.client)

        async def first() -> Any:
            return await timed_call(*arguments[0])

        _check(timed_call, loop.run(first()), is_right)
        return timed_in_tasks(loop.run, timed_call, arguments, tasks=tasks, commands=commands)

    return stretch


def _gets_in(setting: Setting) -> Stretch:
    """Times GET by as many tasks as the setting has."""
    call = _awaited(lambda client: client.get, _SINGLE, _is_first_value, tasks=setting.tasks)
    return setting.wrap(call(setting.loop))


def _check(call: Any, reply: Any, is_right: Callable[[Any], bool]) -> None:
    if not is_right(reply):
        raise RuntimeError(f"{call} gave a wrong reply: {reply!r}")


_SINGLE = [(key,) for key in _SHUFFLED]
_WRITES = [(key, value_of(key)) for key in _SHUFFLED]


def _is_first_value(reply: Any) -> bool:
    return bool(reply == value_of(_SHUFFLED[0]))


def _groups(size: int) -> Arguments:
    return [(group,) for group in batches(_SHUFFLED, size)]


def _are_first_values(size: int) -> Callable[[Any], bool]:
    expected = [value_of(key) for key in _SHUFFLED[:size]]
    return lambda reply: bool(reply == expected)


ROWS = (
    Row(
        "get-1",
        "sync GET, 1 thread",
        SYNC,
        _blocking(lambda client: client.get, _SINGLE, _is_first_value),
        [Times(2.5, "redis-py")],
        Load("get", connections=1),
    ),
    Row(
        "get-8",
        "sync GET, 8 threads",
        SYNC,
        _blocking(lambda client: client.get, _SINGLE, _is_first_value, threads=8),
        [Times(6, "redis-py")],
        Load("get", connections=50),
    ),
    Row(
        "set-1",
        "sync SET, 1 thread",
        SYNC,
        _blocking(lambda client: client.set, _WRITES, bool),
        reference=Load("set", connections=1),
    ),
    Row(
        "pipeline-100",
        "pipeline of 100 GET",
        SYNC,
        _blocking(lambda client: client.pipeline, _groups(100), _are_first_values(100), commands=100),
        [Times(12, "redis-py")],
        Load("get", connections=1, pipeline=100),
    ),
    Row(
        "pipeline-1000",
        "pipeline of 1,000 GET",
        SYNC,
        _blocking(lambda client: client.pipeline, _groups(1_000), _are_first_values(1_000), commands=1_000),
        [AnyOf([Rate(1_000_000), Times(0.5, REFERENCE)])],
        Load("get", connections=50, pipeline=100),
    ),
    Row(
        "mget-100",
        "MGET of 100 keys over all slots",
        SYNC,
        _blocking(lambda client: client.mget, _groups(100), _are_first_values(100), commands=100),
        [Times(8, "redis-py")],
    ),
    Row(
        "aio-get-1",
        "asyncio GET, 1 task",
        ASYNCIO,
        _awaited(lambda client: client.get, _SINGLE, _is_first_value),
        [Times(1.5, "redis-py")],
        Load("get", connections=1),
    ),
    Row(
        "aio-get-50",
        "asyncio GET, 50 tasks",
        ASYNCIO,
        _awaited(lambda client: client.get, _SINGLE, _is_first_value, tasks=50),
        [Times(12, "redis-py")],
        Load("get", connections=50),
    ),
    Row(
        "aio-pipeline-100",
        "asyncio pipeline of 100 GET",
        ASYNCIO,
        _awaited(lambda client: client.pipeline, _groups(100), _are_first_values(100), commands=100),
        [Times(12, "redis-py")],
        Load("get", connections=1, pipeline=100),
    ),
    Row(
        "uv-get-50",
        "asyncio GET on uvloop, 50 tasks",
        UVLOOP,
        _awaited(lambda client: client.get, _SINGLE, _is_first_value, tasks=50),
        [
            Rate(100_000),
            Latency(p50=1e-3, p99=10e-3),
            Times(12, "redis-py"),
            Times(7, "valkey-glide"),
            Times(2, REFERENCE),
        ],
        Load("get", connections=50),
        needs="uvloop",
    ),
    Row(
        "uv-set-50",
        "asyncio SET on uvloop, 50 tasks",
        UVLOOP,
        _awaited(lambda client: client.set, _WRITES, bool, tasks=50),
        [Times(10, "redis-py")],
        Load("set", connections=50),
        needs="uvloop",
    ),
    Row(
        "uv-tasks",
        "asyncio GET on uvloop, 10,000 tasks",
        {
            "slotwise": setting(10_000),
            "slotwise with 200 tasks": setting(200),
            "slotwise without the collector": setting(10_000, collector=False),
        },
        _gets_in,
        [Times(1 / 1.5, "slotwise with 200 tasks")],
        needs="uvloop",
    ),
    Row(
        "uv-primaries",
        "asyncio GET on uvloop, 1,000 tasks, 30 primaries played by one process",
        {"slotwise": setting(1_000, primaries=30), "slotwise on 3 primaries": setting(1_000, primaries=3)},
        _gets_in,
        [Times(0.9, "slotwise on 3 primaries")],
        needs="uvloop",
    ),
)
