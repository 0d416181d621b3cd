"""Whatever becomes of the program that started servers: no process and no folder stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slotwise.local import LocalError, ServerBinary, StandaloneServer
from tests.local.processes import is_alive, none_alive, wait_until

# Starts servers, does what is filled in, tells what there is of them, and goes on as filled in.
PROGRAM = """
import json, os, sys, time
from slotwise.local import LocalCluster, StandaloneServer
servers = {servers}(server=json.loads(sys.argv[1])).start()
{then}
print(json.dumps(dict(pids=[node.pid for node in servers.nodes], folder=str(servers.folder))), flush=True)
{finally_}
"""
WAIT = "time.sleep(60)"


@contextmanager
def program(
    server: ServerBinary, then: str = "", finally_: str = WAIT, servers: str = "StandaloneServer"
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    text = PROGRAM.format(servers=servers, then=then, finally_=finally_)
    with subprocess.Popen(
        [sys.executable, "-c", text, json.dumps(server.command)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def is_gone(facts: dict[str, Any]) -> bool:
    return none_alive(facts["pids"]) and not Path(facts["folder"]).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_program(server: ServerBinary, number: signal.Signals) -> None:
    with program(server) as (process, facts):
        assert all(map(is_alive, facts["pids"]))
        process.send_signal(number)
        wait_until(lambda: is_gone(facts))


def test_a_program_that_never_calls_stop(server: ServerBinary) -> None:
    with program(server, finally_="") as (process, facts):
        assert process.wait() == 0
        wait_until(lambda: is_gone(facts))


def test_a_program_killed_while_a_node_is_paused_and_one_killed(server: ServerBinary) -> None:
    then = "servers.pause(servers.nodes[0]); servers.kill(servers.nodes[1])"
    with program(server, then, servers="LocalCluster") as (process, facts):
        process.kill()
        wait_until(lambda: is_gone(facts))


def test_a_killed_program_whose_child_lives_on(server: ServerBinary) -> None:
    # The child has a copy of the pipe that the watchdog listens to; its stop() must do nothing.
    then = "child = os.fork()\nif not child: servers.stop(); time.sleep(60); os._exit(0)"
    with program(server, then, f"print(child, flush=True); {WAIT}") as (process, facts):
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert all(map(is_alive, facts["pids"]))
            process.kill()
            wait_until(lambda: is_gone(facts))
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the parent-death signal")
def test_a_killed_watchdog_takes_the_servers_along(server: ServerBinary) -> None:
    with StandaloneServer(server=server.command) as standalone:
        pid, folder = standalone.node.pid, standalone.folder
        os.kill(standalone.watchdog, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
        with pytest.raises(LocalError, match="watchdog process is gone"):
            standalone.kill(standalone.node)
    assert folder is not None
    assert not folder.exists()


def test_servers_outlive_the_thread_that_started_them(server: ServerBinary) -> None:
    standalone = StandaloneServer(server=server.command)
    thread = threading.Thread(target=standalone.start)
    thread.start()
    thread.join()
    try:
        # A signal at the thread's death would have been sent by now, to a process that is
        # just about to answer.
        for _ in range(3):
            assert standalone.node.call("PING") == "PONG"
        assert is_alive(standalone.node.pid)
    finally:
        standalone.stop()


def test_an_exception_in_the_block_ends_everything(server: ServerBinary) -> None:
    standalone = StandaloneServer(server=server.command)
    pids: list[int] = []

    def fail() -> None:
        with standalone:
            pids.append(standalone.node.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pids
    assert none_alive(pids)
    assert standalone.folder is None


def test_a_folder_that_is_gone_already_is_no_error(server: ServerBinary) -> None:
    with StandaloneServer(server=server.command) as standalone:
        assert standalone.folder is not None
        shutil.rmtree(standalone.folder)
