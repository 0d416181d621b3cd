"""StandaloneServer."""

from pathlib import Path

import pytest
import redis

from slotwise.local import LocalError, ServerBinary, StandaloneServer


def test_redis_py_can_use_it(standalone: StandaloneServer) -> None:
    with redis.Redis.from_url(standalone.url) as client:
        assert client.set("local:a", 1)
        assert client.delete("local:a") == 1
    with redis.Redis(standalone.host, standalone.port) as client:
        assert client.info("server")["process_id"] == standalone.node.pid


def test_it_is_no_cluster(standalone: StandaloneServer) -> None:
    assert standalone.node.info("cluster")["cluster_enabled"] == "0"
    assert (standalone.node.role, standalone.node.id) == ("standalone", "")


def test_restart_keeps_the_port(server: ServerBinary) -> None:
    with StandaloneServer(server=server.command) as standalone:
        port, pid = standalone.port, standalone.node.pid
        standalone.kill(standalone.node)
        standalone.restart(standalone.node)
        assert standalone.port == port
        assert standalone.node.pid != pid
        assert standalone.node.call("PING") == "PONG"


def test_can_be_started_again(server: ServerBinary) -> None:
    standalone = StandaloneServer(server=server.command)
    for _ in range(2):
        with standalone:
            assert standalone.node.call("SET", "k", "v") == "OK"


def test_not_started() -> None:
    standalone = StandaloneServer()
    for ask in (lambda: standalone.node, lambda: standalone.url, lambda: standalone.watchdog):
        with pytest.raises(LocalError, match="not started"):
            ask()


def test_directory_and_port_can_be_chosen(server: ServerBinary, tmp_path: Path) -> None:
    directory = server.root / "tmp" if server.root != Path("/") else tmp_path
    with StandaloneServer(server=server.command) as first:
        port = first.port
    with StandaloneServer(server=server.command, directory=directory, port=port) as second:
        assert second.port == port
        assert second.folder is not None
        assert second.folder.parent == directory


def test_a_directory_that_the_server_cannot_see_is_refused(tmp_path: Path) -> None:
    chroot = tmp_path / "chroot"
    chroot.write_text("#!/bin/sh\necho 'Redis server v=7.0.0 sha=0'\n")
    chroot.chmod(0o755)
    root = tmp_path / "root"
    (root / "tmp").mkdir(parents=True)
    command = [str(chroot), str(root), "/usr/bin/redis-server"]
    assert StandaloneServer(server=command, directory=root / "tmp").server_version == "7.0.0"
    with pytest.raises(ValueError, match="all the server can see"):
        StandaloneServer(server=command, directory=tmp_path)
