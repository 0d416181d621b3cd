"""A relay between plain sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from slotwise.testing.proxy import Relay, Relays

HOST = "127.0.0.1"


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    """A server that sends back what it gets, until its listener is closed."""

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(1 << 16):
                sock.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


@pytest.fixture
def relays(echo: socket.socket) -> Iterator[Relays]:
    relays = Relays([echo.getsockname()])
    yield relays
    relays.stop()


@pytest.fixture
def relay(relays: Relays) -> Relay:
    """The relay before ``echo``."""
    return next(iter(relays.relays.values()))


@pytest.fixture
def client(relay: Relay) -> Iterator[socket.socket]:
    with connect(relay) as sock:
        yield sock


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection((HOST, relay.port), timeout=5)


def exchange(sock: socket.socket, data: bytes = b"hello") -> bytes:
    """What comes back for ``data``, or up to the end."""
    sock.sendall(data)
    return receive(sock, len(data))


def receive(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size and (part := sock.recv(size - len(parts))):
        parts += part
    return bytes(parts)


def is_silent(sock: socket.socket) -> bool:
    sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        return sock.recv(1) is None
    sock.settimeout(5)
    return True


def test_small_packets_do_not_wait_for_each_other(relay: Relay, client: socket.socket) -> None:
    """By Nagle's algorithm the second of two replies would wait for the other side's ACK, 40 ms on Linux."""
    assert exchange(client) == b"hello"
    options = [
        side.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for side in relay.sides
    ]
    assert len(options) == 2
    assert all(options)


def test_passes_on_much_and_is_no_endless_buffer(client: socket.socket) -> None:
    data = bytes(range(256)) * 200_000  # 51 MB, more than all buffers on the way hold
    sender = threading.Thread(target=client.sendall, args=(data,))
    client.settimeout(30)
    sender.start()
    sender.join(0.5)
    assert sender.is_alive(), "nobody reads what comes back"
    assert receive(client, len(data)) == data
    sender.join()


def test_a_reset_is_passed_on(relay: Relay, client: socket.socket) -> None:
    exchange(client)
    assert len(relay.sides) == 2
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    deadline = time.monotonic() + 5
    while relay.sides:
        assert time.monotonic() < deadline


def test_the_end_is_passed_on_after_all_data(client: socket.socket) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 100) == b"last words"


def test_slow(relays: Relays, relay: Relay, client: socket.socket) -> None:
    """Twice the delay for there and back, however much is on its way."""
    assert exchange(client) == b"hello"
    relays.run(relay.slow(0.5))
    began = time.monotonic()
    for _ in range(10):
        client.sendall(b"x")
    assert receive(client, 10) == b"x" * 10
    assert 1 <= time.monotonic() - began < 5
    relays.run(relay.slow(0))
    began = time.monotonic()
    exchange(client)
    assert time.monotonic() - began < 1


def test_held_data_arrives_later(relays: Relays, relay: Relay, client: socket.socket) -> None:
    exchange(client)
    relays.run(relay.hold())
    client.sendall(b"later")
    with connect(relay) as new:
        new.sendall(b"new")
        assert is_silent(client)
        assert is_silent(new)
        relays.run(relay.mend())
        assert receive(client, 5) == b"later"
        assert receive(new, 3) == b"new"


def test_silenced_connections_are_dead_and_new_ones_are_not(
    relays: Relays, relay: Relay, client: socket.socket
) -> None:
    exchange(client)
    relays.run(relay.silence())
    client.sendall(b"lost")
    assert is_silent(client)
    with connect(relay) as new:
        assert exchange(new) == b"hello"
        relays.run(relay.mend())
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert exchange(new) == b"hello"


def test_refuses_and_listens_again_on_its_port(relays: Relays, relay: Relay, client: socket.socket) -> None:
    exchange(client)
    port = relay.port
    relays.run(relay.refuse())
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(relay)
    relays.run(relay.listen())
    assert relay.port == port
    with connect(relay) as new:
        assert exchange(new) == b"hello"


def test_a_target_that_is_away_resets(relay: Relay, echo: socket.socket) -> None:
    echo.shutdown(socket.SHUT_RDWR)
    echo.close()
    with contextlib.ExitStack() as stack, pytest.raises(ConnectionResetError):
        # The reset may be there before connect() is back.
        stack.enter_context(connect(relay)).recv(1)


def test_nothing_is_left(echo: socket.socket) -> None:
    before = threading.active_count()
    relays = Relays([echo.getsockname()])
    relay = next(iter(relays.relays.values()))
    with connect(relay) as sock:
        exchange(sock)
        relays.stop()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert not relays._thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        connect(relay)
    assert threading.active_count() <= before + 1, "the echo's own thread"
