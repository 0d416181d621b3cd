"""Every command method gives the same value, or the same error, as redis-py's."""

import functools
from collections.abc import Iterator

import pytest

from tests.differential.case import Case
from tests.differential.catalogue import CASES
from tests.differential.conftest import EVERY_SHAPE, UNLIKE, Pair, differences

METHODS = sorted({case.method for case in CASES})
TAGGED_METHODS = sorted({case.method for case in CASES if case.tagged})


def attempts(method: str, pairs: list[Pair]) -> Iterator[tuple[Case, Pair]]:
    """The first case of a method under all options, the others under those with shapes of their own."""
    for number, case in enumerate(case for case in CASES if case.method == method):
        heavy = case.on == "own" or case.quiet
        many = UNLIKE if heavy else EVERY_SHAPE if number else len(pairs)
        for pair in pairs[:many]:
            yield case, pair


@pytest.mark.parametrize("method", METHODS)
def test_same_answers(method: str, pairs: list[Pair]) -> None:
    answered = []

    def attempt(case: Case, pair: Pair) -> None:
        answered.append(pair.answers(case))

    found = differences(functools.partial(attempt, *chosen) for chosen in attempts(method, pairs))

    assert not found, f"\n{found}"
    if not any(answered):
        pytest.skip("the server has no such command, and both clients say so")


@pytest.mark.parametrize("method", TAGGED_METHODS)
def test_same_answers_in_a_pipeline(method: str, pairs: list[Pair]) -> None:
    found = differences(
        functools.partial(pair.answers_in_a_pipeline, case)
        for pair in pairs[:UNLIKE]
        for case in CASES
        if case.method == method and case.tagged
    )

    assert not found, f"\n{found}"
