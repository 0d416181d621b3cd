"""What counts are compared with: the stored ones, or those of the commit that stored them, built here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from benchmarks.instructions.counting import ROOT, CannotCount, Counts

STORED = ROOT / "benchmarks" / "results" / "instructions.json"


def stored() -> Counts:
    try:
        found = json.loads(STORED.read_text())
        return Counts(found["toolchain"], found["instructions per operation"], {})
    except FileNotFoundError as error:
        raise CannotCount(f"{STORED.relative_to(ROOT)} does not exist; --save makes it") from error


def store(counts: Counts) -> None:
    content = {"toolchain": counts.toolchain, "instructions per operation": counts.cases}
    STORED.write_text(json.dumps(content, indent=2) + "\n")


def commit() -> str:
    """The newest commit that changed the stored counts: its package is what they are of."""
    name = str(STORED.relative_to(ROOT))
    if _git("rev-parse", "--is-shallow-repository") == "true":
        # There the oldest commit seems to have made every file.
        raise CannotCount("this clone is shallow: git fetch --unshallow gets the commit to compare with")
    if _git("status", "--porcelain", "--", name):
        raise CannotCount(f"{name} is not committed: nobody knows of which package it is")
    found = _git("log", "-1", "--format=%H", "--", name)
    if not found:
        raise CannotCount(f"no commit has {name}")
    return found


def build(commit: str, cython: str, folder: Path) -> Path:
    """Builds the package of a commit with a version of Cython; the folder that it can be imported from."""
    source, wheels, package = (folder / name for name in ("source", "wheels", "package"))
    archive = folder / "source.zip"
    _git("archive", f"--output={archive}", commit)
    _unpack(archive, source)
    constraint = folder / "constraints.txt"
    found = re.fullmatch(r"_cython_([0-9_]+)", cython)
    if found is None:
        raise CannotCount(f"no version of Cython can be read from {cython}")
    constraint.write_text(f"Cython=={found[1].replace('_', '.')}\n")
    # Newer pips want to be told twice.
    told = {"PIP_CONSTRAINT": str(constraint), "PIP_BUILD_CONSTRAINT": str(constraint)}
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(wheels), str(source)],
        env={**os.environ, **told},
        # Not in the clone: its folder "build" would stand before the module.
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CannotCount(
            f"commit {commit[:12]} could not be built:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    (wheel,) = wheels.glob("*.whl")
    _unpack(wheel, package)
    return package


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise CannotCount(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
