"""Values of keywords, checked before anything is opened."""

from __future__ import annotations

import math
from typing import Any

from slotwise.errors import DataError


def seconds(name: str, value: Any) -> float:
    """The keyword ``name`` as a number of seconds; a URL's query gives it as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise DataError(f"{name} must be a number of seconds above 0, not {value!r}")
    return number


def reply_size(name: str, value: Any) -> int:
    """The keyword ``name`` as a number of bytes. What fits a connection's buffer of 64 KiB is never refused."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if isinstance(value, bool) or not 2**16 <= number < 2**63:
        raise DataError(f"{name} must be a number of bytes from 65536 on, not {value!r}")
    return number


def seconds_or_none(name: str, value: Any) -> float | None:
    """The same, where None says never."""
    return None if value is None else seconds(name, value)
