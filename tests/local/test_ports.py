"""Choosing ports."""

import random
import socket
import sys
from types import SimpleNamespace

import pytest

from slotwise.local.ports import BUS_OFFSET, free_ports, is_free


def test_a_listener_occupies_a_port_and_its_closed_connections_do_not() -> None:
    [port] = free_ports(1)
    with socket.create_server(("127.0.0.1", port)) as listener:
        assert not is_free(port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()  # first to close: this end is left in TIME_WAIT
            assert client.recv(1) == b""
    assert is_free(port)


@pytest.mark.skipif(sys.platform == "darwin", reason="BSD lets a loopback listener go in front")
def test_a_listener_on_all_addresses_occupies_a_port() -> None:
    [port] = free_ports(1)
    with socket.create_server(("", port)):
        assert not is_free(port)


def test_ports_are_neighbours_with_a_free_bus_each(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(6), free_ports(6)
    assert first == list(range(first[0], first[0] + 6))
    draws = iter([first[0], second[0]])
    monkeypatch.setattr("slotwise.local.ports._random", SimpleNamespace(randint=lambda *_: next(draws)))
    with socket.create_server(("127.0.0.1", first[3] + BUS_OFFSET)):
        assert free_ports(6) == second


def test_a_seeded_program_gets_different_ports_all_the_same() -> None:
    offers = set()
    for _ in range(5):
        random.seed(1)
        offers.add(free_ports(1)[0])
    assert len(offers) > 1
