"""A node's circuit breaker."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slotwise.errors import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    DataError,
    NodeUnavailableError,
    TimeoutError,
)
from slotwise.routing.breaker import Breaker, BreakerPolicy

POLICY = BreakerPolicy(failures=3, pause=0.1, pause_max=1.0, probe_timeout=5.0)


def opened(now: float = 100.0, random: float = 1.0) -> Breaker:
    """A breaker that was opened just now; ``random`` 1.0: for the whole pause."""
    breaker = Breaker(POLICY, lambda: random)
    assert [breaker.failed(now) for _ in range(3)] == [False, False, True]
    return breaker


def test_all_is_well() -> None:
    breaker = Breaker(POLICY)
    assert (breaker.closed, breaker.failures, breaker.retry_in(0.0)) == (True, 0, 0.0)
    assert breaker.admit(0.0)
    assert breaker.may_probe(0.0)


def test_an_opening_that_takes_long_shows() -> None:
    breaker, now = Breaker(POLICY), [10.0]
    with breaker.opening("node", lambda: now[0]):
        assert not breaker.is_stuck(10.9, 1.0)
        assert breaker.is_stuck(11.0, 1.0)
    assert not breaker.is_stuck(11.0, 1.0)
    with pytest.raises(ConnectionError), breaker.opening("node", lambda: now[0]):
        raise ConnectionError
    assert not breaker.is_stuck(20.0, 1.0)


def test_failures_in_a_row_open_it() -> None:
    breaker = opened()
    assert not breaker.closed
    assert not breaker.admit(100.0)
    assert breaker.retry_in(100.0) == pytest.approx(0.1)


def test_one_success_between_is_enough() -> None:
    breaker = Breaker(POLICY)
    for _ in range(10):
        breaker.failed(0.0)
        breaker.failed(0.0)
        assert breaker.closed
        breaker.succeeded()
        assert breaker.failures == 0


def test_after_the_pause_one_call_goes() -> None:
    breaker = opened(100.0)
    assert not breaker.may_probe(100.09)
    assert not breaker.admit(100.09)
    assert breaker.may_probe(100.11)
    assert [breaker.admit(100.11) for _ in range(5)] == [True, False, False, False, False]
    assert not breaker.may_probe(100.11)


def test_its_success_closes_the_breaker() -> None:
    breaker = opened(100.0)
    assert breaker.admit(100.2)
    breaker.succeeded()
    assert breaker.closed
    assert breaker.failures == 0
    assert [breaker.admit(100.2) for _ in range(3)] == [True] * 3


def test_its_failure_opens_it_for_longer() -> None:
    breaker, now, pauses = opened(100.0), 100.0, []
    for _ in range(6):
        pauses.append(breaker.retry_in(now))
        now += breaker.retry_in(now) + 1e-6
        assert breaker.admit(now)
        assert breaker.failed(now, probe=True)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_a_node_that_was_back_begins_with_the_short_pause_again() -> None:
    breaker = opened(100.0)
    assert breaker.admit(101.0)
    breaker.failed(101.0, probe=True)
    assert breaker.admit(102.0)
    breaker.succeeded()
    for _ in range(3):
        breaker.failed(103.0)
    assert breaker.retry_in(103.0) == pytest.approx(0.1)


@pytest.mark.parametrize(("random", "pause"), [(0.0, 0.05), (0.5, 0.075), (1.0, 0.1)])
def test_pauses_are_drawn(random: float, pause: float) -> None:
    assert opened(100.0, random).retry_in(100.0) == pytest.approx(pause)


def test_calls_of_before_that_fail_now_say_nothing_new() -> None:
    """100 calls that were under way time out one after the other: the pause does not begin anew each time."""
    breaker = opened(100.0)
    assert not any(breaker.failed(100.0 + n / 1000) for n in range(100))
    assert breaker.retry_in(100.0) == pytest.approx(0.1)
    assert breaker.admit(100.11)
    assert not breaker.failed(100.12), "nor is it taken for the probe's"
    assert not breaker.admit(101.0)


def test_a_probe_that_nobody_reports_on_is_given_up() -> None:
    breaker = opened(100.0)
    assert breaker.admit(101.0)
    assert not breaker.admit(105.9)
    assert breaker.admit(106.1)
    assert not breaker.admit(106.1)


def test_a_late_reply_of_before_closes_it_as_well() -> None:
    breaker = opened(100.0)
    breaker.succeeded()
    assert breaker.admit(100.0)


def test_who_waits_for_a_probe_looks_again_soon() -> None:
    """It is decided in milliseconds as a rule, and lost after seconds only."""
    breaker = opened(100.0)
    assert breaker.admit(101.0)
    assert 0 < breaker.retry_in(101.0) <= POLICY.pause


@pytest.mark.parametrize(
    "options", [{"failures": 0}, {"pause": 0}, {"pause": 2.0, "pause_max": 1.0}, {"probe_timeout": 0}]
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        BreakerPolicy(**options)


# -- opening a connection ------------------------------------------------------------------------------------------------


def try_to_open(breaker: Breaker, now: float, outcome: BaseException | None = None) -> None:
    with breaker.opening("a:1", lambda: now):
        if outcome is not None:
            raise outcome


@pytest.mark.parametrize(
    "failure", [ConnectionError("refused"), TimeoutError("late"), OSError(113, "no route")]
)
def test_a_connection_that_cannot_be_opened(failure: Exception) -> None:
    breaker = Breaker(BreakerPolicy(), lambda: 1.0)
    with pytest.raises(type(failure)):
        try_to_open(breaker, 100.0, failure)
    with pytest.raises(
        NodeUnavailableError, match=r"a:1 did not answer; the next try is in 0\.08 seconds"
    ) as caught:
        try_to_open(breaker, 100.02)
    assert caught.value.retry_in == pytest.approx(0.08)
    with pytest.raises(type(failure)):
        try_to_open(breaker, 100.2, failure)
    assert breaker.retry_in(100.2) == pytest.approx(0.2)
    try_to_open(breaker, 100.5)
    assert breaker.closed


@pytest.mark.parametrize("answer", [AuthenticationError("no"), BusyLoadingError("loading")])
def test_a_node_that_refuses_the_user_has_answered(answer: Exception) -> None:
    breaker = opened(100.0)
    with pytest.raises(type(answer)):
        try_to_open(breaker, 100.2, answer)
    assert breaker.closed


def test_an_opening_that_was_interrupted_says_nothing() -> None:
    breaker = Breaker(BreakerPolicy(), lambda: 1.0)
    with pytest.raises(KeyboardInterrupt):
        try_to_open(breaker, 100.0, KeyboardInterrupt())
    assert breaker.closed
    breaker = opened(100.0)
    with pytest.raises(KeyboardInterrupt):
        try_to_open(breaker, 100.2, KeyboardInterrupt())
    assert not breaker.closed
    assert breaker.admit(100.2), "and the next may go at once"


# -- any order of events -------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Calls and probes that succeed, fail or vanish, in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(POLICY, lambda: 0.5)
        self.now = 50.0
        self.under_way = 0
        # When the probe that is out went, if one is.
        self.probe: float | None = None
        self.failures = 0

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.06, 0.2, 0.9, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        was_closed, might = self.breaker.closed, self.breaker.may_probe(self.now)
        admitted = self.breaker.admit(self.now)
        assert admitted == might
        if was_closed:
            assert admitted
            self.under_way += 1
        elif admitted:
            assert self.probe is None or self.now - self.probe >= POLICY.probe_timeout, "two probes"
            self.probe = self.now

    @rule()
    def a_call_succeeds(self) -> None:
        if self.under_way:
            self.under_way -= 1
            self.breaker.succeeded()
            assert self.breaker.closed
            self.probe, self.failures = None, 0

    @rule()
    def a_call_fails(self) -> None:
        if self.under_way:
            self.under_way -= 1
            was_closed = self.breaker.closed
            self.failures += was_closed
            opens = self.breaker.failed(self.now)
            assert opens == (was_closed and self.failures >= POLICY.failures)

    @rule(succeeds=st.booleans())
    def the_probe_ends(self, succeeds: bool) -> None:
        if self.probe is not None:
            self.probe = None
            if succeeds:
                self.breaker.succeeded()
                self.failures = 0
                assert self.breaker.admit(self.now)
            else:
                assert self.breaker.failed(self.now, probe=True)
                assert not self.breaker.admit(self.now)

    @invariant()
    def it_is_closed_until_enough_have_failed(self) -> None:
        assert self.breaker.closed == (self.failures < POLICY.failures)

    @invariant()
    def there_is_always_a_way_back(self) -> None:
        longest = max(POLICY.pause_max, POLICY.probe_timeout)
        assert self.breaker.retry_in(self.now) <= POLICY.pause_max
        assert self.breaker.may_probe(self.now + longest + 1e-6)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40)


# -- threads ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _hasty_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_hasty_switches")
@pytest.mark.parametrize("ask", [Breaker.admit, Breaker.may_probe])
def test_who_was_interrupted_while_he_decided_keeps_nobody_out(ask: Callable[[Breaker, float], bool]) -> None:
    breaker = opened(100.0)
    breaker._due.pop()
    assert not ask(breaker, 105.0)
    assert not ask(breaker, 106.0)
    assert ask(breaker, 106.1)


def test_threads_never_send_two_probes() -> None:
    breaker = opened(0.0)
    rounds, now = 300, 0.0
    probes: list[float] = []

    def the_pause_ends() -> None:
        nonlocal now
        now += 10.0

    gate = threading.Barrier(4, action=the_pause_ends)

    def knock() -> None:
        for _ in range(rounds):
            gate.wait(30)
            probes.extend(now for _ in range(5) if breaker.admit(now))

    threads = [threading.Thread(target=knock) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(probes) == len(set(probes)), "two in one round"
    # Each round is longer than a probe's time-out, so every one has its probe.
    assert len(probes) == rounds
