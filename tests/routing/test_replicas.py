"""Which node of a shard answers a read."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis._parsers.helpers import parse_info
from redis.cluster import LoadBalancer, LoadBalancingStrategy

from slotwise.errors import DataError
from slotwise.local import LocalCluster
from slotwise.routing.replicas import Readers, ReadFrom, ReadStrategy, Session
from slotwise.routing.topology import Address, Shard, Topology
from tests.local.processes import wait_until


class Place(NamedTuple):
    """A node in a shard of the slot table."""

    node: Address


PRIMARY, FIRST, SECOND = (Address("node", port) for port in (1, 2, 3))
SHARD = (Place(PRIMARY), Place(FIRST), Place(SECOND))
SLOT = 7


class Cluster:
    """One shard of a primary and two replicas, and a clock."""

    def __init__(self, strategy: ReadStrategy = "primary", **options: Any) -> None:
        randoms = options.pop("random", itertools.cycle([0.0, 0.99, 0.5]).__next__)
        self.down: set[Address] = set()
        # Whether the pause is over after which a call may find out if a node that is down is back.
        self.may_probe = False
        self.wants: list[float] = []
        self.readers = Readers(
            ReadFrom(strategy, **options),
            is_up=lambda place, now, probe: place.node not in self.down or (probe and self.may_probe),
            want_offsets=self.wants.append,
            random=randoms,
        )
        self.now = 100.0
        self.offset = 0

    def choose(self, session: Session | None = None, *, failed: Address | None = None) -> int:
        return SHARD.index(self.readers.choose(SHARD, SLOT, self.now, session, failed=failed))

    def chosen(self, times: int = 12, session: Session | None = None) -> Counter[int]:
        return Counter(self.choose(session) for _ in range(times))

    def fall(self, *indices: int) -> None:
        self.down |= {SHARD[index].node for index in indices}

    def rise(self, index: int) -> None:
        self.down.remove(SHARD[index].node)

    def write(self, size: int = 100) -> None:
        self.offset += size

    def report(self, *behind: int | None) -> None:
        """The primary is asked; the replicas lack so many bytes, or (None) are not connected."""
        told: dict[str, Any] = {"role": "master", "master_repl_offset": self.offset}
        for place, lack in zip(SHARD[1:], behind, strict=True):
            if lack is not None:
                told[f"slave{len(told)}"] = entry(place.node, self.offset - lack)
        self.readers.replicated(SHARD, self.now, told)


def readers_of(read_from: ReadFrom) -> Readers:
    """All nodes are up, and nobody asks for offsets."""
    return Readers(read_from, is_up=lambda place, now, probe: True, want_offsets=lambda now: None)


def entry(node: Address, offset: int, state: str = "online") -> dict[str, Any]:
    """A replica in redis-py's shape of INFO replication."""
    return {"ip": node.host, "port": node.port, "state": state, "offset": offset, "lag": 0}


# -- strategies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("primary", {0: 12}),
        ("round_robin", {0: 4, 1: 4, 2: 4}),
        ("round_robin_replicas", {1: 6, 2: 6}),
        ("random", {0: 4, 1: 4, 2: 4}),
        ("random_replica", {1: 4, 2: 8}),
    ],
)
def test_strategies(strategy: ReadStrategy, expected: dict[int, int]) -> None:
    """The random numbers are 0.0, 0.99, 0.5 and again."""
    assert Cluster(strategy).chosen() == expected


@pytest.mark.parametrize("given", LoadBalancingStrategy)
@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_values_of_redis_py_keep_their_meaning(given: LoadBalancingStrategy, nodes: int) -> None:
    shard = tuple(Place(Address("node", port)) for port in range(nodes))
    read_from = ReadFrom.of(given)
    assert read_from is not None
    readers = readers_of(read_from)
    oracle = LoadBalancer()

    def theirs() -> int:
        return 0 if nodes == 1 else oracle.get_server_index("primary", nodes, given)

    ours = [shard.index(readers.choose(shard, SLOT, 0.0)) for _ in range(200)]
    if given.name.startswith("ROUND_ROBIN"):
        assert ours == [theirs() for _ in range(200)]
    else:
        assert set(ours) == {theirs() for _ in range(2000)}


