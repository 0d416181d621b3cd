"""The clock that versions come from."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from slotwise import _versions
from slotwise._versions import Version
from slotwise.consistency.errors import VersionDriftError
from slotwise.sync import forks

__all__ = ["HybridClock"]


class HybridClock(_versions.HybridClock):
    """Makes versions: ``now()`` is greater than the last and than all that ``observe(version)`` was given.

    ``writer`` is the 64-bit number in all of its versions; drawn at random unless given. No other clock may have it, so a child
    process that was forked draws another one, and a clock cannot be pickled or copied. ``max_drift``, seconds: an
    observed version that is further ahead of the wall clock raises `VersionDriftError` and is counted in ``refused``.
    ``clock`` tells the nanoseconds since 1970.

    Threads and event loops may share a clock, and one for all stores of a process is best.
    """

    def __init__(
        self,
        writer: int | None = None,
        *,
        max_drift: float = 60.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if not max_drift >= 0:
            raise ValueError(f"max_drift is {max_drift!r} s and cannot be less than 0")
        # Infinity is allowed: as much as a version can hold.
        milliseconds = round(min(max_drift * 1000, float((1 << 48) - 1)))
        super().__init__(clock, _draw() if writer is None else writer, milliseconds)
        forks.remember(self)

    def forget(self) -> None:
        """In a child process: a writer of its own, or both would make the same versions."""
        self._renew(_draw())

    def _drift_error(self, version: Version, ahead: int) -> VersionDriftError:
        return VersionDriftError(
            f"a version is {ahead / 1000:g} s ahead of the wall clock here, more than the max_drift of {self.max_drift:g} s: "
            "compare the clocks of the hosts"
        )


def _draw() -> int:
    return secrets.randbits(64)
