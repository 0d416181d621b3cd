"""Which node of a shard answers a read: the primary, or one of its replicas.

`ReadFrom` is what the user asks for, `Readers` chooses, call by call. What it knows of nodes it is told: where they are,
how long replies took, how far replication has come, and whether they are up.

**What "caught up" means.** The primary tells how far its replication stream reaches and how far each replica has
acknowledged it. If the primary was asked at t and reached offset p, and a replica has acknowledged p then or later, the
replica has all that the primary had at t. The latest such t is the replica's *mark*: its data are at most ``now - mark``
old, and it has every write that was acknowledged before the mark. No clock but our own is involved.

Threads need no lock. What is written in choosing is single numbers: two threads at once may lose a sample of latency or
both choose the node that is to be tried again, which sends one read to a node that another would have served as well.
Turns are taken by `itertools.count`, which is one step. Offsets are reported by one thread or task at a time.

"now" is a reading of one monotonic clock in seconds; whoever calls reads it.
"""

from __future__ import annotations

import itertools
import math
import random as _random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, get_args

from redis.cluster import LoadBalancingStrategy

from slotwise.errors import DataError
from slotwise.routing.plan import changed_by
from slotwise.routing.topology import Address, Topology

ReadStrategy: TypeAlias = Literal[
    "primary",
    "round_robin",
    "round_robin_replicas",
    "random",
    "random_replica",
    "zone",
    "lowest_latency",
]

_REPLICAS_ONLY = frozenset({"round_robin_replicas", "random_replica"})
_RANDOM = frozenset({"random", "random_replica"})
# Offsets of the primary that are remembered: a replica that is further behind than these reach has no mark.
_HISTORY = 64
# Seconds that a node seems to take from when it is first asked until it has answered, and after it failed.
_UNKNOWN_LATENCY = 1.0
# Seconds between two questions to a primary how far replication has come, at the most; that it has to answer one; and
# that it goes on being asked after somebody wanted to know.
_OFFSETS_EVERY = 1.0
ANSWER_TIMEOUT = 1.0
LINGER = 10.0


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """Where reads go. A value of redis-py's `LoadBalancingStrategy` is short for the one of that name."""

    strategy: ReadStrategy = "primary"
    """Among the nodes that may answer:

    - ``primary``: the primary.
    - ``round_robin``, ``random``: any node.
    - ``round_robin_replicas``, ``random_replica``: a replica.
    - ``zone``: the nodes in the client's ``zone`` in turn; if there are none, the others in turn.
    - ``lowest_latency``: the one that answered fastest lately.
    """

    zone: str | None = None
    """The availability zone of this client, as the nodes' `availability-zone` names it; for the strategy ``zone``."""

    max_lag: float | None = None
    """A replica answers only while its data are at most so many seconds old."""

    max_lag_bytes: int | None = None
    """A replica answers only while it is at most so many bytes of the replication stream behind, as last heard."""

    when_primary_is_down: Literal["fail", "replica"] = "fail"
    """For the strategy ``primary``: whether replicas answer while the primary is down."""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(ReadStrategy):
            raise DataError(
                f"{self.strategy!r} is no way to choose a node: use one of {', '.join(get_args(ReadStrategy))}"
            )
        if (self.strategy == "zone") != (self.zone is not None):
            raise DataError("strategy='zone' and the name of the client's zone belong together")
        for name, limit in (("max_lag", self.max_lag), ("max_lag_bytes", self.max_lag_bytes)):
            if limit is not None and not limit >= 0:
                raise DataError(f"{name} must not be negative: {limit!r}")
        if self.when_primary_is_down not in ("fail", "replica"):
            raise DataError(
                f"when_primary_is_down must be 'fail' or 'replica', not {self.when_primary_is_down!r}"
            )

    @classmethod
    def of(cls, given: ReadFrom | LoadBalancingStrategy | None, replicas: bool = False) -> ReadFrom | None:
        """What a client was given as ``load_balancing_strategy`` and ``read_from_replicas``; None when that leaves
        nothing to choose: primaries answer."""
        if given is None and replicas:
            given = LoadBalancingStrategy.ROUND_ROBIN
        if given is None:
            return None
        if not isinstance(given, ReadFrom):
            name: Any = getattr(given, "value", given)
            given = cls(name)
        return given if given.strategy != "primary" or given.when_primary_is_down == "replica" else None

    @property
    def offsets_every(self) -> float:
        """Seconds between two questions to each primary how far replication has come, while somebody wants to know."""
        return _OFFSETS_EVERY if self.max_lag is None else min(_OFFSETS_EVERY, max(self.max_lag / 2, 0.01))


