"""The caller's end of the watchdog (see `watchdog.py`)."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from slotwise.local.errors import LocalError

# A sanitizer or a profiler of the caller is not meant for the servers.
_NOT_FOR_SERVERS = ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES")


class Supervisor:
    """Starts, signals and ends server processes through a watchdog of its own.

    Owns `folder`: it is removed together with the processes, by `stop` or when this process
    ends in whatever way. Methods may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # one request and its answer at a time
        self._asked = 0
        self._pids: set[int] = set()
        self._creator = os.getpid()
        program = str(Path(__file__).with_name("watchdog.py"))
        self._process = subprocess.Popen(
            # -I and -S: no site-packages, which would cost more time than all the rest.
            [sys.executable, "-I", "-S", program, str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name not in _NOT_FOR_SERVERS},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def spawn(self, command: list[str], log: Path) -> int:
        """Start a server that writes to `log`; its process id."""
        pid = int(self._ask(do="spawn", command=command, log=str(log))["pid"])
        self._pids.add(pid)
        return pid

    def signal(self, pid: int, number: signal.Signals) -> None:
        self._ask(do="signal", pid=pid, signal=int(number))

    def kill(self, pid: int) -> None:
        """End a server with SIGKILL; returns when it is gone."""
        self._ask(do="kill", pid=pid)
        self._pids.discard(pid)

    def ended(self, pid: int) -> bool:
        """Whether a server has ended by itself."""
        return bool(self._ask(do="ended", pid=pid)["ended"])

    def detach(self) -> None:
        """Let the servers outlive this process; from then on SIGTERM to `pid` ends them."""
        self._ask(do="detach")
        self._close_pipes()
        self._process.returncode = 0  # nobody is going to wait for it, and that is intended

    def stop(self) -> None:
        """End all servers, remove the folder, and return when both are gone.

        Does nothing in a forked child: the servers are its parent's.
        """
        if os.getpid() != self._creator:
            return
        self._close_pipes()
        if self._process.wait() != 0:  # somebody killed the watchdog: do its work
            for pid in self._pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, **request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            self._asked += 1
            answer: dict[str, Any] = {}
            try:
                stdin.write(json.dumps({"number": self._asked, **request}).encode() + b"\n")
                stdin.flush()
                # An exception raised into an earlier call (Ctrl-C, a test's time-out) may have
                # left its answer unread.
                while answer.get("number") != self._asked:
                    answer = json.loads(stdout.readline())
            except (OSError, ValueError):  # ValueError: end of file, or we have closed the pipe
                raise LocalError("the servers' watchdog process is gone") from None
        if "error" in answer:
            raise LocalError(answer["error"])
        return answer

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with self._lock, contextlib.suppress(OSError):
                pipe.close()
