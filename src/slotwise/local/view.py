"""A node's picture of its cluster, and whether all nodes share one."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import ResponseError

from slotwise.local.node import LocalNode, parse_info

SLOTS = 16_384


@dataclass(frozen=True)
class Member:
    """One line of CLUSTER NODES."""

    id: str
    flags: frozenset[str]
    #: The id of the primary it replicates; empty for a primary.
    primary_id: str
    linked: bool
    slots: frozenset[int]
    #: Slots it is sending away or taking in; a node tells this of itself only.
    open_slots: frozenset[int]

    @property
    def usable(self) -> bool:
        return self.linked and not self.flags & {"fail", "fail?", "handshake", "noaddr"}


def parse_nodes(text: str) -> dict[str, Member]:
    """The members that a CLUSTER NODES reply lists, by id."""
    members = {}
    for line in text.splitlines():
        node_id, _address, flags, primary, _ping, _pong, _epoch, link, *ranges = line.split()
        members[node_id] = Member(
            node_id,
            frozenset(flags.split(",")),
            "" if primary == "-" else primary,
            link == "connected",
            frozenset(slot for text in ranges if text[0] != "[" for slot in _range(text)),
            # "[93->-id]" is on its way to that node, "[93-<-id]" comes from there.
            frozenset(int(text[1:].partition("-")[0]) for text in ranges if text[0] == "["),
        )
    return members


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def read_view(node: LocalNode) -> dict[str, Member]:
    return parse_nodes(node.call("CLUSTER", "NODES"))


def what_is_missing(nodes: Sequence[LocalNode]) -> str:
    """Why these nodes are not a ready cluster, in a few words; empty when they are.

    Ready: each of them finds the cluster's state ok, all see the same roles and owners, each
    slot is owned by one of them, and every replica among them is linked to its primary.
    """
    if not nodes:
        return "no node is running"
    agreed: dict[str, Member] | None = None
    ids = {node.id for node in nodes}
    for node in nodes:
        try:
            with node.connect() as wire:
                state, listed, replication = wire.pipeline(
                    [("CLUSTER", "INFO"), ("CLUSTER", "NODES"), ("INFO", "replication")]
                )
        except (OSError, ResponseError) as error:
            return f"node {node.port}: {error}"
        view = parse_nodes(listed)
        if unknown := ids - view.keys():
            return f"node {node.port} does not know {len(unknown)} of {len(nodes)} nodes"
        if unusable := [str(other.port) for other in nodes if not view[other.id].usable]:
            return f"node {node.port} has no link to {', '.join(unusable)}"
        if parse_info(state)["cluster_state"] != "ok":
            return f"node {node.port} finds the cluster's state not ok"
        link = parse_info(replication)
        if link["role"] == "slave" and link["master_link_status"] != "up":
            return f"replica {node.port} is not linked to its primary"
        if agreed is None:
            agreed = view
            served = sum(len(view[node_id].slots) for node_id in ids)
            if served != SLOTS:
                return f"node {node.port} sees {SLOTS - served} slots without a running node"
        for node_id in ids:
            ours, theirs = agreed[node_id], view[node_id]
            if (ours.primary_id, ours.slots) != (theirs.primary_id, theirs.slots):
                return f"nodes {nodes[0].port} and {node.port} disagree on a node's role or slots"
    return ""
