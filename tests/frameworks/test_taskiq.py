"""taskiq-redis: its cluster brokers, results and schedules. Results are stored inside ``async with`` of a shared client."""

import asyncio
import uuid
from typing import Any

import pytest
import redis

import slotwise.asyncio
from slotwise.local import LocalCluster
from tests.asyncio.loops import run

pytest.importorskip("taskiq_redis", reason="needs taskiq-redis")

from taskiq import ScheduledTask, TaskiqResult
from taskiq.api import run_receiver_task
from taskiq.serializers import JSONSerializer
from taskiq_redis import (
    ListQueueClusterBroker,
    RedisAsyncClusterResultBackend,
    RedisClusterScheduleSource,
    RedisStreamClusterBroker,
    redis_backend,
    redis_cluster_broker,
    schedule_source,
)
from taskiq_redis.exceptions import ResultIsMissingError

TASKS = 50

# Over redis-py 8.1 both fail now and then: each end of an ``async with`` interrupts what other tasks have under way, and
# a GETDEL that was interrupted is sent again and finds nothing.
only_slotwise = pytest.mark.parametrize("async_class", [slotwise.asyncio.RedisCluster], ids=["slotwise"])


@pytest.fixture(autouse=True)
def _over(async_class: Any, monkeypatch: pytest.MonkeyPatch, reader: redis.RedisCluster) -> None:
    for module in (redis_backend, redis_cluster_broker, schedule_source):
        monkeypatch.setattr(module, "RedisCluster", async_class)


@only_slotwise
@pytest.mark.parametrize("broker_class", [ListQueueClusterBroker, RedisStreamClusterBroker])
def test_every_task_runs_once(
    broker_class: Any, async_class: Any, cluster: LocalCluster, reader: redis.RedisCluster
) -> None:
    done: list[int] = []

    async def main() -> None:
        results: Any = RedisAsyncClusterResultBackend(
            cluster.url, result_ex_time=100, serializer=JSONSerializer(), prefix_str="result"
        )
        broker = broker_class(cluster.url, queue_name="queue").with_result_backend(results)
        assert type(broker.redis) is type(results.redis) is async_class

        @broker.task
        async def square(number: int) -> int:
            done.append(number)
            return number * number

        await broker.startup()
        tasks = [await square.kiq(number) for number in range(TASKS)]
        stored = reader.xlen("queue") if broker_class is RedisStreamClusterBroker else reader.llen("queue")
        assert stored == TASKS
        worker = asyncio.create_task(run_receiver_task(broker))
        try:
            values = await asyncio.gather(*(task.wait_result(0.01, timeout=30) for task in tasks))
        finally:
            worker.cancel()
            # Each message is acknowledged by a task of its own.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait(others, timeout=30)
            await broker.shutdown()
        assert [value.return_value for value in values] == [number * number for number in range(TASKS)]
        assert sorted(done) == list(range(TASKS))
        first = reader.get(f"result:{tasks[0].task_id}")
        assert JSONSerializer().loadb(first)["return_value"] == 0
        assert 0 < reader.ttl(f"result:{tasks[0].task_id}") <= 100

    run(main)
    if broker_class is RedisStreamClusterBroker:
        [group] = reader.xinfo_groups("queue")
        assert (group["entries-read"], group["pending"]) == (TASKS, 0)
    else:
        assert reader.llen("queue") == 0


@only_slotwise
def test_results_are_taken_once(cluster: LocalCluster, reader: redis.RedisCluster) -> None:

    async def main() -> None:
        results: Any = RedisAsyncClusterResultBackend(cluster.url, keep_results=False)
        names = [uuid.uuid4().hex for _ in range(20)]

        async def store_and_take(name: str) -> Any:
            result = TaskiqResult(is_err=False, return_value=name, execution_time=0.1)
            await results.set_result(name, result)
            assert await results.is_result_ready(name)
            return (await results.get_result(name)).return_value

        assert await asyncio.gather(*map(store_and_take, names)) == names
        assert reader.exists(*names) == 0
        with pytest.raises(ResultIsMissingError):
            await results.get_result(names[0])
        await results.shutdown()

    run(main)


def test_schedules_of_any_slots(cluster: LocalCluster, reader: redis.RedisCluster) -> None:
    async def main() -> None:
        source = RedisClusterScheduleSource(cluster.url, prefix="plan")
        names = [f"job-{number}" for number in range(20)]
        for name in names:
            await source.add_schedule(
                ScheduledTask(
                    task_name=name, labels={}, args=[], kwargs={}, schedule_id=name, cron="* * * * *"
                )
            )
        assert len(reader.keys("plan:*", target_nodes="primaries")) == 20
        assert sorted(task.task_name for task in await source.get_schedules()) == sorted(names)
        await source.delete_schedule("job-0")
        assert reader.exists("plan:job-0") == 0
        await source.shutdown()

    run(main)
