"""Whether and when a call that failed is tried again, beyond what `redirects` says about its harm.

Three bounds, each for a reason of its own: redis-py's `Retry` object says how often and with which pauses, a deadline says
how long one call may take in all, and a budget says what part of all traffic may be repetition. Redirects (MOVED, ASK,
TRYAGAIN) are no retries: they cost none of this.

"now" is a reading of one monotonic clock in seconds; whoever calls reads it.
"""

from __future__ import annotations

import math
import random as _random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from redis.backoff import AbstractBackoff
from redis.retry import AbstractRetry

from slotwise.errors import DataError
from slotwise.routing.redirects import RetryWrites
from slotwise.routing.refresh import PATIENCE


@dataclass(frozen=True)
class FullJitter(AbstractBackoff):
    """Pauses of any length between zero and a bound that doubles with every failure, from ``base`` to ``cap`` seconds.

    Clients that failed together do not come back together: of the ways compared in "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015) this one, full jitter, needs the fewest calls. It goes wherever redis-py takes a backoff, and
    does what redis-py's class of that name cannot: go on after 1,024 failures, and take its random numbers from a test.
    """

    base: float = 0.01
    cap: float = 1.0
    random: Callable[[], float] = field(default=_random.random, compare=False, repr=False)
    """Gives numbers from 0 to 1."""

    def compute(self, failures: int) -> float:
        """Seconds to pause after so many failures of one call, 1 or more."""
        # Beyond 2 to the 60th every cap is reached, and a float would overflow soon.
        return self.random() * min(self.cap, math.ldexp(self.base, min(failures - 1, 60)))


class RetryBudget:
    """How many commands may be sent again: ``share`` of those sent lately and ``per_second`` besides.

    A node that slows down makes calls time out, their repetition makes it slower, and so on until it stands still. A
    token bucket ends that: every first try adds ``share`` of a token, every second adds ``per_second`` tokens, so that a
    quiet client may try again as well, and every repetition takes one. Tokens are not saved up for ever: they fade with
    the time constant ``window`` (seconds), so the bucket holds what that time has earned. Finagle's RetryBudget and the
    retryThrottling of gRPC (proposal A6) are the models.

    The way of a command pays one addition: whoever sends adds to ``calls``, and tokens are reckoned from the difference
    when one is wanted. Calls since the last look are taken as spread evenly over that time: `look` from time to time (at
    every refresh of the topology, say) makes it see a sudden load earlier.

    Threads need no lock. Additions to ``calls`` by two threads at once may lose one, which makes the budget smaller by a
    fraction of a token; two threads in `allow` may take the same token, which lets one more command through.
    """

    __slots__ = ("_per_second", "_share", "_state", "_window", "calls", "refused")

    def __init__(
        self, now: float, *, share: float = 0.1, per_second: float = 100.0, window: float = 10.0
    ) -> None:
        if share < 0 or per_second < 0 or window <= 0:
            raise DataError("share and per_second must not be negative, and window must be greater than 0")
        self.calls = 0
        """Commands sent for the first time, since the beginning."""
        self.refused = 0
        """How often `allow` said no, since the beginning."""
        self._share = share
        self._per_second = per_second
        self._window = window
        # Tokens, when they were reckoned, and `calls` of that moment: one value, so that no thread sees a mixture.
        self._state = (per_second * window, now, 0)

    def allow(self, now: float) -> bool:
        """Takes the token for sending one command again; False when there is none."""
        tokens, at, calls = self._reckon(now)
        allowed = tokens >= 1.0
        if allowed:
            tokens -= 1.0
        else:
            self.refused += 1
        self._state = tokens, at, calls
        return allowed

    def look(self, now: float) -> float:
        """Reckons the tokens up to now, and returns them."""
        self._state = self._reckon(now)
        return self._state[0]

    def _reckon(self, now: float) -> tuple[float, float, int]:
        tokens, then, seen = self._state
        calls = self.calls
        earned = self._share * (calls - seen)
        share = (now - then) / self._window
        # Not, when another thread has come here with a later clock.
        if share > 0.0:
            # What came in evenly has faded by the mean of the fading over that time. Of two readings of a clock next to
            # each other, 1 - exp() would leave rounding errors only.
            faded = -math.expm1(-share) / share
            tokens = tokens * math.exp(-share) + (earned + self._per_second * (now - then)) * faded
        else:
            tokens += earned
        return tokens, max(then, now), calls


@dataclass(slots=True)
class RetryPolicy:
    """What a client and its sessions do about calls that fail; `slotwise.routing.conversation` and `batches` are told by
    it."""

    retry: AbstractRetry[Any]
    """The user's own object, or redis-py's default: how many retries, and which pauses."""

    retry_writes: RetryWrites = "safe"
    """"safe": what changes data is sent again only when it surely was not executed. "always": whatever it is, as
    redis-py does; an INCR may count twice."""

    timeout: float | None = None
    """Seconds after a call's first failure in which it is tried again, pauses included. None: as long as tries are left."""

    def __post_init__(self) -> None:
        if self.retry_writes not in get_args(RetryWrites):
            raise DataError(f"retry_writes must be 'safe' or 'always', not {self.retry_writes!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise DataError(f"retry_timeout must be a number of seconds above 0, not {self.timeout!r}")

    @property
    def retries(self) -> int:
        """Retries that a call has; redis-py's negative number, "for ever", is a very great one."""
        retries = self.retry.get_retries()
        return retries if retries >= 0 else sys.maxsize

    @property
    def patience(self) -> float:
        """Seconds that a call waits for a refresh of the topology before it tries again anyway."""
        return PATIENCE if self.timeout is None else min(PATIENCE, self.timeout)

    def pauses(self, clock: Callable[[], float]) -> Callable[[int], float | None]:
        """For one call: what gives the seconds to pause after so many failures, 1 or more; None when it is over.

        The user's backoff is used as it is. One with a memory (redis-py's DecorrelatedJitterBackoff) is reset by a
        call's first failure; as in redis-py, calls that fail at the same time share it.
        """
        backoff = self.retry._backoff
        deadline = math.inf

        def pause_after(failures: int) -> float | None:
            nonlocal deadline
            now = clock()
            if failures == 1:
                backoff.reset()
                deadline = math.inf if self.timeout is None else now + self.timeout
            pause = max(0.0, backoff.compute(failures))
            return pause if now + pause < deadline else None

        return pause_after
