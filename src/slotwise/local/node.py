"""One local server process."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from slotwise.local.certificates import Tls
from slotwise.local.wire import Argument, Wire

HOST = "127.0.0.1"

Role = Literal["primary", "replica", "standalone"]


@dataclass(eq=False)
class LocalNode:
    """A server process and where to reach it. Its owner (the cluster) keeps it up to date."""

    #: Position in the owner's list of nodes: the primaries come first.
    index: int
    port: int
    #: What it started as; its role may have changed by failover since.
    role: Role
    #: Where its configuration, its log and its nodes.conf lie.
    folder: Path
    password: str | None = field(default=None, repr=False)
    #: The ACL user that the password is of; None for the default one.
    username: str | None = None
    #: None: plain TCP.
    tls: Tls | None = None
    host: str = HOST
    #: The node's id in its cluster; empty for a standalone server.
    id: str = ""
    #: The process id of the latest start; 0 before the first.
    pid: int = 0
    state: Literal["running", "paused", "stopped"] = "stopped"
    #: More lines of its configuration, which count from its next start on.
    config: dict[str, str | int] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        """Such as ``redis://127.0.0.1:7000``, with all that a client needs: user, password, certificates."""
        secret = f":{quote(self.password, safe='')}@" if self.password is not None else ""
        place = f"{quote(self.username or '', safe='')}{secret}{self.host}:{self.port}"
        return f"redis://{place}" if self.tls is None else f"rediss://{place}{self.tls.query}"

    @property
    def client_options(self) -> dict[str, Any]:
        """Keywords of a client beside host and port: what it needs of user, password and certificates."""
        options: dict[str, Any] = {}
        if self.password is not None:
            options |= {"username": self.username, "password": self.password}
        if self.tls is not None:
            options |= {"ssl": True, **self.tls.options}
        return options

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def connect(self, timeout: float = 5.0) -> Wire:
        """A plain connection to this node, for several commands. `timeout` in seconds."""
        context = self.tls.context() if self.tls is not None else None
        return Wire(self.host, self.port, self.username, self.password, context, timeout)

    def call(self, *command: Argument) -> Any:
        """The reply of this node to one command, over a connection of its own.

        Text is str. Raises redis.ResponseError for an error reply (a redirect, too), OSError
        when the node is away.
        """
        with self.connect() as wire:
            return wire.call(*command)

    def info(self, section: str) -> dict[str, str]:
        """One section of INFO, such as ``info("replication")["role"]``."""
        return parse_info(self.call("INFO", section))


def parse_info(text: str) -> dict[str, str]:
    """The fields of an INFO or CLUSTER INFO reply."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
