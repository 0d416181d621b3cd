"""Faults in a real cluster: they are there when the method returns, and gone at the end of the block."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from slotwise import RedisCluster, key_slot
from slotwise.local import LocalCluster, LocalNode, ServerBinary
from slotwise.testing import Chaos, History
from slotwise.testing.chaos import can_be_proxied
from tests.local.processes import wait_until

#: Of `faulty_cluster`, in seconds.
NODE_TIMEOUT = 1.0
KEYS = [f"chaos:{number}" for number in range(50)]


@pytest.fixture
def direct(faulty_cluster: LocalCluster) -> Iterator[Chaos]:
    """Without relays."""
    with Chaos(faulty_cluster, proxied=False) as chaos:
        yield chaos


@pytest.fixture
def faults(faulty_cluster: LocalCluster) -> Iterator[Chaos]:
    """With relays."""
    if not can_be_proxied(faulty_cluster.binary):
        pytest.skip("Redis 6.2 cannot announce another port while it runs")
    with Chaos(faulty_cluster) as chaos:
        yield chaos


@pytest.fixture
def client(faults: Chaos) -> Iterator[RedisCluster]:
    with RedisCluster.from_url(faults.url, socket_timeout=0.5) as client:
        yield client


def relay_port(chaos: Chaos, node: LocalNode) -> int:
    return chaos._relay(node).port


def others(chaos: Chaos, node: LocalNode) -> list[str]:
    """Keys that other nodes serve."""
    return [key for key in KEYS if chaos.owner_of(key) is not node][:5]


# -- processes ----------------------------------------------------------------------------------


def test_kill_and_restart(faults: Chaos) -> None:
    victim = faults.owner_of("key")
    address = ("127.0.0.1", relay_port(faults, victim))
    socket.create_connection(address).close()
    faults.kill(victim)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    faults.wait_ready()
    assert faults.owner_of("key") is not victim
    faults.restart(victim)
    faults.wait_ready()
    socket.create_connection(address).close()
    assert victim in faults.replicas
    # It tells its relay's port from the start.
    assert victim.call("CONFIG", "GET", "cluster-announce-port")[1] == str(address[1])


def test_pause_and_resume(direct: Chaos) -> None:
    victim = direct.owner_of("key")
    direct.pause(victim)
    with pytest.raises(TimeoutError), victim.connect(timeout=0.2) as wire:
        wire.call("PING")
    direct.wait_ready()
    assert direct.owner_of("key") is not victim
    direct.resume(victim)
    assert victim.call("PING") == "PONG"


def test_failover_of_a_primary_or_to_a_replica(direct: Chaos) -> None:
    old = direct.owner_of("key")
    (replica,) = direct.replicas_of(old)
    assert direct.failover(old) is replica
    assert direct.owner_of("key") is replica
    assert direct.failover(old) is old
    assert direct.owner_of("key") is old
    direct.kill(replica)
    with pytest.raises(ValueError, match="no running replica"):
        direct.failover(old)


def test_move_slots(direct: Chaos) -> None:
    owner = direct.owner_of("key")
    target = next(node for node in direct.primaries if node is not owner)
    owner.call("SET", "key", "value")
    assert direct.move_slots([key_slot("key")], target) == 1
    assert target.call("GET", "key") == "value"


def test_rolling_restart_keeps_every_key(faults: Chaos, client: RedisCluster) -> None:
    pids = {node.pid for node in faults.cluster.nodes}
    for key in KEYS:
        client.set(key, key)
    faults.rolling_restart()
    assert not pids & {node.pid for node in faults.cluster.nodes}
    assert client.mget_nonatomic(*KEYS) == [key.encode() for key in KEYS]


# -- the network --------------------------------------------------------------------------------


def test_clients_meet_relays_only(faults: Chaos, client: RedisCluster) -> None:
    nodes = faults.cluster.nodes
    assert {node.port for node in client.get_nodes()} == {relay_port(faults, node) for node in nodes}
    assert faults.url == f"redis://127.0.0.1:{relay_port(faults, nodes[0])}"
    wrong = next(node for node in faults.primaries if node is not faults.owner_of("key"))
    with pytest.raises(redis.ResponseError, match=f"MOVED .*:{relay_port(faults, faults.owner_of('key'))}$"):
        wrong.call("GET", "key")


def test_partition(faults: Chaos, client: RedisCluster) -> None:
    """Nothing passes, on new connections neither; others are served, and nobody takes the node's place."""
    victim = faults.owner_of("key")
    client.set("key", 1)
    primaries = faults.primaries
    faults.partition(victim)
    taken_for_dead = time.monotonic() + 2 * NODE_TIMEOUT
    with pytest.raises(redis.TimeoutError):
        client.incr("key")
    with socket.create_connection(("127.0.0.1", relay_port(faults, victim)), timeout=0.2) as new:
        new.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            new.recv(1)
    for key in others(faults, victim):
        client.set(key, 1)
    while time.monotonic() < taken_for_dead:
        assert faults.primaries == primaries
    faults.mend(victim)
    assert client.get("key") in (b"1", b"2")


