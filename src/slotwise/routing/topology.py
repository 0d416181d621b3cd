"""The cluster's shape as a frozen value, made from what nodes tell: CLUSTER SHARDS, or CLUSTER SLOTS of older servers.

Nodes may tell different things: one that lost touch with the others goes on telling what it knew. So before news are
believed, the node that has them is asked for CLUSTER NODES: a primary gets a config epoch higher than all others when it
takes over slots, so of two claims to a slot the one with the higher epoch is true (Redis Cluster specification), and
a node to which most primaries seem to fail is on the smaller side of a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """A primary and its replicas. ``id`` is the primary's name among the nodes, and ``epoch`` of its claim to its slots, 0
    when that was not asked for."""

    primary: Address
    replicas: tuple[Address, ...] = ()
    id: str = field(default="", compare=False)
    epoch: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Topology:
    """All shards, and the slots that they serve.

    ``ranges`` holds ``(first_slot, last_slot, index into shards)``, both slots included. ``zones`` has the availability
    zone of each node that tells one (Valkey 8.1). ``known_as`` has the nodes by the addresses at which they know each
    other, where those are not the ones at which they are reached.
    """

    shards: tuple[Shard, ...]
    ranges: tuple[tuple[int, int, int], ...]
    zones: Mapping[Address, str] = field(default_factory=dict)
    known_as: Mapping[Address, Address] = field(default_factory=dict)

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

    def with_primary(self, replica: Address) -> Topology:
        """The same after ``replica`` has taken the place of its primary, which did not answer and is left out."""

        def promoted(shard: Shard) -> Shard:
            if replica not in shard.replicas:
                return shard
            rest = tuple(other for other in shard.replicas if other != replica)
            # Its claim is newer than its primary's was.
            return Shard(replica, rest, shard.id, shard.epoch + 1)

        return replace(self, shards=tuple(map(promoted, self.shards)))

    def with_epochs(self, epochs: Mapping[str, int]) -> Topology:
        """The same with the config epochs of the nodes by their ids."""
        shards = tuple(replace(shard, epoch=epochs.get(shard.id, 0)) for shard in self.shards)
        return replace(self, shards=shards)

    def is_older(self, other: Topology) -> bool:
        """True when ``other`` has a newer claim to any slot.

        Never of a cluster that shares no primary with it: then every node was replaced, and epochs say nothing.
        """
        if not {shard.id for shard in self.shards} & {shard.id for shard in other.shards}:
            return False
        # Where nobody serves a slot, there is no claim that could be older.
        return any(map(int.__lt__, self._epochs(nobodys=2**64), other._epochs(nobodys=0)))

    def _epochs(self, nobodys: int) -> list[int]:
        """By slot."""
        epochs = [nobodys] * SLOTS
        for first, last, index in self.ranges:
            epochs[first : last + 1] = [self.shards[index].epoch] * (last + 1 - first)
        return epochs


def resolve(host: Any, port: Any, asked: str, remap: Remap | None) -> Address:
    """The address of a node as the cluster tells it.

    An empty or unknown host ("", "?") stands for the one that was asked, and ``remap`` turns inside addresses into
    reachable ones. Raises ValueError for what nobody can connect to: a port outside of 1 to 65535, a host that is none.
    """
    name = host.decode() if isinstance(host, bytes) else host
    name, number = asked if not name or name == "?" else str(name), int(port)
    # Sockets would raise a UnicodeError, when somebody's command is on its way.
    name.encode("idna")
    if not 0 < number < 65536 or not name.isprintable() or " " in name:
        raise ValueError(f"{name!r}, port {number} is no address")
    return Address(*(remap((name, number)) if remap is not None else (name, number)))


class AmbiguousError(ValueError):
    """A reply that does not say which node of a shard serves its slots; CLUSTER SLOTS does."""


# What a reply is made of is for whoever sent it to say: of what follows, each raises ValueError or TypeError for what it
# does not expect.


def _text(value: Any) -> str:
    if not isinstance(value, (bytes, str)):
        raise TypeError(f"a {type(value).__name__} in place of text")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _number(value: Any) -> int:
    if not isinstance(value, (int, bytes, str)):
        raise TypeError(f"a {type(value).__name__} in place of a number")
    return int(value)


def _host(value: Any) -> str:
    return "" if value is None else _text(value)


def _disjoint(ranges: Iterable[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """The ranges, unless there are other slots in them than there are, or some twice."""
    checked = tuple(ranges)
    end = -1
    for first, last, _ in sorted(checked):
        if not end < first <= last < SLOTS:
            raise ValueError("slots with two owners, or such as there are none")
        end = last
    return checked


def _fields(pairs: Any) -> dict[str, Any]:
    """A map, which RESP2 sends as a list of keys and values in turn."""
    items = pairs.items() if isinstance(pairs, Mapping) else zip(pairs[::2], pairs[1::2], strict=True)
    return {_text(name): value for name, value in items}


def from_nodes(reply: Any) -> tuple[dict[str, int], bool]:
    """Config epochs by node id in a raw reply to CLUSTER NODES, and whether the node that was asked sees most primaries.

    A line is ``id address flags primary ping pong epoch link slots...``.
    """
    epochs: dict[str, int] = {}
    seen = failing = 0
    for line in _text(reply).splitlines():
        words = line.split()
        if len(words) < 8:
            continue
        flags = words[2].split(",")
        epochs[words[0]] = int(words[6])
        # Primaries without slots have no vote.
        if "master" in flags and len(words) > 8:
            seen += 1
            failing += "fail" in flags or "fail?" in flags
    return epochs, 2 * failing < seen


def serves_slots(reply: Any) -> bool:
    """Whether the node that sent this reply to CLUSTER NODES has slots itself."""
    lines = (line.split() for line in _text(reply).splitlines())
    return any(len(words) > 8 and "myself" in words[2].split(",") for words in lines)


def from_shards(
    reply: Iterable[Any], asked: str, remap: Remap | None = None, *, tls: bool = False
) -> Topology:
    """The topology in a raw reply to CLUSTER SHARDS of the node at host ``asked``.

    Each shard has ``slots``, first and last in turn, and ``nodes``. Of these, replicas that have failed or still load
    serve nobody and are left out, as are shards without slots. Raises `AmbiguousError` when a shard has slots and not
    one primary: while a failover spreads, there may be two.
    """
    found: list[tuple[list[tuple[int, int]], Shard]] = []
    zones: dict[Address, str] = {}
    known_as: dict[Address, Address] = {}
    for shard in map(_fields, reply):
        bounds = [_number(slot) for slot in shard["slots"]]
        primaries: dict[Address, tuple[bool, str]] = {}
        replicas: list[Address] = []
        for node in map(_fields, shard["nodes"]):
            port = node.get("tls-port" if tls else "port", node.get("port", node.get("tls-port")))
            address = resolve(_host(node.get("endpoint")), _number(port), asked, remap)
            online = _text(node.get("health", "online")) == "online"
            if node.get("availability-zone"):
                zones[address] = _text(node["availability-zone"])
            # Replication may go the one way or the other.
            for inside in filter(None, (node.get("port"), node.get("tls-port"))):
                known_as[Address(_text(node.get("ip") or address.host), _number(inside))] = address
            if _text(node["role"]) in ("master", "primary"):
                primaries[address] = online, _text(node.get("id", ""))
            elif online:
                replicas.append(address)
        if not bounds:
            continue
        # The primary that was replaced may be listed until it comes back as a replica.
        alive = [address for address, (online, _) in primaries.items() if online] or list(primaries)
        if len(alive) != 1:
            raise AmbiguousError(f"{len(alive)} primaries in one shard")
        owner = Shard(alive[0], tuple(sorted(replicas)), primaries[alive[0]][1])
        found.append((list(zip(bounds[::2], bounds[1::2], strict=True)), owner))
    found.sort(key=lambda pair: pair[0])
    ranges = _disjoint(
        sorted((first, last, i) for i, (slots, _) in enumerate(found) for first, last in slots)
    )
    return Topology(tuple(owner for _, owner in found), ranges, zones, _only_others(known_as))


def from_slots(reply: Iterable[Sequence[Any]], asked: str, remap: Remap | None = None) -> Topology:
    """The topology in a raw reply to CLUSTER SLOTS of the node at host ``asked``.

    The reply is a list of ``[first, last, primary, replica, ...]``, each node ``[host, port, id, metadata]``.
    """
    ids: dict[Address, str] = {}
    replicas: dict[Address, set[Address]] = {}
    owners: list[tuple[int, int, Address]] = []
    zones: dict[Address, str] = {}
    known_as: dict[Address, Address] = {}
    for first, last, *nodes in reply:
        addresses = []
        for host, port, *more in nodes:
            address = resolve(_host(host), _number(port), asked, remap)
            addresses.append(address)
            metadata = _fields(more[1]) if len(more) > 1 and more[1] else {}
            if metadata.get("availability-zone"):
                zones[address] = _text(metadata["availability-zone"])
            known_as[Address(_text(metadata.get("ip") or host or asked), _number(port))] = address
        primary, *others = addresses
        ids[primary] = _text(nodes[0][2]) if len(nodes[0]) > 2 else ""
        replicas.setdefault(primary, set()).update(others)
        owners.append((_number(first), _number(last), primary))
    index = {primary: i for i, primary in enumerate(ids)}
    ranges = _disjoint((first, last, index[who]) for first, last, who in owners)
    shards = tuple(Shard(primary, tuple(sorted(replicas[primary])), ids[primary]) for primary in ids)
    return Topology(shards, ranges, zones, _only_others(known_as))


def _only_others(known_as: Mapping[Address, Address]) -> dict[Address, Address]:
    return {inside: address for inside, address in known_as.items() if inside != address}
