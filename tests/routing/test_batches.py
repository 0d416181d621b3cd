"""What becomes of the commands of a batch that got no plain reply: who is sent again, and who is asked before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from slotwise._link import LinkFailure
from slotwise._reply import ServerError
from slotwise.errors import ClusterDownError, ConnectionError, NotSentError, UnknownOutcomeError
from slotwise.routing.batches import Verdict, asked_of, judge, short_way_asked
from slotwise.routing.redirects import SETTLED
from slotwise.routing.topology import Address

A, B = Address("a", 1), Address("b", 2)
LOST = LinkFailure("lost", sent=True)
UNSENT = LinkFailure("refused", sent=False)
DOWN = ServerError("CLUSTERDOWN no")
READ = 0
"""The index of the one command that may be executed twice."""


def verdict_on(
    *outcomes: Any,
    next_pause: Callable[[], float | None] = lambda: 0.5,
    first_failure: bool = False,
    **options: Any,
) -> Verdict:
    results = [None if isinstance(what, Exception) else what for what in outcomes]
    failures = {index: what for index, what in enumerate(outcomes) if isinstance(what, Exception)}
    return judge(
        range(len(outcomes)),
        results,
        failures,
        asked=lambda index: A,
        repeatable=lambda index: index == READ,
        remap=None,
        redirects_left=True,
        next_pause=next_pause,
        first_failure=first_failure,
        **options,
    )


def kinds(verdict: Verdict) -> dict[int, type[Exception]]:
    return {index: type(error) for index, error in verdict.errors.items()}


def test_a_write_that_may_have_been_executed_is_not_repeated() -> None:
    verdict = verdict_on(LOST, LOST, UNSENT)
    assert verdict.again == [0, 2]
    assert kinds(verdict) == {1: UnknownOutcomeError}


def test_always_repeats_it() -> None:
    verdict = verdict_on(LOST, LOST, UNSENT, retry_writes="always")
    assert verdict.again == [0, 1, 2]
    assert verdict.refresh
    verdict = verdict_on(LOST, LOST, retry_writes="always", next_pause=lambda: None)
    assert kinds(verdict) == {0: ConnectionError, 1: UnknownOutcomeError}


def test_the_budget_counts_a_batch_as_one_call() -> None:
    """As it does where a batch is sent for the first time; or a big one would never be repeated by a quiet client."""
    tokens = [True]
    verdict = verdict_on(LOST, DOWN, DOWN, UNSENT, may_repeat=lambda: tokens.pop())
    assert verdict.again == [0, 1, 2, 3]
    verdict = verdict_on(LOST, DOWN, DOWN, UNSENT, may_repeat=lambda: False)
    assert verdict.again == [1, 2, 3], "of these it is known that they were not executed"
    assert kinds(verdict) == {0: ConnectionError}
    verdict = verdict_on(LOST, may_repeat=lambda: False, first_failure=True)
    assert verdict.again == [0], "a new connection may do"


def test_redirects_cost_nothing() -> None:
    replies = [ServerError(text) for text in ("MOVED 1 b:2", "ASK 2 b:2", "TRYAGAIN no")]
    verdict = verdict_on(*replies, next_pause=lambda: None, may_repeat=lambda: False)
    assert (verdict.again, verdict.ask, verdict.moved) == ([0, 2], {B: [1]}, {1: B})
    assert (verdict.wait, verdict.refresh, verdict.errors) == (True, False, {})


def test_connections_that_were_lost_for_the_first_time_need_no_refresh() -> None:
    for outcomes, first, refresh in [
        ((LOST, UNSENT), True, False),
        ((LOST, UNSENT), False, True),
        ((LOST, DOWN), True, True),
    ]:
        verdict = verdict_on(*outcomes, first_failure=first)
        assert (verdict.pause, verdict.refresh) == (0.5, refresh)


def test_moved_to_the_node_that_said_it() -> None:
    verdict = verdict_on(ServerError("MOVED 1 a:1"), ServerError("MOVED 2 b:2"))
    assert (verdict.reconnect, verdict.moved) == ({A}, {1: A, 2: B})


def test_judged_without_time_everybody_gets_an_error() -> None:
    def never() -> bool:
        raise AssertionError("a token would be taken for nothing")

    verdict = verdict_on(LOST, DOWN, UNSENT, next_pause=lambda: None, may_repeat=never)
    assert kinds(verdict) == {0: ConnectionError, 1: ClusterDownError, 2: NotSentError}


# -- who was asked -------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    node: Address


class Link(NamedTuple):
    retired: bool


def test_who_was_asked_is_known_of_what_was_sent() -> None:
    parts = [(Place(A), [0, 2]), (Place(B), [1, 3])]
    assert asked_of(parts, [3, 2, 7]) == {2: A, 3: B}


@pytest.mark.parametrize(
    ("failure", "links", "since", "expected"),
    [
        # Nothing has changed lately.
        (None, [None], SETTLED + 1, A),
        (LOST, [Link(False)], SETTLED + 1, A),
        # The reply to a command that was sent before the change, or after it.
        (None, [Link(False)], 1.0, None),
        # Whose link is open has not failed; who never had one was sent nothing.
        (LOST, [Link(False)], 1.0, None),
        (LOST, [Link(True), Link(False)], 1.0, None),
        (LOST, [None], 1.0, None),
        (LOST, [Link(True)], 1.0, A),
        (UNSENT, [None], 1.0, A),
        (UNSENT, [Link(False)], 1.0, None),
    ],
)
def test_whom_a_short_way_has_asked(
    failure: Exception | None, links: list[Any], since: float, expected: Address | None
) -> None:
    assert short_way_asked((Place(A), Place(B)), failure, links, since) == expected


def test_nobody_was_asked_for_a_slot_that_nobody_serves() -> None:
    assert short_way_asked(None, LOST, [], 100.0) is None