def test_what_a_client_may_be_given() -> None:
    assert ReadFrom.of(None) is None
    assert ReadFrom.of(None, replicas=True) == ReadFrom("round_robin")
    assert ReadFrom.of(ReadFrom("primary")) is None, "there is nothing to choose"
    standing_in = ReadFrom(when_primary_is_down="replica")
    assert ReadFrom.of(standing_in) is standing_in
    assert ReadFrom.of(LoadBalancingStrategy.RANDOM_REPLICA) == ReadFrom("random_replica")
    nearest = ReadFrom("lowest_latency", max_lag=1.0)
    assert ReadFrom.of(nearest) is nearest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "nearest"}, "use one of primary, round_robin"),
        ({"strategy": "zone"}, "belong together"),
        ({"zone": "a"}, "belong together"),
        ({"max_lag": -1.0}, "max_lag must not be negative"),
        ({"max_lag": math.nan}, "max_lag must not be negative"),
        ({"max_lag_bytes": -1}, "max_lag_bytes must not be negative"),
        ({"when_primary_is_down": "wait"}, "'fail' or 'replica'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ReadFrom(**options)


def test_shards_take_turns_of_their_own() -> None:
    """Else a program that reads of two shards in turn would always meet the same replica of each."""
    other = tuple(Place(Address("other", port)) for port in (1, 2, 3))
    readers = readers_of(ReadFrom("round_robin_replicas"))
    seen = [(readers.choose(SHARD, 1, 0.0).node, readers.choose(other, 2, 0.0).node) for _ in range(4)]
    assert seen == 2 * [(FIRST, other[1].node), (SECOND, other[2].node)]


def test_turns_go_on_when_the_topology_is_published_anew() -> None:
    cluster = Cluster("round_robin")
    published = [tuple(Place(place.node) for place in SHARD) for _ in range(6)]
    assert [cluster.readers.choose(shard, SLOT, 0.0).node for shard in published] == 2 * [
        PRIMARY,
        FIRST,
        SECOND,
    ]


# -- nodes that are down -------------------------------------------------------------------------------------------------


def test_a_dead_replica_is_passed_over_evenly() -> None:
    """Its share goes to all others and not to its neighbour."""
    cluster = Cluster("round_robin")
    cluster.fall(1)
    assert cluster.chosen() == {0: 6, 2: 6}


@pytest.mark.parametrize("strategy", ["round_robin_replicas", "random_replica"])
def test_without_a_replica_the_primary_answers(strategy: ReadStrategy) -> None:
    cluster = Cluster(strategy)
    cluster.fall(1, 2)
    assert cluster.chosen() == {0: 12}


@pytest.mark.parametrize("strategy", ["round_robin", "random"])
def test_a_dead_primary_is_passed_over(strategy: ReadStrategy) -> None:
    cluster = Cluster(strategy)
    cluster.fall(0)
    assert set(cluster.chosen()) == {1, 2}


def test_replicas_stand_in_for_the_primary() -> None:
    cluster = Cluster("primary", when_primary_is_down="replica")
    assert cluster.chosen() == {0: 12}
    cluster.fall(0)
    assert cluster.chosen() == {1: 6, 2: 6}
    cluster.fall(1)
    assert cluster.chosen() == {2: 12}
    cluster.rise(0)
    assert cluster.chosen() == {0: 12}


def test_when_all_are_down_the_primary_has_to_say_so() -> None:
    cluster = Cluster("round_robin")
    cluster.fall(0, 1, 2)
    assert cluster.chosen() == {0: 12}


def test_what_has_failed_goes_to_the_primary_next_unless_it_is_down() -> None:
    cluster = Cluster("round_robin_replicas")
    assert cluster.choose(failed=FIRST) == 0
    cluster.fall(0)
    assert {cluster.choose(failed=FIRST) for _ in range(4)} == {2}
    assert {cluster.choose(failed=PRIMARY) for _ in range(4)} == {1, 2}


def test_who_found_the_primary_down_does_not_look_again() -> None:
    """A call that waited for a refresh comes back when the next may look: it would spend all its tries on that."""
    cluster = Cluster(when_primary_is_down="replica")
    cluster.fall(0)
    cluster.may_probe = True
    assert cluster.choose() == cluster.choose(failed=FIRST) == 0
    assert {cluster.choose(failed=PRIMARY) for _ in range(4)} == {1, 2}


# -- zones ---------------------------------------------------------------------------------------------------------------


def zones(*names: str | None) -> Topology:
    told = {place.node: name for place, name in zip(SHARD, names, strict=True) if name is not None}
    return Topology((Shard(PRIMARY, (FIRST, SECOND)),), ((0, 16383, 0),), told)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a", "b", "c"), {1: 12}),
        (("a", "b", "b"), {1: 6, 2: 6}),
        (("b", "b", "a"), {0: 6, 1: 6}),
        (("a", "a", "c"), {0: 4, 1: 4, 2: 4}),
        ((None, None, None), {0: 4, 1: 4, 2: 4}),
    ],
)
def test_the_nodes_of_the_zone_answer(names: tuple[str | None, ...], expected: dict[int, int]) -> None:
    cluster = Cluster("zone", zone="b")
    cluster.readers.placed(zones(*names))
    assert cluster.chosen() == expected


