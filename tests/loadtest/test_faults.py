"""Faults in the middle of a load: they come when they were asked for, and the report says what callers noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from slotwise.loadtest import Fault, LoadTestError, Options, Result, Workload, run
from slotwise.loadtest.faults import KINDS, check
from slotwise.loadtest.result import FaultReport
from slotwise.local import LocalCluster, ServerBinary
from slotwise.testing import Chaos
from slotwise.testing.chaos import can_be_proxied

WORKLOAD = Workload({"get": 1, "set": 1}, keys=2000, prefix="faults:")
#: Of `faulty_cluster`, in seconds.
NODE_TIMEOUT = 1.0


# -- as they are written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at", "lasts", "amount"),
    [
        ("kill-primary@10s", 10, None, None),
        ("kill-primary@10s:5s", 10, 5, None),
        ("pause@500ms", 0.5, 5, None),
        ("pause@1m:2", 60, 2, None),
        ("slow@1s", 1, 5, 0.05),
        ("slow=20ms@1s:30s", 1, 30, 0.02),
        ("reshard@5s", 5, None, 1000),
        ("reshard=500@5s", 5, None, 500),
        ("rolling-restart@0", 0, None, None),
        (" partition@3s:1s ", 3, 1, None),
    ],
)
def test_parse(text: str, at: float, lasts: float | None, amount: float | None) -> None:
    kind = text.strip().partition("@")[0].partition("=")[0]
    assert Fault.parse(text) == Fault(text.strip(), kind, at, lasts, amount)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no fault: KIND\[=AMOUNT\]@AT\[:FOR\], such as kill-primary@10s"),
        ("kill-primary", "no fault: KIND"),
        ("explode@1s", "kinds are kill-primary, pause, failover, reshard, partition, slow, rolling-restart"),
        ("pause@", "no fault"),
        ("pause@soon", "no time: such as 250us, 10ms"),
        ("pause@1s:long", "no time"),
        ("failover@1s:5s", "failover takes the time that it takes, leave out :5s"),
        ("pause=5@1s", "pause has no amount, leave out =5"),
        ("slow=much@1s", "no time"),
        ("reshard=0@1s", "no number of slots from 1 to 5,000"),
        ("reshard=1.5@1s", "no number of slots"),
        ("reshard=5001@1s", "no number of slots"),
    ],
)
def test_what_is_no_fault(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fault.parse(text)


@pytest.mark.parametrize(
    ("faults", "primaries", "replicas", "message"),
    [
        (["kill-primary@1s"], 2, 1, "3 primaries and a replica of each"),
        (["pause@1s"], 3, 0, "3 primaries and a replica of each"),
        (["failover@1s"], 1, 0, "3 primaries and a replica of each"),
        (["reshard@1s"], 1, 0, "--primaries 2 or more"),
        (["reshard=5000@1s"], 4, 1, "5,000 slots are all that the first of 4 primaries has"),
        (["reshard=3000@1s", "reshard=3000@2s"], 3, 1, "6,000 slots are all that the first of 3"),
    ],
)
def test_what_cannot_come_about(faults: list[str], primaries: int, replicas: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check([Fault.parse(text) for text in faults], primaries, replicas)


def test_what_can_come_about() -> None:
    check([Fault.parse(f"{kind}@1s") for kind in KINDS], 3, 1)
    check([Fault.parse("slow@1s"), Fault.parse("reshard@1s")], 2, 0)


# -- in a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def direct(faulty_cluster: LocalCluster) -> Iterator[Chaos]:
    with Chaos(faulty_cluster, proxied=False) as chaos:
        yield chaos


@pytest.fixture
def proxied(server: ServerBinary, faulty_cluster: LocalCluster) -> Iterator[Chaos]:
    if not can_be_proxied(server):
        pytest.skip("Redis 6.2 cannot announce another port while it runs")
    with Chaos(faulty_cluster) as chaos:
        yield chaos


@pytest.fixture(scope="module")
def alone(server: ServerBinary) -> Iterator[Chaos]:
    """One primary, of which nobody takes the place."""
    with LocalCluster(1, 0, server=server.command) as cluster, Chaos(cluster, proxied=False) as chaos:
        yield chaos


def struck(chaos: Chaos, duration: float, *faults: str, workload: Workload = WORKLOAD, **more: Any) -> Result:
    options = Options(
        chaos.url,
        workload,
        **{"callers": 16, "duration": duration, "warmup": 0.2, "keep": True, "loop": "asyncio", **more},
        faults=[Fault.parse(text) for text in faults],
    )
    return run(options, chaos=chaos)


def errors_of_others(result: Result) -> int:
    return sum(sum(part.errors.values()) for part in result.by_shard[1:])


def check_sums(result: Result, fault: FaultReport) -> None:
    assert fault.unknown + fault.lost == sum(fault.errors.values())
    assert sum(fault.errors.values()) <= sum(result.total.errors.values())
    assert sum(sum(second.errors.values()) for second in result.seconds) == sum(result.total.errors.values())


def test_kill_primary(direct: Chaos) -> None:
    victim = direct.cluster.owner_of(0)
    # In an open loop, as callers of a closed one would all wait for the shard that is silent.
    result = struck(direct, 5, "kill-primary@500ms:3500ms", processes=2, rate=600.0)
    (fault,) = result.faults
    assert (fault.name, fault.kind, fault.shard) == ("kill-primary@500ms:3500ms", "kill-primary", 0)
    assert 0.5 <= fault.began < 1.5
    assert fault.ended - fault.began == pytest.approx(3.5, abs=1)
    # The servers wait for their time-out, and vote.
    assert fault.elected_after is not None
    assert NODE_TIMEOUT * 0.5 < fault.elected_after < 4
    assert fault.silence is not None
    assert fault.silence.ended is not None
    assert fault.silence.began == pytest.approx(fault.began, abs=0.3)
    assert fault.recovered_after == pytest.approx(fault.silence.ended - fault.began)
    assert fault.elected_after - 0.3 < fault.recovered_after < fault.elected_after + 3
    # A client that tries again until a replica has taken over tells its callers of nothing.
    assert (fault.noticed_after is None) == (not fault.errors)
    assert errors_of_others(result) == 0
    check_sums(result, fault)
    # The silence is there in the series of the shard, and in no other.
    second = int(fault.silence.began) + 1
    assert result.seconds[second].shards[0].operations < result.seconds[0].shards[0].operations / 5
    assert result.seconds[second].shards[1].operations > 0
    assert victim in direct.replicas


def test_failover_and_reshards(direct: Chaos) -> None:
    before, target = direct.cluster.owner_of(0), direct.cluster.owner_of(16000)
    result = struck(direct, 4, "failover@500ms", "reshard=20@2500ms", "reshard=20@3s")
    failover, first, second = result.faults
    assert (failover.shard, first.shard, second.shard) == (0, 0, 0)
    assert failover.elected_after is None
    assert failover.recovered_after is not None
    assert failover.recovered_after < 2
    assert direct.cluster.owner_of(0) is direct.cluster.owner_of(39) is target
    assert direct.cluster.owner_of(40) not in (before, target)
    assert first.ended > first.began
    # Nothing is lost by a hand-over.
    assert result.total.errors == {}
    direct.move_slots(range(40), direct.cluster.owner_of(40))


def test_partition_and_slow(proxied: Chaos) -> None:
    result = struck(proxied, 4, "slow=200ms@1s:900ms", "partition@2500ms:500ms")
    slow, partition = result.faults
    assert slow.ended - slow.began == pytest.approx(0.9, abs=0.2)
    # A shard that answers late answers.
    assert result.seconds[1].shards[0].max_ms is not None
    assert result.seconds[1].shards[0].max_ms >= 190
    assert partition.silence is not None
    assert partition.silence.ended is not None
    assert partition.silence.ended - partition.silence.began == pytest.approx(0.5, abs=0.4)
    assert partition.recovered_after is not None
    assert slow.others_p99_before is not None
    assert slow.others_p99_during is not None
    assert slow.others_p99_during < 190
    assert errors_of_others(result) == 0


def test_rolling_restart(direct: Chaos) -> None:
    processes = {node.pid for node in direct.cluster.nodes}
    result = struck(direct, 5, "rolling-restart@0")
    assert not processes & {node.pid for node in direct.cluster.nodes}
    (fault,) = result.faults
    assert fault.shard is None
    assert fault.ended - fault.began > 3  # a second for each primary, at least
    assert result.total.operations > 1000
    check_sums(result, fault)


@pytest.mark.parametrize("width", [1, 5], ids=["commands", "pipelines"])
def test_a_shard_that_stays_silent(alone: Chaos, width: int) -> None:
    """At the end its callers are still waiting."""
    workload = Workload({"get": 1, "set": 1}, keys=200, pipeline=width, prefix="faults:")
    result = struck(alone, 1.5, "pause@500ms:1h", workload=workload, callers=6)
    (fault,) = result.faults
    assert result.total.errors == {"Unfinished": 6}
    assert sum(fault.errors.values()) == 6
    assert fault.unknown + fault.lost == 6
    if width == 1:
        assert fault.silence is not None
        assert fault.silence.ended is None
        assert fault.recovered_after is None
    else:
        # There is a write in each, of which nobody knows whether it took place.
        assert fault.unknown == 6


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_coordinated_omission(alone: Chaos, loop: str) -> None:
    """Of one second without an answer the open loop shows a second; the callers of the closed one did not ask."""
    result = struck(alone, 2.5, "pause@1s:1s", callers=2, rate=1000.0 if loop == "open" else None)
    assert result.total.errors == {}
    (pause,) = result.faults
    assert pause.ended - pause.began == pytest.approx(1, abs=0.2)
    assert pause.elected_after is None
    assert pause.silence is not None
    assert pause.silence.ended is not None
    assert pause.silence.ended - pause.silence.began == pytest.approx(1, abs=0.2)
    assert pause.recovered_after == pytest.approx(1, abs=0.2)
    latency = result.total.latency
    assert latency.max == pytest.approx(1000, rel=0.2)
    if loop == "open":
        assert latency.p999 == pytest.approx(1000, rel=0.2)
        # Whoever was due in two fifths of the time waited half a second in the mean.
        assert latency.mean == pytest.approx(1000 * 0.4 / 2, rel=0.4)
    else:
        assert latency.p999 < 100
        assert latency.mean < 10


def test_a_fault_that_does_not_come_about_is_told(direct: Chaos) -> None:
    with pytest.raises(LoadTestError, match=r"a fault did not come about: partition@0: .*needs relays"):
        struck(direct, 1, "partition@0")
