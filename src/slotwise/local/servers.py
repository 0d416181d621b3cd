"""What a single local server and a local cluster have in common: processes and their life."""

import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from slotwise.local.binary import ServerBinary, find_server
from slotwise.local.certificates import Tls
from slotwise.local.config import Value, write_config
from slotwise.local.errors import LocalError, ServerStartError
from slotwise.local.node import LocalNode, Role, parse_info
from slotwise.local.ports import free_ports, is_free
from slotwise.local.supervisor import Supervisor

Self = TypeVar("Self", bound="Servers")

# Seconds a server has to answer after its start; a loaded machine needs some of them.
_ANSWER_WITHIN = 20.0
_POLL = 0.005
# How often to choose other ports when somebody else was quicker.
_PORT_ATTEMPTS = 5
_LOG_TAIL = 2_000
_NOT_IN_NAMES = frozenset(" \t\r\n\0\"'")


class Servers:
    """Server processes on loopback ports that end with this process. A context manager.

    `server` is described at `find_server`. `directory` is where the temporary folder is made
    (default: the system's place for them, inside the server's root if it has one of its own).
    `port` is the first of the ports to use; default: free ones. `config` adds lines to the
    servers' configuration: a sequence makes several lines of one name, a bool yes or no.
    `username` makes an ACL user with all rights in place of the default one, who is turned off.
    With `tls` the servers speak TLS only, and want a certificate of their clients as well; all
    certificates are made by the ``openssl`` command, and `url` names those that a client needs.
    """

    #: None for a server that is not part of a cluster.
    _node_timeout_ms: int | None = None

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        server: str | Path | Sequence[str] | None,
        directory: str | Path | None,
        port: int | None,
        username: str | None,
        password: str | None,
        tls: bool,
        config: Mapping[str, Value] | None,
    ) -> None:
        if username is not None and (password is None or not username or set(username) & _NOT_IN_NAMES):
            raise ValueError("a username is one word, and needs a password")
        self.binary: ServerBinary = find_server(server)
        #: All servers, primaries first; empty until started and after the stop.
        self.nodes: list[LocalNode] = []
        #: The temporary folder while started.
        self.folder: Path | None = None
        #: The certificates while started, with `tls`.
        self.tls: Tls | None = None
        self._roles = roles
        self._base = _base_directory(self.binary, directory)
        self._port = port
        self._username = username
        self._password = password
        self._with_tls = tls
        self._config = dict(config or {})
        self._supervisor: Supervisor | None = None

    @property
    def server_name(self) -> str:
        """Either "redis" or "valkey"."""
        return self.binary.name

    @property
    def server_version(self) -> str:
        """Such as "7.0.15"."""
        return self.binary.version

    @property
    def url(self) -> str:
        """Of the first node, such as ``redis://127.0.0.1:7000``, with all that a client needs."""
        return self._started()[0].url

    @property
    def client_options(self) -> dict[str, Any]:
        """Keywords of a client that is not made from `url`: what it needs of user, password and certificates."""
        return self._started()[0].client_options

    # -- life ------------------------------------------------------------------------------

    def start(self: Self) -> Self:
        """Start everything and return when it is ready.

        Raises ServerStartError with the tail of the log, NotReadyError, or OSError when a
        port is taken; nothing is left running then.
        """
        if self._supervisor is not None:
            raise LocalError("already started")
        if self._with_tls and not self.binary.has_tls:
            raise ServerStartError(
                f"{self.server_name} {self.server_version} ({shlex.join(self.binary.command)}) was built without TLS"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="slotwise-", dir=self._base))
        try:
            self._supervisor = Supervisor(self.folder)
            if self._with_tls:
                self.tls = Tls.make(self.folder / "tls")
            for node, port in zip(self._make_nodes(self.folder), self._choose_ports(), strict=True):
                self.nodes.append(node)
                node.port = port
                self._launch(node)
            for node in self.nodes:
                self._await_answer(node, self._port is None)
            self._set_up()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all servers and remove the folder. Does nothing when not started."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.stop()
        elif self.folder is not None:  # the supervisor could not be started
            shutil.rmtree(self.folder, ignore_errors=True)
        for node in self.nodes:
            node.state = "stopped"
        self.nodes = []
        self.folder = None
        self.tls = None

    def __enter__(self: Self) -> Self:
        return self.start()

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def watchdog(self) -> int:
        """The id of the process that owns the servers; SIGTERM makes it end them."""
        return self._require_supervisor().pid

    def detach(self) -> None:
        """Let the servers live on after this process; this object knows them no more then.

        From then on a SIGTERM to `watchdog` ends them and removes their folder.
        """
        self._require_supervisor().detach()
        self._supervisor = None
        self.folder = None
        self.nodes = []

    # -- faults ----------------------------------------------------------------------------

    def kill(self, node: LocalNode) -> None:
        """End a node as a crash does (SIGKILL); returns when the process is gone.

        Does nothing when it was killed before.
        """
        supervisor = self._require_supervisor()
        if node.state != "stopped":
            supervisor.kill(node.pid)
            node.state = "stopped"

    def pause(self, node: LocalNode) -> None:
        """Freeze a node (SIGSTOP): its connections stay open and silent."""
        self._signal(node, signal.SIGSTOP)
        node.state = "paused"

    def resume(self, node: LocalNode) -> None:
        """Let a paused node go on (SIGCONT)."""
        self._signal(node, signal.SIGCONT)
        node.state = "running"

    def _signal(self, node: LocalNode, number: signal.Signals) -> None:
        supervisor = self._require_supervisor()
        if node.state == "stopped":
            raise LocalError(f"node {node.port} is stopped; restart it first")
        supervisor.signal(node.pid, number)

    def restart(self, node: LocalNode) -> None:
        """Start a node again on its port, killing it first if need be; returns when it answers.

        A cluster node keeps its identity (its nodes.conf); all data is gone unless a replica
        or a `config` that saves has it.
        """
        self.kill(node)
        self._launch(node)
        self._await_answer(node, False)

    # -- starting --------------------------------------------------------------------------

    def _set_up(self) -> None:
        """What is left to do when all processes answer."""

    def _make_nodes(self, folder: Path) -> list[LocalNode]:
        return [
            LocalNode(index, 0, role, folder / f"node-{index}", self._password, self._username, self.tls)
            for index, role in enumerate(self._roles)
        ]

    def _choose_ports(self) -> list[int]:
        if self._port is None:
            return free_ports(len(self._roles))
        ports = list(range(self._port, self._port + len(self._roles)))
        for port in ports:
            if not is_free(port):
                raise OSError(f"port {port} is in use")
        return ports

    def _launch(self, node: LocalNode) -> None:
        node.folder.mkdir(exist_ok=True)
        config = write_config(node, self.binary, self._node_timeout_ms, {**self._config, **node.config})
        command = [*self.binary.command, self.binary.path_inside(config)]
        node.pid = self._require_supervisor().spawn(command, node.log)
        node.state = "running"

    def _await_answer(self, node: LocalNode, may_move: bool) -> None:
        """Return when `node` answers; `may_move` lets it go to another port if its own is taken."""
        deadline = time.monotonic() + _ANSWER_WITHIN
        attempts = _PORT_ATTEMPTS if may_move else 1
        while not self._answers(node):
            if self._require_supervisor().ended(node.pid):
                self.kill(node)  # it is gone already; this forgets it
                attempts -= 1
                log = _tail(node.log)
                if not attempts or "Address already in use" not in log:
                    raise ServerStartError(f"{self._called(node)} ended at once; its log ends with:\n{log}")
                [node.port] = free_ports(1)
                self._launch(node)
            elif time.monotonic() > deadline:
                raise ServerStartError(
                    f"{self._called(node)} gave no answer within {_ANSWER_WITHIN:.0f} s; "
                    f"its log ends with:\n{_tail(node.log)}"
                )
            time.sleep(_POLL)

    def _answers(self, node: LocalNode) -> bool:
        try:
            info = parse_info(node.call("INFO", "server"))
        except (OSError, ResponseError):  # ResponseError: it is loading
            return False
        # A stranger who took the port first answers as well.
        return int(info["process_id"]) == node.pid

    def _called(self, node: LocalNode) -> str:
        return f"{self.server_name} {self.server_version} on port {node.port}"

    def _started(self) -> list[LocalNode]:
        if not self.nodes:
            raise LocalError("not started")
        return self.nodes

    def _require_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise LocalError("not started")
        return self._supervisor


class StandaloneServer(Servers):
    """One server that is not part of a cluster. A context manager; ready when it answers.

    Options as for `LocalCluster`.
    """

    def __init__(
        self,
        *,
        server: str | Path | Sequence[str] | None = None,
        directory: str | Path | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        config: Mapping[str, Value] | None = None,
    ) -> None:
        super().__init__(
            ["standalone"],
            server=server,
            directory=directory,
            port=port,
            username=username,
            password=password,
            tls=tls,
            config=config,
        )

    @property
    def node(self) -> LocalNode:
        return self._started()[0]

    @property
    def host(self) -> str:
        return self.node.host

    @property
    def port(self) -> int:
        return self.node.port


def _base_directory(binary: ServerBinary, directory: str | Path | None) -> Path:
    """Where to make the temporary folder, so that the server can see it."""
    if directory is None:
        system = Path(tempfile.gettempdir())
        return system if binary.root == Path("/") else binary.root / "tmp"
    try:
        binary.path_inside(Path(directory))
    except ValueError:
        raise ValueError(
            f"directory {directory} is outside of {binary.root}, which is all the server can see"
        ) from None
    return Path(directory)


def _tail(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-_LOG_TAIL:].strip() or "(empty)"
    except OSError as error:
        return f"({error})"
