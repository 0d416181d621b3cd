"""Ending servers whose watchdog was killed, where no signal took them along."""

import subprocess
import sys
from dataclasses import replace

from slotwise.local import ServerBinary, StandaloneServer
from slotwise.local.detached import DetachedCluster
from slotwise.local.ports import is_free
from tests.local.processes import wait_until


def test_only_a_server_that_confirms_its_process_is_killed(server: ServerBinary) -> None:
    with (
        StandaloneServer(server=server.command) as standalone,
        subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
        ) as stranger,
    ):
        assert standalone.folder is not None
        node = standalone.node

        def end_orphans(pid: int) -> None:
            nodes = [replace(node, pid=pid)]
            cluster = DetachedCluster("x", server.name, server.version, 0, standalone.folder, nodes)
            cluster._end_orphans()

        end_orphans(stranger.pid)  # as if the number had been given to somebody else
        assert node.call("PING") == "PONG"
        end_orphans(node.pid)
        wait_until(lambda: is_free(node.port))
        stranger.communicate(b"\n", timeout=10)
        assert stranger.returncode == 0  # untouched by any signal
