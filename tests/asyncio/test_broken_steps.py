"""A link in whose steps something is raised, or that a finalizer uses meanwhile: no reply goes to another caller, nothing
is sent twice, nothing waits for ever."""

import asyncio
import codecs
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from slotwise._aiobatch import Exchange, Part
from slotwise._aioengine import AsyncEndpoint
from slotwise._aiolink import AsyncLink, Turns, Unusual
from slotwise._encoder import Batch, Indices
from tests.asyncio.loops import run


class Transport:
    """Takes everything; `raises` is raised by the next write, after it has taken the bytes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.raises: BaseException | None = None

    def write(self, data: bytes) -> None:
        self.written.append(data)
        raised, self.raises = self.raises, None
        if raised is not None:
            raise raised

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...


def receive(link: AsyncLink, data: bytes) -> None:
    """Hands over bytes as transports do."""
    with link.get_buffer(-1) as room:
        room[: len(data)] = data
    link.buffer_updated(len(data))


def with_link(
    test: Callable[[AsyncLink, Transport], Coroutine[Any, Any, None]],
    timeout: float | None = None,
    encoding: tuple[str, str] | None = None,
) -> None:
    async def main() -> None:
        transport = Transport()
        link = AsyncLink(None, Turns(asyncio.get_running_loop()), transport, timeout, encoding)
        await test(link, transport)
        link.close()

    run(main)


def part_of(link: AsyncLink, *commands: tuple[Any, ...], whole: bool = False) -> tuple[Exchange, Part]:
    batch = Batch()
    for command in commands:
        batch.add(command, 0)
    endpoint = AsyncEndpoint(("host", 1), None)  # type: ignore[arg-type]
    endpoint.put(0, link)
    exchange = Exchange(batch, [None] * len(commands), None, {})
    return exchange, Part(exchange, endpoint, Indices(range(len(commands))), False, whole)


def test_a_reply_that_cannot_be_made() -> None:
    """Its own caller learns why, and only he."""

    def decode(data: Any, errors: str = "strict") -> tuple[str, int]:
        if bytes(data) == b"bad":
            raise MemoryError
        return codecs.utf_8_decode(bytes(data), errors, True)

    info = codecs.CodecInfo(codecs.utf_8_encode, decode, name="moody")
    codecs.register(search := {"moody": info}.get)

    async def test(link: AsyncLink, _: Transport) -> None:
        futures = [link.execute(("GET", "k")) for _ in range(500)]
        receive(link, b"".join(b"$3\r\n%b\r\n" % (b"bad" if i == 390 else b"%03d" % i) for i in range(500)))
        replies = await asyncio.gather(*futures)
        bad = replies.pop(390)
        assert isinstance(bad, Unusual)
        assert isinstance(bad.what, MemoryError)
        assert replies == [f"{i:03}" for i in range(500) if i != 390]
        assert not link.closed

    try:
        with_link(test, encoding=("moody", "strict"))
    finally:
        codecs.unregister(search)


def test_a_finalizer_that_sends_and_one_that_closes() -> None:
    """Replies are objects, and to make one may start a garbage collection."""

    class Garbage:
        def __init__(self, call: Callable[[], object]) -> None:
            self.call, self.cycle = call, self

        def __del__(self) -> None:
            self.call()

    async def sends(link: AsyncLink, _: Transport) -> None:
        # As many as the ring has places: one more makes it grow.
        futures = [link.execute(("LRANGE", "k", 0, -1)) for _ in range(64)]
        late: list[Any] = []
        Garbage(lambda: late.append(link.execute(("GET", "late"))))
        receive(link, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n" * 64)
        gc.collect()
        assert await asyncio.gather(*futures) == [[b"a", b"b"]] * 64
        receive(link, b"$1\r\nc\r\n")
        assert [future.result() for future in late] == [b"c"]

    async def closes(link: AsyncLink, _: Transport) -> None:
        futures = [link.execute(("LRANGE", "k", 0, -1)) for _ in range(64)]
        Garbage(link.close)
        receive(link, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n" * 64)
        gc.collect()
        for reply in await asyncio.gather(*futures):
            assert reply == [b"a", b"b"] or isinstance(reply, Unusual)
        assert link.closed
        assert link.commands == 0

    # As soon as there is garbage, if this Python collects it where objects are made.
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with_link(sends)
        with_link(closes)
    finally:
        gc.set_threshold(*before)


def test_what_has_come_is_not_late() -> None:
    """Callers take their time; the replies of those behind them wait in the client, longer than the time-out."""

    async def main() -> None:
        turns = Turns(asyncio.get_running_loop())
        links = [AsyncLink(None, turns, Transport(), 0.2) for _ in range(3)]
        futures = [link.execute(("GET", "k")) for link in links for _ in range(4000)]
        for link in links:
            receive(link, b":1\r\n" * 4000)
        while any(link.commands for link in links):
            await asyncio.sleep(0.03)
        assert [future.result() for future in futures] == [1] * 12_000
        for link in links:
            link.close()

    run(main)


def test_an_interrupt_while_a_turn_is_asked_for() -> None:
    class Loop:
        """The running loop, with one signal that comes at a bad moment."""

        interrupt = True

        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.loop, name)

        def call_soon(self, *args: Any) -> Any:
            if self.interrupt:
                self.interrupt = False
                raise KeyboardInterrupt
            return self.loop.call_soon(*args)

    async def main() -> None:
        transport = Transport()
        link = AsyncLink(None, Turns(Loop()), transport, 0.1)  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            link.execute(("GET", "a"))
        reply = await link.execute(("GET", "b"))
        assert b"".join(transport.written) == b"*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"
        assert reply.what.timed_out
        link.close()

    run(main)


def test_an_interrupt_while_bytes_are_written() -> None:
    """Nobody knows how many have left: the link ends, and nothing is written a second time."""

    async def test(link: AsyncLink, transport: Transport) -> None:
        future = link.execute(("INCR", "a"))
        transport.raises = MemoryError()
        await asyncio.sleep(0)
        assert (await future).what.sent
        assert link.closed
        assert len(transport.written) == 1

    async def main() -> None:
        # The loop tells of what a callback raised.
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        transport = Transport()
        link = AsyncLink(None, Turns(asyncio.get_running_loop()), transport, None)
        await test(link, transport)
        assert [type(error) for error in told] == [MemoryError]

    asyncio.run(main())


def test_a_part_without_commands() -> None:
    async def test(link: AsyncLink, _: Transport) -> None:
        _exchange, part = part_of(link)
        link.put_part(part)
        future = link.execute(("GET", "k"))
        receive(link, b"$1\r\nv\r\n")
        assert await future == b"v"

    with_link(test)


def test_more_malformed_bytes_than_there_is_room_for() -> None:
    async def test(link: AsyncLink, _: Transport) -> None:
        link.feed(b"\x00" * 200_000)
        assert link.closed

    with_link(test)


def test_a_loop_that_ends_with_a_batch_under_way_leaves_nothing() -> None:
    left = []

    async def main() -> None:
        transport = Transport()
        left.append(weakref.ref(transport))
        link = AsyncLink(None, Turns(asyncio.get_running_loop()), transport, None)
        _exchange, part = part_of(link, ("INCR", "k"))
        link.put_part(part)
        await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    assert left[0]() is None


@pytest.mark.parametrize("whole", [True, False])
def test_what_comes_between_the_pieces_of_a_large_part(whole: bool) -> None:
    """Other callers do; but not between commands that need the state of the connection."""

    async def test(link: AsyncLink, transport: Transport) -> None:
        count = 20_000
        _exchange, part = part_of(link, *[("SET", "k", i) for i in range(count)], whole=whole)
        link.put_part(part)
        link.execute(("GET", "k"))
        left = count + 1
        while left:
            await asyncio.sleep(0)
            replies = min(link.commands, 1000, left)
            if replies:
                receive(link, b":1\r\n" * replies)
            left -= replies
        sent = b"".join(transport.written)
        behind = sent[sent.index(b"GET") :].count(b"SET")
        assert (behind == 0) is whole

    with_link(test)
