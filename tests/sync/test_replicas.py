"""Reads from replicas, as the load balancing strategy says."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

from slotwise import LoadBalancingStrategy, ReadFrom, RedisCluster
from slotwise.errors import DataError, UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.sync import offsets
from tests.fixtures.replicated import ReplicatedShard
from tests.local.processes import wait_until
from tests.sync.conftest import MakeClient

READS = 24
REPLICAS = ReadFrom("round_robin_replicas")
# Whoever waits before another try fails the test.
PATIENT = Retry(ConstantBackoff(3600), 3)


@pytest.fixture
def shard() -> Iterator[ReplicatedShard]:
    with ReplicatedShard() as cluster:
        yield cluster


STRATEGIES: dict[Any, set[int]] = {
    LoadBalancingStrategy.ROUND_ROBIN: {0, 1, 2},
    LoadBalancingStrategy.ROUND_ROBIN_REPLICAS: {1, 2},
    LoadBalancingStrategy.RANDOM_REPLICA: {1, 2},
    LoadBalancingStrategy.RANDOM: {0, 1, 2},
    ReadFrom("primary"): {0},
    ReadFrom("round_robin"): {0, 1, 2},
    REPLICAS: {1, 2},
    ReadFrom("zone", zone="east"): {1},
    ReadFrom("zone", zone="nowhere"): {0, 1, 2},
    ReadFrom(when_primary_is_down="replica"): {0},
}
HOW = ["calls", "pipeline", "mget", "mget_nonatomic", "cached"]


def answers(client: Any, how: str) -> Counter[int]:
    """Which nodes answered, how often."""
    if how in ("calls", "cached"):
        return Counter(int(client.get(f"k{n}")) for n in range(READS))
    if how == "pipeline":
        pipe = client.pipeline()
        for n in range(READS):
            pipe.get(f"k{n}")
        return Counter(map(int, pipe.execute()))
    if how == "mget_nonatomic":
        return Counter(map(int, client.mget_nonatomic([f"k{n}" for n in range(READS)])))
    return Counter(int(client.mget(f"k{n}")[0]) for n in range(READS))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("strategy", "expected"), STRATEGIES.items(), ids=str)
def test_strategy(
    shard: ReplicatedShard, make_client: MakeClient, strategy: Any, expected: set[int], how: str
) -> None:
    shard.tell_zones(["west", "east", "west"])
    caching = {"cache_config": CacheConfig()} if how == "cached" else {}
    client = make_client(shard, load_balancing_strategy=strategy, **caching)
    seen = answers(client, how)
    # 24 random choices leave one of three out once in 5,000 times; of these runs that is no error.
    is_random = strategy in (LoadBalancingStrategy.RANDOM, LoadBalancingStrategy.RANDOM_REPLICA)
    assert set(seen) == expected or (is_random and set(seen) < expected)
    assert is_random or len(set(seen.values())) == 1, "even"
    if how == "cached":
        assert answers(client, how) == seen
        assert sum(node.count("GET") for node in shard.nodes) == READS, "kept, whoever answered"
    assert client.set("k", 1) is True, "writes go to the primary"
    assert client.pipeline().set("k", 1).execute() == [True]


def test_read_from_replicas_is_round_robin(shard: ReplicatedShard, make_client: MakeClient) -> None:
    assert set(answers(make_client(shard, read_from_replicas=True), "calls")) == {0, 1, 2}


@pytest.mark.parametrize("wrong", ["nearest", True])
def test_no_strategy(wrong: Any) -> None:
    with pytest.raises(DataError, match="use one of primary, round_robin"):
        RedisCluster.from_url("redis://127.0.0.1:1", load_balancing_strategy=wrong)


def test_without_a_strategy_the_primary_answers(shard: ReplicatedShard, make_client: MakeClient) -> None:
    for how in ("calls", "pipeline", "mget"):
        assert set(answers(make_client(shard), how)) == {0}


@pytest.mark.parametrize(
    ("client_class", "expected"),
    [pytest.param(RedisCluster, {1, 2}, id="slotwise"), pytest.param(redis.RedisCluster, {0}, id="redis-py")],
)
def test_mget_nonatomic_asks_replicas(shard: ReplicatedShard, client_class: Any, expected: set[int]) -> None:
    """Defect 13 of redis-py 8.1, beside redis-py itself. Should redis-py mend it, its half fails and goes."""
    strategy = LoadBalancingStrategy.ROUND_ROBIN_REPLICAS
    with client_class.from_url(shard.url, load_balancing_strategy=strategy) as client:
        assert set(answers(client, "calls")) == {1, 2}
        assert set(answers(client, "mget_nonatomic")) == expected


def test_redis_pys_own_questions_have_redis_pys_answers(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    """A client that chooses by other rules answers them all the same."""
    manager = make_client(shard, load_balancing_strategy=ReadFrom("lowest_latency")).nodes_manager
    roles = [
        manager.get_node_from_slot(1, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN).port
        for _ in range(4)
    ]
    assert roles == [shard.nodes[n].port for n in (0, 1, 2, 0)]
    assert manager.get_node_from_slot(1, server_type="replica").server_type == "replica"
    assert manager.get_node_from_slot(1).server_type == "primary"


def test_subclasses_see_which_node_answers(shard: ReplicatedShard) -> None:
    class Watching(RedisCluster):
        seen: list[str]

        def _execute_command(self, target_node: Any, *args: Any, **options: Any) -> Any:
            self.seen.append(target_node.name)
            return super()._execute_command(target_node, *args, **options)

    with Watching.from_url(shard.url, load_balancing_strategy=REPLICAS) as client:
        client.seen = []
        assert {client.get("a"), client.get("a")} == {b"1", b"2"}
        assert client.seen == [node.address for node in shard.replicas]


# -- what goes wrong -----------------------------------------------------------------------------------------------------


def test_moved_by_a_replica_leads_to_the_primary(shard: ReplicatedShard, make_client: MakeClient) -> None:
    client = make_client(shard, load_balancing_strategy=REPLICAS)
    for node in shard.replicas:
        shard.answer(node, "GET").error(f"MOVED {client.keyslot('a')} {shard.primary.address}")
    assert client.get("a") == b"0"
    assert client.pipeline().get("a").execute() == [b"0"]


@pytest.mark.parametrize("error", ["LOADING Redis is loading", "MASTERDOWN Link with MASTER is down"])
def test_a_replica_that_cannot_answer_is_asked_once(
    shard: ReplicatedShard, make_client: MakeClient, error: str
) -> None:
    client = make_client(shard, load_balancing_strategy=REPLICAS, retry=PATIENT)
    for node in shard.replicas:
        shard.answer(node, "GET").error(error)
    assert client.get("a") == b"0"
    assert client.pipeline().get("a").execute() == [b"0"]
    assert [node.count("GET") for node in shard.nodes] == [2, 1, 1]


def test_replica_that_is_gone_does_not_end_the_read(shard: ReplicatedShard, make_client: MakeClient) -> None:
    client = make_client(shard, load_balancing_strategy=REPLICAS, retry=PATIENT)
    shard.nodes[1].stop()
    assert {client.get("a") for _ in range(4)} <= {b"0", b"2"}
    assert set(client.pipeline().get("a").get("b").execute()) <= {b"0", b"2"}


def test_replicas_stand_in_for_a_primary_that_is_down(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    """And for each other."""
    strategy = ReadFrom(when_primary_is_down="replica")
    client = make_client(shard, load_balancing_strategy=strategy, retry=Retry(ConstantBackoff(0.05), 10))
    assert answering(client) == {0}
    shard.primary.stop()
    assert answering(client) <= {1, 2}
    assert set(answers(client, "pipeline")) <= {1, 2}
    assert set(answers(client, "mget_nonatomic")) <= {1, 2}
    shard.answer(shard.nodes[1], "GET").error("LOADING Redis is loading")
    assert answering(client) == {2}
    assert set(client.pipeline().get("a").get("a").execute()) == {b"2"}


def test_an_invalidation_comes_from_the_node_that_answered(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    client = make_client(shard, load_balancing_strategy=REPLICAS, cache_config=CacheConfig())
    assert [client.get("a") for _ in range(3)] == [b"1"] * 3
    shard.nodes[1].push("invalidate", [b"a"])
    wait_until(lambda: client.get("a") == b"2")


# -- latency -------------------------------------------------------------------------------------------------------------


def test_the_fastest_node_answers(shard: ReplicatedShard, make_client: MakeClient) -> None:
    client = make_client(shard, load_balancing_strategy=ReadFrom("lowest_latency"))
    for number in (0, 2):
        shard.answer(shard.nodes[number], "GET").delay(0.1).reply(b"%d" % number)
    seen = answers(client, "calls")
    assert seen[0] == seen[2] == 1, "each was tried"
    assert set(answers(client, "pipeline")) <= {0, 1, 2}
    assert Counter(answers(client, "mget"))[1] > READS / 2, "what is known holds for all reads"


# -- how far replicas are ------------------------------------------------------------------------------------------------


def askers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "slotwise-offsets"}


def answering(client: Any, key: str = "a") -> set[int]:
    return {int(client.get(key)) for _ in range(4)}


@pytest.mark.parametrize("limit", [{"max_lag": 5.0}, {"max_lag_bytes": 10}], ids=["seconds", "bytes"])
def test_a_replica_that_is_too_far_behind_is_passed_over(
    shard: ReplicatedShard, make_client: MakeClient, limit: dict[str, Any]
) -> None:
    shard.lag = [0, 500]
    tell = threading.Event()
    shard.answer(shard.primary, "INFO", "replication").until(tell).reply(shard.replication)
    client = make_client(shard, load_balancing_strategy=ReadFrom("round_robin_replicas", **limit))
    assert client.get("a") == b"0", "nothing is known yet"
    tell.set()
    wait_until(lambda: answering(client) == {1})
    assert set(answers(client, "pipeline")) == {1}
    shard.lag = [0, 0]
    wait_until(lambda: answering(client) == {1, 2})


@pytest.mark.parametrize("strategy", ["round_robin", "round_robin_replicas"])
def test_a_primary_that_was_demoted_is_not_believed(
    shard: ReplicatedShard, make_client: MakeClient, strategy: Any
) -> None:
    """It answers reads as before, with data that grow old."""
    shard.lag = [500, 500]
    client = make_client(shard, load_balancing_strategy=ReadFrom(strategy, max_lag=0.1))
    assert answering(client) == {0}
    asked = sum(node.topology_asked for node in shard.nodes)
    shard.demote()
    wait_until(lambda: answering(client) == {1})
    wait_until(lambda: sum(node.topology_asked for node in shard.nodes) > asked)


def test_nobody_is_asked_unless_reads_depend_on_it(
    shard: ReplicatedShard, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for threads that a busy machine lets wait.
    monkeypatch.setattr(offsets, "LINGER", 0.5)
    before = askers()
    answers(make_client(shard, load_balancing_strategy=REPLICAS), "calls")
    client = make_client(shard, load_balancing_strategy=ReadFrom("round_robin_replicas", max_lag=0.02))
    client.set("a", 1)
    assert not askers() - before
    assert shard.primary.count("INFO") == 0

    def asked_thrice() -> bool:
        client.get("a")
        return shard.primary.count("INFO") >= 3

    # Every 0.01 seconds, for 0.5 seconds after the last read.
    wait_until(asked_thrice)
    wait_until(lambda: client.nodes_manager.offsets._idle)
    asked = shard.primary.count("INFO")
    client.set("a", 1)
    time.sleep(0.05)
    assert shard.primary.count("INFO") == asked
    client.get("a")
    wait_until(lambda: shard.primary.count("INFO") > asked)


def test_no_read_waits_for_the_answer(shard: ReplicatedShard, make_client: MakeClient) -> None:
    released = threading.Event()
    shard.answer(shard.primary, "INFO").until(released).reply(shard.replication)
    client = make_client(shard, load_balancing_strategy=ReadFrom("round_robin_replicas", max_lag=5.0))
    client.get("a")
    wait_until(lambda: shard.primary.count("INFO") == 1)
    assert answering(client) == {0}
    released.set()
    wait_until(lambda: answering(client) == {1, 2})


def test_an_answer_that_makes_no_sense_ends_nothing(shard: ReplicatedShard, make_client: MakeClient) -> None:
    shard.answer(shard.primary, "INFO").reply(b"role:master\r\nmaster_repl_offset:many")
    client = make_client(shard, load_balancing_strategy=ReadFrom("round_robin_replicas", max_lag=0.1))
    wait_until(lambda: client.get("a") == b"0" and shard.primary.count("INFO") >= 2)
    shard.answer(shard.primary, "INFO").reply(shard.replication)
    wait_until(lambda: answering(client) == {1, 2})


def test_a_primary_that_hangs_does_not_hide_the_others(
    shard: ReplicatedShard, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "ANSWER_TIMEOUT", 0.1)
    with ReplicatedShard() as other:
        shard.slots[:] = [(0, 8191, other.nodes), (8192, 16383, shard.nodes)]
        other.answer(other.primary, "INFO")  # and no answer
        strategy = ReadFrom("round_robin_replicas", max_lag=1.0)
        client = make_client(shard, load_balancing_strategy=strategy)
        assert client.keyslot("a") >= 8192 > client.keyslot("b")
        wait_until(lambda: answering(client, "b") == {0} and answering(client, "a") == {1, 2})
        wait_until(lambda: other.primary.count("INFO") >= 3)
        assert answering(client, "a") == {1, 2}
        client.close()


@pytest.mark.parametrize("hanging", [False, True])
def test_the_thread_ends_with_the_client(shard: ReplicatedShard, hanging: bool) -> None:
    before = askers()
    if hanging:
        shard.answer(shard.primary, "INFO")  # and no answer
    strategy = ReadFrom("round_robin_replicas", max_lag=1.0)
    client = RedisCluster.from_url(shard.url, load_balancing_strategy=strategy)
    client.get("a")
    wait_until(lambda: shard.primary.count("INFO") == 1)
    client.close()
    wait_until(lambda: not askers() - before)
    wait_until(lambda: not shard.primary.connections)
    if not hanging:
        client.get("a")
        wait_until(lambda: answering(client) == {1, 2})
        assert len(askers() - before) == 1, "used again, it asks again"
        client.close()
        wait_until(lambda: not askers() - before)


@pytest.mark.parametrize("linger", [60.0, 0.0], ids=["asking", "idle"])
def test_the_thread_keeps_no_client_alive(
    shard: ReplicatedShard, monkeypatch: pytest.MonkeyPatch, linger: float
) -> None:
    monkeypatch.setattr(offsets, "LINGER", linger)
    before = askers()
    strategy = ReadFrom("round_robin_replicas", max_lag=1.0)
    client = RedisCluster.from_url(shard.url, load_balancing_strategy=strategy)
    client.get("a")
    manager = weakref.ref(client.nodes_manager)
    del client

    def gone() -> bool:
        gc.collect()
        return manager() is None and not askers() - before

    wait_until(gone)


# -- sessions ------------------------------------------------------------------------------------------------------------


def test_a_session_reads_what_it_has_written(shard: ReplicatedShard, make_client: MakeClient) -> None:
    shard.lag = [500, 500]
    client = make_client(shard, load_balancing_strategy=REPLICAS)
    with client.session() as session:
        assert answering(session) == {1, 2}
        session.set("a", 1)
        wait_until(lambda: shard.primary.count("INFO") > 0 or answering(session) != {0})
        assert answering(session) == {0}
        assert session.pipeline().get("a").get("{a}").execute() == [b"0"] * 2
        assert session.mget_nonatomic("a") == [b"0"]
        assert answering(session, "b") == {1, 2}, "another slot"
        assert answering(client) == {1, 2}, "another user"
        shard.lag = [0, 500]
        wait_until(lambda: answering(session) == {1})
    assert client.get("a") in (b"1", b"2"), "the client is still open"
    assert not client.nodes_manager.closed


def test_a_session_is_a_client(shard: ReplicatedShard, make_client: MakeClient) -> None:
    client = make_client(shard, load_balancing_strategy=REPLICAS)
    session = client.session()
    assert isinstance(session, RedisCluster)
    assert session.get_nodes() == client.get_nodes()
    assert answering(client) == {1, 2}
    opened = [node.accepted for node in shard.nodes]
    assert session.session().get("a") in (b"1", b"2")
    assert client.get("a") in (b"1", b"2")
    assert [node.accepted for node in shard.nodes] == opened, "over the client's connections"
    session.close()
    del session
    gc.collect()
    assert client.get("a") in (b"1", b"2")


def test_in_a_session_a_pipeline_reads_its_own_writes(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    shard.lag = [500, 500]
    client = make_client(shard, load_balancing_strategy=REPLICAS)
    pipe = client.session().pipeline()
    assert pipe.get("a").set("a", 1).get("a").get("b").execute()[1:3] == [True, b"0"]
    assert {pipe.get("b").execute()[0] for _ in range(4)} == {b"1", b"2"}
    assert {pipe.get("a").execute()[0] for _ in range(4)} == {b"0"}


def test_who_answers_is_chosen_when_a_pipeline_is_executed(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    shard.lag = [500, 500]
    session = make_client(shard, load_balancing_strategy=REPLICAS).session()
    pipe = session.pipeline().get("a")
    session.set("a", 1)
    assert pipe.execute() == [b"0"]


def test_a_transaction_is_a_write(shard: ReplicatedShard, make_client: MakeClient) -> None:
    shard.lag = [500, 500]
    for command, reply in (("MULTI", "OK"), ("INCR", "QUEUED"), ("INCRBY", "QUEUED"), ("EXEC", [1])):
        shard.primary.expect(command).often().reply(reply)
    session = make_client(shard, load_balancing_strategy=REPLICAS).session()
    assert session.pipeline(transaction=True).incr("a").execute() == [1]
    assert answering(session) == {0}


def test_a_write_whose_outcome_is_unknown_is_a_write(shard: ReplicatedShard, make_client: MakeClient) -> None:
    shard.lag = [500, 500]
    shard.primary.expect("APPEND").close()
    session = make_client(shard, load_balancing_strategy=REPLICAS).session()
    with pytest.raises(UnknownOutcomeError):
        session.append("a", "more")
    assert answering(session) == {0}


def test_a_write_behind_watch_whose_outcome_is_unknown_is_a_write(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    shard.lag = [500, 500]
    shard.primary.expect("WATCH").reply("OK")
    shard.primary.expect("APPEND").close()
    session = make_client(shard, load_balancing_strategy=REPLICAS).session()
    with session.pipeline(transaction=True) as pipe:
        pipe.watch("a")
        # WATCH counts as a write as well.
        shard.lag = [0, 0]
        wait_until(lambda: answering(session) == {1, 2})
        shard.lag = [500, 500]
        with pytest.raises(UnknownOutcomeError):
            pipe.append("a", "more")
    assert answering(session) == {0}


def test_a_kept_reply_may_be_older_than_a_sessions_write(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    shard.lag = [500, 500]
    client = make_client(shard, load_balancing_strategy=REPLICAS, cache_config=CacheConfig())
    session = client.session()
    session.set("a", 1)
    # Another user of the client has asked a replica that the write has not reached.
    assert client.get("a") == b"1"
    assert session.get("a") == b"0"
    assert session.get("a") == b"0"
    assert shard.primary.count("GET") == 1, "and the primary's reply is kept"


def test_a_bound_ends_the_wait(shard: ReplicatedShard, make_client: MakeClient) -> None:
    shard.lag = [500, 500]
    client = make_client(shard, load_balancing_strategy=REPLICAS)
    session = client.session(bound=0.2)
    session.set("a", 1)
    wait_until(lambda: answering(session) == {1, 2})
    with pytest.raises(DataError, match="bound must not be negative"):
        client.session(bound=-1)


def test_a_session_of_a_client_that_asks_primaries_anyway(
    shard: ReplicatedShard, make_client: MakeClient
) -> None:
    with make_client(shard).session() as session:
        session.set("a", 1)
        assert answering(session) == {0}
        assert session.pipeline().get("a").execute() == [b"0"]
    assert shard.primary.count("INFO") == 0


# -- a real cluster ------------------------------------------------------------------------------------------------------


def test_real_replicas_answer(cluster: LocalCluster, make_client: MakeClient) -> None:
    """They do so only for connections that were told READONLY; to others they say MOVED."""
    client = make_client(cluster, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    client.set("{r}a", "value")
    client.wait(1, 5000, target_nodes=client.get_node_from_key("{r}a"))
    served = served_by_the_replica(cluster, client.keyslot("{r}a"))
    for _ in range(6):
        assert client.get("{r}a") == b"value"
        assert client.pipeline().get("{r}a").get("{r}a").execute() == [b"value"] * 2
    assert served() == 9


def served_by_the_replica(cluster: LocalCluster, slot: int) -> Any:
    """How many GET the replica of ``slot`` has answered since."""
    (replica,) = cluster.replicas_of(cluster.owner_of(slot))

    def calls() -> int:
        stats = replica.info("commandstats").get("cmdstat_get", "calls=0,rejected_calls=0")
        fields = dict(field.split("=") for field in stats.split(","))
        return int(fields["calls"]) - int(fields["rejected_calls"])

    before = calls()
    return lambda: calls() - before


def test_a_real_session(cluster: LocalCluster, make_client: MakeClient) -> None:
    """It never misses its write, and replicas answer as soon as they are known to have it."""
    client = make_client(cluster, load_balancing_strategy=REPLICAS)
    session = client.session()
    for n in range(300):
        session.set(f"session:{n % 10}", n)
        assert session.get(f"session:{n % 10}") == b"%d" % n
    served = served_by_the_replica(cluster, client.keyslot("session:9"))
    wait_until(lambda: session.get("session:9") == b"299" and served() > 0)


def test_a_real_lag(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(cluster, load_balancing_strategy=ReadFrom("round_robin_replicas", max_lag=5.0))
    client.set("lag", "value")
    served = served_by_the_replica(cluster, client.keyslot("lag"))
    wait_until(lambda: client.get("lag") == b"value" and served() > 0)


def test_reads_go_on_while_a_real_primary_is_down(
    faulty_cluster: LocalCluster, make_client: MakeClient
) -> None:
    """Every one of them, from the crash until its replica has taken over."""
    strategy = ReadFrom(when_primary_is_down="replica")
    client = make_client(faulty_cluster, load_balancing_strategy=strategy)
    client.set("key", "value")
    client.wait(1, 5000, target_nodes=client.get_node_from_key("key"))
    slot = client.keyslot("key")
    primary = faulty_cluster.owner_of(slot)
    faulty_cluster.kill(primary)
    longest = 0.0
    while client.get_node_from_key("key").port == primary.port:
        started = time.monotonic()
        assert client.get("key") == b"value"
        assert client.pipeline().get("key").execute() == [b"value"]
        longest = max(longest, time.monotonic() - started)
    assert client.get("key") == b"value"
