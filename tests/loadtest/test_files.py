"""Files that are written whole or stay as they were."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slotwise.loadtest.report.files import check_writable, write_whole


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can be longer than a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_there_stays_where_it_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("older")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_whole(path, "newer and longer")
    assert path.read_text() == "older"
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "new", "newer and longer")
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("there", [False, True])
def test_links_lead_to_the_file(tmp_path: Path, there: bool) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "file", tmp_path / "link"
    link.symlink_to("folder/file")
    if there:
        target.write_text("older")
    check_writable(link)
    assert target.exists() == there
    write_whole(link, "é")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "é"
    assert names(target.parent) == {"file"}


def test_permissions_are_those_of_any_file(tmp_path: Path) -> None:
    usual, new, old = tmp_path / "usual", tmp_path / "new", tmp_path / "old"
    usual.touch()
    old.touch()
    old.chmod(0o640)
    for path in (new, old):
        write_whole(path, "text")
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    assert stat.S_IMODE(old.stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM])
def test_a_file_that_cannot_be_replaced_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One that is mounted, as in a container."""

    def replace(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    path.write_text("older and longer")
    monkeypatch.setattr(Path, "replace", replace)
    write_whole(path, "newer")
    assert path.read_text() == "newer"
    assert names(tmp_path) == {"file"}


def test_pipes_and_devices(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Would wait for a reader if it opened it.
    check_writable(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join(10)
    assert read == ["text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_whole(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()


def test_what_goes_where_this_program_prints_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "output"
    with path.open("w") as output:
        monkeypatch.setattr("sys.stdout", output)
        print("printed")
        write_whole(path, "written\n")
        print("more")
    assert path.read_text() == "printed\nwritten\nmore\n"


@pytest.mark.parametrize(
    ("name", "error"), [("nowhere/file", FileNotFoundError), ("file/file", NotADirectoryError)]
)
def test_places_that_are_none(tmp_path: Path, name: str, error: type[OSError]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(error, match=name):
        check_writable(tmp_path / name)
    assert names(tmp_path) == {"file"}


def test_a_file_that_nobody_may_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("older")
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    for attempt in (check_writable, lambda path: write_whole(path, "newer")):
        with pytest.raises(PermissionError, match="file"):
            attempt(path)
    assert path.read_text() == "older"
