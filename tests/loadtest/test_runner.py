"""Whole runs on real servers: their figures are the servers' own, and nothing is left of them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisClusterException

from slotwise import RedisCluster
from slotwise.loadtest import Fault, LoadTestError, Options, Progress, Workload, data, run
from slotwise.loadtest.expect import parse
from slotwise.loadtest.result import read
from slotwise.loadtest.runner import clean_up
from slotwise.local import LocalCluster, LocalNode, StandaloneServer
from slotwise.testing import ScriptedCluster

PREFIX = "runner:"
GETS = Workload({"get": 90, "set": 10}, keys=2000, prefix=PREFIX)


def options(cluster: LocalCluster, workload: Workload = GETS, **more: Any) -> Options:
    """As short as a run can be."""
    return Options(cluster.url, workload, **{"duration": 1.0, "warmup": 0.0, "callers": 8, **more})


def kept_keys(cluster: LocalCluster, prefix: str = PREFIX) -> set[str]:
    with RedisCluster.from_url(cluster.url) as client:
        return {key.decode() for key in client.scan_iter(match=f"{prefix}*", count=1000)}


def calls(nodes: list[LocalNode], *commands: str) -> int:
    """How often servers have executed some commands."""
    total = 0
    for node in nodes:
        for line in str(node.call("INFO", "commandstats")).splitlines():
            name, _, figures = line.removeprefix("cmdstat_").partition(":")
            if name in commands:
                total += int(figures.partition(",")[0].removeprefix("calls="))
    return total


def processed(nodes: list[LocalNode]) -> int:
    lines = [line for node in nodes for line in str(node.call("INFO", "stats")).splitlines()]
    return sum(int(line.partition(":")[2]) for line in lines if line.startswith("total_commands_processed:"))


@pytest.fixture
def nothing_left(cluster: LocalCluster) -> Iterator[None]:
    """No process, thread or key of a run remains."""
    threads = set(threading.enumerate())
    yield
    assert multiprocessing.active_children() == []
    gc.collect()
    assert set(threading.enumerate()) - threads == set()
    assert kept_keys(cluster) == set()


# -- figures --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "how",
    [
        {"loop": "asyncio"},
        {"loop": "uvloop", "processes": 2},
        {"threads": True, "callers": 4},
        {"rate": 2000.0, "poisson": True},
    ],
    ids=lambda how: " ".join(map(str, how.values())),
)
def test_throughput_is_what_the_servers_have_processed(cluster: LocalCluster, how: dict[str, Any]) -> None:
    """Without a warm-up and without storing keys all GETs and SETs are measured, but the last of each caller.

    What a warm-up does is processed and not measured; what begins before the end and ends after it neither.
    """
    if how.get("loop") == "uvloop":
        pytest.importorskip("uvloop")
    primaries = cluster.primaries
    found: list[int] = []

    def follow(now: Progress) -> None:
        if not found:
            found.extend((calls(primaries, "get", "set"), processed(primaries)))

    before = calls(primaries, "get", "set")
    workload = replace(GETS, preload=False)
    result = run(options(cluster, workload, keep=True, **{"loop": "asyncio", **how}), progress=follow)
    after, all_after = calls(primaries, "get", "set"), processed(primaries)
    with RedisCluster.from_url(cluster.url) as client:
        data.delete(client, GETS)
    assert result.total.errors == {}
    under_way = after - before - result.total.operations
    assert 0 <= under_way <= max(8 * result.options["processes"], 0.01 * result.total.operations)
    # Of the time that was followed, all commands: those that keep connections alive, and our questions, are few.
    assert all_after - found[1] == pytest.approx(after - found[0], rel=0.01, abs=60)
    assert sum(part.operations for part in result.by_shard) == result.total.operations
    assert sum(part.operations for part in result.operations) == result.total.operations
    assert sum(second.operations for second in result.seconds) == result.total.operations
    assert result.total.rate == pytest.approx(result.total.operations)
    if result.loop == "open":
        rate = how["rate"]
        assert result.total.rate == pytest.approx(rate, abs=5 * rate**0.5 + 0.02 * rate)
        assert result.late_p99_ms is not None
        assert result.due == rate
        assert result.unanswered is not None
        assert result.unanswered <= 0.02 * rate
    else:
        assert result.late_p99_ms is None
        assert result.due is result.unanswered is None
        assert 0 < result.overhead_share < 1
    assert result.overhead_us > 0


@pytest.mark.usefixtures("nothing_left")
def test_what_was_due_and_never_begun_is_told(cluster: LocalCluster) -> None:
    """One operation at once answers nowhere near a million a second."""
    result = run(options(cluster, GETS, rate=1e6, most_under_way=1, loop="asyncio"))
    assert result.due == 1_000_000
    # Those that were begun a little later and answered then have a latency; the rest has none.
    assert result.due - 4 * result.total.operations < result.unanswered < result.due - result.total.operations
    assert result.unanswered > 500_000
    # One at once was under way nearly all of the time.
    assert result.held_s is not None
    assert 0.9 < result.held_s <= 1


def test_a_warm_up_is_processed_and_not_measured(cluster: LocalCluster) -> None:
    before = calls(cluster.primaries, "get", "set")
    workload = replace(GETS, preload=False)
    result = run(options(cluster, workload, rate=1000.0, warmup=0.3, ramp=0.6))
    done = calls(cluster.primaries, "get", "set") - before
    # A ramp has half of the rate.
    assert result.total.operations == pytest.approx(1000, rel=0.05)
    assert done - result.total.operations == pytest.approx(300 + 300, rel=0.1)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "workload",
    [
        Workload({"get": 1, "set": 1}, keys=500, pipeline=20, prefix=PREFIX),
        Workload({"mget": 1}, keys=500, mget_keys=30, prefix=PREFIX),
    ],
    ids=["pipeline", "mget"],
)
def test_operations_of_many_keys(cluster: LocalCluster, workload: Workload) -> None:
    before = calls(cluster.primaries, "get", "set")
    result = run(options(cluster, workload))
    assert result.total.errors == {}
    assert result.total.operations > 10
    width = workload.pipeline if workload.pipeline > 1 else workload.mget_keys
    assert result.total.keys == width * result.total.operations
    (part,) = result.operations
    assert part.name == ("pipeline" if workload.pipeline > 1 else "mget")
    assert part.operations == result.total.operations
    # They go to all shards at once, and count for each of them.
    # (Twenty keys may all lie elsewhere, once in three thousand times.)
    answered = pytest.approx([result.total.operations] * 3, rel=0.02)
    assert [shard.operations for shard in result.by_shard] == answered
    assert sum(shard.keys for shard in result.by_shard) == result.total.keys
    assert 1 < result.imbalance < 1.2
    of_first = sum(second.shards[0].operations for second in result.seconds)
    assert of_first == result.by_shard[0].operations
    assert sum(second.operations for second in result.seconds) == result.total.operations
    if workload.pipeline > 1:
        # 500 keys were stored before, of which 100 were read.
        done = calls(cluster.primaries, "get", "set") - before - 600
        assert 0 <= done - 20 * result.total.operations <= 20 * 8


def test_cache_aside_stores_what_is_not_there(cluster: LocalCluster) -> None:
    before = {name: calls(cluster.primaries, name) for name in ("get", "set")}
    workload = Workload({"cached": 1}, keys=300, ttl=60, preload=False, prefix=PREFIX)
    result = run(options(cluster, workload, keep=True))
    gets, sets = (calls(cluster.primaries, name) - before[name] for name in ("get", "set"))
    try:
        # An operation is a GET; each key is stored once, or by several callers that missed it at once.
        assert 0 <= gets - result.total.operations <= 8
        assert 300 <= sets <= 300 * 8
        with RedisCluster.from_url(cluster.url) as client:
            assert 0 < client.ttl(f"{PREFIX}s:{0:010}") <= 60
    finally:
        with RedisCluster.from_url(cluster.url) as client:
            data.delete(client, workload)


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_keys_are_deleted_or_kept(cluster: LocalCluster, keep: bool) -> None:
    workload = Workload({"insert": 1, "scan": 1, "get": 1, "incr": 1}, keys=1500, prefix="runner[*]:")
    others = {f"runnerx:{n}": "1" for n in range(3)} | {"runner*:": "1"}
    with RedisCluster.from_url(cluster.url) as client:
        client.mset_nonatomic(others)
        run(options(cluster, workload, keep=keep, rate=200.0))
        try:
            found = {key.decode() for key in client.scan_iter(match=r"runner\[[*]\]:*", count=1000)}
            families = {key.rpartition(":")[0] for key in found}
            assert families == ({f"runner[*]:{family}" for family in "shci"} if keep else set())
            if keep:
                records = {int(key.rpartition(":")[2]) for key in found if ":h:" in key}
                assert set(range(1500)) < records
                indexed = [client.zrange(key, 0, -1) for key in found if ":i:" in key]
                assert {member.decode() for index in indexed for member in index} == {
                    key for key in found if ":h:" in key
                }
        finally:
            data.delete(client, workload)
        assert not list(client.scan_iter(match=r"runner\[[*]\]:*", count=1000))
        # What only looks alike stays.
        assert client.delete(*others) == len(others)


@pytest.mark.parametrize("ttl", [0, 100])
def test_what_is_stored_is_checked(cluster: LocalCluster, ttl: int) -> None:
    workload = replace(GETS, ttl=ttl)
    stored: list[int] = []
    with RedisCluster.from_url(cluster.url) as client:
        data.store(client, workload, 1, stored.append)
        assert sum(stored) == workload.keys
        assert len(kept_keys(cluster)) == workload.keys
        keys = sorted(kept_keys(cluster))
        assert (client.ttl(keys[0]) > 0) == bool(ttl)
        space = data.space_of(workload, data.Family.STRING)
        pool = data.values(workload.value_size, data.np.random.default_rng(1))
        data._check(client, workload, data.Family.STRING, space, pool)
        client.set(keys[0], "another")
        with pytest.raises(data.WrongDataError, match="does somebody else use this --prefix"):
            data._check(client, workload, data.Family.STRING, space, pool)
        client.delete(keys[0])
        if ttl:
            # It may have expired.
            data._check(client, workload, data.Family.STRING, space, pool)
        else:
            with pytest.raises(data.WrongDataError):
                data._check(client, workload, data.Family.STRING, space, pool)
        data.delete(client, workload)


# -- results --------------------------------------------------------------------------------------


def test_a_result_survives_its_json(cluster: LocalCluster, tmp_path: Path) -> None:
    workload = Workload({"mget": 1}, keys=100, mget_keys=5, prefix=PREFIX)
    seen: list[Progress] = []
    said: list[str] = []
    wanted = options(
        cluster, workload, seed=9, warmup=0.8, duration=1.5, expectations=parse("ops=1,p50=1h,recovery=2s")
    )
    result = run(wanted, say=said.append, progress=seen.append)
    path = tmp_path / "result.json"
    path.write_text(result.to_json())
    again = read(path)
    assert again.to_json() == result.to_json()
    assert again == result
    assert [(each.name, each.met) for each in result.expectations] == [
        ("ops", True),
        ("p50", True),
        ("recovery", False),
    ]
    assert not result.met
    assert result.seed == 9
    assert result.options["workload"]["mix"] == {"mget": 1}
    assert cluster.server_version in result.server
    assert [shard.slots for shard in result.shards] == ["0-5460", "5461-10922", "10923-16383"]
    assert {shard.node for shard in result.shards} == {
        f"{node.host}:{node.port}" for node in cluster.primaries
    }
    # The last one is half a second.
    assert [second.second for second in result.seconds] == [0, 1]
    assert sum(second.operations for second in result.seconds) == result.total.operations
    # What was told meanwhile.
    assert said == [f"{result.server}; 3 shards.", "Storing 100 keys ...", "Deleting what was stored ..."]
    assert seen[0].at < 0 < seen[-1].at
    assert max(each.rate for each in seen) == result.seconds[0].operations
    assert next(each.p99 for each in seen if each.rate) is not None
    assert result.machine.keys() >= {"processor", "memory", "system", "python", "libraries"}


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("threads", [False, True])
def test_a_generator_that_is_killed_ends_the_run(cluster: LocalCluster, threads: bool) -> None:
    def kill(now: Progress) -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(LoadTestError, match="a generator with slotwise died"):
        run(options(cluster, duration=60.0, processes=2, threads=threads), progress=kill)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "how", [{}, {"threads": True}, {"rate": 1.0}, {"rate": 1.0, "threads": True}], ids=str
)
def test_interrupted_it_leaves_nothing(cluster: LocalCluster, how: dict[str, Any]) -> None:
    """At one operation a second a generator has drawn its next quarter of an hour."""
    pids: list[int] = []

    def interrupt(now: Progress) -> None:
        if now.at > 0:
            pids.extend(child.pid or 0 for child in multiprocessing.active_children())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(options(cluster, duration=3600.0, processes=2, **how), progress=interrupt)
    assert len(pids) == 2


@pytest.mark.usefixtures("nothing_left")
def test_interrupted_while_it_stores_it_leaves_nothing(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = data.store

    def store(client: Any, workload: Workload, seed: int, after: Callable[[int], object]) -> None:
        def interrupt(number: int) -> None:
            assert kept_keys(cluster)
            raise KeyboardInterrupt

        stored(client, workload, seed, interrupt)

    monkeypatch.setattr(data, "store", store)
    with pytest.raises(KeyboardInterrupt):
        run(options(cluster))


def test_what_could_not_be_deleted_is_told() -> None:
    said: list[str] = []
    with ScriptedCluster(1) as servers, RedisCluster.from_url(servers.url) as client:
        servers.nodes[0].expect("SCAN").often().error("ERR not today")
        clean_up(client, GETS, said.append)
    assert said == [
        "Deleting what was stored ...",
        "Some keys that begin with runner: are left: ResponseError: not today",
    ]


# -- wrong options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": 0.5}, "the duration is 1 at least"),
        ({"warmup": -1}, "the warm-up is 0 at least"),
        ({"ramp": -1}, "the ramp is 0 at least"),
        ({"callers": 0}, "the number of tasks or threads is 1 at least"),
        ({"processes": 0}, "the number of processes is 1 at least"),
        ({"most_under_way": 0}, "the number of operations under way is 1 at least"),
        ({"rate": 0.0}, "above 0"),
        ({"client": "jedis"}, "no client 'jedis': there are slotwise, redis-py, valkey-glide, coredis"),
        ({"client": "coredis", "threads": True}, "coredis has no client for threads: leave out --threads"),
    ],
)
def test_what_cannot_be_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options("redis://localhost", GETS, **change)


def test_faults_need_chaos(cluster: LocalCluster) -> None:
    with pytest.raises(LoadTestError, match="faults are for a local cluster"):
        run(options(cluster, duration=5, faults=[Fault.parse("pause@1s")]))
    with pytest.raises(ValueError, match=r"pause@5s: the run of 5 s is over by then, see --duration"):
        options(cluster, duration=5, faults=[Fault.parse("pause@5s")])


def test_a_server_that_is_no_cluster(standalone: StandaloneServer) -> None:
    with pytest.raises(RedisClusterException):
        run(Options(standalone.url, GETS))
    assert multiprocessing.active_children() == []


def test_a_client_that_fails_tells_why(cluster: LocalCluster, tmp_path: Path) -> None:
    """What goes wrong in a generator is told in its words: here the values are gone when it wants them."""
    path = tmp_path / "values"
    path.write_text("one\ntwo\n")
    workload = replace(GETS, value_size=f"file:{path}", preload=False)
    path.unlink()
    with pytest.raises(LoadTestError, match=r"slotwise: FileNotFoundError: .*values"):
        run(options(cluster, workload))
