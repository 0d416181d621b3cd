"""What scripted nodes tell of their cluster, in the shapes of the servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from slotwise.testing.node import ScriptedNode

#: ``(first slot, last slot, [primary, replica, ...])``, both slots included.
SlotRange = tuple[int, int, "Sequence[ScriptedNode]"]

LISTEN_HOST = "127.0.0.1"


class View(NamedTuple):
    """What a node believes of the cluster."""

    slots: list[SlotRange]
    #: The config epoch of each node; of two that claim a slot the one with the higher epoch is right.
    epochs: Mapping[ScriptedNode, int]

    def serving(self, slot: int) -> Sequence[ScriptedNode]:
        """The primary of a slot and its replicas; empty when nobody serves it."""
        return next((nodes for first, last, nodes in self.slots if first <= slot <= last), ())

    def owners(self) -> dict[int, ScriptedNode]:
        """The primary of each slot."""
        return {slot: nodes[0] for first, last, nodes in self.slots for slot in range(first, last + 1)}

    def gained_since(self, earlier: View) -> list[ScriptedNode]:
        """The nodes that own slots which they did not own then."""
        before = earlier.owners()
        return list(
            dict.fromkeys(node for slot, node in self.owners().items() if before.get(slot) is not node)
        )

    def shards(self) -> dict[tuple[ScriptedNode, ...], list[tuple[int, int]]]:
        """The ranges of each shard, whose first node is its primary."""
        shards: dict[tuple[ScriptedNode, ...], list[tuple[int, int]]] = {}
        for first, last, nodes in self.slots:
            shards.setdefault(tuple(nodes), []).append((first, last))
        return shards


def cluster_slots(view: View) -> list[Any]:
    """CLUSTER SLOTS."""
    return [
        [first, last, *([node.host.encode(), node.port, node.id, []] for node in nodes)]
        for first, last, nodes in view.slots
    ]


def cluster_shards(view: View) -> list[Any]:
    """CLUSTER SHARDS."""
    return [
        {
            b"slots": [edge for slot_range in ranges for edge in slot_range],
            b"nodes": [
                _shard_node(node, b"replica" if place else b"master") for place, node in enumerate(nodes)
            ],
        }
        for nodes, ranges in view.shards().items()
    ]


def _shard_node(node: ScriptedNode, role: bytes) -> dict[bytes, Any]:
    told = {b"id": node.id, b"port": node.port, b"ip": LISTEN_HOST.encode(), b"endpoint": node.host.encode()}
    if node.host not in ("", LISTEN_HOST):
        told[b"hostname"] = node.host.encode()
    return {**told, b"role": role, b"replication-offset": 0, b"health": b"online"}


def cluster_nodes(view: View, asked: ScriptedNode) -> bytes:
    """CLUSTER NODES."""
    lines = []
    for nodes, ranges in view.shards().items():
        for place, node in enumerate(nodes):
            role = "slave" if place else "master"
            flags = f"myself,{role}" if node is asked else role
            primary = nodes[0].id.decode() if place else "-"
            owned = "" if place else "".join(f" {first}-{last}" for first, last in ranges)
            name = f",{node.host}" if node.host not in ("", LISTEN_HOST) else ""
            lines.append(
                f"{node.id.decode()} {LISTEN_HOST}:{node.port}@{node.port}{name} {flags} {primary} "
                f"0 0 {view.epochs[nodes[0]]} connected{owned}\n"
            )
    return "".join(lines).encode()


def role(view: View, asked: ScriptedNode) -> list[Any]:
    """ROLE."""
    primary = next((nodes[0] for _, _, nodes in view.slots if asked in nodes[1:]), None)
    if primary is None:
        return [b"master", 0, []]
    return [b"slave", LISTEN_HOST.encode(), primary.port, b"connected", 0]


def cluster_info(view: View, asked: ScriptedNode) -> bytes:
    """CLUSTER INFO."""
    shards = view.shards()
    covered = sum(last - first + 1 for first, last, _ in view.slots)
    fields = {
        "cluster_state": "ok",
        "cluster_slots_assigned": covered,
        "cluster_slots_ok": covered,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": 0,
        "cluster_known_nodes": len({node for nodes in shards for node in nodes}),
        "cluster_size": len(shards),
        "cluster_current_epoch": max(view.epochs.values()),
        "cluster_my_epoch": view.epochs[asked],
    }
    return "".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode()
