"""One call's conversation: what is tried again, when, and who is asked before it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slotwise._link import LinkFailure
from slotwise._reply import ServerError
from slotwise.errors import (
    ClosedClientError,
    ClusterDownError,
    ConnectionError,
    NodeUnavailableError,
    NotSentError,
    SlotNotCoveredError,
    UnknownOutcomeError,
    UnknownOutcomeTimeoutError,
)
from slotwise.routing.conversation import Do, Moved, Outcome, Pause, Reconnect, Refresh, Send, converse
from slotwise.routing.topology import Address

A, B = Address("a", 1), Address("b", 2)
LOST = LinkFailure("lost", sent=True)
LATE = LinkFailure("late", sent=True, timed_out=True)
UNSENT = LinkFailure("refused", sent=False)


class Asked:
    """Answers, and counts how often it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.times = 0

    def __call__(self, *_: Any) -> Any:
        self.times += 1
        return self.answers[min(self.times, len(self.answers)) - 1]


def talk(
    *outcomes: Any,
    repeatable: bool = False,
    retries: int = 3,
    pause_after: Callable[[int], float | None] = lambda failures: 0.0,
    **options: Any,
) -> tuple[Any, list[Do]]:
    """The reply to a call whose tries come out like that, or the exception; and the steps."""
    steps = converse(
        pinned=None, repeatable=repeatable, retries=retries, pause_after=pause_after, remap=None, **options
    )
    coming = iter(outcomes)
    done: list[Do] = []
    answer: Outcome | None = None
    try:
        while True:
            step = steps.send(answer)
            done.append(step)
            answer = None
            if isinstance(step, Send):
                what = next(coming)
                answer = Outcome(None, what, A) if isinstance(what, Exception) else Outcome(what, None, A)
    except StopIteration as end:
        return end.value, done
    except Exception as error:
        return error, done


def kinds(steps: list[Do]) -> list[str]:
    return [type(step).__name__ for step in steps]


def test_a_write_that_may_have_been_executed_is_not_repeated() -> None:
    for failure, raised in ((LOST, UnknownOutcomeError), (LATE, UnknownOutcomeTimeoutError)):
        error, steps = talk(failure)
        assert type(error) is raised
        assert kinds(steps) == ["Send"]


def test_always_repeats_it() -> None:
    reply, steps = talk(LOST, LATE, b"OK", retry_writes="always")
    assert reply == b"OK"
    assert kinds(steps) == ["Send", "Pause", "Send", "Refresh", "Send"]


def test_a_write_that_was_tried_to_the_end_is_unknown_all_the_same() -> None:
    error, steps = talk(LOST, LOST, retries=1, retry_writes="always")
    assert type(error) is UnknownOutcomeError
    assert kinds(steps) == ["Send", "Pause", "Send"]


def test_pauses_are_the_policys() -> None:
    _, steps = talk(LOST, LOST, b"1", repeatable=True, pause_after=lambda failures: failures * 0.5)
    assert [step for step in steps if not isinstance(step, Send)] == [Pause(0.5), Refresh(A, 1.0)]


def test_who_says_that_the_cluster_is_down_has_not_failed() -> None:
    """It would be asked for the topology behind those that cannot answer."""
    _, steps = talk(ServerError("CLUSTERDOWN no"), b"1")
    assert [step for step in steps if not isinstance(step, Send)] == [Refresh(None, 0.0)]


@pytest.mark.parametrize(("failure", "raised"), [(LOST, ConnectionError), (UNSENT, NotSentError)])
def test_without_time_for_a_pause_the_call_is_over(failure: Exception, raised: type[Exception]) -> None:
    error, steps = talk(failure, repeatable=True, pause_after=lambda failures: None)
    assert type(error) is raised
    assert kinds(steps) == ["Send"]


@pytest.mark.parametrize(
    ("failure", "step"),
    [
        (LOST, "Pause"),
        (UNSENT, "Pause"),
        (LATE, "Refresh"),
        (NodeUnavailableError("a:1 does not answer", retry_in=0.1), "Refresh"),
        (SlotNotCoveredError("1"), "Refresh"),
    ],
)
def test_the_topology_is_asked_for_unless_a_new_connection_may_do(failure: Exception, step: str) -> None:
    reply, steps = talk(failure, b"1", repeatable=True)
    assert (reply, kinds(steps)) == (b"1", ["Send", step, "Send"])


