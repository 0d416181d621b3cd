"""`slotwise audit` and `slotwise compare`: what they print, and with which exit codes."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.consistency.faults import Injector, fill

from slotwise import RedisCluster
from slotwise.local import LocalCluster, ServerBinary
from slotwise.local.ports import free_ports
from tests.cli.conftest import Run, Start


@pytest.fixture
def inject(faulty_cluster: LocalCluster) -> Iterator[Injector]:
    with RedisCluster.from_url(faulty_cluster.url) as client:
        fill(client, 200)
        inject = Injector(faulty_cluster, client)
        inject.settle()
        yield inject


def report(run: Any, code: int) -> Any:
    assert run.returncode == code, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_equal(slotwise: Run, inject: Injector) -> None:
    found = report(slotwise("audit", "--url", inject.cluster.url, "--json"), 0)
    assert (found["equal"], found["findings"], found["keys"]) == (True, [], 207)
    run = slotwise("audit", "--url", inject.cluster.url)
    assert run.returncode == 0
    assert run.stdout.rstrip().endswith("All equal.")
    assert "\x1b" not in run.stdout


def test_differences_and_repair(slotwise: Run, inject: Injector) -> None:
    inject.missing("secret[1]")
    inject.wrong_ttl("secret[2]")
    inject.settle()
    url = inject.cluster.url
    found = report(slotwise("audit", "--url", url, "--json"), 1)
    assert found["counts"] == {"missing": 1, "wrong_ttl": 1}
    assert not found["equal"]
    assert "key" not in found["findings"][0]
    run = slotwise("audit", "--url", url)
    assert run.returncode == 1
    assert "secret" not in run.stdout
    assert "wrong_ttl: 1" in run.stdout
    run = slotwise("audit", "--url", url, "--show-keys", "--repair")
    assert run.returncode == 0
    assert "secret[1]" in run.stdout
    assert run.stdout.rstrip().endswith("All 2 differences repaired.")
    assert report(slotwise("audit", "--url", url, "--json"), 0)["equal"]


def test_interrupted_and_resumed(
    start_slotwise: Start, slotwise: Run, inject: Injector, tmp_path: Path
) -> None:
    fill(inject.client, 5_000)
    inject.settle()
    file = tmp_path / "cursor.json"
    options = ("audit", "--url", inject.cluster.url, "--json", "--resume", str(file))
    busy = {node: node.info("commandstats") for node in inject.cluster.primaries}
    with start_slotwise(*options, "--rate", "500") as process:
        # Ctrl-C once it is at work.
        while all(
            node.info("commandstats").get("cmdstat_evalsha") == stats.get("cmdstat_evalsha")
            for node, stats in busy.items()
        ):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    first = json.loads(output)
    assert first["stopped"]
    assert 0 <= first["keys"] < 5_007
    second = report(slotwise(*options), 0)
    assert second["equal"]
    assert first["keys"] + second["keys"] >= 5_007
    assert not file.exists()


def test_a_file_that_no_audit_wrote(slotwise: Run, inject: Injector, tmp_path: Path) -> None:
    file = tmp_path / "cursor.json"
    for text in ("nonsense", "[]", '{"nodes": 1}', '{"nodes": {"process": 1}}'):
        file.write_text(text)
        run = slotwise("audit", "--url", inject.cluster.url, "--resume", str(file))
        assert run.returncode == 2
        assert "--resume" in run.stderr
        assert file.read_text() == text


def test_a_cursor_is_kept_until_all_was_looked_at(slotwise: Run, inject: Injector, tmp_path: Path) -> None:
    file = tmp_path / "cursor.json"
    text = '{"pattern": "*", "nodes": {"process": {"node": "127.0.0.1:1", "cursor": 7, "done": false}}}'
    file.write_text(text)
    url = inject.cluster.url
    run = slotwise("audit", "--url", url, "--sample", "100", "--resume", str(file))
    assert run.returncode == 2
    assert "--sample" in run.stderr
    assert file.read_text() == text
    # It does not answer from the beginning on, and nobody takes its place.
    victim = inject.cluster.primaries[2]
    [heir] = inject.cluster.replicas_of(victim)
    heir.call("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    inject.cluster.pause(victim)
    try:
        run = slotwise("audit", "--url", url, "--timeout", "1", "--json", "--resume", str(file))
    finally:
        inject.cluster.resume(victim)
        inject.cluster.wait_ready()
        heir.call("CONFIG", "SET", "cluster-replica-no-failover", "no")
    found = report(run, 1)
    assert f"{victim.host}:{victim.port}" in [failure["node"] for failure in found["failures"]]
    assert json.loads(file.read_text()) == found["cursor"]
    rest = report(slotwise("audit", "--url", url, "--json", "--resume", str(file)), 0)
    # The cluster is down for a moment, or not yet: the other nodes fail as well, or do not.
    assert found["keys"] + rest["keys"] >= 207
    assert not file.exists()


def test_compare(slotwise: Run, inject: Injector, server: ServerBinary) -> None:
    with LocalCluster(1, 0, server=server.command, password="s@crét") as other:
        with RedisCluster.from_url(other.url) as client:
            fill(client, 200)
            # The other was filled some seconds before.
            urls = (inject.cluster.url, other.url, "--ttl-tolerance", "60")
            assert report(slotwise("compare", *urls, "--json"), 0)["equal"]
            client.set("secret", "x")
            client.delete("key:7")
        found = report(slotwise("compare", *urls, "--json"), 1)
        assert found["counts"] == {"only_in_a": 1, "only_in_b": 1}
        run = slotwise("compare", *urls)
        assert run.returncode == 1
        assert run.stdout.rstrip().endswith("Not equal.")
        assert not re.search("s(@|%40)cr|secret", run.stdout + run.stderr)
        assert "secret" in slotwise("compare", *urls, "--show-keys").stdout
        # No version says who is right.
        assert report(slotwise("compare", *urls, "--reconcile", "--json"), 1)["conflicts"] == 2
        run = slotwise("compare", *urls, "--reconcile", "--prefer", "a")
        assert run.returncode == 0, run.stdout
        assert run.stdout.rstrip().endswith("All 2 differences reconciled.")
        assert slotwise("compare", *urls).returncode == 0
        assert slotwise("compare", *urls, "--prefer", "a").returncode == 2


def test_compare_tells_of_slots_on_their_way(slotwise: Run, server: ServerBinary) -> None:
    with LocalCluster(2, 0, server=server.command) as cluster:
        urls = (cluster.url, cluster.url)
        cluster.slot_move([7], cluster.primaries[1]).open()
        found = report(slotwise("compare", *urls, "--json"), 1)
        assert (found["equal"], found["mended"], found["moving"]) == (False, False, 1)
        run = slotwise("compare", *urls)
        assert run.returncode == 1
        assert "1 slots were on their way" in run.stdout
        assert run.stdout.rstrip().endswith("Not equal.")


@pytest.mark.parametrize("command", ["audit", "compare"])
def test_nobody_there(slotwise: Run, command: str) -> None:
    [port] = free_ports(1)
    url = f"redis://user:s3cret@127.0.0.1:{port}"
    arguments = ("--url", url) if command == "audit" else (url, url)
    run = slotwise(command, *arguments, "--timeout", "1")
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("slotwise: ")
    assert "s3cret" not in run.stderr
    assert slotwise(command, *arguments, "--timeout", "1", "--json").returncode == 2


@pytest.mark.parametrize("command", ["audit", "compare"])
def test_a_url_that_is_none(slotwise: Run, command: str) -> None:
    arguments = ("--url", "127.0.0.1:7000") if command == "audit" else ("unix:///tmp/redis.sock",) * 2
    run = slotwise(command, *arguments)
    assert run.returncode == 2
    assert ("--url" if command == "audit" else "URL_A") in run.stderr
