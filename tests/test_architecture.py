"""The floors of docs/architecture.md: a file imports from lower floors only."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Rooms from the ground up, modules and packages of slotwise, some of them still to be built.
#: A room may use itself and those before it, on its own floor as well.
FLOORS: tuple[tuple[str, ...], ...] = (
    (
        *("_slots", "_encoder", "_reply", "_locks", "_link", "_engine", "_batch"),
        *("_aiobatch", "_aiolink", "_aioengine", "_versions", "_tally"),
    ),
    ("errors", "commands", "settings", "routing"),
    # `_calls` is the compiled part of the shells: methods of redis-py's clients.
    ("_calls", "tls", "sync", "connect", "asyncio"),
    ("local", "testing", "cache", "consistency", "warmup", "health", "scaling", "loadtest"),
    ("__init__", "server", "cli"),
)
ORDER = [room for floor in FLOORS for room in floor]

CLOCKS_AND_SOCKETS = {"asyncio", "select", "selectors", "socket", "ssl", "threading", "time"}
#: What the rooms of a floor may not import from outside of slotwise, by the index of the floor.
FORBIDDEN = {0: CLOCKS_AND_SOCKETS | {"redis"}, 1: CLOCKS_AND_SOCKETS}
#: Exceptions, as narrow as they can be: the link holds one socket, plain or TLS; the engine under asyncio
#: tells whether it is called in its own loop. Besides, all floors speak redis.exceptions.
ALLOWED = {("_link", "socket"), ("_link", "ssl"), ("_aioengine", "asyncio._get_running_loop")}


# -- the walk -------------------------------------------------------------------------------------


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Every source file with its dotted name, such as ``slotwise.routing.plan``."""
    for folder, kind in (("src", "*.py"), ("ext", "*.pyx"), ("ext", "*.pxd")):
        for path in sorted((root / folder / "slotwise").rglob(kind)):
            yield ".".join(path.relative_to(root / folder).with_suffix("").parts), path


def imported_by_python(text: str, name: str) -> Iterator[str]:
    """Dotted names that a Python file imports, anywhere in it: lazily or for type checkers, too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the file's own package; an __init__ is its package's file like any other.
            package = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_by_cython(text: str) -> Iterator[str]:
    """Dotted names that a Cython file imports or cimports."""
    code = re.sub(r'"""[\s\S]*?"""|#[^\n]*|\\\n', "", text)
    # `from a cimport b, c`, with parentheses over several lines or without.
    for module, names in re.findall(
        r"^[ \t]*from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n]*)", code, re.MULTILINE
    ):
        yield from (
            f"{module}.{alias.split()[0]}" for alias in names.strip("() ").split(",") if alias.strip()
        )
    for modules in re.findall(r"^[ \t]*c?import\s+([^\n]+)", code, re.MULTILINE):
        yield from (module.split()[0] for module in modules.split(","))


def room_of(dotted: str) -> str:
    """The room in which a name of slotwise lives: ``slotwise.sync.cluster`` is in sync, ``slotwise.connect``
    may be the module or the function of the public face."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "__init__"


def complaints(root: Path) -> list[str]:
    """What is against the floors under `root`, one line each."""
    found = []
    for name, path in sources(root):
        room = name.split(".")[1]
        if room not in ORDER:
            found.append(f"{name} is on no floor: add it here and to docs/architecture.md")
            continue
        floor = next(index for index, rooms in enumerate(FLOORS) if room in rooms)
        text = path.read_text(encoding="utf-8")
        imported = imported_by_python(text, name) if path.suffix == ".py" else imported_by_cython(text)
        for dotted in imported:
            top = dotted.partition(".")[0]
            if top == "slotwise":
                if ORDER.index(room_of(dotted)) > ORDER.index(room):
                    found.append(f"{name} imports {dotted} from above")
            elif top in FORBIDDEN.get(floor, ()) and not (
                (room, dotted) in ALLOWED or f"{dotted}.".startswith("redis.exceptions.")
            ):
                found.append(f"{name} imports {dotted}, which floor {floor + 1} does without")
    return found


# -- slotwise -------------------------------------------------------------------------------------


def test_every_file_imports_from_lower_floors_only() -> None:
    assert complaints(ROOT) == []


def test_the_walk_sees_the_files() -> None:
    walked = {name for name, _ in sources(ROOT)}
    assert {"slotwise.__init__", "slotwise._slots", "slotwise._link", "slotwise.errors"} <= walked
    assert {"slotwise.routing.topology", "slotwise.sync.cluster", "slotwise.cli.__init__"} <= walked


def test_import_slotwise_loads_the_client_only() -> None:
    code = "import sys, slotwise; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(run.stdout.split())
    assert "slotwise.sync.cluster" in loaded
    assert not loaded & {"numpy", "typer", "click", "rich"}
    above = {*FLOORS[3], *FLOORS[4]} - {"__init__"}
    assert not {name for name in loaded if name.startswith("slotwise.") and room_of(name) in above}


# -- the walk itself, on files that break the rules -----------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("src/slotwise/errors.py", "import slotwise", "slotwise.errors imports slotwise from above"),
        (
            "src/slotwise/routing/plan.py",
            "from slotwise.sync.cluster import RedisCluster",
            "slotwise.routing.plan imports slotwise.sync.cluster.RedisCluster from above",
        ),
        (
            "src/slotwise/routing/plan.py",
            "def late():\n    from slotwise import connect",
            "slotwise.routing.plan imports slotwise.connect from above",
        ),
        (
            "src/slotwise/routing/__init__.py",
            "from ..sync import cluster",
            "slotwise.routing.__init__ imports slotwise.sync.cluster from above",
        ),
        (
            "src/slotwise/errors.py",
            "from .commands import table",
            "slotwise.errors imports slotwise.commands.table from above",
        ),
        (
            "src/slotwise/routing/plan.py",
            "from time import monotonic",
            "slotwise.routing.plan imports time.monotonic, which floor 2 does without",
        ),
        (
            "src/slotwise/commands/__init__.py",
            "import re, socket as s",
            "slotwise.commands.__init__ imports socket, which floor 2 does without",
        ),
        (
            "src/slotwise/sync/cluster.py",
            "import slotwise.cli",
            "slotwise.sync.cluster imports slotwise.cli from above",
        ),
        (
            "src/slotwise/attic.py",
            "",
            "slotwise.attic is on no floor: add it here and to docs/architecture.md",
        ),
        (
            "ext/slotwise/_slots.pyx",
            "from slotwise._encoder cimport (\n    Arg,\n)",
            "slotwise._slots imports slotwise._encoder.Arg from above",
        ),
        (
            "ext/slotwise/_encoder.pxd",
            "cimport slotwise._link",
            "slotwise._encoder imports slotwise._link from above",
        ),
        (
            "ext/slotwise/_link.pyx",
            "from slotwise.errors import UnknownOutcomeError",
            "slotwise._link imports slotwise.errors.UnknownOutcomeError from above",
        ),
        (
            "ext/slotwise/_link.pyx",
            "def late():\n    import asyncio",
            "slotwise._link imports asyncio, which floor 1 does without",
        ),
        (
            "ext/slotwise/_aioengine.pyx",
            "from asyncio import _get_running_loop, sleep",
            "slotwise._aioengine imports asyncio.sleep, which floor 1 does without",
        ),
        (
            "ext/slotwise/_slots.pyx",
            "import socket",
            "slotwise._slots imports socket, which floor 1 does without",
        ),
        (
            "ext/slotwise/_slots.pyx",
            "from redis import Redis, exceptions",
            "slotwise._slots imports redis.Redis, which floor 1 does without",
        ),
    ],
)
def test_the_walk_finds(tmp_path: Path, path: str, text: str, complaint: str) -> None:
    write(tmp_path, path, text)
    assert complaints(tmp_path) == [complaint]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/slotwise/errors.py", '"""from slotwise import RedisCluster"""\nimport redis.exceptions'),
        ("src/slotwise/routing/plan.py", "from . import topology\nfrom ..commands import find\nimport redis"),
        (
            "src/slotwise/sync/cluster.py",
            "import threading\nfrom slotwise import _link\nimport slotwise.errors",
        ),
        (
            "src/slotwise/cli/demo.py",
            "import slotwise\nfrom slotwise import connect\nfrom slotwise.local import node",
        ),
        (
            "ext/slotwise/_slots.pyx",
            '"""\nimport asyncio\n"""\nfrom redis.exceptions import DataError  # import time',
        ),
        ("ext/slotwise/_link.pyx", "import socket, ssl\nfrom slotwise._slots cimport SlotTable"),
    ],
)
def test_the_walk_lets_pass(tmp_path: Path, path: str, text: str) -> None:
    write(tmp_path, path, text)
    assert complaints(tmp_path) == []


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(text, encoding="utf-8")
