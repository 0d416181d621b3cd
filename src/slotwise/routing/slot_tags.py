"""Hash tags by slot: how to name a key that lies where another key does.

A hash tag made of the other key would not do: ``{}a`` and ``a}b{c`` are hashed whole, and put in braces would be cut short.
So each slot has a tag of its own, the smallest decimal number that is hashed to it.
"""

from __future__ import annotations

from functools import cache

from slotwise._slots import SLOTS, key_slot, key_slots

# The first 134,000 or so numbers reach all slots; so many are hashed at once.
_STEP = 150_000


def beside(prefix: str, key: bytes) -> bytes:
    """A key that begins with ``prefix``, which has no brace, ends with ``key``, and lies in the slot of ``key``."""
    return b"%s{%s}:%s" % (prefix.encode(), tags()[key_slot(key)], key)


@cache
def tags() -> tuple[bytes, ...]:
    """The tag of each slot. Made at the first call, in some 10 ms; needs numpy."""
    import numpy

    count = _STEP
    while True:
        slots, first = numpy.unique(key_slots([b"%d" % n for n in range(count)]), return_index=True)
        if len(slots) == SLOTS:
            return tuple(b"%d" % n for n in first.tolist())
        count += _STEP
