"""The configuration file of a local server."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from slotwise.local.binary import ServerBinary
from slotwise.local.node import LocalNode

Value = str | int | bool | Sequence[str]


def write_config(
    node: LocalNode, binary: ServerBinary, node_timeout_ms: int | None, extra: Mapping[str, Value]
) -> Path:
    """Write the file that `node` is started with; returns its path.

    `node_timeout_ms` makes it a cluster node. `extra` comes last and wins.
    """
    settings: dict[str, Value] = {
        "port": node.port,
        "bind": node.host,
        "protected-mode": False,
        "daemonize": False,
        "dir": binary.path_inside(node.folder),
        # The log goes to standard output, so that what a server says before it has read its
        # configuration is in the same file.
        "logfile": "",
        "save": "",
        "appendonly": False,
        # A replica gets its copy at once: no fork's file in between, no wait for company.
        "repl-diskless-sync": True,
        "repl-diskless-sync-delay": 0,
        "repl-ping-replica-period": 1,
    }
    if binary.version_info >= (7, 0):
        settings["enable-debug-command"] = "local"
    if node.username is not None:
        assert node.password is not None
        rules = f"{node.username} on {quoted('>' + node.password)} ~* &* +@all"
        settings["user"] = ["default off", rules]
        settings["masteruser"] = node.username
        settings["masterauth"] = quoted(node.password)
    elif node.password is not None:
        settings["requirepass"] = settings["masterauth"] = quoted(node.password)
    if node.tls is not None:
        settings["port"], settings["tls-port"] = 0, node.port
        settings["tls-cert-file"] = binary.path_inside(node.tls.node.file)
        settings["tls-key-file"] = binary.path_inside(node.tls.node.key)
        settings["tls-ca-cert-file"] = binary.path_inside(node.tls.authority.certificate.file)
        settings["tls-replication"] = True
    if node_timeout_ms is not None:
        settings["cluster-enabled"] = True
        settings["cluster-config-file"] = "nodes.conf"
        settings["cluster-node-timeout"] = node_timeout_ms
        if node.tls is not None:
            settings["tls-cluster"] = True
        # Replicas stay with the primary they were given: a test relies on its layout.
        settings["cluster-migration-barrier"] = 999
    path = node.folder / "server.conf"
    path.write_text("".join(_lines({**settings, **extra})))
    path.chmod(0o600)  # it may hold the password
    return path


def _lines(settings: Mapping[str, Value]) -> list[str]:
    lines = []
    for name, value in settings.items():
        if isinstance(value, bool):
            value = "yes" if value else "no"
        values = [value] if isinstance(value, (str, int)) else value
        lines += [f"{name} {str(one) or quoted('')}\n" for one in values]
    return lines


def quoted(text: str) -> str:
    """`text` as one word of a configuration file, whatever characters it has."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in text.encode()
    )
    return f'"{plain}"'
