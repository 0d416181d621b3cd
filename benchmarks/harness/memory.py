"""How much memory a load test takes while it runs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess

from slotwise.loadtest import Progress


class Memory:
    """Looks at the generator and at this process, which adds up; give it to `run` as ``progress``.

    ``every`` so many seconds.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        #: Seconds of the run, megabytes of the generator, megabytes of this process.
        self.seen: list[tuple[float, float, float]] = []

    def __call__(self, progress: Progress) -> None:
        # Not at the end: the generator may have ended by then.
        if self._every * (len(self.seen) + 1) <= progress.at < progress.seconds - 1:
            (generator,) = multiprocessing.active_children()
            self.seen.append((progress.at, _resident(generator.pid), _resident(os.getpid())))


def _resident(process: int | None) -> float:
    told = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=True
    )
    return int(told.stdout) * 1024 / 1e6
