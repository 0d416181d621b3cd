"""Clients and event loops: one each, several threads, one after the other; and the end of both."""

import asyncio
import threading

import pytest

from slotwise.asyncio import RedisCluster
from slotwise.errors import ConnectionError
from slotwise.local import LocalCluster
from tests.asyncio.loops import run
from tests.fixtures.scripted import ScriptedCluster


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


def test_a_closed_client_opens_again(cluster: LocalCluster) -> None:
    async def main() -> None:
        client = RedisCluster.from_url(cluster.url)
        for number in range(3):
            await client.set("aio:reopen", number)
            assert await client.get("aio:reopen") == str(number).encode()
            await client.aclose()
            await client.aclose()

    run(main)
