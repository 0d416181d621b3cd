"""LocalCluster: what it starts, and what it can do to its nodes."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from slotwise.local import (
    LocalCluster,
    LocalError,
    LocalNode,
    NotReadyError,
    ServerBinary,
    ServerStartError,
    ports,
)
from slotwise.local.view import SLOTS, read_view


def owned(cluster: LocalCluster) -> dict[int, frozenset[int]]:
    """Slots by index of the primary that says it owns them."""
    return {node.index: read_view(node)[node.id].slots for node in cluster.primaries}


def answer(node: LocalNode, *command: str) -> str:
    """A node's reply, or the text of its error."""
    try:
        return str(node.call(*command))
    except ResponseError as error:
        return str(error)


def test_layout(cluster: LocalCluster, server: ServerBinary) -> None:
    assert (cluster.server_name, cluster.server_version) == (server.name, server.version)
    assert [node.role for node in cluster.nodes] == ["primary"] * 3 + ["replica"] * 3
    assert cluster.primaries == cluster.nodes[:3]
    assert cluster.replicas == cluster.nodes[3:]
    for primary, replica in zip(cluster.nodes[:3], cluster.nodes[3:], strict=True):
        assert cluster.replicas_of(primary) == [replica]
    slots = owned(cluster)
    assert sorted(slot for part in slots.values() for slot in part) == list(range(SLOTS))
    assert {len(part) for part in slots.values()} == {5461, 5462}
    assert cluster.owner_of(0) is cluster.nodes[0]


def test_redis_py_can_use_it(cluster: LocalCluster) -> None:
    with redis.RedisCluster(startup_nodes=cluster.startup_nodes) as client:
        assert client.set("local:{a}", "1")
        assert client.get("local:{a}") == b"1"
        assert {node.port for node in client.get_nodes()} == {node.port for node in cluster.nodes}
        assert len(client.get_replicas()) == 3
    with redis.RedisCluster.from_url(cluster.url) as client:
        assert client.delete("local:{a}") == 1


