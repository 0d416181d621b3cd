"""The `slotwise` command as a shell sees it."""

import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from slotwise.local import ServerBinary

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

_COMMAND = [sys.executable, "-c", "from slotwise.cli import main; main()"]


@pytest.fixture
def _environment(server: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command starts the servers that this run is about, and has room for its tables."""
    monkeypatch.setenv("SLOTWISE_SERVER", shlex.join(server.command))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def slotwise(_environment: None) -> Run:
    """Runs the command to its end."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*_COMMAND, *arguments], capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def start_slotwise(_environment: None) -> Start:
    """Starts the command, its output in pipes; the test waits for its end."""

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*_COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def descendants(pid: int) -> set[int]:
    """All processes that `pid` and its children have started and that run now."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    parent_of = dict(map(int, line.split()) for line in listing.stdout.splitlines())
    found = {pid}
    while more := {child for child, parent in parent_of.items() if parent in found} - found:
        found |= more
    return found - {pid}