def test_other_zones_stand_in() -> None:
    cluster = Cluster("zone", zone="b")
    cluster.readers.placed(zones("a", "b", "c"))
    cluster.fall(1)
    assert cluster.chosen() == {0: 6, 2: 6}


# -- latency -------------------------------------------------------------------------------------------------------------


def run(cluster: Cluster, seconds: float, latency: Callable[[int], float], every: float = 0.01) -> list[int]:
    """Reads one after the other for so long; which nodes they went to."""
    seen = []
    end = cluster.now + seconds
    while cluster.now < end:
        index = cluster.choose()
        seen.append(index)
        cluster.now += every
        cluster.readers.answered(SHARD[index].node, latency(index), cluster.now)
    return seen


def test_the_fastest_answers() -> None:
    cluster = Cluster("lowest_latency")
    seen = run(cluster, 5.0, lambda index: (0.003, 0.001, 0.002)[index])
    assert set(seen[:3]) == {0, 1, 2}, "each is tried first"
    assert Counter(seen)[1] > 0.95 * len(seen)


def test_a_node_that_became_slow_is_left_soon_and_tried_again_later() -> None:
    cluster = Cluster("lowest_latency")
    latency = [0.002, 0.001, 0.002]
    run(cluster, 20.0, latency.__getitem__)
    latency[1] = 0.050
    assert Counter(run(cluster, 1.0, latency.__getitem__))[1] <= 3
    latency[1] = 0.001
    seen = run(cluster, 30.0, latency.__getitem__)
    assert Counter(seen[-100:])[1] > 90, "it was found to be the fastest again"


def test_idle_nodes_are_tried_now_and_then_only() -> None:
    """Ten times slower: again after fade * ln 10 = 4.6 seconds."""
    cluster = Cluster("lowest_latency")
    seen = Counter(run(cluster, 200.0, lambda index: (0.010, 0.001, 0.010)[index]))
    assert seen[0] + seen[2] == pytest.approx(2 * 200 / 4.6, rel=0.1)


def test_a_node_that_is_tried_gets_one_read_until_it_has_answered() -> None:
    """And not all that are made in that moment."""
    cluster = Cluster("lowest_latency")
    assert [cluster.choose() for _ in range(3)] == [0, 1, 2]
    cluster = Cluster("lowest_latency")
    run(cluster, 1.0, lambda index: (0.010, 0.001, 0.010)[index])
    cluster.now += 10.0
    cluster.readers.answered(FIRST, 0.001, cluster.now)
    assert Counter(cluster.choose() for _ in range(50)) == {0: 1, 1: 48, 2: 1}


def test_a_failure_is_not_taken_for_a_fast_reply() -> None:
    cluster = Cluster("lowest_latency")
    run(cluster, 1.0, lambda index: (0.002, 0.001, 0.002)[index])
    cluster.readers.answered(FIRST, 0.0001, cluster.now, failed=True)
    assert FIRST not in {SHARD[cluster.choose()].node for _ in range(4)}


def test_a_time_out_counts_as_that_long() -> None:
    cluster = Cluster("lowest_latency")
    run(cluster, 1.0, lambda index: (0.002, 0.001, 0.002)[index])
    cluster.readers.answered(FIRST, 5.0, cluster.now)
    cluster.now += 0.5
    assert cluster.choose() != 1


# -- bounded staleness ---------------------------------------------------------------------------------------------------


def test_nothing_is_known_at_first() -> None:
    assert Cluster("round_robin_replicas", max_lag=1.0).chosen() == {0: 12}
    assert Cluster("round_robin_replicas", max_lag_bytes=1 << 30).chosen() == {0: 12}


