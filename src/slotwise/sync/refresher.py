"""Asks for the topology in a thread of its own, so that no caller does: not the one who saw that it is stale either.

Callers leave a wish and, when they have nothing better to do, wait for the refresh that fulfils it. One refresh is under
way at a time; `slotwise.routing.refresh` says when. The thread keeps no client alive, and ends with it.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

from slotwise._locks import holding
from slotwise.routing.inquiry import logged
from slotwise.routing.refresh import WATCH_INTERVAL, Schedule
from slotwise.routing.topology import Address


class Refreshable(Protocol):
    """Who knows nodes and asks them; see `slotwise.sync.nodes.NodesManager`."""

    def refresh(self, told: set[Address], failed: set[Address]) -> None: ...

    def look_for_successor(self, failed: set[Address]) -> bool: ...

    def silent_nodes(self) -> set[Address]: ...

    def leave(self, silent: set[Address]) -> set[Address]: ...

    def count_nodes(self) -> int: ...


# Neither a Condition nor an Event: an exception that is raised into a thread inside of one can leave it locked for ever.
_Done = SimpleQueue[None]


class Refresher:
    """The thread of one client, started on first use; see `Schedule` for the numbers."""

    def __init__(self, client: Refreshable, interval: float | None, min_interval: float) -> None:
        self.interval = interval
        self.min_interval = min_interval
        # Nodes that told the news, and so know more; nodes that did not answer. Of the next refresh.
        self.told: set[Address] = set()
        self.failed: set[Address] = set()
        self.waiting: deque[_Done] = deque()
        self._client = weakref.ref(client, lambda _: self.end())
        self.forget()

    def forget(self) -> None:
        """In a child process, which has no threads: another starts on first use, with a lock of its own."""
        self._lock = threading.RLock()
        self.waiting.clear()
        self._renew()

    def _renew(self) -> None:
        self._thread: threading.Thread | None = None
        self.schedule = Schedule(self.interval, self.min_interval)
        # True for a wish, None for the end.
        self._wishes: SimpleQueue[bool | None] = SimpleQueue()

    @holding("_lock")
    def start(self) -> None:
        """Lets the thread run, for the regular refreshes: the client was just asked for."""
        # In the interpreter's last moments threads are dead, and a new one would be waited for in vain (Python 3.11).
        if not sys.is_finalizing() and (self._thread is None or not self._thread.is_alive()):
            arguments = self, self._client, self.schedule, self._wishes
            thread = threading.Thread(target=_run, args=arguments, name="slotwise-topology", daemon=True)
            # The interpreter is about to end: it starts none any more, and the topology stays as it is.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def want(self, failed: Address | None = None, told: Address | None = None) -> None:
        """Asks for a refresh and does not wait for it. Next to nothing when one is wanted already."""
        if failed is not None:
            self.failed.add(failed)
        if told is not None:
            self.told.add(told)
        if not self.schedule.wanted:
            self._wishes.put(True)
            self.start()

    def want_and_wait(self, failed: Address | None, seconds: float) -> None:
        """Asks for a refresh and waits for its end, for ``seconds`` at the most."""
        done: _Done = SimpleQueue()
        self.waiting.append(done)
        self.want(failed)
        if self._thread is not None:
            with suppress(Empty):
                done.get(timeout=seconds)
        with suppress(ValueError):
            self.waiting.remove(done)

    @holding("_lock")
    def end(self) -> None:
        """Ends the thread; `start` or a wish begins another."""
        if self._thread is not None:
            self._wishes.put(None)
            self._renew()


def _run(
    refresher: Refresher,
    reference: weakref.ref[Refreshable],
    schedule: Schedule,
    wishes: SimpleQueue[bool | None],
) -> None:
    now = time.monotonic()
    schedule.end(now)
    watch_due = now + WATCH_INTERVAL
    silent: set[Address] = set()
    wish: bool | None = True
    while wish is not None:
        now = time.monotonic()
        seconds = min(schedule.look_due(now, failed=bool(refresher.failed)), watch_due) - now
        try:
            wish = wishes.get(timeout=max(0.0, seconds))
        except Empty:
            wish = False
        client = reference()
        if client is None:
            break
        now = time.monotonic()
        if now >= watch_due:
            watch_due = now + WATCH_INTERVAL
            silent = client.silent_nodes()
        if silent:
            refresher.failed |= silent
        if wish or silent:
            schedule.want(now, client.count_nodes())
        if wish is not None and time.monotonic() >= schedule.due:
            schedule.begin(time.monotonic())
            told, refresher.told = refresher.told, set()
            failed, refresher.failed = refresher.failed, set()
            with logged():
                client.refresh(told, failed)
                silent = client.leave(silent)
            schedule.end(time.monotonic())
            # Wishes that came meanwhile are fulfilled: what is still stale shows with the next try. First these, then
            # who waits: a wish is left after its waiter.
            with suppress(Empty):
                while wish is not None:
                    wish = wishes.get_nowait()
            _tell(refresher.waiting)
            if silent:
                # Nobody has taken over yet: go on looking, and not only from the next watch on.
                refresher.failed |= silent
                schedule.want(time.monotonic(), client.count_nodes())
        elif wish is False and refresher.failed:
            with logged():
                if client.look_for_successor(set(refresher.failed)):
                    # The refresh follows when it is due.
                    _tell(refresher.waiting)
                    silent = client.leave(silent)
        del client
    _tell(refresher.waiting)


def _tell(waiting: deque[_Done]) -> None:
    # Another thread of this client's, that was ended and is not over yet, may tell them as well.
    with suppress(IndexError):
        while True:
            waiting.popleft().put(None)
