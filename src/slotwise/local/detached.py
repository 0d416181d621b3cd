"""Clusters that live on after the command that started them, known by name.

What there is to know about one is in ``$XDG_STATE_HOME/slotwise/local/NAME.json``
(``~/.local/state`` without that variable); its data folder lies beside it, because the
system's folder for temporary files is swept now and then.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from slotwise.local.binary import find_server
from slotwise.local.cluster import LocalCluster
from slotwise.local.errors import LocalError
from slotwise.local.node import LocalNode

_POLL = 0.02
# Seconds for the watchdog to kill its servers and to remove their folder.
_GONE_WITHIN = 10.0


class AlreadyUpError(LocalError):
    """A cluster of this name is running."""


@dataclass(frozen=True)
class DetachedCluster:
    """A cluster started by `up`, in this process or in an earlier one."""

    name: str
    server_name: str
    server_version: str
    #: The process that owns the servers; SIGTERM makes it end them.
    watchdog: int
    folder: Path
    nodes: list[LocalNode]

    @property
    def url(self) -> str:
        return self.nodes[0].url

    @property
    def is_up(self) -> bool:
        """Whether its watchdog lives; single servers may have ended all the same."""
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def down(self) -> None:
        """End its servers and remove its folder and its state file; returns when all are gone."""
        deadline = time.monotonic() + _GONE_WITHIN
        if self.is_up:
            os.kill(self.watchdog, signal.SIGTERM)
            while self.is_up:
                if time.monotonic() > deadline:
                    raise LocalError(f"the watchdog process {self.watchdog} does not end")
                time.sleep(_POLL)
        self._end_orphans()
        shutil.rmtree(self.folder, ignore_errors=True)
        _state_file(self.name).unlink(missing_ok=True)

    def _end_orphans(self) -> None:
        """End servers whose watchdog was killed; where SIGKILL reaches children there are none."""
        for node in self.nodes:
            # The process id may be a stranger's by now, unless the server itself confirms it.
            with contextlib.suppress(OSError, ResponseError):
                if int(node.info("server")["process_id"]) == node.pid:
                    os.killpg(node.pid, signal.SIGKILL)


def up(
    name: str,
    primaries: int = 3,
    replicas: int = 1,
    *,
    server: str | Path | Sequence[str] | None = None,
    port: int | None = None,
    node_timeout_ms: int = 2000,
) -> DetachedCluster:
    """Start a cluster that outlives this process. Options as for `LocalCluster`.

    Raises AlreadyUpError when one of this name is running, LocalError for a name that cannot
    be a file's, and what `LocalCluster.start` raises.
    """
    with _one_at_a_time():
        before = find(name)
        if before is not None:
            if before.is_up:
                raise AlreadyUpError(f"cluster {name} is running at {before.url}")
            before.down()
        binary = find_server(server)
        cluster = LocalCluster(
            primaries,
            replicas,
            server=binary.command,
            # A server with a root of its own does not see our folder.
            directory=_state_directory() if binary.root == Path("/") else None,
            port=port,
            node_timeout_ms=node_timeout_ms,
        )
        with cluster:
            assert cluster.folder is not None
            detached = DetachedCluster(
                name,
                cluster.server_name,
                cluster.server_version,
                cluster.watchdog,
                cluster.folder,
                list(cluster.nodes),
            )
            # Known before it is let go: whatever happens in between, it can be found.
            _save(detached)
            cluster.detach()
    return detached


def find(name: str) -> DetachedCluster | None:
    """The cluster that was started under this name and not taken down since; it may have died."""
    try:
        state: dict[str, Any] = json.loads(_state_file(name).read_text())
    except FileNotFoundError:
        return None
    nodes = [LocalNode(**{**node, "folder": Path(node["folder"])}) for node in state.pop("nodes")]
    return DetachedCluster(**{**state, "folder": Path(state["folder"]), "nodes": nodes})


def _save(cluster: DetachedCluster) -> None:
    file = _state_file(cluster.name)
    whole = file.with_suffix(".new")
    whole.write_text(json.dumps(asdict(cluster), default=str, indent=2))
    whole.replace(file)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keeps two processes from starting a cluster of one name."""
    directory = os.open(_state_directory(), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _state_file(name: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise LocalError(f"{name!r} is no name for a cluster: letters, digits, '_', '-' and '.' make one")
    return _state_directory() / f"{name}.json"


def _state_directory() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    directory = Path(home) / "slotwise" / "local"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
