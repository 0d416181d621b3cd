"""What a link does in one turn of the loop is bounded, whatever came and whatever is to be sent."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from slotwise._aiolink import AsyncLink, Turns
from tests.asyncio.loops import run

WAKE_MAX = 384
TURN_BYTES = 1 << 20
WRITE_MAX = 1 << 18


class Transport:
    """Takes everything, or as much as `takes` says until it asks for a pause."""

    def __init__(self, takes: float, minds: bool) -> None:
        self.takes = takes
        self.minds = minds
        self.written: list[bytes] = []
        self.reading = True
        self.pauses = 0
        self.aborted = False
        self.link: Any = None
        # What the kernel has and the link was not given yet.
        self.arrived = b""

    def read_once(self) -> None:
        """One read of what has arrived, as an event loop does it in one turn."""
        if self.reading and self.arrived:
            with self.link.get_buffer(-1) as room:
                n = min(len(room), len(self.arrived))
                room[:n] = self.arrived[:n]
            self.arrived = self.arrived[n:]
            self.link.buffer_updated(n)

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.takes -= len(data)
        if self.takes <= 0:
            self.link.pause_writing()

    def pause_reading(self) -> None:
        assert self.reading or not self.minds
        self.reading = False
        self.pauses += 1

    def resume_reading(self) -> None:
        assert not self.reading or not self.minds
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


def with_link(
    test: Callable[[AsyncLink, Transport], Any], takes: float = float("inf"), minds: bool = True
) -> None:
    async def main() -> None:
        transport = Transport(takes, minds)
        link = transport.link = AsyncLink(None, Turns(asyncio.get_running_loop()), transport, None)
        await test(link, transport)
        link.close()
        assert transport.aborted

    run(main)


def test_a_turn_wakes_a_bounded_number() -> None:
    async def test(link: AsyncLink, transport: Transport) -> None:
        futures = [link.execute(("GET", "k")) for _ in range(10_000)]
        await asyncio.sleep(0)
        transport.arrived = b"".join(b"$5\r\n%05d\r\n" % number for number in range(10_000))
        done = 0
        while done < len(futures):
            transport.read_once()
            await asyncio.sleep(0)
            before, done = done, sum(future.done() for future in futures)
            # Those of the turn that this read was in, and of the next.
            assert done - before <= 2 * WAKE_MAX
        assert [future.result() for future in futures] == [b"%05d" % number for number in range(10_000)]
        await asyncio.sleep(0)
        assert transport.pauses, "what comes in between is left with the kernel"
        assert transport.reading

    with_link(test)


def test_links_share_the_turn() -> None:
    async def main() -> None:
        turns = Turns(asyncio.get_running_loop())
        links, transports, futures = [], [], []
        for _ in range(10):
            transport = Transport(float("inf"), True)
            link = transport.link = AsyncLink(None, turns, transport, None)
            futures += [link.execute(("GET", "k")) for _ in range(1000)]
            links.append(link)
            transports.append(transport)
        await asyncio.sleep(0)
        for transport in transports:
            transport.arrived = b":1\r\n" * 1000
            transport.read_once()
        done = sum(future.done() for future in futures)
        assert done == WAKE_MAX
        assert not any(transport.reading for transport in transports)
        while all(link.commands for link in links):
            await asyncio.sleep(0)
            before, done = done, sum(future.done() for future in futures)
            assert done - before <= WAKE_MAX
        assert all(link.commands < 1000 for link in links), (
            "the first one is ready, the others had their turns"
        )
        await asyncio.gather(*futures)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all(transport.reading for transport in transports)
        for link in links:
            link.close()

    run(main)


def test_small_writes_wait_for_those_who_were_woken() -> None:
    async def main() -> None:
        turns = Turns(asyncio.get_running_loop())
        busy, other = Transport(float("inf"), True), Transport(float("inf"), True)
        for transport in (busy, other):
            transport.link = AsyncLink(None, turns, transport, None)
        futures = [busy.link.execute(("GET", "k")) for _ in range(1000)]
        # Nobody was woken: it goes when the turn ends.
        other.link.execute(("GET", "k"))
        await asyncio.sleep(0)
        assert len(other.written) == 1
        calls = 40
        for _ in range(calls):
            other.link.execute(("GET", "k"))
            busy.arrived = b":1\r\n"
            busy.read_once()
            await asyncio.sleep(0)
        assert 1 + calls / 6 < len(other.written) < 1 + calls / 4
        while other.link.commands > sum(written.count(b"GET") for written in other.written):
            await asyncio.sleep(0)
        # What is worth a write goes whoever was woken.
        written = len(other.written)
        other.link.execute(("SET", "k", b"x" * 4000))
        busy.arrived = b":1\r\n"
        busy.read_once()
        await asyncio.sleep(0)
        assert len(other.written) == written + 1
        assert sum(future.done() for future in futures) == calls + 1
        for transport in (busy, other):
            transport.link.close()

    run(main)


def test_what_came_before_the_end_is_read() -> None:
    async def test(link: AsyncLink, transport: Transport) -> None:
        futures = [link.execute(("GET", "k")) for _ in range(1000)]
        await asyncio.sleep(0)
        transport.arrived = b":1\r\n" * 900
        transport.read_once()
        assert not transport.reading
        link.connection_lost(None)
        replies = [future.result() for future in futures]
        assert replies[:900] == [1] * 900
        assert all("closed" in str(reply.what) for reply in replies[900:])

    with_link(test)


def test_a_transport_that_does_not_mind_the_pause() -> None:
    async def test(link: AsyncLink, transport: Transport) -> None:
        futures = [link.execute(("GET", "k")) for _ in range(30_000)]
        await asyncio.sleep(0)
        # Errors are made by another parser, which takes bytes in larger pieces than replies.
        transport.arrived = b":1\r\n-ERR no\r\n" * 15_000
        while transport.arrived:
            transport.reading = True
            transport.read_once()
        replies = await asyncio.gather(*futures)
        assert replies[::2] == [1] * 15_000
        assert all(reply.what.text == "ERR no" for reply in replies[1::2])

    with_link(test, minds=False)


def test_an_end_between_two_slices() -> None:
    async def test(link: AsyncLink, transport: Transport) -> None:
        futures = [link.execute(("GET", "k")) for _ in range(1000)]
        await asyncio.sleep(0)
        transport.arrived = b":1\r\n" * 1000
        transport.read_once()
        link.close()
        await asyncio.sleep(0)
        assert sum(future.result() == 1 for future in futures) == WAKE_MAX

    with_link(test)


@pytest.mark.parametrize("sizes", [[100_000_000], [1000] * 4000], ids=["one large", "many small"])
def test_a_turn_writes_a_bounded_amount(sizes: list[int]) -> None:
    async def test(link: AsyncLink, transport: Transport) -> None:
        values = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
        for value in values:
            link.execute(("SET", "k", value))
        written = sent = 0
        while True:
            await asyncio.sleep(0)
            turn = sum(map(len, transport.written[written:]))
            written = len(transport.written)
            sent += turn
            if not turn:
                break
            assert turn < TURN_BYTES + WRITE_MAX
        assert max(map(len, transport.written)) <= WRITE_MAX
        assert b"".join(transport.written) == b"".join(
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(value), value) for value in values
        )

    with_link(test)


def test_a_transport_that_has_enough_gets_no_more() -> None:
    async def test(link: AsyncLink, transport: Transport) -> None:
        link.execute(("SET", "k", b"x" * 10_000_000))
        for _ in range(10):
            await asyncio.sleep(0)
        assert sum(map(len, transport.written)) <= 500_000 + WRITE_MAX
        assert link.full
        while transport.takes <= 0:
            transport.takes = 500_000
            link.resume_writing()
            for _ in range(3):
                await asyncio.sleep(0)
        assert sum(map(len, transport.written)) == 10_000_000 + len(
            "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10000000\r\n\r\n"
        )
        assert not link.full

    with_link(test, takes=500_000)