class Placed(Protocol):
    """An entry of a shard in the slot table: the primary's first, then its replicas'."""

    @property
    def node(self) -> Address: ...


P = TypeVar("P", bound=Placed)


class _State:
    """What is known of one node; kept while the topology changes around it."""

    __slots__ = ("asked", "behind", "latency", "mark", "sampled", "zone")

    def __init__(self) -> None:
        self.zone: str | None = None
        # It has all that the primary had at this reading of the clock.
        self.mark = -math.inf
        # Bytes of the replication stream that it lacked when the primary was last asked.
        self.behind = math.inf
        # Seconds that a reply takes, as an average that fades, and the readings of the clock at the last sample and
        # when the node was last chosen.
        self.latency = 0.0
        self.sampled = -math.inf
        self.asked = -math.inf


class _View(NamedTuple):
    """A shard of the slot table, by its primary."""

    shard: Sequence[Placed]
    states: tuple[_State, ...]
    turn: itertools.count[int]


class Session:
    """Reads its own writes: what one user of the client wrote is seen by the reads that follow.

    Remembers when each slot was written to. Until a replica has caught up with that, or ``bound`` seconds have passed,
    reads of the slot go to the primary. Slots and not shards, because they keep their names in a failover or when they
    move, and because other reads of the shard need not wait.
    """

    __slots__ = ("_all_written", "_bound", "_slot_of", "_written")

    def __init__(self, slot_of: Callable[[Any], int], bound: float | None = None) -> None:
        """``slot_of`` gives the slot of a key. ``bound``: seconds after which replicas are taken to have caught up,
        though nobody knows; None: never."""
        if bound is not None and not bound >= 0:
            raise DataError(f"bound must not be negative: {bound!r}")
        self._slot_of = slot_of
        self._bound = math.inf if bound is None else bound
        # At most one entry a slot.
        self._written: dict[int, float] = {}
        self._all_written = -math.inf

    def called(self, args: Sequence[Any], now: float) -> None:
        """A call has its reply, or has none and may have been executed all the same."""
        keys = changed_by(args)
        if keys is None:
            self._all_written = now
            return
        for key in keys:
            self._written[self._slot_of(key)] = now

    def needs(self, slot: int, now: float) -> float:
        """The mark that a replica must have reached to answer for ``slot``; -inf: any will do."""
        written = max(self._written.get(slot, -math.inf), self._all_written)
        return written if now - written <= self._bound else -math.inf


