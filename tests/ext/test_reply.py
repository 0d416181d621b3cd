"""Replies that the links make themselves are those that hiredis makes, however the stream is cut."""

import asyncio
import contextlib
import fcntl
import itertools
import socket
import termios
import threading
import time
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slotwise._aiolink import AsyncLink, Turns, Unusual
from slotwise._batch import Job, exchange
from slotwise._encoder import Batch, Indices
from slotwise._link import Link, LinkFailure
from slotwise._reply import Flawed, ServerError
from tests.fuzz.reference import Stream

Encoding = tuple[str, str] | None

ENCODINGS: list[Encoding] = [None, ("utf-8", "strict"), ("utf-8", "replace"), ("latin-1", "strict")]
MORE = object()


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def aggregate(kind: bytes, parts: list[bytes]) -> bytes:
    return b"%b%d\r\n%b" % (kind, len(parts), b"".join(parts))


line = st.binary(max_size=20).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))
simple = st.one_of(
    st.binary(max_size=300).map(bulk),
    st.text(max_size=30).map(lambda value: bulk(value.encode())),
    st.integers(20_000, 70_000).map(lambda size: bulk(b"x" * size)),
    line.map(b"+%b\r\n".__mod__),
    line.map(b"-ERR %b\r\n".__mod__),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: b":%d\r\n" % value),
    st.floats(allow_nan=False).map(lambda value: b",%r\r\n" % value),
    st.sampled_from(
        [b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n", b"*0\r\n", b"$0\r\n\r\n", b"+\r\n"]
    ),
)
array = st.lists(simple, max_size=20).map(lambda parts: aggregate(b"*", parts))
reply = st.one_of(
    simple,
    array,
    st.lists(array, max_size=3).map(lambda parts: aggregate(b"*", parts)),
    # Errors in a set would be the same by their text only.
    st.lists(simple.filter(lambda part: part[:1] != b"-"), max_size=4).map(
        lambda parts: aggregate(b"~", parts)
    ),
)
stream = st.lists(reply, min_size=1, max_size=12).map(b"".join)


def by_hiredis(data: bytes, decode: list[bool], encoding: Encoding) -> list[Any]:
    """The replies, each normalised; what is malformed ends them."""
    kwargs = {} if encoding is None else {"encoding": encoding[0], "errors": encoding[1]}
    reader = hiredis.Reader(replyError=ServerError, notEnoughData=MORE, **kwargs)
    reader.feed(data)
    found: list[Any] = []
    for wanted in decode:
        try:
            found.append(reader.gets() if wanted else reader.gets(False))
        except UnicodeError as error:
            found.append(error)
        except hiredis.ProtocolError:
            break
        if found[-1] is MORE:
            del found[-1]
            break
    return [normal(one) for one in found]


