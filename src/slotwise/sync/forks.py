"""What must not cross a fork: sockets are the parent's, and a lock that another thread held is held for ever."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol


class Forkable(Protocol):
    """Something with sockets or locks."""

    def forget(self) -> None:
        """In a child process: drops what belongs to the parent without touching it, and has new locks."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()


def remember(thing: Forkable) -> None:
    """Calls ``thing.forget()`` in every child process, as long as ``thing`` lives."""
    _known.add(thing)


def renew_lock(dispatcher: Any) -> None:
    """In a child process: a new lock for redis-py's event dispatcher, which has no care for forks itself."""
    if hasattr(dispatcher, "_lock"):
        dispatcher._lock = threading.RLock()


def _forget_all() -> None:
    for thing in list(_known):
        thing.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
