"""The cluster's shape as a frozen value, made from a node's answer to CLUSTER SLOTS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

SLOTS = 16384


class Address(NamedTuple):
    """Where a node is reached."""

    host: str
    port: int

    @property
    def name(self) -> str:
        """``host:port``, as redis-py names its nodes."""
        return f"{self.host}:{self.port}"


Remap: TypeAlias = Callable[[tuple[str, int]], tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Shard:
    """A primary and its replicas."""

    primary: Address
    replicas: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """All shards, and the slots that they serve.

    ``ranges`` holds ``(first_slot, last_slot, index into shards)``, both slots included.
    """

    shards: tuple[Shard, ...]
    ranges: tuple[tuple[int, int, int], ...]

    @property
    def covered(self) -> int:
        """How many of the 16,384 slots have an owner."""
        return len({slot for first, last, _ in self.ranges for slot in range(first, last + 1)})

    @property
    def complete(self) -> bool:
        """True when every slot has an owner."""
        return self.covered == SLOTS

    def addresses(self) -> list[Address]:
        """Every node once, primaries of all shards first."""
        nodes = [shard.primary for shard in self.shards]
        nodes += [replica for shard in self.shards for replica in shard.replicas]
        return list(dict.fromkeys(nodes))


def resolve(host: Any, port: Any, asked: str, remap: Remap | None) -> Address:
    """The address of a node as the cluster tells it.

    An empty or unknown host ("", "?") stands for the one that was asked, and ``remap`` turns inside addresses into
    reachable ones.
    """
    name = host.decode() if isinstance(host, bytes) else host
    address = (asked if not name or name == "?" else str(name), int(port))
    return Address(*(remap(address) if remap is not None else address))


def from_slots(reply: Iterable[Sequence[Any]], asked: str, remap: Remap | None = None) -> Topology:
    """The topology in a raw reply to CLUSTER SLOTS of the node at host ``asked``.

    The reply is a list of ``[first, last, primary, replica, ...]``, each node ``[host, port, id, metadata]``.
    """
    shards: dict[Address, Shard] = {}
    owners: list[tuple[int, int, Address]] = []
    for first, last, *nodes in reply:
        primary, *replicas = (resolve(node[0], node[1], asked, remap) for node in nodes)
        known = shards.get(primary)
        merged = dict.fromkeys([*(known.replicas if known else ()), *replicas])
        shards[primary] = Shard(primary, tuple(merged))
        owners.append((int(first), int(last), primary))
    index = {primary: i for i, primary in enumerate(shards)}
    return Topology(tuple(shards.values()), tuple((first, last, index[who]) for first, last, who in owners))