def test_lag_in_seconds() -> None:
    cluster = Cluster("round_robin_replicas", max_lag=1.5)
    cluster.write()
    cluster.report(0, 0)
    assert cluster.chosen() == {1: 6, 2: 6}
    cluster.now += 1.0
    cluster.write()
    cluster.report(0, 100)
    cluster.now += 1.0
    assert cluster.chosen() == {1: 12}, "the second has what there was two seconds ago"
    cluster.report(0, 0)
    assert cluster.chosen() == {1: 6, 2: 6}
    cluster.now += 1.6
    assert cluster.chosen() == {0: 12}, "nobody was asked since"


def test_an_idle_primary_leaves_no_lag() -> None:
    cluster = Cluster("round_robin_replicas", max_lag=1.5)
    for _ in range(100):
        cluster.now += 1.0
        cluster.report(0, 0)
    assert cluster.chosen() == {1: 6, 2: 6}


def test_lag_in_bytes() -> None:
    cluster = Cluster("round_robin_replicas", max_lag_bytes=1000)
    cluster.write(10_000)
    cluster.report(1000, 1001)
    assert cluster.chosen() == {1: 12}
    cluster.report(None, 0)
    assert cluster.chosen() == {2: 12}, "the first has lost its primary"


def test_a_stream_that_begins_anew() -> None:
    """The primary was restarted without its data: offsets of before mean nothing."""
    cluster = Cluster("round_robin_replicas", max_lag=1.5)
    cluster.write(1_000_000)
    cluster.report(0, 0)
    cluster.now += 10.0
    cluster.offset = 0
    cluster.report(None, 0)
    assert cluster.chosen() == {2: 12}
    cluster.write(10)
    cluster.now += 1.0
    cluster.report(10, 10)
    assert cluster.chosen() == {1: 6, 2: 6}, "both have all there was a second ago"


def test_offsets_of_before_prove_nothing_in_a_stream_that_begins_anew() -> None:
    cluster = Cluster("round_robin_replicas", max_lag=60.0)
    cluster.write(5)
    cluster.report(None, None)
    cluster.write(1_000_000)
    cluster.report(None, None)
    cluster.now += 1.0
    cluster.offset = 50
    cluster.report(40, 0)
    assert cluster.chosen() == {2: 12}, "10 bytes of the new stream are not the first 5 of the old one"


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 1.0), ({"max_lag": 0.5}, 0.25), ({"max_lag": 60.0}, 1.0), ({"max_lag": 0.0}, 0.01)],
)
def test_how_often_to_ask(options: dict[str, Any], seconds: float) -> None:
    assert ReadFrom("round_robin", **options).offsets_every == seconds


# -- read your writes ----------------------------------------------------------------------------------------------------


def test_a_session_reads_its_writes() -> None:
    cluster, session = Cluster("round_robin"), Session(int)
    assert set(cluster.chosen(session=session)) == {0, 1, 2}
    cluster.write()
    session.called(("SET", SLOT, b"value"), cluster.now)
    assert set(cluster.chosen(session=session)) == {0}
    assert set(cluster.chosen()) == {0, 1, 2}, "others do not wait"
    others = {cluster.readers.choose(SHARD, SLOT + 1, cluster.now, session).node for _ in range(3)}
    assert others == {PRIMARY, FIRST, SECOND}, "nor do other slots"
    cluster.now += 0.5
    cluster.report(0, 100)
    assert set(cluster.chosen(session=session)) == {0, 1}
    cluster.report(0, 0)
    assert set(cluster.chosen(session=session)) == {0, 1, 2}


def test_an_answer_of_before_the_write_proves_nothing() -> None:
    cluster, session = Cluster("round_robin_replicas"), Session(int)
    cluster.report(0, 0)
    cluster.now += 0.1
    session.called(("SET", SLOT, b"value"), cluster.now)
    assert set(cluster.chosen(session=session)) == {0}


def test_a_bound_ends_the_wait() -> None:
    cluster, session = Cluster("round_robin_replicas"), Session(int, bound=2.0)
    session.called(("SET", SLOT, b"value"), cluster.now)
    cluster.now += 2.0
    assert set(cluster.chosen(session=session)) == {0}
    cluster.now += 0.1
    assert set(cluster.chosen(session=session)) == {1, 2}


def test_a_replica_keeps_what_it_had() -> None:
    """However long it has got nothing more."""
    cluster, session = Cluster("round_robin_replicas"), Session(int)
    session.called(("SET", SLOT, b"value"), cluster.now)
    cluster.now += 0.1
    cluster.report(0, 0)
    for n in range(1, 200):
        cluster.now += 1.0
        cluster.write(10)
        cluster.report(0, 10 * n)
    assert set(cluster.chosen(session=session)) == {1, 2}


