"""Reads from replicas, as the load balancing strategy says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from slotwise import LoadBalancingStrategy, RedisCluster
from slotwise.local import LocalCluster
from tests.fixtures.scripted import ScriptedCluster
from tests.sync.conftest import MakeClient

READS = 24


@pytest.fixture
def shard() -> Iterator[ScriptedCluster]:
    """One primary with two replicas, each of which answers GET with its own number."""
    with ScriptedCluster(1, others=2) as cluster:
        cluster.slots[:] = [(0, 16383, cluster.nodes)]
        for number, node in enumerate(cluster.nodes):
            node.expect("GET").often().reply(b"%d" % number)
            node.expect("MGET").often().reply([b"%d" % number])
        cluster.nodes[0].expect("SET").often().reply("OK")
        yield cluster


STRATEGIES = {
    LoadBalancingStrategy.ROUND_ROBIN: {0, 1, 2},
    LoadBalancingStrategy.ROUND_ROBIN_REPLICAS: {1, 2},
    LoadBalancingStrategy.RANDOM_REPLICA: {1, 2},
    LoadBalancingStrategy.RANDOM: {0, 1, 2},
}


def answers(client: RedisCluster, how: str) -> Counter[int]:
    """Which nodes answered, how often."""
    if how == "calls":
        return Counter(int(client.get(f"k{n}")) for n in range(READS))
    if how == "pipeline":
        pipe = client.pipeline()
        for n in range(READS):
            pipe.get(f"k{n}")
        return Counter(map(int, pipe.execute()))
    if how == "mget_nonatomic":
        return Counter(int(value) for n in range(READS) for value in client.mget_nonatomic(f"k{n}"))
    return Counter(int(client.mget(f"k{n}")[0]) for n in range(READS))


@pytest.mark.parametrize("how", ["calls", "pipeline", "mget", "mget_nonatomic"])
@pytest.mark.parametrize(("strategy", "expected"), STRATEGIES.items(), ids=[s.name for s in STRATEGIES])
def test_strategy(
    shard: ScriptedCluster,
    make_client: MakeClient,
    strategy: LoadBalancingStrategy,
    expected: set[int],
    how: str,
) -> None:
    client = make_client(shard, load_balancing_strategy=strategy)
    seen = answers(client, how)
    # 24 random choices leave one of three out once in 5,000 times; of these runs that is no error.
    assert set(seen) == expected or (strategy.name.startswith("RANDOM") and set(seen) < expected)
    if strategy.name.startswith("ROUND_ROBIN"):
        assert len(set(seen.values())) == 1, "even"
    assert client.set("k", 1) is True, "writes go to the primary"
    assert client.pipeline().set("k", 1).execute() == [True]


def test_read_from_replicas_is_round_robin(shard: ScriptedCluster, make_client: MakeClient) -> None:
    assert set(answers(make_client(shard, read_from_replicas=True), "calls")) == {0, 1, 2}


def test_without_a_strategy_the_primary_answers(shard: ScriptedCluster, make_client: MakeClient) -> None:
    for how in ("calls", "pipeline", "mget"):
        assert set(answers(make_client(shard), how)) == {0}


def test_moved_by_a_replica_leads_to_the_primary(shard: ScriptedCluster, make_client: MakeClient) -> None:
    client = make_client(shard, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN_REPLICAS)
    primary = shard.nodes[0]
    for node in shard.nodes[1:]:
        node.expectations.clear()
        node.expect("GET").often().error(f"MOVED {client.keyslot('a')} {primary.address}")
    assert client.get("a") == b"0"
    assert client.pipeline().get("a").execute() == [b"0"]


def test_replica_that_is_gone_does_not_end_the_read(shard: ScriptedCluster, make_client: MakeClient) -> None:
    client = make_client(shard, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN_REPLICAS)
    shard.nodes[1].stop()
    assert {client.get("a") for _ in range(4)} <= {b"0", b"2"}
    assert set(client.pipeline().get("a").get("b").execute()) <= {b"0", b"2"}


def test_real_replicas_answer(cluster: LocalCluster, make_client: MakeClient) -> None:
    """They do so only for connections that were told READONLY; to others they say MOVED."""
    client = make_client(cluster, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    client.set("{r}a", "value")
    client.wait(1, 5000, target_nodes=client.get_node_from_key("{r}a"))
    (replica,) = cluster.replicas_of(cluster.owner_of(client.keyslot("{r}a")))

    def served() -> int:
        stats = replica.info("commandstats").get("cmdstat_get", "calls=0,rejected_calls=0")
        fields = dict(field.split("=") for field in stats.split(","))
        return int(fields["calls"]) - int(fields["rejected_calls"])

    before = served()
    for _ in range(6):
        assert client.get("{r}a") == b"value"
        assert client.pipeline().get("{r}a").get("{r}a").execute() == [b"value"] * 2
    assert served() - before == 9
