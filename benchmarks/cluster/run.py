"""Connects the clients and lets them take turns."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.cluster.data import fill
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
        # The clients that are connected, by name; None if absent.
        self._connected: dict[str, Any] = {}
        # What all of them are entries of.
        self._kind: Any = None
        fill(cluster)

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, row: Row, seconds: float, rounds: int, after_round: Callable[[], object]) -> Result:
        """Run one row, each client for `seconds` over all rounds.

        Raises RuntimeError when a client does the work wrongly.
        """
        if row.clients is not self._kind:
            # Not more than one kind at a time: valkey-glide brings the replies of a process through the
            # event loop of its first client, so one in another loop waits for ever.
            self._stack.close()
            self._connected.clear()
            self._kind = row.clients
        stretches = dict(self._stretches(row)) if row.can_run else {}
        results = []
        for figures in in_turns(stretches, seconds, rounds):
            results.append(figures)
            after_round()
        return Result(row, list(stretches), results)

    def _stretches(self, row: Row) -> Iterator[tuple[str, Stretch]]:
        for name, connect in row.clients.items():
            if name.split()[0] in self._names and (client := self._client(name, connect)) is not None:
                yield name, row.stretch(client)
        if REFERENCE in self._names and row.reference is not None:
            reference = self._client(REFERENCE, Reference)
            if reference is not None:
                yield REFERENCE, reference.stretch(row.reference)

    def _client(self, name: str, connect: Callable[[LocalCluster], Any]) -> Any:
        if name not in self._connected:
            try:
                self._connected[name] = self._stack.enter_context(closing(connect(self._cluster)))
            except ImportError as error:
                self._connected[name] = None
                # A client may have one package for threads and another for asyncio.
                self.absent.add(f"{name} (no {error.name})")
            except FileNotFoundError:
                self._connected[name] = None
                self.absent.add(name)
        return self._connected[name]
