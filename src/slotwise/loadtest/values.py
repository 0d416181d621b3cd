"""The values that a load test writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# How many different ones there are, and how many bytes all of them may take.
_VALUES = 1024
_MOST_BYTES = 64 << 20
#: The largest value, half of what a Redis string can be.
MOST_VALUE_BYTES = 256 << 20


def values(text: str, rng: np.random.Generator) -> list[bytes]:
    """Values to draw from: ``100`` (bytes), ``10-1000`` (evenly), ``lognormal:300:1.0`` (median in bytes, sigma) or
    ``file:PATH`` (its lines).

    Random bytes, so no compression flatters them. Raises ValueError that says what is allowed, OSError for the file.
    """
    if text.startswith("file:"):
        lines = _lines(text[5:])
        chosen = [lines[i] for i in rng.permutation(len(lines))[:_VALUES]]
        return chosen
    sizes = _sizes(text, rng)
    total = np.cumsum(sizes)
    # Fewer of them when they are large.
    sizes = sizes[: max(1, int(np.searchsorted(total, _MOST_BYTES)))]
    return [rng.bytes(size) for size in sizes.tolist()]


def check(text: str) -> None:
    """Raises what `values` would raise."""
    if text.startswith("file:"):
        _lines(text[5:])
    else:
        _sizes(text, np.random.default_rng(0))


def _lines(path: str) -> list[bytes]:
    lines = [line for line in Path(path).read_bytes().splitlines() if line]
    if not lines:
        raise ValueError(f"{path} has no lines to take values from")
    return lines


def _sizes(text: str, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    kind, *numbers = text.split(":")
    try:
        if kind == "lognormal" and len(numbers) == 2:
            median, sigma = float(numbers[0]), float(numbers[1])
            if 1 <= median <= MOST_VALUE_BYTES and 0 <= sigma <= 5:
                drawn = rng.lognormal(np.log(median), sigma, _VALUES)
                return np.clip(drawn, 1, MOST_VALUE_BYTES).astype(np.int64)
        elif not numbers:
            first, dash, last = text.partition("-")
            smallest, largest = int(first), int(last if dash else first)
            if 0 <= smallest <= largest <= MOST_VALUE_BYTES:
                return rng.integers(smallest, largest + 1, _VALUES)
    except ValueError:
        pass
    raise ValueError(
        f"{text!r} is no size of values: bytes such as 100, a range such as 10-1000, lognormal:MEDIAN:SIGMA "
        f"or file:PATH; {MOST_VALUE_BYTES:,} bytes at the most"
    )
