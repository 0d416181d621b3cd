"""Python programs in processes of their own: their memory, warnings and end are theirs alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STRESS = os.environ.get("SLOTWISE_STRESS") == "1"


def program(call: str, *options: str, timeout: float = 120, **environment: str) -> tuple[Any, str]:
    """Runs ``call``, such as ``"tests.asyncio.storm:storm(1, 2)"``; its result, by way of JSON, and its standard error."""
    module, _, expression = call.partition(":")
    done = subprocess.run(
        [
            sys.executable,
            *options,
            "-c",
            f"import json; from {module} import *; print(json.dumps({expression}))",
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr
