"""What becomes of transactions that were refused after WATCH, for both shells."""

from __future__ import annotations

from collections.abc import Callable

from slotwise.errors import AskError, WatchError
from slotwise.routing.conversation import TRYAGAIN_PAUSE
from slotwise.routing.redirects import Step
from slotwise.routing.retry import RetryPolicy

REBALANCED = "Slot rebalancing occurred while watching keys"
"""redis-py's words for a slot that has moved, or moves."""

ENDED = "The WATCH has ended with its connection: begin again"


class Refusals:
    """Refusals in a row of one pipeline's transactions, each of which ended a WATCH.

    `WatchError` tells whoever caught it to begin again, and ``transaction()`` does so at once and for ever: a cluster that
    stays down would be asked without a pause, and nobody would hear of it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._pause_after: Callable[[int], float | None] = lambda failures: None

    def answered(self) -> None:
        """The server has executed a transaction, or would have, had nobody changed a watched key."""
        self._count = 0

    def after(
        self, error: Exception, step: Step, policy: RetryPolicy, clock: Callable[[], float]
    ) -> tuple[Exception, float]:
        """The exception to raise, and the seconds to wait before that.

        After a redirect it is always a `WatchError`, because a move ends; after anything else, as often as ``policy`` has
        retries, and then the error itself.
        """
        if isinstance(error, AskError):
            # Of one that moves the old owner is asked until it has moved: in about this time.
            return _begin_again(REBALANCED, error), 0.0 if step is Step.GO else TRYAGAIN_PAUSE
        if not self._count:
            self._pause_after = policy.pauses(clock)
        self._count += 1
        pause = self._pause_after(self._count)
        if pause is None or self._count > policy.retries:
            self._count = 0
            return error, 0.0
        return _begin_again(
            f"The WATCH has ended, begin again: {type(error).__name__}: {error}", error
        ), pause


def _begin_again(text: str, cause: Exception) -> WatchError:
    told = WatchError(text)
    told.__cause__ = cause
    return told
