"""What becomes of transactions that were refused after WATCH."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from slotwise.errors import parse_error
from slotwise.routing.conversation import TRYAGAIN_PAUSE
from slotwise.routing.redirects import after_exception
from slotwise.routing.retry import RetryPolicy
from slotwise.routing.watches import Refusals

TRYAGAIN = parse_error("TRYAGAIN Multiple keys request during rehashing of slot")


def after(
    refusals: Refusals, error: Exception, policy: RetryPolicy, clock: Callable[[], float] = lambda: 0.0
) -> tuple[Exception, float]:
    return refusals.after(error, after_exception(error, "asked").step, policy, clock)


@pytest.mark.parametrize(("text", "pause"), [("MOVED 1 a:1", 0.0), ("ASK 1 a:1", TRYAGAIN_PAUSE)])
def test_a_redirect_always_begins_again(text: str, pause: float) -> None:
    refusals, error = Refusals(), parse_error(text)
    for _ in range(10):
        told, seconds = after(refusals, error, RetryPolicy(Retry(ConstantBackoff(1.0), 0)))
        assert isinstance(told, redis.WatchError)
        assert (str(told), seconds) == ("Slot rebalancing occurred while watching keys", pause)
        assert told.__cause__ is error


def test_others_pause_and_end_as_what_they_are() -> None:
    refusals, policy = Refusals(), RetryPolicy(Retry(ConstantBackoff(0.5), 2))
    for _ in range(2):
        told, seconds = after(refusals, TRYAGAIN, policy)
        assert isinstance(told, redis.WatchError)
        assert (str(told), seconds) == (f"The WATCH has ended, begin again: TryAgainError: {TRYAGAIN}", 0.5)
        assert told.__cause__ is TRYAGAIN
    assert after(refusals, TRYAGAIN, policy) == (TRYAGAIN, 0.0)
    # Who begins again all the same has as many.
    assert after(refusals, TRYAGAIN, policy)[1] == 0.5


def test_an_answer_ends_the_row() -> None:
    refusals, policy = Refusals(), RetryPolicy(Retry(ConstantBackoff(0.5), 1))
    for _ in range(3):
        assert isinstance(after(refusals, TRYAGAIN, policy)[0], redis.WatchError)
        refusals.answered()


def test_the_time_of_a_call_is_that_of_the_row() -> None:
    refusals, policy = Refusals(), RetryPolicy(Retry(ConstantBackoff(0.5), 9), timeout=2.0)
    clock = iter([10.0, 11.6]).__next__
    assert isinstance(after(refusals, TRYAGAIN, policy, clock)[0], redis.WatchError)
    assert after(refusals, TRYAGAIN, policy, clock) == (TRYAGAIN, 0.0)
