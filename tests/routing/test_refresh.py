"""When a client asks for the topology."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from slotwise.routing.refresh import DRIFT, JITTER_MAX, JITTER_PER_NODE, Schedule


def schedule(interval: float | None = 60.0, min_interval: float = 1.0, draw: float = 0.5) -> Schedule:
    return Schedule(interval, min_interval, lambda: draw)


def test_nothing_is_due_before_somebody_wishes_or_the_client_has_its_first_topology() -> None:
    assert schedule().due == math.inf
    assert schedule(None).due == math.inf


def test_a_wish_is_due_soon_and_the_sooner_the_fewer_nodes_there_are() -> None:
    few, many = schedule(), schedule()
    assert few.want(100.0, 6)
    assert many.want(100.0, 50)
    assert few.due == 100.0 + 6 * JITTER_PER_NODE / 2
    assert many.due == 100.0 + 50 * JITTER_PER_NODE / 2
    huge = schedule(draw=1.0)
    huge.want(100.0, 5000)
    assert huge.due == 100.0 + JITTER_MAX


def test_wishes_until_the_end_of_a_refresh_are_one() -> None:
    plan = schedule()
    assert plan.want(100.0, 6)
    due = plan.due
    assert not plan.want(100.1, 6)
    assert plan.due == due
    plan.begin(101.0)
    assert plan.due == math.inf
    assert not plan.want(101.1, 6)
    assert plan.due == math.inf
    plan.end(101.2)
    assert plan.want(101.3, 6)


def test_the_next_wish_waits_until_the_least_interval_has_passed() -> None:
    plan = schedule(draw=0.0)
    plan.want(100.0, 6)
    plan.begin(100.0)
    plan.end(100.3)
    plan.want(100.4, 6)
    assert plan.due == 101.0


def test_regular_refreshes_come_by_themselves_and_drift_apart() -> None:
    plan = schedule(draw=1.0)
    plan.end(100.0)
    assert plan.due == 160.0 - 60.0 * DRIFT
    assert not plan.wanted
    never = schedule(None)
    never.end(100.0)
    assert never.due == math.inf


@given(
    st.lists(st.tuples(st.sampled_from(["want", "begin", "end"]), st.floats(0, 10)), max_size=50),
    st.floats(0, 0.999),
)
def test_no_order_of_events_brings_two_within_the_least_interval(
    events: list[tuple[str, float]], draw: float
) -> None:
    plan = schedule(interval=3.0, draw=draw)
    now, began, running = 0.0, -math.inf, False
    for event, later in events:
        now += later
        if event == "want":
            plan.want(now, 6)
        elif event == "begin" and not running and now >= plan.due:
            assert now >= began + 1.0
            plan.begin(now)
            began, running = now, True
        elif event == "end" and running:
            plan.end(now)
            running = False