def test_nodes_listen_on_loopback_only(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        assert node.call("CONFIG", "GET", "bind") == ["bind", "127.0.0.1"]


def test_stop_leaves_no_process_and_no_folder(server: ServerBinary) -> None:
    cluster = LocalCluster(1, 1, server=server.command)
    with cluster:
        pids = [node.pid for node in cluster.nodes]
        folder = cluster.folder
        assert folder is not None
        assert folder.is_dir()
    assert not folder.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(LocalError, match="not started"):
        _ = cluster.url
    cluster.stop()  # a second time does nothing


def test_starting_twice_is_refused(cluster: LocalCluster) -> None:
    with pytest.raises(LocalError, match="already started"):
        cluster.start()
    assert cluster.nodes[0].call("PING") == "PONG"


def test_kill_fails_over_and_restart_comes_back(faulty_cluster: LocalCluster) -> None:
    victim = faulty_cluster.primaries[0]
    [heir] = faulty_cluster.replicas_of(victim)
    slots = owned(faulty_cluster)[victim.index]
    port, node_id = victim.port, victim.id

    faulty_cluster.kill(victim)
    assert victim.state == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(victim.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        victim.call("PING")
    faulty_cluster.wait_ready()
    assert owned(faulty_cluster)[heir.index] == slots
    assert victim not in faulty_cluster.primaries + faulty_cluster.replicas

    faulty_cluster.restart(victim)
    faulty_cluster.wait_ready()
    assert (victim.port, victim.call("CLUSTER", "MYID")) == (port, node_id)
    assert faulty_cluster.replicas_of(heir) == [victim]


def test_restart_of_a_running_node(faulty_cluster: LocalCluster) -> None:
    node = faulty_cluster.replicas[0]
    before = node.pid
    faulty_cluster.restart(node)
    assert node.pid != before
    assert int(node.info("server")["process_id"]) == node.pid


def test_pause_silences_and_resume_brings_back(faulty_cluster: LocalCluster) -> None:
    node = faulty_cluster.replicas[0]
    with node.connect(timeout=0.2) as wire:
        faulty_cluster.pause(node)
        with pytest.raises(TimeoutError):
            wire.call("PING")
    assert node not in faulty_cluster.replicas
    faulty_cluster.resume(node)
    assert node.call("PING") == "PONG"
    assert node in faulty_cluster.replicas


def test_failover_of_a_healthy_primary(faulty_cluster: LocalCluster) -> None:
    replica = faulty_cluster.replicas[0]
    [primary] = [node for node in faulty_cluster.primaries if replica in faulty_cluster.replicas_of(node)]
    slots = owned(faulty_cluster)[primary.index]
    faulty_cluster.failover(replica)
    assert owned(faulty_cluster)[replica.index] == slots
    assert faulty_cluster.replicas_of(replica) == [primary]


def test_failover_does_not_wait_for_a_dead_primary(faulty_cluster: LocalCluster) -> None:
    primary = faulty_cluster.primaries[0]
    [replica] = faulty_cluster.replicas_of(primary)
    faulty_cluster.kill(primary)
    faulty_cluster.failover(replica)
    assert replica in faulty_cluster.primaries


def test_a_failover_that_came_to_nothing_is_asked_for_again(
    faulty_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers forget one for which they did not get the votes in time; this one is lost before it gets there."""
    monkeypatch.setattr("slotwise.local.cluster._FAILOVER_GIVEN_UP", 0.1)
    lost = []
    call = LocalNode.call

    def losing_the_first(node: LocalNode, *command: Any) -> Any:
        if command[:2] == ("CLUSTER", "FAILOVER") and not lost:
            lost.append(command)
            return "OK"
        return call(node, *command)

    monkeypatch.setattr(LocalNode, "call", losing_the_first)
    replica = faulty_cluster.replicas[0]
    faulty_cluster.failover(replica)
    assert lost
    assert replica in faulty_cluster.primaries


def test_failover_of_a_primary_is_refused(faulty_cluster: LocalCluster) -> None:
    with pytest.raises(ResponseError):
        faulty_cluster.failover(faulty_cluster.primaries[0])


def test_move_slots_carries_all_keys(faulty_cluster: LocalCluster) -> None:
    source, target = faulty_cluster.primaries[:2]
    slots = sorted(owned(faulty_cluster)[source.index])[:20]
    with redis.RedisCluster.from_url(faulty_cluster.url) as client:
        values = {f"move:{i}": str(i).encode() for i in range(20_000)}
        pipeline = client.pipeline()
        for key, value in values.items():
            pipeline.set(key, value)
        pipeline.execute()
        leaving = [key for key in values if client.keyslot(key) in slots]
        assert faulty_cluster.move_slots(slots, target) == len(leaving) > 0
        assert owned(faulty_cluster)[target.index] >= set(slots)
        assert {key: client.get(key) for key in leaving} == {key: values[key] for key in leaving}
    assert faulty_cluster.move_slots(slots, target) == 0  # they are there already
    assert faulty_cluster.owner_of(slots[0]) is target


def test_an_open_move_makes_ask_redirects(faulty_cluster: LocalCluster) -> None:
    source, target = faulty_cluster.primaries[:2]
    slot = min(owned(faulty_cluster)[source.index])
    key = next(key for key in map(str, range(1_000_000)) if redis.cluster.key_slot(key.encode()) == slot)
    source.call("MSET", f"{{{key}}}1", "a", f"{{{key}}}2", "b")

    move = faulty_cluster.slot_move([slot], target)
    move.open()
    assert move.move_keys(limit=1) == 1
    answers = [answer(source, "GET", f"{{{key}}}{n}") for n in (1, 2)]
    assert answers.count(f"ASK {slot} {target.host}:{target.port}") == 1
    assert move.move_keys() == 1
    move.close()
    faulty_cluster.wait_ready()
    assert answer(source, "GET", key) == f"MOVED {slot} {target.host}:{target.port}"


def test_wait_ready_names_what_is_missing(faulty_cluster: LocalCluster) -> None:
    primary = faulty_cluster.primaries[0]
    [replica] = faulty_cluster.replicas_of(primary)
    slots = len(owned(faulty_cluster)[primary.index])
    faulty_cluster.kill(replica)
    faulty_cluster.kill(primary)
    with pytest.raises(NotReadyError, match=f"{slots} slots without a running node"):
        faulty_cluster.wait_ready(0.1)
    for node in faulty_cluster.running:
        faulty_cluster.pause(node)
    with pytest.raises(NotReadyError, match="no node is running"):
        faulty_cluster.wait_ready(0)


def test_heal_closes_what_was_left_open(faulty_cluster: LocalCluster) -> None:
    source, target = faulty_cluster.primaries[:2]
    slot = min(owned(faulty_cluster)[source.index])
    faulty_cluster.slot_move([slot], target).open()
    assert read_view(source)[source.id].open_slots == {slot}
    assert read_view(target)[target.id].open_slots == {slot}
    [replica, *_] = faulty_cluster.replicas
    faulty_cluster.kill(replica)
    faulty_cluster.kill(replica)  # a second time does nothing
    with pytest.raises(LocalError, match=f"node {replica.port} is stopped"):
        faulty_cluster.pause(replica)
    faulty_cluster.heal()
    assert replica.running
    assert read_view(source)[source.id].open_slots == set()
    assert read_view(target)[target.id].open_slots == set()
    assert faulty_cluster.owner_of(slot) is source


def test_tls_and_a_user(server: ServerBinary) -> None:
    """redis-py goes by the URL and the keywords; without a certificate or with the default user nobody gets in."""
    if not server.has_tls:
        with pytest.raises(ServerStartError, match="was built without TLS"):
            LocalCluster(tls=True, server=server.command).start()
        return
    with LocalCluster(
        1, 1, server=server.command, tls=True, username="app", password='p@ss "w\\ord" é'
    ) as cluster:
        options = cluster.client_options
        for client in (
            redis.RedisCluster.from_url(cluster.url),
            redis.RedisCluster(startup_nodes=cluster.startup_nodes, **options),
        ):
            assert client.acl_whoami() == "app"
            client.close()
        cluster.failover(cluster.replicas[0])
        node = cluster.nodes[0]
        uncertified = {k: v for k, v in options.items() if k not in ("ssl_certfile", "ssl_keyfile")}
        unnamed = {k: v for k, v in options.items() if k not in ("username", "password")}
        plain = {k: v for k, v in options.items() if not k.startswith("ssl")}
        for less in (uncertified, unnamed, plain):
            with redis.Redis(node.host, node.port, **less) as client, pytest.raises(redis.RedisError):
                client.ping()
        folder = cluster.folder
    assert folder is not None
    assert not folder.exists()


@pytest.mark.parametrize("options", [{"username": "app"}, {"username": "two words", "password": "x"}])
def test_a_user_is_one_word_and_has_a_password(server: ServerBinary, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="username"):
        LocalCluster(server=server.command, **options)


def test_password_and_config_reach_every_node(server: ServerBinary) -> None:
    secret = 'p@ss "w\\ord" é'
    config = {
        "maxmemory-policy": "allkeys-lru",
        "lazyfree-lazy-eviction": True,
        "hz": 50,
        "save": ["900 1", "60 9"],
    }
    with LocalCluster(1, 1, server=server.command, password=secret, config=config) as cluster:
        for node in cluster.nodes:
            for name, value in (
                ("maxmemory-policy", "allkeys-lru"),
                ("lazyfree-lazy-eviction", "yes"),
                ("hz", "50"),
                ("save", "900 1 60 9"),
            ):
                assert node.call("CONFIG", "GET", name) == [name, value]
        with redis.RedisCluster.from_url(cluster.url) as client:
            assert client.ping()
        with (
            socket.create_connection(cluster.nodes[0].address) as stranger,
            stranger.makefile("rwb") as stream,
        ):
            stream.write(b"PING\r\n")
            stream.flush()
            assert stream.readline().startswith(b"-NOAUTH")
        assert secret not in repr(cluster.nodes)


def test_bad_config_shows_the_servers_own_words(server: ServerBinary, tmp_path: Path) -> None:
    cluster = LocalCluster(1, 0, server=server.command, config={"no-such-option": 1})
    with pytest.raises(ServerStartError, match="no-such-option"):
        cluster.start()
    assert cluster.folder is None


def test_port_in_use_is_named(server: ServerBinary) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is in use"):
            LocalCluster(1, 0, server=server.command, port=port).start()


def test_a_port_taken_at_the_last_moment_is_given_up(
    server: ServerBinary, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = cluster.nodes[0].port  # another server answers there, which must not be mistaken for ours
    honest = ports.free_ports
    offers = iter([[taken, *honest(1)]])
    monkeypatch.setattr(
        "slotwise.local.servers.free_ports", lambda count: next(offers, None) or honest(count)
    )
    with LocalCluster(1, 1, server=server.command) as other:
        assert taken not in {node.port for node in other.nodes}
        assert len(other.nodes) == 2


@pytest.mark.parametrize("counts", [(0, 1), (1, -1)])
def test_impossible_sizes_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one primary"):
        LocalCluster(*counts)
