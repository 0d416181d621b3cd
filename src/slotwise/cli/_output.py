"""What all commands print alike: JSON for programs, one line for a failure."""

import json
import sys
from typing import Any


def print_json(value: Any) -> None:
    """The whole answer of a command run with --json, on standard output."""
    print(json.dumps(value, indent=2))


def complain(message: str) -> None:
    """Say on standard error why the command failed."""
    print(f"slotwise: {message}", file=sys.stderr)