class Readers:
    """Chooses the node of a shard that answers a read. One per client."""

    __slots__ = (
        "_fade",
        "_histories",
        "_is_up",
        "_known_as",
        "_random",
        "_states",
        "_successors",
        "_views",
        "_want_offsets",
        "read_from",
    )

    def __init__(
        self,
        read_from: ReadFrom,
        *,
        is_up: Callable[[Any, float, bool], bool],
        want_offsets: Callable[[float], None],
        random: Callable[[], float] = _random.random,
        fade: float = 2.0,
    ) -> None:
        """``is_up(place, now, probe)``: whether a call may be sent to the node there; if ``probe``, also one that finds
        out whether the node is back. ``want_offsets(now)`` is told of each choice that needs to know how far replication
        has come. ``random`` gives numbers from 0 to less than 1. ``fade``: seconds after which a sample of latency weighs
        e times less, and a node that nobody asked seems e times faster."""
        self.read_from = read_from
        self._is_up = is_up
        self._want_offsets = want_offsets
        self._random = random
        self._fade = fade
        self._states: dict[Address, _State] = {}
        self._views: dict[Address, _View] = {}
        # When each primary was asked, and which offset its stream had reached; the latest last.
        self._histories: dict[Address, deque[tuple[float, int]]] = {}
        # Who is no primary any more though the table says so, and who is by its own word.
        self._successors: dict[Address, Address] = {}
        self._known_as: Mapping[Address, Address] = {}

    # -- choosing ------------------------------------------------------------------------------------------------------

    def choose(
        self,
        shard: Sequence[P],
        slot: int,
        now: float,
        session: Session | None = None,
        *,
        failed: Address | None = None,
    ) -> P:
        """The node in ``shard`` that answers a read of ``slot``; after one has ``failed`` to, the primary, unless it is
        down. A primary that failed itself is asked again if only its connection was lost; a call that just found it down
        does not look a second time. A primary that says that it is none is a replica, and the one that it names is primary.

        When no node may answer that the strategy and the limits allow, the primary does: it is never wrong.
        """
        if len(shard) == 1:
            return shard[0]
        strategy = self.read_from.strategy
        lead = self._lead(shard) if self._successors else 0
        primary = shard[lead]
        if (failed is not None or strategy == "primary") and self._is_up(
            primary, now, failed != primary.node
        ):
            return primary
        view = self._view(shard)
        states = view.states
        fit = self._fit(view, slot, now, session)
        if failed is not None:
            fit &= ~sum(1 << index for index, place in enumerate(shard) if place.node == failed)
        if strategy in _REPLICAS_ONLY:
            fit &= ~(1 << lead)
        elif strategy == "zone":
            fit = self._near(states, fit) or fit
        if not fit:
            return primary
        if strategy == "lowest_latency":
            return shard[self._fastest(states, fit, now)]
        count = fit.bit_count()
        turn = int(self._random() * count) if strategy in _RANDOM else next(view.turn) % count
        for _ in range(turn):
            fit &= fit - 1
        return shard[(fit & -fit).bit_length() - 1]

    def may_answer(
        self, shard: Sequence[P], slot: int, now: float, session: Session | None = None
    ) -> Sequence[P]:
        """The nodes whose answers the limits allow, whatever the strategy: kept replies of theirs may be given."""
        fit = self._fit(self._view(shard), slot, now, session)
        return [place for index, place in enumerate(shard) if fit >> index & 1]

    def _fit(self, view: _View, slot: int, now: float, session: Session | None) -> int:
        """The nodes that may answer as the bits of a number: no list is made for a read."""
        needed = -math.inf if session is None else session.needs(slot, now)
        if self.read_from.max_lag is not None:
            needed = max(needed, now - self.read_from.max_lag)
        most = self.read_from.max_lag_bytes
        if needed > -math.inf or most is not None:
            self._want_offsets(now)
        primary = 1 << self._lead(view.shard) if self._successors else 1
        fit, bit = 0, 1
        for place, state in zip(view.shard, view.states, strict=True):
            if bit == primary or (state.mark >= needed and (most is None or state.behind <= most)):
                fit |= bit if self._is_up(place, now, True) else 0
            bit <<= 1
        return fit

    def _lead(self, shard: Sequence[Placed]) -> int:
        """The primary's place in ``shard``: the first, unless that one has named another."""
        successor = self._successors.get(shard[0].node)
        return next((index for index, place in enumerate(shard) if place.node == successor), 0)

    def _near(self, states: Sequence[_State], fit: int) -> int:
        near, bit = 0, 1
        for state in states:
            if fit & bit and state.zone == self.read_from.zone:
                near |= bit
            bit <<= 1
        return near

    def _fastest(self, states: Sequence[_State], fit: int, now: float) -> int:
        best, least = 0, math.inf
        for index, state in enumerate(states):
            if fit >> index & 1:
                idle = now - (state.asked if state.asked > state.sampled else state.sampled)
                # An idle node seems faster and faster until it is its turn, so that one that was slow is tried again.
                seems = state.latency * math.exp(-idle / self._fade)
                if seems < least:
                    best, least = index, seems
        chosen = states[best]
        # From here on it seems as slow as it was: one read tries it, and not all until the reply has come.
        chosen.asked = now
        if chosen.sampled == -math.inf:
            chosen.latency = _UNKNOWN_LATENCY
        return best

    def _view(self, shard: Sequence[Placed]) -> _View:
        primary = shard[0].node
        view = self._views.get(primary)
        if view is None or view.shard is not shard:
            turn = itertools.count() if view is None else view.turn
            view = _View(shard, tuple(self._state(place.node) for place in shard), turn)
            self._views[primary] = view
        return view

    def _state(self, address: Address) -> _State:
        state = self._states.get(address)
        if state is None:
            # setdefault is one step: of two threads the second takes what the first has put there.
            state = self._states.setdefault(address, _State())
        return state

    # -- being told ----------------------------------------------------------------------------------------------------

    def placed(self, topology: Topology) -> None:
        """A new topology: where its nodes are. What was known of others is forgotten."""
        addresses = set(topology.addresses())
        for known in (self._states, self._views, self._histories):
            for address in known.keys() - addresses:
                known.pop(address, None)
        for demoted in self._successors.keys() - {shard.primary for shard in topology.shards}:
            self._successors.pop(demoted, None)
        for primary, view in list(self._views.items()):
            # Its states may be gone: to be looked up anew.
            self._views[primary] = view._replace(shard=())
        for address in addresses:
            self._state(address).zone = topology.zones.get(address)
        self._known_as = topology.known_as

    @property
    def wants_latency(self) -> bool:
        """Whether `answered` is to be told."""
        return self.read_from.strategy == "lowest_latency"

    def answered(self, address: Address, seconds: float, now: float, *, failed: bool = False) -> None:
        """A reply took so long; or none came in that time, which counts as a second at least."""
        state = self._state(address)
        if failed:
            seconds = max(seconds, _UNKNOWN_LATENCY)
        # Every sample counts a tenth at least: under load, thousands would be needed to tell that a node became slow.
        weight = min(0.9, math.exp(-max(0.0, now - state.sampled) / self._fade))
        state.latency = seconds + (state.latency - seconds) * weight
        state.sampled = now

    def replicated(self, shard: Sequence[Placed], asked: float, replication: Mapping[str, Any]) -> bool:
        """The primary of ``shard`` was ``asked`` INFO replication then, and told this, as redis-py shapes it. False: it is
        no primary any more, and the table does not know yet.

        ``asked`` is the reading of the clock before the question was sent. A replica that is still being filled does not
        count, nor does one that the primary knows by an address that the topology has not told.
        """
        primary = shard[0].node
        if replication.get("role") != "master":
            # It answers reads all the same, with what the new one has sent it so far.
            host, port = replication.get("master_host"), replication.get("master_port")
            if host is not None and port is not None:
                named = Address(str(host), int(port))
                self._successors[primary] = self._known_as.get(named, named)
            self._state(primary).behind = math.inf
            return False
        self._successors.pop(primary, None)
        reached = int(replication["master_repl_offset"])
        acknowledged: dict[Address, int] = {}
        for name, entry in replication.items():
            if name.startswith("slave") and isinstance(entry, Mapping) and entry.get("state") == "online":
                address = Address(str(entry["ip"]), int(entry["port"]))
                acknowledged[self._known_as.get(address, address)] = int(entry["offset"])
        history = self._histories.setdefault(primary, deque(maxlen=_HISTORY))
        if history and reached < history[-1][1]:
            # Another stream: it was restarted without its data. Old offsets mean nothing in it.
            history.clear()
        history.append((asked, reached))
        for place in shard[1:]:
            state = self._state(place.node)
            offset = acknowledged.get(place.node)
            if offset is None:
                state.behind = math.inf
                continue
            state.behind = max(0, reached - offset)
            mark = next((at for at, then in reversed(history) if then <= offset), -math.inf)
            state.mark = max(state.mark, mark)
        return True