def test_a_flush_is_a_write_to_every_slot() -> None:
    cluster, session = Cluster("round_robin_replicas"), Session(int)
    session.called(("FLUSHALL",), cluster.now)
    assert set(cluster.chosen(session=session)) == {0}
    cluster.now += 0.1
    cluster.report(0, 0)
    assert set(cluster.chosen(session=session)) == {1, 2}


def test_kept_replies_are_held_to_the_same_limits() -> None:
    cluster, session = Cluster("round_robin_replicas"), Session(int)
    assert list(cluster.readers.may_answer(SHARD, SLOT, cluster.now, session)) == list(SHARD)
    session.called(("SET", SLOT, b"value"), cluster.now)
    assert list(cluster.readers.may_answer(SHARD, SLOT, cluster.now, session)) == [SHARD[0]]
    cluster.now += 0.1
    cluster.report(0, 100)
    assert list(cluster.readers.may_answer(SHARD, SLOT, cluster.now, session)) == [SHARD[0], SHARD[1]]


def test_a_dead_primary_does_not_break_the_promise() -> None:
    cluster, session = Cluster("primary", when_primary_is_down="replica"), Session(int)
    session.called(("SET", SLOT, b"value"), cluster.now)
    cluster.fall(0)
    assert set(cluster.chosen(session=session)) == {0}
    assert set(cluster.chosen()) == {1, 2}


# -- any history -----------------------------------------------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1000)),
    st.tuples(st.just("replicate"), st.integers(0, 1), st.integers(0, 3000)),
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("pass"), st.floats(0.01, 3)),
    st.tuples(st.just("read")),
    st.tuples(st.just("session write")),
)


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=60), st.sampled_from([None, 0.5, 1.5]))
def test_a_read_is_never_staler_than_allowed(events: list[Any], max_lag: float | None) -> None:
    """A model of replication: whatever happens when, the replica chosen has what it has to have."""
    cluster = Cluster("round_robin_replicas", max_lag=max_lag)
    session = Session(int)
    # What the primary had when: the offset at each moment of a write.
    written: list[tuple[float, int]] = [(0.0, 0)]
    has = [0, 0]
    acknowledged = [0, 0]
    session_offset = 0
    for name, *details in events:
        if name == "write":
            cluster.write(details[0])
            written.append((cluster.now, cluster.offset))
        elif name == "replicate":
            who, size = details
            has[who] = min(cluster.offset, has[who] + size)
            # The primary hears of it later.
        elif name == "ask":
            if details[0]:
                acknowledged = list(has)
            cluster.report(*(cluster.offset - offset for offset in acknowledged))
        elif name == "pass":
            cluster.now += details[0]
        elif name == "session write":
            cluster.write(1)
            written.append((cluster.now, cluster.offset))
            cluster.now += 0.001
            session.called(("SET", SLOT, b"value"), cluster.now)
            session_offset = cluster.offset
        else:
            index = cluster.choose(session)
            if index:
                assert has[index - 1] >= session_offset, "a session did not read its write"
            if max_lag is not None and (index := cluster.choose()):
                had = max(offset for at, offset in written if at < cluster.now - max_lag or at == 0.0)
                assert has[index - 1] >= had, "older than allowed"


# -- a real primary ------------------------------------------------------------------------------------------------------


def test_offsets_of_a_real_primary(cluster: LocalCluster) -> None:
    primary = cluster.primaries[0]
    nodes = [Address(node.host, node.port) for node in (primary, *cluster.replicas_of(primary))]
    readers = readers_of(ReadFrom("round_robin_replicas", max_lag=60.0))
    shard = [Place(node) for node in nodes]
    assert readers.choose(shard, SLOT, 100.0) is shard[0]

    def reported() -> bool:
        readers.replicated(shard, 100.0, parse_info(primary.call("INFO", "replication")))
        return readers.choose(shard, SLOT, 100.0) is shard[1]

    wait_until(reported)


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "slave"},
        {"slave0": entry(FIRST, 50, "wait_bgsave")},
        {"slave0": entry(Address("10.0.0.1", 2), 50)},
    ],
    ids=["not the primary", "being filled", "not known"],
)
def test_who_does_not_count(wrong: dict[str, Any]) -> None:
    readers = readers_of(ReadFrom("round_robin_replicas", max_lag=1.0))
    told = {"role": "master", "master_repl_offset": 50, "slave0": entry(FIRST, 50)}
    readers.replicated(SHARD, 1.0, {**told, **wrong})
    assert readers.choose(SHARD, SLOT, 1.0).node == PRIMARY
    readers.replicated(SHARD, 1.0, told)
    assert readers.choose(SHARD, SLOT, 1.0).node == FIRST


