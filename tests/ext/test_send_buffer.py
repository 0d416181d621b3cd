"""The send buffer under a link whose peer reads slowly: it is sent in pieces, filled and moved in between."""

import random
import socket
import sys
import threading
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from slotwise._batch import Job, exchange
from slotwise._encoder import Batch, Indices, encode_commands
from slotwise._link import Link


class SlowReader(threading.Thread):
    """Takes `expected` bytes through a narrow window, then answers +OK to each of `commands`."""

    def __init__(self, sock: socket.socket, expected: int, commands: int) -> None:
        super().__init__()
        self._sock, self._left, self._commands = sock, expected, commands
        self._chance = random.Random(1)
        self.received = bytearray()

    def run(self) -> None:
        while self._left and (piece := self._sock.recv(min(self._left, self._chance.randrange(1, 50_000)))):
            self.received += piece
            self._left -= len(piece)
        self._sock.sendall(b"+OK\r\n" * self._commands)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(
    "sizes",
    [[10], [5000, 16383], [16384], [10, 300_000], [10, 5000, 16383, 16384, 70_000]],
    ids=["small", "owned", "borrowed", "huge", "mixed"],
)
def test_stream_of_all_sizes(sizes: list[int], rounds: int) -> None:
    chance = random.Random(2)
    values = [chance.randbytes(chance.choice(sizes)) for _ in range(min(5000, 8_000_000 // max(sizes)))]
    alone = [sys.getrefcount(value) for value in values]
    commands = [("SET", f"key:{i}", value, chance.choice(values)) for i, value in enumerate(values)]
    batch = Batch()
    for command in commands:
        batch.add(command, 1)
    expected = encode_commands(commands * rounds)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reader = SlowReader(theirs, len(expected), len(commands) * rounds)
        reader.start()
        link = Link(SimpleNamespace(_sock=ours, disconnect=ours.close), 30.0)
        indices = list(range(len(commands))) * rounds
        results: list[Any] = [None] * len(commands)
        assert exchange([Job(link, batch, Indices(indices))], results) == []
        theirs.shutdown(socket.SHUT_WR)
        reader.join(30)
        assert reader.received == expected
        assert results == [b"OK"] * len(commands)
        link.close()
    # What the kernel took is let go; only the batch and its commands held on.
    del batch, commands, command
    assert [sys.getrefcount(value) for value in values] == alone


@pytest.mark.parametrize(("size", "count"), [(16_000, 4_000), (16_384, 60_000)], ids=["owned", "borrowed"])
def test_memory_of_a_spike_is_given_back(size: int, count: int) -> None:
    """One command with so many values that it cannot be sent in pieces smaller than itself."""
    command = ("RPUSH", "key", *[b"x" * size] * count)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(SimpleNamespace(_sock=ours, disconnect=ours.close), 30.0)

        def answer() -> None:
            while left := expected - received[0]:
                received[0] += theirs.recv_into(scratch, min(left, len(scratch)))
            theirs.sendall(b":1\r\n")

        expected = sum(len(str(len(value))) + len(value) + 5 for value in command) + len(
            f"*{len(command)}\r\n"
        )
        received, scratch = [0], bytearray(1 << 20)
        reader = threading.Thread(target=answer)
        reader.start()
        tracemalloc.start()
        try:
            assert link.execute(command) == 1
            reader.join(30)
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak > 2_000_000, "there was a spike"
        assert now < 500_000
        link.close()