def by_link(pieces: list[bytes], decode: list[bool], encoding: Encoding) -> list[Any]:
    """The same through a link that receives the stream in just these pieces."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        # The link closes its end at malformed bytes.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                theirs.sendall(piece)
                # No receive gets a piece and the next one with it.
                while fcntl.ioctl(theirs, termios.TIOCOUTQ, b"\0" * 4) != b"\0" * 4:
                    time.sleep(0)
            theirs.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    with ours, theirs:
        batch = Batch()
        for _ in decode:
            batch.add(("GET", "k"), 1)
        link = Link(SimpleNamespace(_sock=ours, disconnect=ours.close, host="h", port=1), 10.0, encoding)
        job = Job(link, batch, Indices(range(len(decode))))
        results: list[Any] = [None] * len(decode)
        exchange([job], results, decode)
        link.close()
        sender.join()
        return [normal(one) for one in results[: job.answered]]


def by_async_link(pieces: list[bytes], decode: list[bool], encoding: Encoding) -> list[Any]:
    """The same through a link of an event loop."""

    async def main() -> list[Any]:
        transport = SimpleNamespace(
            write=len, abort=lambda: None, pause_reading=lambda: None, resume_reading=lambda: None
        )
        link = AsyncLink(None, Turns(asyncio.get_running_loop()), transport, None, encoding)
        futures = [link.execute(("GET", "k"), wanted) for wanted in decode]
        for piece in pieces:
            while piece and not link.closed:
                with link.get_buffer(-1) as room:
                    n = min(len(room), len(piece))
                    room[:n] = piece[:n]
                link.buffer_updated(n)
                piece = piece[n:]
        link.connection_lost(None)
        replies = [future.result() for future in futures]
        plain = [reply.what if isinstance(reply, Unusual) else reply for reply in replies]
        return [normal(reply) for reply in plain if not isinstance(reply, LinkFailure)]

    return asyncio.run(main())


def normal(found: Any) -> Any:
    if isinstance(found, Flawed):
        return normal(found.reply)
    if isinstance(found, ServerError):
        return ("error", found.text)
    if isinstance(found, Exception):
        return (type(found), str(found))
    if isinstance(found, list):
        return [normal(one) for one in found]
    return (type(found), found)


def cut(data: bytes, marks: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(mark % (len(data) + 1) for mark in marks)})
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


marks = st.lists(st.integers(0, 10**6), max_size=6)


@settings(max_examples=300)
@given(stream, marks, st.lists(st.booleans(), min_size=12, max_size=12), st.sampled_from(ENCODINGS))
@example(b"+\r\n:1\r\n", [1, 2, 3, 4, 5], [True] * 2, None)
@example(b"*2\r\n$1\r\na\r\n$-1\r\n_\r\n", [5, 12, 20], [True] * 2, None)
@example(bulk("é".encode()) + bulk(b"\xe9") + bulk(b"z"), [8], [True] * 3, ("utf-8", "strict"))
def test_stream_in_pieces(data: bytes, marks: list[int], decode: list[bool], encoding: Encoding) -> None:
    expected = by_hiredis(data, decode, encoding)
    assert by_link(cut(data, marks), decode, encoding) == expected
    assert by_async_link(cut(data, marks), decode, encoding) == expected


@settings(max_examples=300)
@given(
    stream, marks, st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), min_size=1, max_size=3)
)
@example(b"$01\r\na\r\n", [], [(0, b"$")])
@example(b"+a\nb\r\n:1\r\n", [], [(0, b"+")])
@example(b":-0\r\n:1\r\n", [], [(0, b":")])
@example(b"$3\r\nabcde:1\r\n", [], [(0, b"$")])
@example(b":1234567890123456789\r\n:99999999999999999999\r\n", [], [(0, b":")])
@example(b"$1000000000000000000\r\nab\r\n", [], [(0, b"$")])
def test_damaged_stream(data: bytes, marks: list[int], damage: list[tuple[int, bytes]]) -> None:
    for place, piece in damage:
        at = place % len(data)
        data = data[:at] + piece + data[at + len(piece) :]
    decode = [True] * 12
    expected = [normal(one) for one in Stream(data).replies[: len(decode)]]
    assert by_link(cut(data, marks), decode, None) == expected
    assert by_async_link(cut(data, marks), decode, None) == expected


@pytest.mark.parametrize("size", [1, 100, 4096, 30_000])
def test_replies_that_lie_over_the_end_of_every_piece(size: int) -> None:
    values = [bytes([65 + i % 26]) * (i * 37 % 700) for i in range(40 if size == 1 else 3000)]
    data = b"".join(map(bulk, values))
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    expected = [(bytes, value) for value in values]
    assert by_link(pieces, [True] * len(values), None) == expected
    assert by_async_link(pieces, [True] * len(values), None) == expected


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_values_about_as_large_as_the_inbox(encoding: Encoding) -> None:
    # All framing is on either side of the inbox' end.
    sizes = [*range(65_536 - 20, 65_536 + 6), 65_537 + 3 * 2**20]
    values = [bytes([65 + size % 26]) * size for size in sizes]
    data = b"".join(b":1\r\n" + bulk(value) for value in values)
    expected = [normal(one) for value in values for one in (1, value.decode() if encoding else value)]
    decode = [True] * len(expected)
    for pieces in ([data], [data[i : i + 65_536] for i in range(0, len(data), 65_536)]):
        assert by_link(pieces, decode, encoding) == expected
        assert by_async_link(pieces, decode, encoding) == expected


@pytest.mark.parametrize("end", [b"xx", b"\rx", b"\nx"])
def test_a_large_value_of_another_length(end: bytes) -> None:
    data = b"$100000\r\n" + b"x" * 100_000 + end + b":1\r\n"
    assert by_link([data], [True] * 2, None) == []
    assert by_async_link([data], [True] * 2, None) == []


def test_a_value_that_no_memory_has_room_for() -> None:
    data = b"$%d\r\n" % 10**17 + b"x" * 100
    assert by_link([data], [True], None) == []
    assert by_async_link([data], [True], None) == []
