"""The data of `slotwise demo`: the source code of Python's standard library, in a cluster.

===============================  ======  ==========================================
``library:{<path>}:source``      string  the file, byte for byte
``library:{<path>}:facts``       hash    size in bytes, lines, functions, classes
``library:snippet:<n>``          string  100 bytes of source, from a function's start
===============================  ======  ==========================================

A module's two keys share their hash tag, so they lie in one slot.
"""

import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from slotwise import RedisCluster

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}

# By lines that begin a definition: parsing properly would take longer than all the rest.
_FUNCTION = re.compile(rb"^[ \t]*(?:async[ \t]+)?def[ \t]", re.MULTILINE)
_CLASS = re.compile(rb"^[ \t]*class[ \t]", re.MULTILINE)

# About two megabytes of source.
_AT_ONCE = 100
_SNIPPET_BYTES = 100


class WrongDataError(Exception):
    """What was read is not what was stored."""


@dataclass(frozen=True)
class Module:
    """One file of the standard library."""

    #: Relative to the library, such as "asyncio/tasks.py".
    path: str
    source: bytes

    @property
    def source_key(self) -> str:
        return f"library:{{{self.path}}}:source"

    @property
    def facts_key(self) -> str:
        return f"library:{{{self.path}}}:facts"

    @cached_property
    def functions(self) -> list[int]:
        """Where in the source each function starts."""
        return [match.start() for match in _FUNCTION.finditer(self.source)]

    @cached_property
    def facts(self) -> dict[Any, bytes]:  # Any: to a type checker redis-py's hset refuses keys of bytes alone
        """As HGETALL returns them."""
        numbers = {
            b"size": len(self.source),
            b"lines": len(self.source.splitlines()),
            b"functions": len(self.functions),
            b"classes": len(_CLASS.findall(self.source)),
        }
        return {name: b"%d" % number for name, number in numbers.items()}


def read_library() -> list[Module]:
    """The source files of this interpreter's standard library, in order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [
        path
        for path in root.rglob("*.py")
        if path.is_file() and not _NOT_THE_LIBRARY & set(path.relative_to(root).parts)
    ]
    return [Module(path.relative_to(root).as_posix(), path.read_bytes()) for path in sorted(paths)]


def chunks(modules: Sequence[Module]) -> list[Sequence[Module]]:
    """Portions of the library for one pipeline each."""
    return [modules[first : first + _AT_ONCE] for first in range(0, len(modules), _AT_ONCE)]


def store(client: RedisCluster, modules: Sequence[Module]) -> None:
    """Write source and facts of all modules in one pipeline."""
    pipeline = client.pipeline()
    for module in modules:
        pipeline.set(module.source_key, module.source)
        pipeline.hset(module.facts_key, mapping=module.facts)
    pipeline.execute()


def verify(client: RedisCluster, modules: Sequence[Module]) -> None:
    """Read source and facts of all modules back in one pipeline.

    Raises WrongDataError if a byte of them differs from the file's.
    """
    pipeline = client.pipeline()
    for module in modules:
        pipeline.get(module.source_key)
        pipeline.hgetall(module.facts_key)
    replies = pipeline.execute()
    for module, source, facts in zip(modules, replies[::2], replies[1::2], strict=True):
        if source != module.source:
            raise WrongDataError(
                f"{module.source_key} holds {_size(source)}, not the file's {_size(module.source)}"
            )
        if facts != module.facts:
            raise WrongDataError(f"{module.facts_key} holds {facts}, not {module.facts}")


def _size(value: bytes | None) -> str:
    return "nothing" if value is None else f"{len(value):,} bytes"


def snippets(modules: Sequence[Module], number: int) -> dict[str, bytes]:
    """Short values with their keys: `number` pieces of source, evenly spread over the library."""
    starts = [(module, start) for module in modules for start in module.functions]
    every = max(1, len(starts) // number)
    chosen = islice(starts, 0, every * number, every)
    return {
        f"library:snippet:{n}": module.source[start : start + _SNIPPET_BYTES]
        for n, (module, start) in enumerate(chosen)
    }
