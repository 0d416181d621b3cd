"""Clients and event loops: one each, several threads, one after the other; and the end of both."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from slotwise.asyncio import RedisCluster
from slotwise.errors import ConnectionError
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster
from tests.asyncio.loops import run


def test_loops_in_threads_with_a_client_each(cluster: LocalCluster) -> None:
    failures: list[BaseException] = []

    async def main(number: int) -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            names = [f"aio:thread:{number}:{i}" for i in range(200)]
            for _ in range(10):
                await asyncio.gather(*(client.set(name, name) for name in names))
                assert await asyncio.gather(*map(client.get, names)) == [name.encode() for name in names]

    def thread(number: int) -> None:
        try:
            run(main, number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures


def test_one_client_in_two_live_loops(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with RedisCluster.from_url(cluster.url) as client:
            await client.set("aio:loops", 1)
            for call in (
                lambda: client.get("aio:loops"),
                lambda: client.lrange("aio:loops", 0, 1),
                lambda: client.pipeline().get("aio:loops").execute(),
                client.initialize,
            ):

                def elsewhere(call=call) -> None:  # type: ignore[no-untyped-def]
                    async def use() -> None:
                        with pytest.raises(RuntimeError, match="one client per event loop"):
                            await call()

                    asyncio.run(use())

                await asyncio.to_thread(elsewhere)
            assert await client.get("aio:loops") == b"1", "its own loop goes on"

    run(main)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("close", [True, False])
def test_one_loop_after_the_other(cluster: LocalCluster, close: bool) -> None:
    client = RedisCluster.from_url(cluster.url)

    async def main(number: int) -> None:
        assert await client.set("aio:again", number) is True
        assert await client.get("aio:again") == str(number).encode()
        assert await client.pipeline().get("aio:again").execute() == [str(number).encode()]
        if close or number == 2:
            await client.aclose()

    for number in range(3):
        run(main, number)


def test_closing_ends_what_is_under_way() -> None:
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        release = threading.Event()
        node.expect("GET", "a").until(release).reply(b"late")

        async def main() -> None:
            client = RedisCluster.from_url(cluster.url)
            tasks = [asyncio.create_task(client.get("a"))]
            while not node.count("GET", "a"):
                await asyncio.sleep(0.001)
            await client.aclose()
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 2)
            assert all(isinstance(result, ConnectionError) for result in results), results

        try:
            run(main)
        finally:
            release.set()
        assert node.count("GET") == 1, "nothing is sent again after the end"


def test_the_end_of_a_block_spares_other_tasks(cluster: LocalCluster) -> None:
    """taskiq-redis enters one client for every result that it stores, and polls the same client for others."""

    async def main() -> None:
        client = RedisCluster.from_url(cluster.url)
        await client.delete(*(f"aio:outside:{n}" for n in range(5)))

        async def inside() -> None:
            for number in range(20):
                async with client as entered:
                    await entered.set("aio:inside", number)
                await asyncio.sleep(0)

        async def outside(number: int) -> None:
            for count in range(1, 101):
                assert await client.incr(f"aio:outside:{number}") == count
                await client.pipeline().get("aio:inside").incr(f"aio:outside:{number}", 0).execute()

        await asyncio.gather(*(inside() for _ in range(5)), *(outside(number) for number in range(5)))
        await client.aclose()

    run(main)


def test_blocks_end_at_any_time(cluster: LocalCluster) -> None:
    """Blocks that end while others begin, and all kinds of calls from tasks outside of them."""
    names = [f"aio:any:{n}" for n in range(20)]

    async def main() -> None:
        client = RedisCluster.from_url(cluster.url)
        await client.mset_nonatomic(dict.fromkeys(names, 1))
        draw = random.Random(7)
        going = 8

        async def block() -> None:
            nonlocal going
            for _ in range(120):
                async with client:
                    for _ in range(draw.randrange(3)):
                        await asyncio.sleep(0)
                    if draw.random() < 0.5:
                        assert await client.exists(*names) == len(names)
                for _ in range(draw.randrange(8)):
                    await asyncio.sleep(0)
            going -= 1

        async def outside(call: Callable[[], Awaitable[Any]], expected: Any) -> int:
            count = 0
            while going:
                assert await call() == expected
                count += 1
            return count

        counts = await asyncio.gather(
            outside(lambda: client.exists(*names), len(names)),
            outside(lambda: client.mget_nonatomic(names), [b"1"] * len(names)),
            outside(lambda: client.get(names[0]), b"1"),
            outside(lambda: client.strlen(names[1]), 1),
            outside(lambda: client.pipeline().get(names[2]).strlen(names[3]).execute(), [b"1", 1]),
            outside(lambda: client.cluster_keyslot("a"), 15495),
            outside(lambda: client.ping(target_nodes=RedisCluster.PRIMARIES), True),
            *(block() for _ in range(going)),
        )
        assert all(counts[:7])
        await client.aclose()

    run(main)


def test_the_end_of_a_block_does_not_wait_for_ever() -> None:
    with ScriptedCluster(1) as cluster:
        release = threading.Event()
        cluster.nodes[0].expect("GET", "a").until(release)
        cluster.nodes[0].expect("PING").often()

        async def main() -> None:
            async with RedisCluster.from_url(cluster.url) as client:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.get("a"), 0.05)

        try:
            run(main)
            assert not release.is_set(), "the block ended without the reply"
        finally:
            release.set()


def test_a_client_that_was_left_may_move_to_another_loop(cluster: LocalCluster) -> None:
    client = RedisCluster.from_url(cluster.url)

    async def use() -> None:
        async with client:
            await client.set("aio:moved", 1)

    async def main() -> None:
        await use()
        await asyncio.to_thread(asyncio.run, use())
        await use()

    run(main)


def test_a_closed_client_opens_again(cluster: LocalCluster) -> None:
    async def main() -> None:
        client = RedisCluster.from_url(cluster.url)
        for number in range(3):
            await client.set("aio:reopen", number)
            assert await client.get("aio:reopen") == str(number).encode()
            await client.aclose()
            await client.aclose()

    run(main)
