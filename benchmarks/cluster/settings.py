"""slotwise beside itself: on clusters of several sizes, with few tasks and with many."""

import gc
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

from benchmarks.cluster.async_clients import UVLOOP
from benchmarks.cluster.rote import RoteCluster
from slotwise.cli._in_loop import InLoop
from slotwise.cli._timing import Figures, Stretch
from slotwise.local import LocalCluster


class Setting:
    """slotwise on uvloop, and how many tasks use it; on a `RoteCluster` of so many `primaries` if that is given.

    Without the `collector` Python looks for no garbage in cycles while it works. With thousands of tasks that
    takes a good part of the time, whatever the client: what is under way is looked through again and again.
    """

    def __init__(self, tasks: int, primaries: int | None, collector: bool, cluster: LocalCluster) -> None:
        self.tasks = tasks
        self._collector = collector
        with ExitStack() as stack:
            if primaries is not None:
                cluster = stack.enter_context(RoteCluster(primaries))
            self.loop: InLoop = stack.enter_context(closing(UVLOOP["slotwise"](cluster)))
            self._stack = stack.pop_all()

    def wrap(self, stretch: Stretch) -> Stretch:
        """The same stretch, in this setting."""
        if self._collector:
            return stretch

        def uncollected(seconds: float) -> Figures:
            gc.disable()
            try:
                return stretch(seconds)
            finally:
                gc.enable()

        return uncollected

    def close(self) -> None:
        self._stack.close()


def setting(
    tasks: int, primaries: int | None = None, *, collector: bool = True
) -> Callable[[LocalCluster], Setting]:
    """How to connect in that setting."""
    return partial(Setting, tasks, primaries, collector)
