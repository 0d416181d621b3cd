"""A node's circuit breaker: a node that takes no connection is left alone, and knocked at by one caller at a time.

It guards the opening of connections, which a call needs only after it lost one or waited in vain for a reply: so calls
that go well pay nothing. Closed, all may open connections. Open, nobody may, so nobody's thread or task waits for a dead
node as long as a time-out lasts. When the pause is over it is half open: one opening, the probe, is let through. Its
success closes the breaker, its failure opens it for a pause about twice as long.

"now" is a reading of one monotonic clock in seconds; whoever calls reads it.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from slotwise.errors import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    DataError,
    NodeUnavailableError,
    ResponseError,
    TimeoutError,
)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When the breaker of a node opens, and for how long."""

    failures: int = 1
    """Failures in a row that open it. One will do: whoever opens a connection has lost another, or is the first."""

    pause: float = 0.1
    """Seconds to the first probe, about: the pause is drawn between half of this and all of it, so that the clients of a
    fleet do not probe in step."""

    pause_max: float = 1.0
    """Seconds that the pause grows to. Also the longest that a node which is back goes unnoticed."""

    probe_timeout: float = 5.0
    """Seconds after which a probe that nobody has reported on is taken for lost, and the next one may go."""

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise DataError(f"failures must be at least 1, not {self.failures}")
        if not 0 < self.pause <= self.pause_max or self.probe_timeout <= 0:
            raise DataError(
                "pause and probe_timeout must be greater than 0, and pause_max no less than pause"
            )


class Breaker:
    """The circuit breaker of one node.

    `opening` is all that who opens a connection needs. A failure is a connection that could not be opened, or no reply in
    its handshake; a node that refuses the user or is loading has answered.

    Threads need no lock. Who may probe is decided by `list.pop`, which is one step, so there are never two. Two threads
    in `failed` may count one failure for two, which opens the breaker a failure later; a call that is let through in the
    moment in which the breaker opens is one more call that fails.
    """

    __slots__ = (
        "_began",
        "_due",
        "_latest_due",
        "_openings",
        "_policy",
        "_probing",
        "_random",
        "closed",
        "failures",
    )

    def __init__(self, policy: BreakerPolicy, random: Callable[[], float] = _random.random) -> None:
        """``random`` gives numbers from 0 to 1."""
        self.closed = True
        """Whether calls pass without asking `admit`."""
        self.failures = 0
        """Failures in a row; 0 while all is well."""
        self._policy = policy
        self._random = random
        # Times that the breaker was opened since it was last closed.
        self._openings = 0
        # Whether the last probe is still out.
        self._probing = False
        # The reading of the clock from which on a probe may go. Whoever has taken it out decides, and puts the next in.
        self._due: list[float] = []
        self._latest_due = 0.0
        # When each opening that is under way began.
        self._began: list[float] = []

    def admit(self, now: float) -> bool:
        """Whether a call may pass: any when closed, and otherwise one when the pause is over, which is the probe then."""
        if self.closed:
            return True
        dues = self._due
        try:
            due = dues.pop()
        except IndexError:
            self._find_again(now)
            return False
        if now < due:
            dues.append(due)
            return False
        self._probing = True
        self._latest_due = now + self._policy.probe_timeout
        dues.append(self._latest_due)
        return True

    def _find_again(self, now: float) -> None:
        """Another thread is just deciding; or it was, and an exception raised into it came between."""
        if now > self._latest_due + self._policy.probe_timeout:
            self._due = [now]

    def may_probe(self, now: float) -> bool:
        """Whether `admit` would say yes; takes nothing."""
        return self.closed or self.retry_in(now) == 0.0

    def retry_in(self, now: float) -> float:
        """Seconds after which asking `admit` again is worth while; 0: at once."""
        if self.closed:
            return 0.0
        try:
            left = max(0.0, self._due[0] - now)
        except IndexError:
            self._find_again(now)
            return self._policy.pause
        # A probe that is out may report at any moment.
        return min(left, self._policy.pause) if self._probing else left

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Whether somebody has been opening a connection for as many ``seconds``: a machine that is gone refuses nothing."""
        return any(now - began >= seconds for began in list(self._began))

    def succeeded(self) -> None:
        """A reply has come, and be it an error: the node is there."""
        # Last, as it opens the door: a thread that sees it closed finds no failures of old.
        self.failures = 0
        self._openings = 0
        self._probing = False
        self.closed = True

    def failed(self, now: float, *, probe: bool = False) -> bool:
        """A connection could not be opened. True when this has opened the breaker.

        Openings that were under way when it was opened fail later on and say nothing new: only the ``probe`` counts then.
        """
        if self.closed:
            self.failures += 1
            if self.failures < self._policy.failures:
                return False
        elif not probe:
            return False
        pause = min(self._policy.pause_max, self._policy.pause * 2.0 ** min(self._openings, 60))
        self._openings += 1
        self._probing = False
        self._latest_due = now + pause * (1.0 + self._random()) / 2.0
        self._due = [self._latest_due]
        self.closed = False
        return True

    def gave_up(self, now: float) -> None:
        """The probe ended before the node could answer (its task was cancelled, its thread interrupted): the next may go."""
        if self._probing:
            self._probing = False
            self._due = [now]

    def refuse(self, node: str, now: float) -> None:
        """Raises `NodeUnavailableError`, which names ``node``, when no opening would be let through. Takes nothing.

        For who would have to make much before it could ask `opening`.
        """
        if not self.may_probe(now):
            self._refused(node, now)

    def _refused(self, node: str, now: float) -> NoReturn:
        left = self.retry_in(now)
        raise NodeUnavailableError(f"{node} did not answer; the next try is in {left:.2f} seconds", left)

    @contextmanager
    def opening(self, node: str, clock: Callable[[], float]) -> Iterator[None]:
        """While a connection to ``node``, named in the error, is opened; raises `NodeUnavailableError` instead of that.

        ``clock`` is the monotonic clock.
        """
        probe = not self.closed
        began = clock()
        if probe and not self.admit(began):
            self._refused(node, clock())
        self._began.append(began)
        try:
            yield
        except (AuthenticationError, BusyLoadingError, ResponseError):
            self.succeeded()
            raise
        except (ConnectionError, TimeoutError, OSError):
            self.failed(clock(), probe=probe)
            raise
        except BaseException:
            if probe:
                self.gave_up(clock())
            raise
        finally:
            self._began.remove(began)
        self.succeeded()
