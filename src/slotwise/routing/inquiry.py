"""Asking nodes for the topology, without the I/O: both shells drive it, each over connections of its own.

The generator yields whom to connect to and what to send there, is sent the replies, and has failures thrown in. It ends
with the topology to publish, or None when there is no news.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from slotwise.errors import RedisClusterException, RedisError, ResponseError
from slotwise.routing.remedies import explain
from slotwise.routing.topology import (
    SLOTS,
    Address,
    Remap,
    Topology,
    from_nodes,
    from_shards,
    from_slots,
    serves_slots,
)

logger = logging.getLogger("slotwise")

# What a driver throws into the generator.
FAILURES = (RedisError, RedisClusterException, OSError)
# What replies bring about that are none: of proxies, of whatever else listens at a node's address.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError)

# Seconds that a replica has to say whether it has taken over: those behind it in the search wait as long.
ROLE_TIMEOUT = 0.5

Ask: TypeAlias = Generator[Address | str, Any, Any]


@contextmanager
def logged() -> Iterator[None]:
    """Around a refresh in the background, which goes on whatever happens: callers wait for it."""
    try:
        yield
    except FAILURES as error:
        # Callers meet the reason themselves; the text names nodes only.
        logger.info("the topology could not be had: %s", error)
    except Exception:
        logger.exception("the topology could not be had")


class Knowledge:
    """What a client knows of its cluster."""

    def __init__(self, remap: Remap | None, *, tls: bool, full_coverage: bool) -> None:
        self.remap = remap
        self.tls = tls
        self.full_coverage = full_coverage
        self.topology = Topology((), ())
        # How often a topology was published.
        self.published = 0
        # The client does not go by the last one: a MOVED has patched it, the client was closed, or there is none yet.
        self.stale = True
        # The servers do not know CLUSTER SHARDS.
        self.slots_only = False

    def is_news(self, topology: Topology) -> bool:
        """True when ``topology`` is not what the client goes by."""
        return self.stale or topology != self.topology

    def promoted(self, replica: Address) -> None:
        """``replica`` has taken the place of its primary; the refresh that confirms it follows."""
        self.topology = self.topology.with_primary(replica)
        self.stale = True

    def publish(self, topology: Topology) -> None:
        """The client goes by ``topology`` from now on."""
        self.topology = topology
        self.published += 1
        self.stale = False


def candidates(first: Iterable[Address], known: Iterable[Address], last: set[str]) -> list[Address]:
    """Whom to ask, in this order: ``first`` those who have news, at the end those by the names ``last``, who failed."""
    return sorted(dict.fromkeys([*first, *known]), key=lambda address: address.name in last)


def inquire(knowledge: Knowledge, nodes: Iterable[Address]) -> Ask:
    """Asks one node after the other until one is to be believed.

    Yields an address to connect to, or a command to send there. Raises `RedisClusterException` when no node can be
    reached, or slots are not covered and all have to be.
    """
    best: Topology | None = None
    failure: Exception | None = None
    nodes = list(nodes)
    told: list[Topology] = []
    for address in nodes:
        try:
            yield address
            topology = yield from _topology_of(knowledge, address)
            if not knowledge.is_news(topology):
                return None
            topology, in_touch = yield from _with_epochs(topology)
        except FAILURES as error:
            explain(error)
            failure = error
            continue
        if in_touch:
            told.append(topology)
            if topology.complete and not topology.is_older(knowledge.topology):
                return topology
        # Somebody on the wrong side of a partition, or in a cluster that has lost slots.
        if best is None or best.is_older(topology) or topology.covered > best.covered:
            best = topology
    if best is None:
        raise RedisClusterException(
            f"Redis Cluster cannot be connected. Please provide at least one reachable node: {failure}"
        ) from failure
    # Slots that were given away by hand, or a cluster of a backup, keep old epochs: then most nodes say so.
    if best.is_older(knowledge.topology) and 2 * told.count(best) <= len(nodes):
        return None
    if knowledge.full_coverage and not best.complete:
        raise RedisClusterException(
            f"All slots are not covered after query all startup_nodes. {best.covered} of {SLOTS} covered..."
        )
    return best


def look_for_successor(knowledge: Knowledge, failed: Iterable[Address]) -> Ask:
    """Asks the replicas of primaries that ``failed`` whether they have taken over: the primary and its successor, or None.

    ROLE is cheap, so this may be asked more often than for the whole topology, which follows.
    """
    lost = set(failed)
    for shard in knowledge.topology.shards:
        for replica in shard.replicas if shard.primary in lost else ():
            try:
                yield replica
                if (yield "ROLE")[0] in (b"master", "master") and serves_slots((yield "CLUSTER NODES")):
                    return shard.primary, replica
            except (*FAILURES, *MALFORMED):
                # It is gone too, or the user may not ask.
                continue
    return None


def _topology_of(knowledge: Knowledge, address: Address) -> Ask:
    refused = False
    if not knowledge.slots_only:
        try:
            reply = yield "CLUSTER SHARDS"
            return from_shards(reply, address.host, knowledge.remap, tls=knowledge.tls)
        except ResponseError:
            # Redis 6, a proxy, or a user who may not: it will not change soon. Or no node of a cluster at all.
            refused = True
        except MALFORMED:
            # Or ambiguous, while a failover spreads.
            pass
    try:
        topology = from_slots((yield "CLUSTER SLOTS"), address.host, knowledge.remap)
        knowledge.slots_only = knowledge.slots_only or refused
        return topology
    except ResponseError as error:
        raise RedisClusterException("Cluster mode is not enabled on this node") from error
    except MALFORMED as error:
        raise RedisClusterException(f"{address.name} does not answer CLUSTER SLOTS as a node does") from error


def _with_epochs(topology: Topology) -> Ask:
    """And whether the node is in touch with most others."""
    try:
        epochs, in_touch = from_nodes((yield "CLUSTER NODES"))
    except (ResponseError, *MALFORMED):
        # Not for this user, or not through this proxy.
        return topology, True
    return topology.with_epochs(epochs), in_touch
