"""Commands and pipelines, and every way to wait for them."""

import asyncio
import contextlib
import gc
import inspect
import sys
import warnings

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from slotwise.asyncio import RedisCluster
from slotwise.local import LocalCluster
from tests.asyncio.loops import run


def test_commands_of_any_slots(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            assert isinstance(client, redis.asyncio.RedisCluster)
            keys = [f"aio:any:{i}" for i in range(100)]
            assert await asyncio.gather(*(client.set(key, i) for i, key in enumerate(keys))) == [True] * 100
            expected = [str(i).encode() for i in range(100)]
            assert await asyncio.gather(*map(client.get, keys)) == expected
            assert await client.mget_nonatomic(keys) == expected
            assert await client.exists(*keys) == 100
            assert await client.delete(*keys) == 100
            assert await client.mget_nonatomic(keys) == [None] * 100

    run(main)


def test_pipeline_keeps_the_order_of_its_calls(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            pipe = client.pipeline()
            for i in range(1000):
                pipe.set(f"aio:order:{i}", i).get(f"aio:order:{i}")
            replies = await pipe.execute()
            assert replies == [part for i in range(1000) for part in (True, str(i).encode())]
            assert await pipe.execute() == [], "the pipeline is empty after it was executed"

    run(main)


def test_pipeline_tells_errors_apart(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.set("aio:text", "word")
            pipe = client.pipeline().set("aio:first", 1).incr("aio:text").get("aio:first")
            first, error, last = await pipe.execute(raise_on_error=False)
            assert (first, last) == (True, b"1")
            assert isinstance(error, ResponseError)
            with pytest.raises(ResponseError, match=r"Command # 2 \(INCRBY\) of pipeline"):
                await client.pipeline().get("aio:first").incr("aio:text").execute()

    run(main)


def test_pipeline_to_named_nodes(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            node = client.get_primaries()[-1]
            pipe = client.pipeline()
            pipe.execute_command("CLUSTER MYID", target_nodes=node)
            pipe.execute_command("CLUSTER COUNTKEYSINSLOT", 0)
            pipe.execute_command("PING", target_nodes=RedisCluster.RANDOM)
            identity, count, pong = await pipe.execute()
            assert [identity.decode()] == [other.id for other in cluster.nodes if other.port == node.port]
            assert isinstance(count, int)
            assert pong is True

    run(main)


def test_a_node_flag_needs_no_key(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            echoes = await client.echo("hello", target_nodes=RedisCluster.ALL_NODES)
            assert list(echoes.values()) == [b"hello"] * 6

    run(main)


def test_transaction_with_watch(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client, client.pipeline(transaction=True) as pipe:
            await client.set("{aio}n", 1)
            await pipe.watch("{aio}n")
            value = int(await pipe.get("{aio}n"))
            pipe.multi()
            pipe.set("{aio}n", value + 1).incr("{aio}n")
            assert await pipe.execute() == [True, 3]

    run(main)


def test_what_is_never_awaited_is_never_sent(cluster: LocalCluster) -> None:
    """Short ways, long ways, several slots and pipelines: each warns, as a coroutine does."""

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.set("aio:quiet", 0)
            pipe = client.pipeline().set("aio:quiet", 1)
            for call in (
                lambda: client.incr("aio:quiet"),
                lambda: client.incrby("aio:quiet"),
                lambda: client.decr("aio:quiet"),
                lambda: client.set("aio:quiet", 1),
                lambda: client.set("aio:quiet", 1, ex=100),
                lambda: client.execute_command("SET", "aio:quiet", 1),
                lambda: client.mset_nonatomic({"aio:quiet": 1, "aio:quiet:2": 1}),
                lambda: client.delete("aio:quiet"),
                lambda: client.get("aio:quiet"),
                lambda: client.hget("aio:quiet", "f"),
                lambda: pipe.execute(),
            ):
                with pytest.warns(RuntimeWarning, match="never awaited"):
                    call()
            assert await client.get("aio:quiet") == b"0"

    run(main)


def test_a_call_is_awaited_once(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            call = client.incr("aio:once")
            await call
            with pytest.raises(RuntimeError, match="already awaited"):
                await call
            await client.delete("aio:once")

    run(main)


def test_a_call_may_be_what_a_loop_runs(cluster: LocalCluster) -> None:
    """``asyncio.run(client.get(key))``: each call has a loop of its own, and opens connections there."""
    client = RedisCluster.from_url(cluster.url)

    async def end() -> None:
        await client.aclose()

    with warnings.catch_warnings():
        # Nobody closes a connection when its loop has ended.
        warnings.simplefilter("ignore", ResourceWarning)
        assert asyncio.run(client.set("aio:run", 1)) is True
        assert asyncio.run(client.get("aio:run")) == b"1"
        assert asyncio.run(client.pipeline().incr("aio:run").execute()) == [2]
        asyncio.run(end())
        gc.collect()


def test_a_call_from_another_thread(cluster: LocalCluster) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with RedisCluster.from_url(cluster.url) as client:

            def elsewhere() -> object:
                return asyncio.run_coroutine_threadsafe(client.get("aio:thread"), loop).result(10)

            await client.set("aio:thread", "x")
            assert await asyncio.to_thread(elsewhere) == b"x"

    run(main)


def test_every_way_to_wait(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.set("aio:wait", "x")
            assert inspect.iscoroutine(coroutine := client.get("aio:wait"))
            assert await coroutine == b"x"
            assert await asyncio.create_task(client.get("aio:wait")) == b"x"
            assert await asyncio.ensure_future(client.get("aio:wait")) == b"x"
            assert await asyncio.wait_for(client.get("aio:wait"), 5) == b"x"
            assert await asyncio.shield(client.get("aio:wait")) == b"x"
            assert await asyncio.gather(client.get("aio:wait"), client.exists("aio:wait")) == [b"x", 1]
            tasks = {asyncio.ensure_future(client.get("aio:wait")) for _ in range(3)}
            finished, unfinished = await asyncio.wait(tasks)
            assert ([task.result() for task in finished], unfinished) == ([b"x"] * 3, set())
            done = [await first for first in asyncio.as_completed([client.get("aio:wait") for _ in range(3)])]
            assert done == [b"x"] * 3

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 brings them")
def test_task_groups_and_timeouts(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.set("aio:group", "x")
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.get("aio:group")) for _ in range(10)]
            assert [task.result() for task in tasks] == [b"x"] * 10
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.blpop("aio:no-list", timeout=0)
            assert await client.get("aio:group") == b"x"
            with contextlib.suppress(Exception):
                async with asyncio.TaskGroup() as group:
                    failing = group.create_task(client.incr("aio:group"))
                    blocked = group.create_task(client.blpop("aio:no-list", timeout=0))
            assert isinstance(failing.exception(), ResponseError)
            assert blocked.cancelled(), "the group cancelled it"
            assert await client.get("aio:group") == b"x"

    run(main)


def test_anyio(cluster: LocalCluster) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            found = []

            async def fetch(key: str) -> None:
                found.append(await client.get(key))

            await client.set("aio:any", "x")
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(fetch, "aio:any")
            assert found == [b"x"] * 5
            with anyio.move_on_after(0.05) as scope:
                await client.blpop("aio:no-list", timeout=0)
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError), anyio.fail_after(0.05):
                await client.blpop("aio:no-list", timeout=0)
            with anyio.fail_after(5):
                assert await client.get("aio:any") == b"x"

    anyio.run(main)


def test_context_entered_more_than_once(cluster: LocalCluster) -> None:
    async def main() -> None:
        client = RedisCluster.from_url(cluster.url)
        async with client:
            async with client as same:
                assert same is client
                await client.set("aio:context", 1)
            assert await client.get("aio:context") == b"1", "the inner exit closed it"
        async with client:
            assert await client.get("aio:context") == b"1", "it opens again"

    run(main)


def test_first_use_by_many_tasks_at_once(cluster: LocalCluster) -> None:
    """redis-py 8.1 applied more increments than it acknowledged, and raised for a missing writer."""

    async def main(key: str) -> None:
        client = RedisCluster.from_url(cluster.url)
        replies = await asyncio.gather(*(client.incr(key) for _ in range(20)))
        assert sorted(replies) == list(range(1, 21))
        assert await client.get(key) == b"20"
        await client.aclose()

    for round_ in range(5):
        run(main, f"aio:lazy:{round_}")


def test_response_callback_of_the_user(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.set("aio:callback", 41)
            assert await client.get("aio:callback") == b"41"
            client.set_response_callback("GET", int)
            assert await client.get("aio:callback") == 41
            assert await client.pipeline().get("aio:callback").execute() == [41]
            client.set_response_callback("INCRBY", str)
            assert await client.incr("aio:callback") == "42"
            client.set_response_callback("HGET", lambda reply: ("told", reply))
            assert await client.hget("aio:no-hash", "f") == ("told", None)

    run(main)


def test_decoding(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url, decode_responses=True) as client:
            await client.set("aio:decoded", "grüße")
            assert await client.get("aio:decoded") == "grüße"
            assert await client.set("aio:decoded", "grüße") is True
            # DUMP is never text.
            dump = await client.dump("aio:decoded")
            assert isinstance(dump, bytes)
            assert isinstance((await client.pipeline().dump("aio:decoded").execute())[0], bytes)
            assert await client.restore("aio:copy", 0, dump, replace=True)
            await client.set("aio:binary", b"\xff\xfe")
            with pytest.raises(UnicodeDecodeError):
                await client.get("aio:binary")
            assert await client.get("aio:decoded") == "grüße", "the link is in step"

    run(main)


def test_uvloop(cluster: LocalCluster) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            keys = [f"aio:uv:{i}" for i in range(500)]
            await asyncio.gather(*(client.set(key, key) for key in keys))
            assert await asyncio.gather(*map(client.get, keys)) == [key.encode() for key in keys]

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_unclosed_client_warns(cluster: LocalCluster) -> None:
    async def main() -> None:
        client = RedisCluster.from_url(cluster.url)
        await client.ping(target_nodes=RedisCluster.RANDOM)
        with pytest.warns(
            ResourceWarning, match=r"Unclosed RedisCluster client <slotwise\.asyncio\.RedisCluster"
        ):
            client.__del__(_grl=_no_loop)
        await client.aclose()
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            client.__del__()

    def _no_loop() -> None:
        raise RuntimeError

    run(main)
