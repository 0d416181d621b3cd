"""Figures that have to be reached, and what counts as missed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slotwise.loadtest.expect import judge, parse
from tests.loadtest.results import killed, made_up, unanswered

NAN = float("nan")


def verdicts(text: str, *, faults: bool = True) -> dict[str, bool]:
    result = made_up(duration=12, fault=faults)
    found = judge(parse(text), result.total, result.imbalance, result.faults)
    return {expectation.name: expectation.met for expectation in found}


def test_bounds_and_units() -> None:
    wishes = parse("ops=100k,p50=250us,p99=10ms,p99.9=1s,p99.99=2s,max=1m,errors=0,imbalance=1.2,recovery=4s")
    assert [(wish.name, wish.relation, wish.bound, wish.unit) for wish in wishes] == [
        ("ops", ">=", 100_000, ""),
        ("p50", "<=", 0.25, "ms"),
        ("p99", "<=", 10, "ms"),
        ("p999", "<=", 1000, "ms"),
        ("p9999", "<=", 2000, "ms"),
        ("max", "<=", 60_000, "ms"),
        ("errors", "<=", 0, ""),
        ("imbalance", "<=", 1.2, ""),
        ("recovery", "<=", 4, "s"),
    ]


@pytest.mark.parametrize("text", ["", "ops", "rate=1", "p98=1ms", "ops=1,,p50=1ms", "p50<1ms"])
def test_what_is_nothing_to_expect(text: str) -> None:
    with pytest.raises(ValueError, match="nothing to expect: ops=100000"):
        parse(text)


@pytest.mark.parametrize(("text", "message"), [("p50=fast", "is no time"), ("ops=many", "is no number")])
def test_bounds_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_judgement_is_exact() -> None:
    result = made_up(duration=12)
    total = replace(result.total, rate=1000.0, errors={"A": 2, "B": 1})
    text = "ops=1000,errors=3,imbalance=2"
    assert all(each.met for each in judge(parse(text), total, 2.0, []))
    text = "ops=1001,errors=2,imbalance=1.9"
    assert not any(each.met for each in judge(parse(text), total, 2.0, []))


def test_each_percentile_is_its_own() -> None:
    latency = made_up(duration=12).total.latency
    for name, value in vars(latency).items():
        assert verdicts(f"{name}={value + 0.001:.6f}ms") == {name: True}
        assert verdicts(f"{name}={value - 0.001:.6f}ms") == {name: False}


def test_what_could_not_be_measured_is_missed() -> None:
    result = unanswered()
    found = judge(parse("p50=1h,imbalance=9,recovery=1h,ops=0"), result.total, NAN, result.faults)
    assert [(each.measured, each.met) for each in found] == [(None, False)] * 3 + [(0.0, True)]
    # Nobody recovers from a fault that was never there.
    assert verdicts("recovery=1h", faults=False) == {"recovery": False}


def test_what_was_never_answered_is_the_slowest() -> None:
    total = made_up(duration=12).total
    wishes = parse("p50=1h,p90=1h,p99=1h,p99.9=1h,max=1h,mean=1h")
    assert all(each.met for each in judge(wishes, total, 1.0, []))
    found = judge(wishes, total, 1.0, [], unanswered=0.05)
    assert {each.name for each in found if each.met} == {"p50", "p90"}
    assert {each.measured for each in found if not each.met} == {None}


def test_recovery_is_that_of_the_slowest() -> None:
    total = made_up(duration=12).total
    faults = [killed({}, 2.0), killed({}, 5.0)]
    assert judge(parse("recovery=4s"), total, 1.0, faults)[0].measured == 5.0
    never = replace(faults[0], recovered_after=None)
    assert judge(parse("recovery=1h"), total, 1.0, [*faults, never])[0].measured is None
