"""When a client asks for the topology: soon after somebody saw that it is stale, now and then anyway, and never often.

Thousands of clients see the same failover in the same moment, so the answer is spread over time, the wider the more
nodes there are: who has many nodes has many clients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import random

# Seconds between two regular refreshes, between the beginnings of any two, and for one node's answer.
INTERVAL = 60.0
MIN_INTERVAL = 1.0
TIMEOUT = 2.0
# Seconds that a call waits for a refresh before it tries again anyway.
PATIENCE = 3.0
# Seconds between two questions to the replicas of a primary that failed, while callers wait for the next refresh.
LOOK_INTERVAL = 0.1
# Seconds between two looks whether a node owes its callers replies and sends none: it may have been replaced.
WATCH_INTERVAL = 1.0
# Seconds by which a refresh is put off at random, per node of the cluster and at the most.
JITTER_PER_NODE = 0.02
JITTER_MAX = 2.0
# Share of the period by which the regular refreshes of many clients drift apart.
DRIFT = 0.2


class Schedule:
    """The next refresh of one client. Times are seconds of a monotonic clock, which the caller reads.

    ``interval``: between regular refreshes, None for no regular ones. ``min_interval``: between the beginnings of any
    two. ``draw`` gives random numbers from 0 up to 1.
    """

    def __init__(
        self, interval: float | None, min_interval: float, draw: Callable[[], float] = random
    ) -> None:
        self.interval = interval
        self.min_interval = min_interval
        # When the next one begins.
        self.due = math.inf
        # True from a request until the end of the refresh that answers it.
        self.wanted = False
        self._draw = draw
        self._began = -math.inf

    def want(self, now: float, nodes: int) -> bool:
        """Somebody saw that the topology of so many ``nodes`` is stale; False when a refresh is wanted already."""
        if self.wanted:
            return False
        self.wanted = True
        jitter = min(nodes * JITTER_PER_NODE, JITTER_MAX) * self._draw()
        self.due = min(self.due, max(now, self._began + self.min_interval) + jitter)
        return True

    def look_due(self, now: float, *, failed: bool) -> float:
        """When to look next whether the primary that callers wait for has a successor, or to refresh."""
        return min(self.due, now + LOOK_INTERVAL) if self.wanted and failed else self.due

    def begin(self, now: float) -> None:
        """A refresh begins: who sees from now on that the topology is stale waits for this one."""
        self.wanted = True
        self.due = math.inf
        self._began = now

    def end(self, now: float) -> None:
        """It has ended, well or not; the next regular one is due an interval later."""
        self.wanted = False
        if self.interval is not None:
            self.due = now + self.interval * (1 - DRIFT * self._draw())
