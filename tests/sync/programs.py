"""Functions of the tests run in an interpreter of their own, where signals, forks and exits harm nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.sync.threads import PATIENCE


def run(function: Callable[..., Any], *args: Any, within: float = PATIENCE) -> str:
    """Calls a module's ``function`` in a new interpreter; its output.

    Fails when it ends with an exception or a crash, or not ``within`` so many seconds (then with all its stacks).
    ``args`` are passed by their ``repr``.
    """
    program = (
        f"import faulthandler; faulthandler.dump_traceback_later({within}, exit=True)\n"
        f"from {function.__module__} import {function.__name__}; {function.__name__}(*{args!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=within + 10)
    finally:
        # A child that it forked and that hangs goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, f"exit code {process.returncode}\n{output}"
    return output
