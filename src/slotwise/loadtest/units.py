"""Numbers with units, as people write them on a command line."""

from __future__ import annotations

import re

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_THOUSANDS = {"": 1, "k": 1_000, "m": 1_000_000}


def seconds_of(text: str) -> float:
    """``250us``, ``10ms``, ``1.5s``, ``10m``, ``1h`` or ``10`` (seconds). Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)?", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time: such as 250us, 10ms, 1.5s, 10m")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def number_of(text: str) -> float:
    """``100000``, ``100k``, ``1.5M``. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmM]?)", text.strip().replace("_", ""))
    if found is None:
        raise ValueError(f"{text!r} is no number: such as 100000, 100k, 1.5M")
    return float(found[1]) * _THOUSANDS[found[2].lower()]