def demoted_by(node: Address) -> dict[str, Any]:
    return {"role": "slave", "master_host": node.host, "master_port": node.port}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("primary", {FIRST}), ("round_robin", {FIRST}), ("round_robin_replicas", {FIRST})],
)
def test_a_primary_that_was_demoted_is_a_replica(strategy: ReadStrategy, expected: set[Address]) -> None:
    readers = readers_of(ReadFrom(strategy, max_lag=1.0))
    assert readers.replicated(SHARD, 1.0, {"role": "master", "master_repl_offset": 50})
    assert readers.choose(SHARD, SLOT, 2.0).node == PRIMARY
    assert not readers.replicated(SHARD, 2.0, demoted_by(FIRST))
    assert {readers.choose(SHARD, SLOT, 2.0).node for _ in range(6)} == expected
    assert readers.choose(SHARD, SLOT, 2.0, failed=PRIMARY).node == FIRST
    assert [place.node for place in readers.may_answer(SHARD, SLOT, 2.0)] == [FIRST]
    assert readers.replicated(SHARD, 3.0, {"role": "master", "master_repl_offset": 60})
    assert readers.choose(SHARD, SLOT, 3.0).node == PRIMARY


def test_without_a_limit_a_primary_that_was_demoted_answers_as_a_replica() -> None:
    readers = readers_of(ReadFrom("round_robin_replicas"))
    readers.replicated(SHARD, 1.0, demoted_by(FIRST))
    assert {readers.choose(SHARD, SLOT, 1.0).node for _ in range(6)} == {PRIMARY, SECOND}
    session = Session(lambda key: SLOT)
    session.called(("SET", "a", 1), 1.0)
    assert {readers.choose(SHARD, SLOT, 1.0, session).node for _ in range(6)} == {FIRST}


def test_a_demotion_is_forgotten_when_the_topology_tells_it() -> None:
    readers = readers_of(ReadFrom("round_robin", max_lag=1.0))
    readers.replicated(SHARD, 1.0, demoted_by(FIRST))
    for primary, replica, expected in ((PRIMARY, FIRST, FIRST), (FIRST, PRIMARY, PRIMARY)):
        readers.placed(Topology((Shard(primary, (replica,)),), ((0, 16383, 0),)))
        assert readers.choose(SHARD, SLOT, 1.0).node == expected


def test_nodes_that_know_each_other_by_other_addresses() -> None:
    """Host names for clients, and numbers among themselves."""
    inside = Address("10.0.0.1", 6379)
    readers = readers_of(ReadFrom("round_robin_replicas", max_lag=1.0))
    topology = Topology((Shard(PRIMARY, (FIRST,)),), ((0, 16383, 0),), known_as={inside: FIRST})
    readers.placed(topology)
    told = {"role": "master", "master_repl_offset": 50, "slave0": entry(inside, 50)}
    readers.replicated(SHARD[:2], 1.0, told)
    assert readers.choose(SHARD[:2], SLOT, 1.0).node == FIRST


def test_offsets_are_wanted_only_where_something_depends_on_them() -> None:
    cluster, session = Cluster("round_robin_replicas"), Session(int)
    cluster.chosen(session=session)
    assert cluster.wants == []
    session.called(("GET", SLOT), cluster.now)
    cluster.chosen(session=session)
    assert cluster.wants == [], "it has read, and not written"
    session.called(("SET", SLOT, b"value"), cluster.now)
    cluster.choose(session)
    assert cluster.wants == [cluster.now]
    for limit in ({"max_lag": 1.0}, {"max_lag_bytes": 1}):
        cluster = Cluster("round_robin_replicas", **limit)
        cluster.choose()
        assert cluster.wants == [cluster.now]


def test_nodes_that_have_left_are_forgotten() -> None:
    cluster = Cluster("lowest_latency")
    run(cluster, 1.0, lambda index: (0.010, 0.001, 0.010)[index])
    assert cluster.choose() == 1
    cluster.readers.placed(Topology((Shard(PRIMARY, (FIRST,)),), ((0, 16383, 0),)))
    assert cluster.choose() == 2, "as one that was never asked"
