"""Making one cluster of empty nodes, with the server's own commands."""

import time
from collections.abc import Sequence
from itertools import combinations, pairwise

from redis.exceptions import ResponseError

from slotwise.local.errors import NotReadyError
from slotwise.local.node import LocalNode
from slotwise.local.view import SLOTS, read_view

_POLL = 0.01
# Seconds until nodes that still do not know each other are introduced again: a handshake that
# takes longer than the node timeout (but at least a second) is forgotten by the servers.
_INTRODUCE_AGAIN = 2.0


def slot_ranges(primaries: int) -> list[range]:
    """The 16,384 slots in as many contiguous parts, whose sizes differ by one at most."""
    edges = [round(SLOTS * part / primaries) for part in range(primaries + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


def form_cluster(nodes: Sequence[LocalNode], primaries: int, deadline: float) -> None:
    """Give out slots, introduce all nodes, attach replicas.

    Returns when every replica was told its primary, which is before the cluster is ready:
    servers take two seconds until a new primary serves its slots. Raises NotReadyError when
    `deadline` (of time.monotonic) passes first.
    """
    parts = slot_ranges(primaries)
    for node in nodes:
        with node.connect() as wire:
            # Distinct epochs from the start spare the nodes the work of settling collisions.
            commands: list[tuple[str | int, ...]] = [
                ("CLUSTER", "MYID"),
                ("CLUSTER", "SET-CONFIG-EPOCH", node.index + 1),
            ]
            if node.index < primaries:
                commands.append(("CLUSTER", "ADDSLOTS", *parts[node.index]))
            node.id = wire.pipeline(commands)[0]
    waiting = list(nodes)
    introduce_at = 0.0
    while waiting:
        now = time.monotonic()
        if now >= deadline:
            raise NotReadyError(f"{len(waiting)} nodes still do not know all others")
        if now >= introduce_at:
            _introduce(nodes)
            introduce_at = now + _INTRODUCE_AGAIN
        waiting = [node for node in waiting if not _settle(node, nodes, primaries)]
        time.sleep(_POLL)


def _introduce(nodes: Sequence[LocalNode]) -> None:
    """Let each pair meet, rather than wait for gossip to spread from one to all."""
    for node, other in combinations(nodes, 2):
        node.call("CLUSTER", "MEET", other.host, other.port)


def _settle(node: LocalNode, nodes: Sequence[LocalNode], primaries: int) -> bool:
    """Whether `node` knows all others; a replica is attached to its primary then."""
    known = read_view(node)
    if not all(other.id in known and known[other.id].usable for other in nodes):
        return False
    if node.index >= primaries:
        try:
            node.call("CLUSTER", "REPLICATE", nodes[(node.index - primaries) % primaries].id)
        except ResponseError:
            return False
    return True
