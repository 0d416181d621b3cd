"""The checker on histories that must pass and on histories that must not, and against a brute-force one."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.errors import NotSentError, UnknownOutcomeError
from slotwise.testing import Call, History

NEVER = float("inf")


def told(*calls: tuple[Any, ...], key: str = "k") -> History:
    """A history of ``(kind, value or result, invoked, returned)``; a return of infinity is an unknown outcome."""
    history = History()
    for kind, value, invoked, returned, *more in calls:
        outcome = "unknown" if returned == NEVER else "ok"
        call = Call(kind, key, None if kind == "read" else value, invoked, returned=returned, outcome=outcome)
        call.result = value if kind == "read" else more[0] if more else None
        history.calls.append(call)
    return history


def texts(history: History, lost: Any = ()) -> str:
    return "; ".join(map(str, history.violations(lost)))


# -- registers ----------------------------------------------------------------------------------

GOOD_REGISTERS = {
    "nothing": [],
    "nothing was written": [("read", None, 0, 1)],
    "one after another": [("write", 1, 0, 1), ("read", b"1", 2, 3), ("write", 2, 4, 5), ("read", b"2", 6, 7)],
    "a read at the same time sees either": [("write", 1, 0, 9), ("read", None, 1, 2), ("read", b"1", 3, 4)],
    "writes at the same time, in either order": [
        ("write", 1, 0, 9),
        ("write", 2, 0, 9),
        ("read", b"2", 10, 11),
        ("read", b"2", 12, 13),
    ],
    "an unknown write that was not applied": [("write", 1, 0, NEVER), ("read", None, 1, 2)],
    "an unknown write that was applied": [("write", 1, 0, NEVER), ("read", b"1", 1, 2)],
    "an unknown write that was applied late": [
        ("write", 1, 0, NEVER),
        ("write", 2, 1, 2),
        ("read", b"2", 3, 4),
        ("read", b"1", 5, 6),
    ],
}

BAD_REGISTERS = {
    "an acknowledged write vanished": ([("write", 1, 0, 1), ("read", None, 2, 3)], "None was the value"),
    "an older value came back": (
        [("write", 1, 0, 1), ("write", 2, 2, 3), ("read", b"1", 4, 5)],
        "1 was the value at 1.000000 s and at 4.000000 s, though 2 was in between",
    ),
    "a write was applied twice": (
        [
            ("write", 1, 0, NEVER),
            ("read", b"1", 1, 2),
            ("write", 2, 3, 4),
            ("read", b"2", 5, 6),
            ("read", b"1", 7, 8),
        ],
        "1 was the value at 2.000000 s and at 7.000000 s, though 2 was in between",
    ),
    "two readers see another order": (
        [
            ("write", 1, 0, 9),
            ("write", 2, 0, 9),
            *(("read", str(v), t, t + 1) for v, t in ((1, 10), (2, 12), (1, 14))),
        ],
        "applied twice",
    ),
    "read too early": ([("read", b"1", 0, 1), ("write", 1, 2, 3)], "before it was written"),
    "from nowhere": ([("read", b"7", 0, 1)], "which nobody wrote"),
}


@pytest.mark.parametrize("calls", GOOD_REGISTERS.values(), ids=GOOD_REGISTERS)
def test_good_registers(calls: Any) -> None:
    assert told(*calls).violations() == []


@pytest.mark.parametrize(("calls", "text"), BAD_REGISTERS.values(), ids=BAD_REGISTERS)
def test_bad_registers(calls: Any, text: str) -> None:
    assert text in texts(told(*calls))


def test_a_refused_write_must_not_be_seen() -> None:
    history = told(("write", 1, 0, 1), ("read", b"1", 2, 3))
    history.calls[0].outcome = "failed"
    assert "whose write was refused" in texts(history)


def test_declared_losses_are_excused() -> None:
    """What was lost may have been seen before it was; what was not declared is still told."""
    history = told(
        ("write", 1, 0, 1), ("write", 2, 2, 3), ("read", b"2", 4, 5), ("read", b"1", 6, 7), ("write", 3, 8, 9)
    )
    assert "though 2 was in between" in texts(history)
    assert history.violations(lost=[history.calls[1]]) == []
    history.calls.append(Call("read", "k", None, 10, result=b"1", returned=11, outcome="ok"))
    assert "though 3 was in between" in texts(history, lost=[history.calls[1]])


def test_keys_are_judged_each_on_its_own() -> None:
    history = told(("write", 1, 0, 1))
    history.calls += told(("read", None, 2, 3), key="other").calls
    assert history.violations() == []
    history.calls += told(("read", None, 2, 3)).calls
    assert [violation.key for violation in history.violations()] == ["k"]


# -- counters -----------------------------------------------------------------------------------

GOOD_COUNTERS = {
    "one after another": [("add", 1, 0, 1, 1), ("add", 5, 2, 3, 6), ("read", b"6", 4, 5)],
    "unknown and applied": [("add", 1, 0, NEVER), ("read", b"1", 1, 2)],
    "unknown and not applied": [("add", 1, 0, NEVER), ("read", None, 1, 2)],
    "unknown and applied later": [("add", 1, 0, NEVER), ("read", b"0", 1, 2), ("read", b"1", 3, 4)],
    "up and down": [("add", 5, 0, 1, 5), ("add", -3, 2, 3, 2), ("add", -1, 4, NEVER), ("read", b"1", 5, 6)],
    "at the same time": [
        ("add", 1, 0, 9, 2),
        ("add", 1, 0, 9, 1),
        ("read", b"1", 1, 2),
        ("read", b"2", 3, 4),
    ],
}

BAD_COUNTERS = {
    "vanished": ([("add", 1, 0, 1, 1), ("add", 1, 2, 3, 2), ("read", b"1", 4, 5)], "was 1 where 2 at least"),
    "twice": ([("add", 1, 0, 1, 1), ("read", b"2", 2, 3)], "was 2 where 1 at most"),
    "unknown, and twice": ([("add", 1, 0, NEVER), ("read", b"2", 2, 3)], "was 2 where 1 at most"),
    "twice, told by the next answer": ([("add", 1, 0, 1, 1), ("add", 1, 2, 3, 3)], "was 3 where 2 at most"),
    "vanished, told by an answer": ([("add", 1, 0, 1, 1), ("add", 1, 2, 3, 1)], "was 1 where 2 at least"),
    "one answer given twice": ([("add", 1, 0, 9, 1), ("add", 1, 0, 9, 1)], "two were answered with 1"),
    "down twice": (
        [("add", 5, 0, 1, 5), ("add", -1, 2, 3, 4), ("read", b"3", 4, 5)],
        "was 3 where 4 at least",
    ),
}


@pytest.mark.parametrize("calls", GOOD_COUNTERS.values(), ids=GOOD_COUNTERS)
def test_good_counters(calls: Any) -> None:
    assert told(*calls).violations() == []


@pytest.mark.parametrize(("calls", "text"), BAD_COUNTERS.values(), ids=BAD_COUNTERS)
def test_bad_counters(calls: Any, text: str) -> None:
    assert text in texts(told(*calls))


def test_a_refused_add_must_not_count() -> None:
    history = told(("add", 1, 0, 1), ("read", b"1", 2, 3))
    history.calls[0].outcome = "failed"
    assert "was 1 where 0 at most" in texts(history)


def test_declared_losses_of_counters_are_excused() -> None:
    history = told(("add", 1, 0, 1, 1), ("add", 1, 2, 3, 2), ("add", 1, 4, 5, 2), ("read", b"2", 6, 7))
    assert history.violations(lost=[history.calls[1]]) == []
    assert len(history.violations()) == 3


# -- recording ----------------------------------------------------------------------------------


def test_recording() -> None:
    now = iter(range(100))
    history = History(clock=lambda: next(now))
    with history.write("k", "v"):
        pass
    with history.read("k") as call:
        call.result = b"v"
    with history.add("n", 3) as call:
        call.result = 3
    assert [(c.kind, c.key, c.value, c.result, c.invoked, c.returned, c.outcome) for c in history.calls] == [
        ("write", "k", "v", None, 0, 1, "ok"),
        ("read", "k", None, b"v", 2, 3, "ok"),
        ("add", "n", 3, 3, 4, 5, "ok"),
    ]
    assert history.violations() == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (redis.ResponseError("WRONGTYPE"), "failed"),
        (redis.exceptions.ClusterDownError("CLUSTERDOWN"), "failed"),
        (NotSentError("closed"), "failed"),
        (UnknownOutcomeError("lost"), "unknown"),
        (redis.TimeoutError("slow"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else "",
)
def test_outcome_of_exceptions(error: BaseException, outcome: str) -> None:
    history = History()
    with pytest.raises(type(error)), history.write("k", 1):
        raise error
    assert (history.calls[0].outcome, history.calls[0].returned) == (outcome, NEVER)


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        ([("write", 1, 0, 1), ("add", 1, 2, 3)], "written and added to"),
        ([("write", 1, 0, 1), ("write", b"1", 2, 3)], "twice"),
    ],
)
def test_histories_that_cannot_be_judged(calls: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        told(*calls).violations()


# -- against brute force ------------------------------------------------------------------------


def register_explains(calls: list[Call]) -> bool:
    """Whether any order of the calls, and any choice of the unknown ones, is that of a register: tries all."""
    unknown = [call for call in calls if call.outcome == "unknown"]
    for count in range(len(unknown) + 1):
        for left_out in itertools.combinations(unknown, count):
            if _ordered([call for call in calls if call not in left_out], None):
                return True
    return False


def _ordered(calls: list[Call], value: Any) -> bool:
    if not calls:
        return True
    first_return = min(call.returned for call in calls)
    for call in calls:
        if call.invoked <= first_return and (call.kind == "write" or call.result == value):
            rest = [other for other in calls if other is not call]
            if _ordered(rest, str(call.value).encode() if call.kind == "write" else value):
                return True
    return False


@st.composite
def small_registers(draw: st.DrawFn) -> list[Call]:
    """Up to six calls; moments all differ, so that no order hangs on a tie."""
    count = draw(st.integers(1, 6))
    moments = iter(draw(st.permutations(range(2 * count))))
    calls = []
    for number in range(count):
        invoked, returned = sorted((next(moments), next(moments)))
        if draw(st.booleans()):
            ok = draw(st.booleans())
            calls.append(
                Call(
                    "write", "k", number, invoked, None, returned if ok else NEVER, "ok" if ok else "unknown"
                )
            )
        else:
            seen = draw(st.sampled_from([None, *(str(n).encode() for n in range(count))]))
            calls.append(Call("read", "k", None, invoked, seen, returned, "ok"))
    return calls


@settings(max_examples=1000)
@given(small_registers())
def test_registers_against_brute_force(calls: list[Call]) -> None:
    history = History()
    history.calls = calls
    assert (history.violations() == []) is register_explains(calls)


@st.composite
def real_executions(draw: st.DrawFn) -> tuple[list[Call], int]:
    """Calls as a counter really executes them at one moment of their time, some of them without an answer."""
    count = draw(st.integers(1, 30))
    total, calls = None, []  # the key is not there yet
    for moment in range(count):
        before, after = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
        invoked, returned = moment - before - 0.25, moment + after + 0.25
        kind = draw(st.sampled_from(["add", "read", "lost answer", "lost command"]))
        amount = draw(st.integers(-3, 3))
        if kind in ("add", "lost answer"):
            total = (total or 0) + amount
        if kind == "read":
            calls.append(Call("read", "k", None, invoked, total, returned, "ok"))
        else:
            ok = kind == "add"
            calls.append(
                Call(
                    "add",
                    "k",
                    amount,
                    invoked,
                    total if ok else None,
                    returned if ok else NEVER,
                    "ok" if ok else "unknown",
                )
            )
    return calls, count + 10


@settings(max_examples=100)
@given(real_executions())
def test_counters_that_were_executed_pass(execution: Any) -> None:
    history = History()
    history.calls, _ = execution
    assert history.violations() == []


@settings(max_examples=100)
@given(real_executions(), st.integers(1, 5))
def test_counters_beyond_all_that_was_asked_for_fail(execution: Any, excess: int) -> None:
    history = History()
    history.calls, end = execution
    most = sum(
        call.value
        for call in history.calls
        if call.kind == "add" and (call.outcome == "ok" or call.value > 0)
    )
    history.calls.append(Call("read", "k", None, end, most + excess, end + 1, "ok"))
    assert history.violations()


def test_it_is_quick() -> None:
    """100,000 calls on one key; a quadratic checker would take minutes, and the limit is generous."""
    calls: list[tuple[Any, ...]] = []
    for number in range(50_000):
        calls += [
            ("write", number, 2 * number, 2 * number + 1.5),
            ("read", str(number), 2 * number + 0.5, 2 * number + 1.9),
        ]
    history = told(*calls)
    began = time.process_time()
    assert history.violations() == []
    assert time.process_time() - began < 10
