"""Reads from replicas, as of the client for threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.cache import CacheConfig

from slotwise import LoadBalancingStrategy, ReadFrom
from slotwise.asyncio import RedisCluster, offsets
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from tests.asyncio.loops import run
from tests.fixtures.replicated import ReplicatedShard
from tests.sync.test_replicas import HOW, READS, REPLICAS, STRATEGIES, served_by_the_replica

PATIENCE = 10.0
# Whoever waits before another try fails the test.
PATIENT = Retry(ConstantBackoff(3600), 3)


@pytest.fixture
def shard() -> Iterator[ReplicatedShard]:
    with ReplicatedShard() as cluster:
        yield cluster


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def answers(client: Any, how: str) -> Counter[int]:
    """Which nodes answered, how often."""
    if how in ("calls", "cached"):
        return Counter([int(await client.get(f"k{n}")) for n in range(READS)])
    if how == "pipeline":
        pipe = client.pipeline()
        for n in range(READS):
            pipe.get(f"k{n}")
        return Counter(map(int, await pipe.execute()))
    if how == "mget_nonatomic":
        return Counter(map(int, await client.mget_nonatomic([f"k{n}" for n in range(READS)])))
    return Counter([int((await client.mget(f"k{n}"))[0]) for n in range(READS)])


async def answering(client: Any, key: str = "a") -> set[int]:
    return {int(await client.get(key)) for _ in range(4)}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("strategy", "expected"), STRATEGIES.items(), ids=str)
def test_strategy(shard: ReplicatedShard, strategy: Any, expected: set[int], how: str) -> None:
    shard.tell_zones(["west", "east", "west"])
    caching = {"cache_config": CacheConfig()} if how == "cached" else {}

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=strategy, **caching) as client:
            seen = await answers(client, how)
            is_random = strategy in (LoadBalancingStrategy.RANDOM, LoadBalancingStrategy.RANDOM_REPLICA)
            assert set(seen) == expected or (is_random and set(seen) < expected)
            assert is_random or len(set(seen.values())) == 1, "even"
            if how == "cached":
                assert await answers(client, how) == seen
                assert sum(node.count("GET") for node in shard.nodes) == READS, "kept, whoever answered"
            assert await client.set("k", 1) is True, "writes go to the primary"
            assert await client.pipeline().set("k", 1).execute() == [True]

    run(main)


def test_read_from_replicas_is_round_robin(shard: ReplicatedShard) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(shard.url, read_from_replicas=True) as client:
            assert set(await answers(client, "calls")) == {0, 1, 2}

    run(main)


@pytest.mark.parametrize(
    ("client_class", "expected"),
    [
        pytest.param(RedisCluster, {1, 2}, id="slotwise"),
        pytest.param(redis.asyncio.RedisCluster, {0}, id="redis-py"),
    ],
)
def test_mget_nonatomic_asks_replicas(shard: ReplicatedShard, client_class: Any, expected: set[int]) -> None:
    """Defect 13 of redis-py 8.1, beside redis-py itself. Should redis-py mend it, its half fails and goes."""

    async def main() -> None:
        strategy = LoadBalancingStrategy.ROUND_ROBIN_REPLICAS
        async with client_class.from_url(shard.url, load_balancing_strategy=strategy) as client:
            assert set(await answers(client, "calls")) == {1, 2}
            assert set(await answers(client, "mget_nonatomic")) == expected

    asyncio.run(main())
    # redis-py leaves nodes unclosed: here, not in the event loop of the next test.
    gc.collect()


def test_a_tracer_changes_nothing(shard: ReplicatedShard, monkeypatch: pytest.MonkeyPatch) -> None:
    original = redis.asyncio.RedisCluster.execute_command
    seen: list[Any] = []

    async def traced(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(args[0])
        return await original(self, *args, **options)

    shard.lag = [500, 500]

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=REPLICAS) as client:
            monkeypatch.setattr(redis.asyncio.RedisCluster, "execute_command", traced)
            session = client.session()
            assert await answering(session) == {1, 2}
            await session.set("a", 1)
            assert await answering(session) == {0}
            assert await answering(client) == {1, 2}

    run(main)
    assert Counter(seen) == {"GET": 12, "SET": 1}


# -- what goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", ["MOVED", "LOADING Redis is loading", "MASTERDOWN Link with MASTER is down"]
)
def test_a_replica_that_cannot_answer_is_asked_once(shard: ReplicatedShard, error: str) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(
            shard.url, load_balancing_strategy=REPLICAS, retry=PATIENT
        ) as client:
            text = f"MOVED {client.keyslot('a')} {shard.primary.address}" if error == "MOVED" else error
            for node in shard.replicas:
                shard.answer(node, "GET").error(text)
            assert await client.get("a") == b"0"
            assert await client.pipeline().get("a").execute() == [b"0"]

    run(main)
    assert [node.count("GET") for node in shard.nodes] == [2, 1, 1]


def test_replica_that_is_gone_does_not_end_the_read(shard: ReplicatedShard) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(
            shard.url, load_balancing_strategy=REPLICAS, retry=PATIENT
        ) as client:
            shard.nodes[1].stop()
            assert await answering(client) <= {0, 2}
            assert set(await client.pipeline().get("a").get("b").execute()) <= {b"0", b"2"}

    run(main)


def test_replicas_stand_in_for_a_primary_that_is_down(shard: ReplicatedShard) -> None:
    """And for each other."""
    strategy = ReadFrom(when_primary_is_down="replica")

    async def main() -> None:
        async with RedisCluster.from_url(
            shard.url, load_balancing_strategy=strategy, retry=Retry(ConstantBackoff(0.05), 10)
        ) as client:
            assert await answering(client) == {0}
            shard.primary.stop()
            assert await answering(client) <= {1, 2}
            assert set(await answers(client, "pipeline")) <= {1, 2}
            assert set(await answers(client, "mget_nonatomic")) <= {1, 2}
            shard.answer(shard.nodes[1], "GET").error("LOADING Redis is loading")
            assert await answering(client) == {2}
            assert set(await client.pipeline().get("a").get("a").execute()) == {b"2"}

    run(main)


def test_the_fastest_node_answers(shard: ReplicatedShard) -> None:
    for number in (0, 2):
        shard.answer(shard.nodes[number], "GET").delay(0.1).reply(b"%d" % number)

    async def main() -> None:
        strategy = ReadFrom("lowest_latency")
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=strategy) as client:
            seen = await answers(client, "calls")
            assert seen[0] == seen[2] == 1, "each was tried"
            assert (await answers(client, "mget"))[1] > READS / 2, "what is known holds for all reads"

    run(main)


# -- how far replicas are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"max_lag": 5.0}, {"max_lag_bytes": 10}], ids=["seconds", "bytes"])
def test_a_replica_that_is_too_far_behind_is_passed_over(
    shard: ReplicatedShard, limit: dict[str, Any]
) -> None:
    shard.lag = [0, 500]
    tell = threading.Event()
    shard.answer(shard.primary, "INFO", "replication").until(tell).reply(shard.replication)

    async def main() -> None:
        strategy = ReadFrom("round_robin_replicas", **limit)
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=strategy) as client:
            assert await client.get("a") == b"0", "nothing is known yet"
            tell.set()

            async def answered_by(*numbers: int) -> bool:
                return await answering(client) == set(numbers)

            await until(lambda: answered_by(1))
            assert set(await answers(client, "pipeline")) == {1}
            shard.lag = [0, 0]
            await until(lambda: answered_by(1, 2))

    run(main)


def test_a_primary_that_was_demoted_is_not_believed(shard: ReplicatedShard) -> None:
    """It answers reads as before, with data that grow old."""
    shard.lag = [500, 500]
    strategy = ReadFrom("round_robin", max_lag=0.1)

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=strategy) as client:
            assert await answering(client) == {0}
            asked = sum(node.topology_asked for node in shard.nodes)
            shard.demote()

            async def known() -> bool:
                refreshed = sum(node.topology_asked for node in shard.nodes) > asked
                return await answering(client) == {1} and refreshed

            await until(known)

    run(main)


def test_nobody_is_asked_unless_reads_depend_on_it(
    shard: ReplicatedShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "LINGER", 0.05)

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=REPLICAS) as client:
            await answers(client, "calls")
        strategy = ReadFrom("round_robin_replicas", max_lag=0.02)
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=strategy) as client:

            async def asked(count: int) -> bool:
                await client.get("a")
                return shard.primary.count("INFO") >= count

            async def ended() -> bool:
                asking = client.nodes_manager.offsets
                return asking is not None and asking._timer is None and asking._task is None

            await client.set("a", 1)
            assert shard.primary.count("INFO") == 0
            # Every 0.01 seconds, for 0.05 seconds after the last read.
            await until(lambda: asked(3))
            await until(ended)
            count = shard.primary.count("INFO")
            await client.get("a")
            await until(lambda: asked(count + 1))

    run(main)


def test_a_client_that_is_closed_while_it_asks(shard: ReplicatedShard) -> None:
    """No task is left, and nobody waits for the answer."""
    shard.answer(shard.primary, "INFO")  # and no answer

    async def main() -> None:
        strategy = ReadFrom("round_robin_replicas", max_lag=5.0)
        client = RedisCluster.from_url(shard.url, load_balancing_strategy=strategy)
        assert await client.get("a") == b"0"

        async def asked() -> bool:
            return shard.primary.count("INFO") == 1

        await until(asked)
        started = time.monotonic()
        await client.aclose()
        assert time.monotonic() - started < offsets.ANSWER_TIMEOUT
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_the_timer_keeps_no_client_alive(shard: ReplicatedShard) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        strategy = ReadFrom("round_robin_replicas", max_lag=5.0)
        client = RedisCluster.from_url(shard.url, load_balancing_strategy=strategy)
        # Open links would keep it alive, as long as their loop lives.
        await client.initialize()
        manager = weakref.ref(client.nodes_manager)
        asking = client.nodes_manager.offsets
        assert asking is not None
        asking.want(time.monotonic())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del client, asking
            gc.collect()
        assert manager() is None

    # Not `run`, which takes what redis-py tells the loop of such a client for an error.
    asyncio.run(main())
    assert shard.primary.count("INFO") == 0


def test_another_loop_asks_anew(shard: ReplicatedShard) -> None:
    strategy = ReadFrom("round_robin_replicas", max_lag=5.0)
    client = RedisCluster.from_url(shard.url, load_balancing_strategy=strategy)

    async def main(close: bool) -> None:
        before = shard.primary.count("INFO")
        await client.get("a")

        async def asked() -> bool:
            return shard.primary.count("INFO") > before

        await until(asked)
        if close:
            await client.aclose()

    asyncio.run(main(False))
    run(main, True)


# -- sessions ------------------------------------------------------------------------------------------------------------


def test_a_session_reads_what_it_has_written(shard: ReplicatedShard) -> None:
    shard.lag = [500, 500]

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=REPLICAS) as client:
            async with client.session() as session:
                assert await answering(session) == {1, 2}
                await session.set("a", 1)
                assert await answering(session) == {0}
                assert await session.pipeline().get("a").get("{a}").execute() == [b"0"] * 2
                assert await session.mget_nonatomic("a") == [b"0"]
                assert await answering(session, "b") == {1, 2}, "another slot"
                assert await answering(client) == {1, 2}, "another user"
                shard.lag = [0, 500]

                async def caught_up() -> bool:
                    return await answering(session) == {1}

                await until(caught_up)
            assert await client.get("a") in (b"1", b"2"), "the client is still open"
            session = client.session(bound=0.2)
            await session.set("b", 1)
            assert await answering(session, "b") == {0}

            async def waited() -> bool:
                return await answering(session, "b") == {1, 2}

            shard.lag = [500, 500]
            await until(waited)

    run(main)


def test_a_session_is_a_client(shard: ReplicatedShard) -> None:
    async def main() -> None:
        client = RedisCluster.from_url(shard.url, load_balancing_strategy=REPLICAS)
        # It finds the cluster for the client, and leaves it to the client to end.
        session = client.session()
        assert isinstance(session, RedisCluster)
        assert await answering(session) == {1, 2}
        assert session.get_nodes() == client.get_nodes()
        opened = [node.accepted for node in shard.nodes]
        assert await answering(session.session()) == await answering(client) == {1, 2}
        assert [node.accepted for node in shard.nodes] == opened, "over the client's connections"
        await session.aclose()
        del session
        gc.collect()
        assert await answering(client) == {1, 2}
        await client.aclose()

    run(main)


def test_in_a_session_a_pipeline_reads_its_own_writes(shard: ReplicatedShard) -> None:
    shard.lag = [500, 500]

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=REPLICAS) as client:
            pipe = client.session().pipeline()
            assert (await pipe.get("a").set("a", 1).get("a").get("b").execute())[1:3] == [True, b"0"]
            assert {(await pipe.get("b").execute())[0] for _ in range(4)} == {b"1", b"2"}
            assert {(await pipe.get("a").execute())[0] for _ in range(4)} == {b"0"}

    run(main)


def test_all_that_may_have_written_is_a_write(shard: ReplicatedShard) -> None:
    """A transaction, and a call whose outcome is unknown."""
    shard.lag = [500, 500]
    for command, reply in (("MULTI", "OK"), ("INCR", "QUEUED"), ("INCRBY", "QUEUED"), ("EXEC", [1])):
        shard.primary.expect(command).often().reply(reply)
    shard.primary.expect("APPEND").close()

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=REPLICAS) as client:
            session = client.session()
            assert await session.pipeline(transaction=True).incr("a").execute() == [1]
            assert await answering(session) == {0}
            with pytest.raises(UnknownOutcomeError):
                await session.append("b", "more")
            assert await answering(session, "b") == {0}

    run(main)


async def append_in_a_pipeline(session: Any, shard: ReplicatedShard) -> None:
    await session.pipeline().append("a", 1).execute()


async def append_behind_watch(session: Any, shard: ReplicatedShard) -> None:
    async with session.pipeline(transaction=True) as pipe:
        await pipe.watch("a")

        async def caught_up() -> bool:
            return await answering(session) == {1, 2}

        # WATCH counts as a write as well.
        shard.lag = [0, 0]
        await until(caught_up)
        shard.lag = [500, 500]
        await pipe.append("a", 1)


@pytest.mark.parametrize("ends", ["lost", "cancelled"])
@pytest.mark.parametrize("write", [append_in_a_pipeline, append_behind_watch])
def test_a_write_without_a_reply_is_a_write(shard: ReplicatedShard, write: Any, ends: str) -> None:
    shard.lag = [500, 500]
    shard.primary.expect("WATCH").often().reply("OK")
    append, release = shard.primary.expect("APPEND"), threading.Event()
    if ends == "lost":
        append.close()
    else:
        append.until(release).reply(1)

    async def main() -> None:
        async with RedisCluster.from_url(shard.url, load_balancing_strategy=REPLICAS) as client:
            session = client.session()
            assert await answering(session) == {1, 2}
            task = asyncio.create_task(write(session, shard))
            while not shard.primary.count("APPEND"):
                await asyncio.sleep(0.001)
            if ends == "cancelled":
                task.cancel()
            with pytest.raises((UnknownOutcomeError, asyncio.CancelledError)):
                await task
            release.set()
            assert await answering(session) == {0}

    run(main)


def test_a_kept_reply_may_be_older_than_a_sessions_write(shard: ReplicatedShard) -> None:
    """So may one that another task is asking for."""
    shard.lag = [500, 500]

    async def main() -> None:
        async with RedisCluster.from_url(
            shard.url, load_balancing_strategy=REPLICAS, cache_config=CacheConfig()
        ) as client:
            session = client.session()
            await session.set("a", 1)
            assert await asyncio.gather(client.get("a"), session.get("a")) == [b"1", b"0"]
            assert await session.get("a") == b"0"
            await session.set("b", 1)
            assert await client.get("b") == b"2"
            assert [await session.get("b") for _ in range(2)] == [b"0", b"0"]

    run(main)
    assert shard.primary.count("GET") == 2, "and the primary's reply is kept"


def test_a_session_of_a_client_that_asks_primaries_anyway(shard: ReplicatedShard) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(shard.url) as client, client.session() as session:
            await session.set("a", 1)
            assert await answering(session) == {0}
            assert await session.pipeline().get("a").execute() == [b"0"]

    run(main)
    assert shard.primary.count("INFO") == 0


# -- a real cluster ------------------------------------------------------------------------------------------------------


def test_a_real_session(cluster: LocalCluster) -> None:
    """It never misses its write, and replicas answer as soon as they are known to have it."""

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, load_balancing_strategy=REPLICAS) as client:
            session = client.session()
            for n in range(300):
                await session.set(f"session:{n % 10}", n)
                assert await session.get(f"session:{n % 10}") == b"%d" % n
            served = served_by_the_replica(cluster, client.keyslot("session:9"))

            async def caught_up() -> bool:
                return bool(await session.get("session:9") == b"299" and served() > 0)

            await until(caught_up)

    run(main)


def test_a_real_lag(cluster: LocalCluster) -> None:
    async def main() -> None:
        strategy = ReadFrom("round_robin_replicas", max_lag=5.0)
        async with RedisCluster.from_url(cluster.url, load_balancing_strategy=strategy) as client:
            await client.set("lag", "value")
            served = served_by_the_replica(cluster, client.keyslot("lag"))

            async def answered() -> bool:
                return bool(await client.get("lag") == b"value" and served() > 0)

            await until(answered)

    run(main)
