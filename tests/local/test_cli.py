"""`slotwise local`, as a shell sees it."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slotwise.local import ServerBinary
from slotwise.local.detached import DetachedCluster, find
from tests.local.processes import none_alive, wait_until

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_slotwise(*arguments: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    program = f"{before}\nfrom slotwise.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def slotwise(server: ServerBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command with a state folder of its own; takes down what the test leaves up."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("SLOTWISE_SERVER", shlex.join(server.command))
    yield run_slotwise
    for state in (tmp_path / "slotwise" / "local").glob("*.json"):
        run_slotwise("local", "down", "--name", state.stem)


def state_of(name: str = "default") -> DetachedCluster:
    cluster = find(name)
    assert cluster is not None
    return cluster


def answer(run: "subprocess.CompletedProcess[str]", code: int = 0) -> Any:
    assert run.returncode == code, run.stderr
    return json.loads(run.stdout)


def test_up_status_down(slotwise: Run, server: ServerBinary, tmp_path: Path) -> None:
    up = answer(slotwise("local", "up", "--json", "--primaries", "2", "--replicas", "1"))
    assert (up["server"], up["version"], up["ready"]) == (server.name, server.version, True)
    assert [node["role"] for node in up["nodes"]] == ["primary"] * 2 + ["replica"] * 2
    assert sum(node["slots"] for node in up["nodes"]) == 16_384
    assert up["nodes"][2]["replicates"] == up["nodes"][0]["port"]
    assert up["url"] == f"redis://127.0.0.1:{up['nodes'][0]['port']}"

    again = slotwise("local", "up")
    assert again.returncode == 1
    assert again.stderr.strip().endswith(f"cluster default is running at {up['url']}")

    state_of().nodes[0].call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    shown = slotwise("local", "status")
    assert shown.returncode == 0
    assert "Ready." in shown.stdout
    for node in up["nodes"]:
        assert f"{node['host']}:{node['port']}" in shown.stdout
    assert answer(slotwise("local", "status", "--json")) == up

    cluster = state_of()
    assert answer(slotwise("local", "down", "--json")) == {"name": "default", "up": False, "was_up": True}
    assert none_alive([*(node.pid for node in cluster.nodes)])
    assert not cluster.folder.exists()
    assert not list((tmp_path / "slotwise" / "local").iterdir())


def test_a_dead_node_is_shown(slotwise: Run) -> None:
    answer(slotwise("local", "up", "--json", "--primaries", "1", "--replicas", "1"))
    replica = state_of().nodes[1]
    os.kill(replica.pid, signal.SIGKILL)
    wait_until(lambda: slotwise("local", "status", "--json").returncode == 1)
    status = answer(slotwise("local", "status", "--json"), 1)
    assert [node["role"] for node in status["nodes"]] == ["primary", "down"]
    assert status["ready"] is False
    assert str(replica.port) in status["missing"]
    shown = slotwise("local", "status")
    assert shown.returncode == 1
    assert "Not ready" in shown.stdout


def test_nothing_is_up(slotwise: Run) -> None:
    assert answer(slotwise("local", "status", "--json"), 3) == {"name": "default", "up": False}
    assert answer(slotwise("local", "down", "--json"), 3)["was_up"] is False
    status = slotwise("local", "status", "--name", "other")
    assert status.returncode == 3
    assert "no local cluster other is running" in status.stderr
    assert status.stdout == ""


def test_names_and_ports(slotwise: Run) -> None:
    first = answer(slotwise("local", "up", "--json", "--name", "a", "--primaries", "1", "--replicas", "0"))
    port = first["nodes"][0]["port"]
    taken = slotwise("local", "up", "--name", "b", "--primaries", "1", "--port", str(port))
    assert taken.returncode == 1
    assert taken.stderr.strip().endswith(f"port {port} is in use")
    assert slotwise("local", "status", "--name", "b").returncode == 3
    assert slotwise("local", "down", "--name", "a").returncode == 0
    second = answer(
        slotwise(
            "local", "up", "--json", "--name", "b", "--primaries", "1", "--replicas", "0", "--port", str(port)
        )
    )
    assert second["url"] == first["url"]
    bad = slotwise("local", "up", "--name", "../b")
    assert bad.returncode == 1
    assert "no name for a cluster" in bad.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the parent-death signal")
def test_after_a_killed_watchdog(slotwise: Run) -> None:
    answer(slotwise("local", "up", "--json", "--primaries", "1", "--replicas", "0"))
    dead = state_of()
    os.kill(dead.watchdog, signal.SIGKILL)
    wait_until(lambda: none_alive(node.pid for node in dead.nodes))
    assert slotwise("local", "status").returncode == 3
    answer(slotwise("local", "up", "--json", "--primaries", "1", "--replicas", "0"))
    assert state_of().folder != dead.folder
    assert not dead.folder.exists()


def test_wrong_usage_is_code_2(slotwise: Run) -> None:
    assert slotwise("local", "up", "--primaries", "0").returncode == 2
    assert slotwise("nonsense").returncode == 2


def test_help_imports_no_command() -> None:
    check = "import atexit, sys\natexit.register(lambda: print('slotwise.cli.local' in sys.modules))"
    root = run_slotwise("--help", before=check)
    assert "local" in root.stdout
    assert root.stdout.endswith("False\n")
    local = run_slotwise("local", "--help", before=check)
    assert all(command in local.stdout for command in ("up", "status", "down"))
    assert local.stdout.endswith("True\n")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_library_is_named_with_its_remedy(missing: str) -> None:
    run = run_slotwise("local", "status", before=f"import sys; sys.modules['{missing}'] = None")
    assert run.returncode == 1
    assert run.stderr == f"slotwise: the command line needs {missing}: pip install 'slotwise[cli]'\n"
