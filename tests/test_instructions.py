"""``python -m benchmarks.instructions``: how it judges, and that its cases run. Counting itself needs valgrind."""

import pytest
from benchmarks.instructions.base import stored
from benchmarks.instructions.cases import CASES
from benchmarks.instructions.judge import judge, passes, table


@pytest.mark.parametrize(
    ("before", "now", "verdict", "passed"),
    [
        (1_000.0, 1_100.0, "", True),
        (1_000.0, 1_101.0, "SLOWER", False),
        (1_000.0, 900.0, "", True),
        (1_000.0, 899.0, "faster", True),
    ],
)
def test_a_tenth_more_is_a_regression(before: float, now: float, verdict: str, passed: bool) -> None:
    lines = judge({"steady": 10.0, "case": before}, {"steady": 10.0, "case": now})
    assert [line.verdict for line in lines] == ["", verdict]
    assert passes(lines) is passed


def test_what_was_not_compared_does_not_pass() -> None:
    lines = judge({"gone": 1.0, "kept": 1.0}, {"new": 1.0, "kept": 1.0})
    assert {line.case: line.verdict for line in lines} == {
        "new": "not compared",
        "kept": "",
        "gone": "not compared",
    }
    assert not passes(lines)
    assert not passes(judge({}, {}))


def test_table() -> None:
    shown = table(judge({"a": 1_000.0, "gone": 2.0}, {"a": 1_500.0})).splitlines()
    assert [line.split() for line in shown[1:]] == [
        ["a", "1,000.0", "1,500.0", "1.50x", "SLOWER"],
        ["gone", "2.0", "-", "-", "not", "compared"],
    ]


def test_every_case_has_a_stored_count() -> None:
    assert list(CASES) == list(stored().cases) != []


@pytest.mark.parametrize("name", CASES)
def test_a_case_can_be_repeated(name: str) -> None:
    case = CASES[name]
    for prepare in filter(None, (case.prepare, case.beside)):
        step = prepare()
        for _ in range(3):
            step()
