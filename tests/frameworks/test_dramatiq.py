"""dramatiq: a broker whose keys lie in one slot, by a hash tag in its namespace."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

pytest.importorskip("dramatiq", reason="needs dramatiq")

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.rate_limits.backends import RedisBackend as RateLimits
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend as ResultStore

NAMESPACE = "{dramatiq}"
PATIENCE_MS = 20_000


@pytest.fixture
def broker(client: Any) -> Iterator[RedisBroker]:
    broker = RedisBroker(
        client=client, namespace=NAMESPACE, middleware=[Results(backend=ResultStore(client=client))]
    )
    yield broker
    broker.close()


def test_a_message_is_stored_until_it_is_taken(broker: RedisBroker, reader: redis.RedisCluster) -> None:
    @dramatiq.actor(broker=broker, queue_name="mail")
    def send(to: str) -> None:
        raise AssertionError("no worker runs")

    message = send.send("someone")

    [stored] = reader.hvals(f"{NAMESPACE}:mail.msgs")
    assert dramatiq.Message.decode(stored).message_id == message.message_id
    assert dramatiq.Message.decode(stored).args == ("someone",)
    assert reader.lrange(f"{NAMESPACE}:mail", 0, -1) == reader.hkeys(f"{NAMESPACE}:mail.msgs")
    assert broker.do_qsize("mail") == 1

    broker.flush("mail")

    assert broker.do_qsize("mail") == 0
    assert not reader.exists(f"{NAMESPACE}:mail.msgs")


def test_workers_run_all_messages_once(broker: RedisBroker, reader: redis.RedisCluster) -> None:
    done: list[int] = []

    @dramatiq.actor(broker=broker, store_results=True)
    def square(number: int) -> int:
        done.append(number)
        return number * number

    worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=100)
    worker.start()
    try:
        messages = [square.send(number) for number in range(50)]
        results = [
            message.get_result(backend=broker.get_results_backend(), block=True, timeout=PATIENCE_MS)
            for message in messages
        ]
        broker.join("default", timeout=PATIENCE_MS)
    finally:
        worker.stop()

    assert results == [number * number for number in range(50)]
    assert sorted(done) == list(range(50))
    assert not reader.exists(f"{NAMESPACE}:default.msgs")


def test_a_failing_actor_is_tried_again(broker: RedisBroker) -> None:
    attempts: list[int] = []
    broker.add_middleware(dramatiq.middleware.Retries(min_backoff=1, max_backoff=10))

    @dramatiq.actor(broker=broker, max_retries=3)
    def fails_twice() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise RuntimeError("not yet")

    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=100)
    worker.start()
    try:
        fails_twice.send()
        broker.join("default", timeout=PATIENCE_MS)
        broker.join("default.DQ", timeout=PATIENCE_MS)
        worker.join()
    finally:
        worker.stop()

    assert len(attempts) == 3


def test_a_rate_limit_is_kept(client: Any, reader: redis.RedisCluster) -> None:
    """What works of dramatiq's rate limits: its `incr` watches keys in a pipeline without a transaction,
    which redis-py's cluster client refuses."""
    limits = RateLimits(client=client)

    assert limits.add("{limit}one", 1, 10_000)
    assert not limits.add("{limit}one", 1, 10_000)
    assert reader.get("{limit}one") == b"1"
    with pytest.raises(redis.RedisClusterException):
        limits.incr("{limit}one", 1, 5, 10_000)
