"""Nodes that say what a test wants them to say: real sockets on 127.0.0.1, served by threads of this process.

A node answers the handshake and questions about the topology by itself. Everything else is a dialogue::

    with ScriptedCluster(2) as cluster:
        first, second = cluster.nodes
        first.expect("GET", "b").reply(b"1")
        first.expect("INCR", "b").delay(0.2).reply(2)
        first.expect("SET", "b").send(b"+O").close()
        second.expect("GET", "a").moved(first)

An expectation is met by the next command, over any connection, that begins with its words; of several that would do,
by the one that was written first. A command that nobody expected gets an error, and at the end of the ``with`` block it
fails the test, as does an expectation that was not met.

``ScriptedCluster(..., store=True)`` serves what nobody scripted from a small store, by the rules of a cluster: slots,
redirects, replicas, transactions.
"""

from __future__ import annotations

import ssl
import threading
from collections import Counter
from types import TracebackType
from typing import Any

from slotwise.testing.answers import LISTEN_HOST, SlotRange, View, cluster_slots
from slotwise.testing.dialogue import Connection, Expectation, Words
from slotwise.testing.node import Read, ScriptedNode
from slotwise.testing.resp import ErrorReply, Push, encode
from slotwise.testing.store import Store

__all__ = [
    "Connection",
    "ErrorReply",
    "Expectation",
    "Push",
    "Read",
    "ScriptedCluster",
    "ScriptedNode",
    "Words",
    "encode",
]

SLOTS = 16384


class ScriptedCluster:
    """Nodes with even shares of the slots. A context manager that checks the dialogues at its end.

    ``replicas`` is the number for each primary; ``others`` are nodes outside of the topology, until ``slots`` names
    them. ``nodes`` has the primaries first; replica r of primary p has index ``primaries + r * primaries + p``; the
    others are last. ``store`` serves from `store` what nobody scripted. ``host`` is the name that all nodes share in
    what they tell of themselves (default: 127.0.0.1). With ``tls`` all of them speak TLS.
    """

    def __init__(
        self,
        primaries: int = 1,
        others: int = 0,
        tls: ssl.SSLContext | None = None,
        *,
        replicas: int = 0,
        store: bool = False,
        host: str = LISTEN_HOST,
    ) -> None:
        #: The keys, past all nodes; None for a strict dialogue.
        self.store = Store() if store else None
        #: False makes CLUSTER SHARDS an error, as before Redis 7.0.
        self.answers_shards = True
        in_topology = primaries * (1 + replicas)
        # In the order of their ports, in which a client keeps replicas.
        made = [ScriptedNode(self, host, tls) for _ in range(in_topology + others)]
        self.nodes = sorted(made, key=lambda node: node.port)
        bounds = [SLOTS * i // primaries for i in range(primaries + 1)]
        #: What the nodes tell of the topology, ``(first, last, [primary, replica, ...])`` per range, both slots
        #: included; may be changed at any time.
        self.slots: list[SlotRange] = [
            (bounds[i], bounds[i + 1] - 1, self.nodes[i:in_topology:primaries]) for i in range(primaries)
        ]
        self._lock = threading.Lock()
        self._view = View(list(self.slots), {node: number for number, node in enumerate(self.nodes, 1)})

    @property
    def url(self) -> str:
        """Of the first node, such as ``redis://127.0.0.1:7000``."""
        return f"redis://{LISTEN_HOST}:{self.nodes[0].port}"

    @property
    def view(self) -> View:
        """The topology of this moment. A node that has got slots since the last one has a new epoch, the highest."""
        with self._lock:
            if self.slots != self._view.slots:
                slots, epochs = list(self.slots), dict(self._view.epochs)
                for node in View(slots, epochs).gained_since(self._view):
                    epochs[node] = max(epochs.values()) + 1
                self._view = View(slots, epochs)
            return self._view

    @property
    def received(self) -> Counter[str]:
        """How often each command came, over all nodes; see `ScriptedNode.received`."""
        return sum((node.received for node in self.nodes), Counter())

    def slots_reply(self) -> list[Any]:
        """The answer to CLUSTER SLOTS, for a script that gives it in its own time."""
        return cluster_slots(self.view)

    def owner_of(self, slot: int) -> ScriptedNode:
        """The primary of a slot. Raises LookupError when nobody serves it."""
        for node in self.view.serving(slot):
            return node
        raise LookupError(f"no node serves slot {slot}")

    def replicas_of(self, primary: ScriptedNode) -> list[ScriptedNode]:
        """The replicas of a primary."""
        return next((list(nodes[1:]) for _, _, nodes in self.slots if nodes[0] is primary), [])

    def failover(self, replica: ScriptedNode) -> None:
        """Makes ``replica`` the primary of its slots, and the old primary a replica of it."""
        if not any(replica in nodes[1:] for _, _, nodes in self.slots):
            raise ValueError(f"node {replica.port} is no replica")
        self.slots = [
            (first, last, sorted(nodes, key=lambda node: node is not replica) if replica in nodes else nodes)
            for first, last, nodes in self.slots
        ]

    def move_slots(self, first: int, last: int, to_node: ScriptedNode) -> None:
        """Gives the slots from ``first`` to ``last``, both included, to ``to_node`` and its replicas, at once."""
        shard = next((nodes for _, _, nodes in self.slots if nodes[0] is to_node), [to_node])
        kept = []
        for low, high, nodes in self.slots:
            kept += [(low, min(high, first - 1), nodes)] if low < first else []
            kept += [(max(low, last + 1), high, nodes)] if high > last else []
        self.slots = sorted([*kept, (first, last, shard)], key=lambda slot_range: slot_range[0])

    def __enter__(self) -> ScriptedCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.stop()
        if kind is None:
            for node in self.nodes:
                node.verify()
