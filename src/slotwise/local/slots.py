"""Moving slots between primaries: key by key as every cluster tool does it, or atomically where servers can."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, groupby

from redis.exceptions import ResponseError

from slotwise.local.errors import LocalError, NotReadyError
from slotwise.local.node import LocalNode
from slotwise.local.view import read_view

_BATCH = 100
_MIGRATE_TIMEOUT_MS = 5_000
_POLL = 0.01


class SlotMove:
    """Slots on their way to `to_node`, in three steps that a test can stop between.

    ``open()`` marks the slots MIGRATING and IMPORTING: from then on clients meet ASK
    redirects for keys that have left. ``move_keys()`` carries keys over. ``close()`` gives
    the slots to `to_node`: from then on clients meet MOVED. Slots that are there already are
    left out. Errors of the servers are raised as redis.ResponseError.
    """

    def __init__(self, nodes: Sequence[LocalNode], slots: Iterable[int], to_node: LocalNode) -> None:
        self._to = to_node
        view = read_view(to_node)
        #: All primaries: each is told the new owner, rather than left to hear of it.
        self._primaries = [node for node in nodes if not view[node.id].primary_id]
        owners = {slot: node for node in self._primaries for slot in view[node.id].slots}
        #: What leaves which node.
        self._sources: Mapping[LocalNode, list[int]] = defaultdict(list)
        for slot in slots:
            if owners[slot] is not to_node:
                self._sources[owners[slot]].append(slot)

    def open(self) -> None:
        for source, slots in self._sources.items():
            # The target first, or it would send back the first client that asks it.
            self._set_slots(self._to, slots, "IMPORTING", source.id)
            self._set_slots(source, slots, "MIGRATING", self._to.id)

    def move_keys(self, limit: int | None = None) -> int:
        """Carry over all keys, or `limit` of them at most; returns how many."""
        moved = 0
        credentials: tuple[str, ...] = ()
        if self._to.password is not None and self._to.username is not None:
            credentials = ("AUTH2", self._to.username, self._to.password)
        elif self._to.password is not None:
            credentials = ("AUTH", self._to.password)
        for source, slots in self._sources.items():
            with source.connect() as wire:
                for slot in slots:
                    while batch := min(_BATCH, _BATCH if limit is None else limit - moved):
                        keys = wire.call("CLUSTER", "GETKEYSINSLOT", slot, batch)
                        if not keys:
                            break
                        target = (self._to.host, self._to.port, "", 0, _MIGRATE_TIMEOUT_MS)
                        wire.call("MIGRATE", *target, *credentials, "KEYS", *keys)
                        moved += len(keys)
        return moved

    def close(self) -> None:
        for source, slots in self._sources.items():
            # The new owner before the old one, so that a slot never is without an owner.
            others = [node for node in self._primaries if node not in (self._to, source)]
            for node in (self._to, source, *others):
                self._set_slots(node, slots, "NODE", self._to.id)

    @staticmethod
    def _set_slots(node: LocalNode, slots: Sequence[int], state: str, node_id: str) -> None:
        with node.connect() as wire:
            wire.pipeline([("CLUSTER", "SETSLOT", slot, state, node_id) for slot in slots])


class AtomicMove(SlotMove):
    """Slots that go to `to_node` all at once, with their keys, as Valkey 9 moves them (CLUSTER MIGRATESLOTS).

    Clients meet no ASK and no TRYAGAIN: the old owner answers for all keys until the new one
    does, and MOVED from then on. ``run()`` returns when each source says that it is done.
    """

    def run(self, timeout: float = 30.0) -> int:
        """How many keys went with them. LocalError when a node gives up, NotReadyError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        keys = 0
        for source, slots in self._sources.items():
            keys += sum(source.call("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots)
            ranges = [bound for first, last in _ranges(slots) for bound in (first, last)]
            source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", self._to.id)
            while (state := self._state(source)) != "success":
                if state in ("failed", "cancelled", "canceled"):
                    raise LocalError(f"node {source.port} has not moved its slots: {state}")
                if time.monotonic() > deadline:
                    raise NotReadyError(
                        f"slots of node {source.port} not moved within {timeout:g} s: {state}"
                    )
                time.sleep(_POLL)
        return keys

    @staticmethod
    def _state(source: LocalNode) -> str:
        """Of the last migration."""
        last = source.call("CLUSTER", "GETSLOTMIGRATIONS")[0]
        fields = last if isinstance(last, Mapping) else dict(zip(last[::2], last[1::2], strict=True))
        return str(fields["state"])


def moves_atomically(node: LocalNode) -> bool:
    """Whether the server of `node` knows CLUSTER MIGRATESLOTS, as Valkey does since 9.0."""
    try:
        node.call("CLUSTER", "GETSLOTMIGRATIONS")
    except ResponseError:
        return False
    return True


def _ranges(slots: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run."""
    steps = count()
    runs = [list(run) for _, run in groupby(sorted(slots), lambda slot: slot - next(steps))]
    return [(run[0], run[-1]) for run in runs]
