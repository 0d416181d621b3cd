"""Starts callgrind and reads what it wrote."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.instructions.cases import CASES
from benchmarks.instructions.child import rounds
from slotwise.loadtest.machine import describe

ROOT = Path(__file__).parents[2]
# Far more than it takes, should a case wait for bytes that never come.
_SECONDS = 600


class CannotCount(Exception):
    """There are no counts, or none to compare with; the text says why."""


@dataclass(frozen=True)
class Counts:
    """Instructions per operation, by case, and what they depend on beside the code."""

    toolchain: dict[str, str]
    cases: dict[str, float]
    # Cases that this version of the package cannot run.
    errors: dict[str, str]


def count(names: Iterable[str], package: Path | None = None) -> Counts:
    """Counts the cases on the installed package, or on the one that lies in the folder `package`."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CannotCount("valgrind is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *_without_randomness(),
            *(valgrind, "-q", "--tool=callgrind", "--vgdb=no", "--dump-before=getppid"),
            f"--callgrind-out-file={folder}/%p",
            *(sys.executable, "-m", "benchmarks.instructions.child", *names),
        ]
        # Nothing of the caller's environment: its size moves the stack.
        environment = {
            "PATH": os.defpath,
            "LC_ALL": "C",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if package is not None:
            environment["PYTHONPATH"] = str(package)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_SECONDS
        )
        if done.returncode:
            raise CannotCount(f"the counted process failed:\n{done.stderr}")
        first, *lines = map(json.loads, done.stdout.splitlines())
        if package is not None and not Path(first["slotwise"]).is_relative_to(package):
            raise CannotCount(f"counted {first['slotwise']} in place of what lies in {package}")
        toolchain = {
            **first["toolchain"],
            # Valgrind shows programs the features of this processor, and C libraries choose by them.
            "processor": describe()["processor"].rpartition(",")[0],
            "valgrind": subprocess.check_output([valgrind, "--version"], text=True).strip(),
        }
        cases: dict[str, float] = {}
        errors: dict[str, str] = {}
        for line in lines:
            name = line["case"]
            if line["error"] is None:
                cases[name] = _per_operation(name, Path(folder, str(line["pid"])))
            else:
                errors[name] = line["error"]
    if lost := set(names) - set(cases) - set(errors):
        raise CannotCount(f"ended without a word: {', '.join(sorted(lost))}\n{done.stderr}")
    return Counts(toolchain, cases, errors)


def _without_randomness() -> list[str]:
    """The command that gives a program the same addresses each time, where it may be used."""
    command = ["setarch", "-R"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return command


def _per_operation(name: str, path: Path) -> float:
    """From the numbered parts of one process: up to the first mark, then three of each step."""
    case = CASES[name]
    parts = sorted(path.parent.glob(f"{path.name}.*"), key=lambda part: int(part.suffix[1:]))
    expected = 4 if case.beside is None else 7
    if len(parts) != expected:
        raise CannotCount(f"{name}: callgrind wrote {len(parts)} parts in place of {expected}")
    step, *beside = [
        _total(twice) - _total(once) for once, twice in zip(parts[2::3], parts[3::3], strict=True)
    ]
    return round((step - sum(beside)) / (rounds(case) * case.per), 1)


def _total(part: Path) -> int:
    found = re.search(r"^summary: (\d+)$", part.read_text(), re.MULTILINE)
    if found is None:
        raise CannotCount(f"{part.name} has no total")
    return int(found[1])
