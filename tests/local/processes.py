"""Watching processes and folders go away."""

import os
import time
from collections.abc import Callable, Iterable


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Return once `condition` holds; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def none_alive(pids: Iterable[int]) -> bool:
    return not any(map(is_alive, pids))
