"""`slotwise demo`: what it stores, what it says, what it leaves."""

import json
import signal
import subprocess
import sysconfig
from pathlib import Path
from typing import IO

import pytest

from slotwise import RedisCluster
from slotwise.cli._library import Module, WrongDataError, chunks, snippets, store, verify
from slotwise.cli.demo import ASYNC_RACES, RACES
from slotwise.local import LocalCluster
from tests.cli.conftest import Run, Start, descendants
from tests.local.processes import none_alive

TASKS = Module(
    "asyncio/tasks.py", b'class Task:\n    async def run(self):\n        "\xff\x00"\n\ndef f(): pass\n'
)


def library_size() -> tuple[int, int]:
    """Files and bytes of the standard library, counted another way than the demo does."""
    root = sysconfig.get_path("stdlib")
    files = [path for path in Path(root).rglob("*.py") if path.exists()]
    ours = [path for path in files if not {"site-packages", "dist-packages"} & set(path.parts)]
    return len(ours), sum(path.stat().st_size for path in ours)


def servers_of(demo: "subprocess.Popen[str]", story: IO[str] | None) -> set[int]:
    """The processes that a demo has started, once it says that it has."""
    assert story is not None
    assert story.readline().startswith("Started 3 primaries and 3 replicas")
    found = descendants(demo.pid)
    assert len(found) == 7  # the servers, and what watches over them
    return found


def test_json_report(start_slotwise: Start) -> None:
    with start_slotwise("demo", "--seconds", "0.1", "--json") as demo:
        servers = servers_of(demo, demo.stderr)
        out, err = demo.communicate(timeout=120)
    assert demo.returncode == 0, err
    assert none_alive(servers)
    report = json.loads(out)
    assert (report["modules"], report["verified_bytes"]) == library_size()
    assert [race["name"] for race in report["races"]] == [race.name for race in (*RACES, *ASYNC_RACES)]
    for race in report["races"]:
        for client in ("slotwise", "redis_py"):
            assert race[client]["rate"] > 0
            assert 0 < race[client]["p50_ms"] <= race[client]["p99_ms"]
    primaries = report["primaries"]
    assert sum(primary["slots"] for primary in primaries) == 16_384
    # A source and a hash of facts for each module, and what the races read.
    assert sum(primary["keys"] for primary in primaries) == 2 * report["modules"] + 10_000
    keys = [primary["keys"] for primary in primaries]
    assert report["imbalance"] == pytest.approx(max(keys) * 3 / sum(keys))


def test_tables_without_a_terminal(slotwise: Run) -> None:
    run = slotwise("demo", "--seconds", "0.05")
    assert run.returncode == 0, run.stderr
    assert "every byte is as stored" in run.stdout
    for race in (*RACES, *ASYNC_RACES):
        assert race.name in run.stdout
    assert "\x1b" not in run.stdout
    assert run.stderr == ""


def test_interrupted_it_leaves_nothing(start_slotwise: Start) -> None:
    with start_slotwise("demo", "--seconds", "60") as demo:
        servers = servers_of(demo, demo.stdout)
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert none_alive(servers)


def test_no_server(slotwise: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTWISE_SERVER", "/nowhere/redis-server")
    run = slotwise("demo")
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("slotwise: cannot run /nowhere/redis-server")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value"), [(TASKS.source_key, TASKS.source[:-1] + b"x"), (TASKS.source_key, None)]
)
def test_wrong_source_is_found(cluster: LocalCluster, key: str, value: bytes | None) -> None:
    with RedisCluster.from_url(cluster.url) as client:
        store(client, [TASKS])
        verify(client, [TASKS])
        client.delete(key) if value is None else client.set(key, value)
        with pytest.raises(WrongDataError, match="source"):
            verify(client, [TASKS])


def test_wrong_facts_are_found(cluster: LocalCluster) -> None:
    with RedisCluster.from_url(cluster.url) as client:
        store(client, [TASKS])
        client.hset(TASKS.facts_key, "lines", 4)
        with pytest.raises(WrongDataError, match="facts"):
            verify(client, [TASKS])


def test_facts() -> None:
    assert TASKS.facts == {
        b"size": b"%d" % len(TASKS.source),
        b"lines": b"5",
        b"functions": b"2",
        b"classes": b"1",
    }


def test_chunks_hold_everything() -> None:
    modules = [Module(str(n), b"") for n in range(250)]
    assert [module for chunk in chunks(modules) for module in chunk] == modules


def test_snippets_are_spread_evenly() -> None:
    modules = [Module(str(n), b"def f(): pass\n" * 50) for n in range(20)]
    values = snippets(modules, 100)
    assert len(values) == 100
    assert set(map(len, values.values())) == {100}
    assert snippets(modules[:1], 100).keys() == {f"library:snippet:{n}" for n in range(50)}
