"""`slotwise status`: what it finds of clusters in all states."""

import json
import re
from typing import Any

import pytest

from slotwise import RedisCluster
from slotwise.local import LocalCluster, ServerBinary, StandaloneServer
from slotwise.local.ports import free_ports
from tests.cli.conftest import Run


def report(slotwise: Run, url: str, code: int, *options: str) -> Any:
    run = slotwise("status", "--url", url, "--json", *options)
    assert run.returncode == code, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


def address(node: Any) -> str:
    return f"{node.host}:{node.port}"


def test_healthy(slotwise: Run, cluster: LocalCluster) -> None:
    with RedisCluster.from_url(cluster.url) as client:
        # Other tests may have left keys that expire.
        client.flushall(target_nodes="primaries")
        client.mset_nonatomic({f"status:{n}": "x" for n in range(300)})
        client.wait(1, 5000, target_nodes="primaries")
    found = report(slotwise, cluster.nodes[4].url, 0)  # any node will do
    assert found["healthy"]
    assert found["problems"] == found["notes"] == []
    nodes = {node["address"]: node for node in found["nodes"]}
    assert nodes.keys() == {address(node) for node in cluster.nodes}
    for node in cluster.nodes:
        line = nodes[address(node)]
        assert line["role"] == node.role
        assert line["id"] == node.id
        assert line["version"] == f"{cluster.server_name} {cluster.server_version}"
        assert line["keys"] == node.call("DBSIZE")
        assert line["memory_bytes"] > 500_000
        assert (line["lag_bytes"] is not None) == (node.role == "replica")
    assert sum(node["slots"] for node in nodes.values()) == 16_384
    keys = [node["keys"] for node in nodes.values() if node["role"] == "primary"]
    assert found["imbalance"] == pytest.approx(max(keys) * 3 / sum(keys))
    # A primary and its replica stand together.
    roles = [node["role"] for node in found["nodes"]]
    assert roles == ["primary", "replica"] * 3
    assert [node["primary_id"] for node in found["nodes"][1::2]] == [
        node["id"] for node in found["nodes"][::2]
    ]


def test_table(slotwise: Run, cluster: LocalCluster) -> None:
    run = slotwise("status", "--url", cluster.url)
    assert run.returncode == 0
    for node in cluster.nodes:
        assert address(node) in run.stdout
    assert run.stdout.rstrip().endswith("Healthy.")
    assert "\x1b" not in run.stdout


def test_a_silent_replica(slotwise: Run, faulty_cluster: LocalCluster) -> None:
    replica = faulty_cluster.replicas[0]
    faulty_cluster.pause(replica)
    found = report(slotwise, faulty_cluster.primaries[0].url, 1, "--timeout", "0.3")
    assert not found["healthy"]
    [node] = [node for node in found["nodes"] if node["address"] == address(replica)]
    assert node["problem"].startswith("does not answer")
    assert node["keys"] is None
    assert any(address(replica) in problem for problem in found["problems"])
    run = slotwise("status", "--url", faulty_cluster.primaries[0].url, "--timeout", "0.3")
    assert run.returncode == 1
    assert f"Problem: replica {address(replica)} does not answer" in run.stdout


def test_slots_that_nobody_serves(slotwise: Run, server: ServerBinary) -> None:
    # The other nodes go on to serve theirs, as long as it may take to ask them.
    config = {"cluster-require-full-coverage": False}
    with LocalCluster(3, 0, server=server.command, config=config) as cluster:
        victim = cluster.nodes[2]
        cluster.kill(victim)
        found = report(slotwise, cluster.url, 1)
        assert "5,461 of 16,384 slots are served by no healthy primary" in found["problems"]
        assert f"primary {address(cluster.nodes[0])} has no replica" in found["notes"]


def test_slots_on_their_way(slotwise: Run, faulty_cluster: LocalCluster) -> None:
    source = faulty_cluster.owner_of(0)
    target = next(node for node in faulty_cluster.primaries if node is not source)
    faulty_cluster.slot_move([0], target).open()
    # Asked of a node that takes no part, which does not list it.
    found = report(slotwise, faulty_cluster.replicas[-1].url, 0)
    assert found["notes"] == ["1 slots are on their way to another node"]


def test_a_password(slotwise: Run, server: ServerBinary) -> None:
    with LocalCluster(2, 0, server=server.command, password="s@crét") as cluster:
        found = report(slotwise, cluster.url, 0)
        assert all(node["problem"] is None for node in found["nodes"])
        assert "error" in report(slotwise, f"redis://127.0.0.1:{cluster.nodes[0].port}", 2)
        for url in (cluster.url, cluster.url.replace("s%40cr", "s%40creative")):
            run = slotwise("status", "--url", url)
            assert not re.search("s(@|%40)cr", run.stdout + run.stderr)


def test_a_server_outside_of_any_cluster(slotwise: Run, standalone: StandaloneServer) -> None:
    found = report(slotwise, standalone.url, 0)
    [node] = found["nodes"]
    assert (node["role"], node["problem"]) == ("standalone", None)


def test_nobody_there(slotwise: Run) -> None:
    [port] = free_ports(1)
    found = report(slotwise, f"redis://127.0.0.1:{port}", 2)
    assert found["healthy"] is False
    assert str(port) in found["error"]
    run = slotwise("status", "--url", f"redis://127.0.0.1:{port}")
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("slotwise: ")
    assert str(port) in run.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:7000", "unix:///tmp/redis.sock", "redis://127.0.0.1:port"])
def test_a_url_that_is_none(slotwise: Run, url: str) -> None:
    run = slotwise("status", "--url", url)
    assert run.returncode == 2
    assert "--url" in run.stderr
