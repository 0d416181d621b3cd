"""The process that owns the servers: it starts them, and removes every trace of them.

A program, not a module: `supervisor.py` runs it with ``python -I -S watchdog.py FOLDER PID``,
so it starts in a few milliseconds and imports the standard library only.

It is the parent of all servers and reads requests, one JSON object a line, from a pipe whose
other end only the caller holds. However the caller ends (stop(), exit, crash, kill -9), the
pipe closes; then the servers are killed, reaped, and FOLDER is removed. There is no other way
out, so what cleans up after a crash is what every ordinary run has just exercised.

Requests and their answers (each also carries a "number", which its answer repeats):

    {"do": "spawn", "command": [...], "log": path}   {"pid": n}, or {"error": text}
    {"do": "signal", "pid": n, "signal": n}          {}
    {"do": "kill", "pid": n}                         {}, once the process is reaped
    {"do": "ended", "pid": n}                        {"ended": whether it has exited}
    {"do": "detach"}                                 {}, and from then on only SIGTERM ends it
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

# Seconds between looks at the caller's process id.
GLANCE = 0.5


def main(folder: str, caller: int) -> None:
    # A terminal's Ctrl-C or hang-up is for the caller to act upon, not for its servers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    # Held for life: who can lock this file knows that the watchdog is gone (its process id
    # alone could belong to a stranger by then).
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    servers = Servers()
    try:
        if serve(servers, caller) == "detached":
            while True:
                signal.pause()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        servers.kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def serve(servers: "Servers", caller: int) -> str:
    """Answer requests until the caller is gone or detaches; says which."""
    buffer = b""
    while True:
        # The pipe alone does not tell when the caller left a forked child behind, which holds
        # a copy of its end.
        if os.getppid() != caller:
            return "gone"
        if not select.select([0], [], [], GLANCE)[0]:
            continue
        data = os.read(0, 65536)
        if not data:
            return "gone"
        buffer += data
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            request = json.loads(line)
            try:
                answer = servers.act(request)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answer["number"] = request["number"]
            try:
                os.write(1, json.dumps(answer).encode() + b"\n")
            except BrokenPipeError:
                return "gone"
            if request["do"] == "detach":
                # Whoever reads the caller's output to its end must not wait for us.
                null = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(null, stream)
                return "detached"


class Servers:
    """The server processes, each leader of a process group with what it forks itself."""

    def __init__(self) -> None:
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.die_with_us = dies_with_its_parent()

    def act(self, request: dict[str, Any]) -> dict[str, Any]:
        what = request["do"]
        if what == "spawn":
            return {"pid": self.spawn(request["command"], request["log"])}
        if what == "signal":
            os.killpg(request["pid"], request["signal"])
        elif what == "kill":
            self.kill(request["pid"])
        elif what == "ended":
            return {"ended": self.running[request["pid"]].poll() is not None}
        return {}

    def spawn(self, command: list[str], log: str) -> int:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=self.die_with_us,  # safe: this program has no threads
            )
        self.running[process.pid] = process
        return process.pid

    def kill(self, pid: int) -> None:
        process = self.running.pop(pid)
        # No group is left when "ended" has reaped the server; macOS refuses to signal zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The group, because a child writing a snapshot outlives its server.
            os.killpg(pid, signal.SIGKILL)
        process.wait()

    def kill_all(self) -> None:
        for pid in list(self.running):
            self.kill(pid)


def dies_with_its_parent() -> "Callable[[], None] | None":
    """What a new server runs so that even a watchdog killed by SIGKILL takes it along (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1
    watchdog = os.getpid()

    def ask() -> None:
        prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != watchdog:  # it died before we asked
            os._exit(1)

    return ask


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
