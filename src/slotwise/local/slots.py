"""Moving slots between primaries, key by key as every cluster tool does it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from slotwise.local.node import LocalNode
from slotwise.local.view import read_view

_BATCH = 100
_MIGRATE_TIMEOUT_MS = 5_000


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
        credentials = () if self._to.password is None else ("AUTH", self._to.password)
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