def test_freeze(faults: Chaos) -> None:
    """Connections that are open fall silent; who connects anew is served."""
    victim = faults.owner_of("key")
    with contextlib.closing(socket.create_connection(("127.0.0.1", relay_port(faults, victim)))) as old:
        old.sendall(b"PING\r\n")
        assert old.recv(10) == b"+PONG\r\n"
        faults.freeze(victim)
        old.sendall(b"PING\r\n")
        old.settimeout(0.2)
        with pytest.raises(TimeoutError):
            old.recv(1)
        with socket.create_connection(("127.0.0.1", relay_port(faults, victim))) as new:
            new.sendall(b"PING\r\n")
            assert new.recv(10) == b"+PONG\r\n"
        faults.mend(victim)
        with pytest.raises(ConnectionResetError):
            old.recv(1)


def test_slow(faults: Chaos) -> None:
    victim = faults.owner_of("key")
    other = others(faults, victim)[0]
    with RedisCluster.from_url(faults.url) as client:
        client.get("key"), client.get(other)
        faults.slow(victim, 1)
        began = time.monotonic()
        client.get(other)
        assert time.monotonic() - began < 1
        client.get("key")
        assert time.monotonic() - began >= 1
        faults.slow(victim, 0)
        began = time.monotonic()
        client.get("key")
        assert time.monotonic() - began < 1


def test_replace_address(faults: Chaos, client: RedisCluster) -> None:
    """All of them, one after another: nothing that the client began with is left."""
    before = {node.name for node in client.get_nodes()}
    for node in faults.cluster.nodes:
        port = relay_port(faults, node)
        faults.replace_address(node)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass
        for key in KEYS:
            assert client.get(key) is None
        client.nodes_manager.initialize()
    # A refresh that began before the last one was announced may have been what `initialize` waited for.
    deadline = time.monotonic() + 30
    while before & {node.name for node in client.get_nodes()} and time.monotonic() < deadline:
        client.nodes_manager.initialize()
    assert not before & {node.name for node in client.get_nodes()}


def test_without_relays_there_are_no_faults_of_the_network(direct: Chaos) -> None:
    assert direct.url == direct.cluster.url
    with pytest.raises(RuntimeError, match="proxied=True"):
        direct.partition(direct.owner_of("key"))


def test_a_password_stays_in_the_url(server: ServerBinary) -> None:
    cluster = LocalCluster(1, 0, server=server.command, password="s:cret@1")
    if not can_be_proxied(server):
        pytest.skip("Redis 6.2 cannot announce another port while it runs")
    with cluster, Chaos(cluster) as chaos, RedisCluster.from_url(chaos.url) as client:
        assert client.set("key", 1)
        assert client.get_default_node().port != cluster.nodes[0].port


def test_old_servers_are_refused(server: ServerBinary) -> None:
    cluster = LocalCluster(server=server.command)
    cluster.binary = replace(cluster.binary, name="redis", version="6.2.14")
    with pytest.raises(ValueError, match=r"6\.2\.14 cannot announce .* proxied=False"):
        Chaos(cluster)


# -- the end ------------------------------------------------------------------------------------


def test_everything_is_healed(faulty_cluster: LocalCluster) -> None:
    nodes = faulty_cluster.nodes
    proxied = can_be_proxied(faulty_cluster.binary)
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), Chaos(faulty_cluster, proxied=proxied) as chaos:  # noqa: PT012
        one, two, three = chaos.primaries
        faulty_cluster.slot_move([key_slot("key")], one if chaos.owner_of("key") is not one else two).open()
        if proxied:
            chaos.partition(one)
            chaos.freeze(two)
            chaos.slow(three, 1)
        chaos.kill(chaos.replicas_of(one)[0])
        chaos.pause(chaos.replicas_of(two)[0])
        _ = 1 / 0
    assert all(node.running for node in nodes)
    with RedisCluster.from_url(faulty_cluster.url) as client:
        assert {node.port for node in client.get_nodes()} == {node.port for node in nodes}
    assert not any("->-" in node.call("CLUSTER", "NODES") for node in nodes)
    # A client's thread ends on its own, soon after the client was closed.
    wait_until(lambda: threading.active_count() == threads)


# -- with a history -----------------------------------------------------------------------------


def test_a_manual_failover_loses_nothing(direct: Chaos) -> None:
    """What `History` is for: threads that count while a replica takes over."""
    history = History()
    stop = threading.Event()

    def work(number: int, client: RedisCluster) -> None:
        while not stop.is_set():
            with contextlib.suppress(redis.RedisError), history.add(f"{{key}}{number % 2}") as call:
                call.result = client.incr(f"{{key}}{number % 2}")

    with RedisCluster.from_url(direct.url) as client:
        threads = [threading.Thread(target=work, args=(number, client)) for number in range(4)]
        for thread in threads:
            thread.start()
        direct.failover(direct.owner_of("key"))
        stop.set()
        for thread in threads:
            thread.join()
        for number in range(2):
            with history.read(f"{{key}}{number}") as call:
                call.result = client.get(f"{{key}}{number}")
    assert sum(call.outcome == "ok" for call in history.calls) > 10
    assert history.violations() == []
    # The checker would have seen one more.
    direct.owner_of("key").call("INCR", "{key}0")
    with RedisCluster.from_url(direct.url) as client, history.read("{key}0") as call:
        call.result = client.get("{key}0")
    assert len(history.violations()) == 1
