"""Connects the clients and lets them take turns."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from typing import Any

import redis

from benchmarks.cluster.data import KEYS, value_of
from benchmarks.cluster.reference import NAME as REFERENCE
from benchmarks.cluster.reference import Reference
from benchmarks.cluster.report import Result
from benchmarks.cluster.rows import Row
from slotwise.cli._timing import Stretch, in_turns
from slotwise.local import LocalCluster


class Contest:
    """The clients named by `names`, as far as they are installed, on one cluster. A context manager."""

    def __init__(self, cluster: LocalCluster, names: Collection[str]) -> None:
        #: Clients that were asked for and are not installed.
        self.absent: set[str] = set()
        self._cluster = cluster
        self._names = names
        self._stack = ExitStack()
        # By what connects them, since one client may have several interfaces; None if absent.
        self._connected: dict[Callable[[LocalCluster], Any], Any] = {}
        with redis.RedisCluster.from_url(cluster.url) as client:
            client.mset_nonatomic({key: value_of(key) for key in KEYS})

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, row: Row, seconds: float, rounds: int, after_round: Callable[[], object]) -> Result:
        """Run one row, each client for `seconds` over all rounds.

        Raises RuntimeError when a client does the work wrongly.
        """
        stretches = dict(self._stretches(row))
        results = []
        for figures in in_turns(stretches, seconds, rounds):
            results.append(figures)
            after_round()
        return Result(row, list(stretches), results)

    def _stretches(self, row: Row) -> Iterator[tuple[str, Stretch]]:
        for name, connect in row.clients.items():
            if name in self._names and (client := self._client(name, connect)) is not None:
                yield name, row.stretch(client)
        if REFERENCE in self._names and row.reference is not None:
            reference = self._client(REFERENCE, Reference)
            if reference is not None:
                yield REFERENCE, reference.stretch(row.reference)

    def _client(self, name: str, connect: Callable[[LocalCluster], Any]) -> Any:
        if connect not in self._connected:
            try:
                self._connected[connect] = self._stack.enter_context(closing(connect(self._cluster)))
            except (ImportError, FileNotFoundError):
                self._connected[connect] = None
                self.absent.add(name)
        return self._connected[connect]