def test_moved_to_the_node_that_said_it() -> None:
    reply, steps = talk(ServerError("MOVED 1 a:1"), b"1")
    assert (reply, steps[1:3]) == (b"1", [Reconnect(A), Moved(1, A)])


def test_without_time_an_error_reply_is_the_answer() -> None:
    error, steps = talk(ServerError("CLUSTERDOWN no"), pause_after=lambda failures: None)
    assert type(error) is ClusterDownError
    assert kinds(steps) == ["Send"]


def test_the_budget_is_asked_for_what_may_have_been_executed() -> None:
    budget = Asked(True, False)
    error, steps = talk(LATE, ServerError("LOADING"), LOST, b"1", repeatable=True, may_repeat=budget)
    assert type(error) is ConnectionError
    assert kinds(steps) == ["Send", "Refresh", "Send", "Refresh", "Send"]
    assert budget.times == 2


def test_a_connection_that_was_lost_for_the_first_time_costs_nothing() -> None:
    """All calls on it notice at once, and go again over a new one: there may be thousands."""
    budget = Asked(False)
    assert talk(LOST, b"1", repeatable=True, may_repeat=budget)[0] == b"1"
    error, _ = talk(LOST, LOST, b"1", repeatable=True, may_repeat=budget)
    assert type(error) is ConnectionError
    assert budget.times == 1


def test_a_client_that_was_closed_meanwhile_sends_nothing_again() -> None:
    for first in (LOST, UNSENT, LATE, ServerError("CLUSTERDOWN no")):
        closed = Asked(False, True) if isinstance(first, Exception) else Asked(True)
        error, steps = talk(first, b"1", repeatable=True, closed=closed)
        assert type(error) is ClosedClientError
        assert kinds(steps).count("Send") == 1


def test_what_was_not_sent_costs_nothing() -> None:
    budget = Asked(False)
    unavailable = NodeUnavailableError("a:1 does not answer", retry_in=0.1)
    reply, steps = talk(UNSENT, unavailable, b"1", may_repeat=budget)
    assert reply == b"1"
    assert kinds(steps) == ["Send", "Pause", "Send", "Refresh", "Send"]
    assert budget.times == 0


def test_redirects_cost_nothing() -> None:
    budget = Asked(False)
    replies = [ServerError(text) for text in ("MOVED 1 b:2", "ASK 1 a:1", "TRYAGAIN no")]
    reply, steps = talk(*replies, b"1", may_repeat=budget, pause_after=lambda failures: None)
    assert reply == b"1"
    assert [step for step in steps if not isinstance(step, (Send, Pause))] == [Moved(1, B)]
    assert budget.times == 0


def test_nothing_is_asked_for_a_call_that_is_given_up_anyway() -> None:
    """A token that is taken for nothing is missing to others."""
    budget = Asked(True)
    talk(LOST, may_repeat=budget)
    talk(LOST, repeatable=True, retries=0, may_repeat=budget)
    talk(ServerError("CLUSTERDOWN no"), retries=0, may_repeat=budget)
    assert budget.times == 0


def test_an_unavailable_node_is_the_callers_to_know() -> None:
    unavailable = NodeUnavailableError("a:1 does not answer", retry_in=0.1)
    error, _ = talk(unavailable, unavailable, retries=1)
    assert error is unavailable


@pytest.mark.parametrize("text", ["MOVED 1 b:2", "MOVED 1 :2"])
def test_who_was_asked_by_a_short_way_may_be_unknown(text: str) -> None:
    """Perhaps the table knew another node by then: the one that it names has not named itself."""
    steps = converse(
        pinned=None,
        repeatable=False,
        retries=3,
        pause_after=lambda failures: 0.0,
        remap=None,
        outcome=Outcome(ServerError(text), None, None),
    )
    first = next(steps)
    if text == "MOVED 1 b:2":
        assert first == Moved(1, B)
        first = next(steps)
    assert isinstance(first, Send)
    assert first.address is None
    # From here on it is known.
    assert steps.send(Outcome(ServerError("MOVED 1 :2"), None, B)) == Reconnect(B)
    assert next(steps) == Moved(1, B)
