"""Runs the cases under callgrind, which writes what it has counted at each call of the C function getppid.

Each case runs in a fork of its own: it meets the same memory and caches whatever other cases there are. What is told is
JSON: the toolchain first, then a line for each case with its process, whose parts hold the counts.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import sys
from importlib.metadata import version
from itertools import repeat
from pathlib import Path

from benchmarks.instructions.cases import CASES, Case

# Operations that are counted, and then twice as many: the difference has nothing in it of what begins and ends them.
OPERATIONS = 2_000


def rounds(case: Case) -> int:
    return max(OPERATIONS // case.per, 2)


def count(case: Case) -> None:
    steps = [prepare() for prepare in (case.prepare, case.beside) if prepare is not None]
    n = rounds(case)
    gc.collect()
    gc.disable()
    for step in steps:
        # The first finds cold caches, and bytecode that Python has not specialised yet.
        for times in (n, n, 2 * n):
            os.getppid()
            for _ in repeat(None, times):
                step()
    os.getppid()


def toolchain() -> dict[str, str]:
    """What the counts depend on beside the code, as the compiled module tells it rather than the environment."""
    from slotwise import _slots

    assert _slots.__file__ is not None
    compilers = re.findall(rb"(?:GCC: |clang version )[^\0]+", Path(_slots.__file__).read_bytes())
    return {
        "python": " ".join(sys.version.split()),
        "compiler": ", ".join(sorted({found.decode() for found in compilers})) or "unknown",
        # The type that Cython's modules share is named after it.
        "cython": type(_slots.key_slot).__module__,
        "machine": f"{platform.machine()}, {' '.join(platform.libc_ver())}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in ("hiredis", "numpy", "redis")),
    }


def main(names: list[str]) -> None:
    # One processor: a link that has more waits awake first, for as long as the clock says.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import slotwise
    import slotwise._aiolink

    tell({"slotwise": slotwise.__file__, "toolchain": toolchain()})
    # What the imports cost is written once, here, and not again by every fork.
    os.getppid()
    for name in names:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            continue
        error = None
        try:
            count(CASES[name])
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        tell({"case": name, "pid": os.getpid(), "error": error})
        os._exit(0)


def tell(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
