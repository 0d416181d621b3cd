"""Backoff, deadline and budget of calls that are tried again."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import (
    AbstractBackoff,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    ExponentialWithJitterBackoff,
    FullJitterBackoff,
    NoBackoff,
)
from redis.retry import Retry

from slotwise.errors import DataError
from slotwise.routing.retry import FullJitter, RetryBudget, RetryPolicy

# -- full jitter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "bound"), [(1, 0.01), (2, 0.02), (3, 0.04), (7, 0.64), (8, 1.0), (9, 1.0), (100_000, 1.0)]
)
def test_the_bound_doubles_up_to_the_cap(failures: int, bound: float) -> None:
    assert FullJitter(0.01, 1.0, random=lambda: 1.0).compute(failures) == pytest.approx(bound)
    assert FullJitter(0.01, 1.0, random=lambda: 0.5).compute(failures) == pytest.approx(bound / 2)
    assert FullJitter(0.01, 1.0, random=lambda: 0.0).compute(failures) == 0.0


def test_pauses_lie_all_over_their_range() -> None:
    pauses = [FullJitter(base=0.01, cap=1.0).compute(4) for _ in range(400)]
    assert 0 <= min(pauses) < 0.02
    assert 0.06 < max(pauses) <= 0.08


def test_it_goes_on_where_that_of_redis_py_overflows() -> None:
    """Retry(..., retries=-1) tries for ever."""
    with pytest.raises(OverflowError):
        FullJitterBackoff(cap=1.0, base=0.01).compute(1100)
    assert 0 <= FullJitter(base=0.01, cap=1.0).compute(1100) <= 1.0


def test_it_goes_into_the_retry_of_redis_py() -> None:
    tries = []

    def fail() -> None:
        tries.append(1)
        raise ConnectionResetError

    retry = Retry(FullJitter(base=1e-6, cap=1e-6), 3, (ConnectionResetError,))
    with pytest.raises(ConnectionResetError):
        retry.call_with_retry(fail, lambda error: None)
    assert len(tries) == 4
    assert retry == Retry(FullJitter(base=1e-6, cap=1e-6, random=lambda: 0.5), 3, (ConnectionResetError,))
    assert hash(retry) == hash(Retry(FullJitter(base=1e-6, cap=1e-6), 3, (ConnectionResetError,)))


# -- policy ------------------------------------------------------------------------------------------------------------

BACKOFFS: list[AbstractBackoff] = [
    ConstantBackoff(0.2),
    DecorrelatedJitterBackoff(cap=0.5, base=0.1),
    EqualJitterBackoff(cap=0.5, base=0.1),
    ExponentialBackoff(cap=0.5, base=0.1),
    ExponentialWithJitterBackoff(cap=0.5, base=0.1),
    FullJitter(cap=0.5, base=0.1),
    FullJitterBackoff(cap=0.5, base=0.1),
    NoBackoff(),
]


@pytest.mark.parametrize("backoff", BACKOFFS, ids=lambda backoff: type(backoff).__name__)
@pytest.mark.parametrize("make", [Retry, AsyncRetry], ids=["sync", "asyncio"])
def test_every_retry_object_of_redis_py_is_taken(make: Any, backoff: AbstractBackoff) -> None:
    policy = RetryPolicy(make(backoff, 4))
    assert policy.retries == 4
    pause_after = policy.pauses(lambda: 100.0)
    for failures in range(1, 5):
        pause = pause_after(failures)
        assert pause is not None
        assert 0 <= pause <= 0.5
        if type(backoff) in (ConstantBackoff, ExponentialBackoff, NoBackoff):
            assert pause == backoff.compute(failures)


def test_a_backoff_of_the_user_is_used_as_it_is() -> None:
    asked: list[int | str] = []

    class Mine(AbstractBackoff):
        def reset(self) -> None:
            asked.append("reset")

        def compute(self, failures: int) -> float:
            asked.append(failures)
            return -1.0 if failures == 2 else 0.25

    policy = RetryPolicy(Retry(Mine(), 3))
    pauses = list(map(policy.pauses(lambda: 0.0), (1, 2, 3)))
    assert pauses == [0.25, 0.0, 0.25], "redis-py does not wait for a negative pause"
    assert asked == ["reset", 1, 2, 3]


def test_a_retry_object_is_asked_anew() -> None:
    """redis-py's update_retries() changes it under way."""
    retry = Retry(NoBackoff(), 3)
    policy = RetryPolicy(retry)
    retry.update_retries(7)
    assert policy.retries == 7


def test_a_negative_number_of_retries_is_for_ever() -> None:
    assert RetryPolicy(Retry(NoBackoff(), -1)).retries == sys.maxsize


def test_no_deadline() -> None:
    policy = RetryPolicy(Retry(ConstantBackoff(1e9), 1))
    assert policy.pauses(lambda: 100.0)(1) == 1e9


