"""Files that are written whole or stay as they were: a full disk costs nobody the result of an earlier run."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import TextIO

# What replacing a file may end in that can be written: its folder takes no new files, is sticky, or it is a mount.
_NOT_REPLACED = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY})


def check_writable(path: Path) -> None:
    """Raises OSError for what `write_whole` could not write. Nothing is changed, nor made."""
    try:
        path.stat()
        needed = path
    except FileNotFoundError:
        needed = _target(path).parent
    if not needed.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not os.access(needed, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_whole(path: Path, text: str) -> None:
    """Writes a file, through links as well. Raises OSError where that fails, and leaves what was there.

    Devices and pipes, and what this program prints to (``/dev/stdout``), are written to directly.
    """
    if stream := _printed_to(path):
        stream.write(text)
        stream.flush()
    elif path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        # Else one that nobody may write to would be replaced.
        check_writable(path)
        _replace(_target(path), text)


def _printed_to(path: Path) -> TextIO | None:
    for stream in (sys.stdout, sys.stderr):
        # A new file is none of them, and not every stream is a file.
        with suppress(OSError, ValueError):
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                return stream
    return None


def _replace(target: Path, text: str) -> None:
    temporary = target.with_name(f".slotwise-{token_hex(8)}")
    try:
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
            if target.exists():
                _as_before(temporary, target.stat())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in _NOT_REPLACED:
            raise
        target.write_text(text, encoding="utf-8")


def _as_before(file: Path, before: os.stat_result) -> None:
    # Root writes files of others.
    with suppress(OSError):
        os.chown(file, before.st_uid, before.st_gid)
    file.chmod(before.st_mode & 0o7777)


def _target(path: Path) -> Path:
    """The file that links lead to, whether it is there or not."""
    return Path(os.path.realpath(path))