def test_a_pause_that_leaves_no_time_is_not_made() -> None:
    policy = RetryPolicy(Retry(ConstantBackoff(0.5), 9), timeout=2.0)
    times = iter([100.0, 101.4, 101.5, 105.0])
    pause_after = policy.pauses(lambda: next(times))
    assert [pause_after(failures) for failures in (1, 2, 3, 4)] == [0.5, 0.5, None, None]


def test_calls_have_deadlines_of_their_own() -> None:
    policy = RetryPolicy(Retry(ConstantBackoff(0.5), 9), timeout=2.0)
    assert policy.pauses(lambda: 100.0)(1) == 0.5
    assert policy.pauses(lambda: 200.0)(1) == 0.5


@given(
    timeout=st.floats(0.001, 60),
    pauses=st.lists(st.floats(0, 5), min_size=1, max_size=20),
    tries=st.lists(st.floats(0, 5), min_size=1, max_size=20),
)
def test_no_try_begins_after_the_deadline(timeout: float, pauses: list[float], tries: list[float]) -> None:
    """Whatever the pauses are and however long the tries take."""

    class Given(AbstractBackoff):
        def compute(self, failures: int) -> float:
            return pauses[failures % len(pauses)]

    now = 1000.0
    pause_after = RetryPolicy(Retry(Given(), -1), timeout=timeout).pauses(lambda: now)
    for failures, seconds in enumerate(tries, 1):
        pause = pause_after(failures)
        if pause is None:
            break
        now += pause
        assert now < 1000.0 + timeout
        now += seconds


@pytest.mark.parametrize("options", [{"retry_writes": "never"}, {"timeout": 0.0}, {"timeout": math.nan}])
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        RetryPolicy(Retry(NoBackoff(), 1), **options)


# -- budget ------------------------------------------------------------------------------------------------------------


def taken(budget: RetryBudget, now: float, wanted: int = 100_000) -> int:
    """How many of so many repetitions the budget allows at once."""
    return next((done for done in range(wanted) if not budget.allow(now)), wanted)


def test_a_quiet_client_may_try_again() -> None:
    budget = RetryBudget(0.0, share=0.1, per_second=10, window=10)
    assert taken(budget, 0.0) == 100
    assert taken(budget, 1.0) == 9, "ten in a second, of which a little has faded"
    assert budget.refused == 2


def test_traffic_earns_its_share() -> None:
    budget = RetryBudget(0.0, share=0.1, per_second=0, window=10)
    assert taken(budget, 0.0) == 0
    budget.calls += 1000
    assert taken(budget, 0.0) == 100


def test_a_clock_that_has_hardly_moved() -> None:
    for later in (3e-15, 5e-324):
        budget = RetryBudget(0.0, share=0.1, per_second=2, window=10)
        budget.calls += 37
        assert taken(budget, later) == 23


def test_tokens_fade() -> None:
    budget = RetryBudget(0.0, share=0.1, per_second=0, window=10)
    budget.calls += 10_000
    assert budget.look(0.0) == 1000
    assert budget.look(10.0) == pytest.approx(1000 / math.e)
    assert taken(budget, 200.0) == 0


def test_steady_traffic_holds_what_the_window_earns() -> None:
    """However often somebody looks."""
    for step in (0.01, 0.5, 5.0, 60.0):
        budget = RetryBudget(0.0, share=0.2, per_second=5, window=10)
        for n in range(1, int(120 / step) + 1):
            budget.calls += round(1000 * step)
            budget.look(n * step)
        assert budget.look(120.0) == pytest.approx((0.2 * 1000 + 5) * 10, rel=0.01)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 5000), st.integers(0, 600)), min_size=1, max_size=60)
)
def test_repetitions_are_a_share_of_the_traffic(steps: list[tuple[float, int, int]]) -> None:
    """Whatever comes when: never more than the share, the minimum, and what there was to begin with."""
    budget = RetryBudget(0.0, share=0.1, per_second=2, window=10)
    now, again = 0.0, 0
    for pause, calls, wanted in steps:
        now += pause
        budget.calls += calls
        again += taken(budget, now, wanted)
        assert again <= 0.1 * budget.calls + 2 * now + 20 + 1e-6


def test_a_clock_that_another_thread_read_earlier_does_no_harm() -> None:
    budget = RetryBudget(100.0, share=0.1, per_second=10, window=10)
    assert taken(budget, 100.0) == 100
    budget.look(110.0)
    before = budget.look(110.0)
    assert budget.look(105.0) == before
    assert budget.look(110.0) == before


@pytest.mark.parametrize("options", [{"share": -0.1}, {"per_second": -1}, {"window": 0}])
def test_a_budget_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        RetryBudget(0.0, **options)
