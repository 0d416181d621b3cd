"""Which keys: each distribution has the shape that it claims, and repeats from its seed."""

from __future__ import annotations

import numpy as np
import pytest

from slotwise._slots import key_slot
from slotwise.loadtest.keys import Distribution, HotSet, KeySpace, Latest, Uniform, Zipf, distribution

DRAWS = 400_000


def counts(drawn_from: Distribution, size: int, newest: int | None = None, seed: int = 7) -> np.ndarray:
    """How often each key was drawn."""
    rng = np.random.default_rng(seed)
    drawn = drawn_from.draw(rng, DRAWS, size - 1 if newest is None else newest)
    assert drawn.min() >= 0
    return np.bincount(drawn, minlength=size)


def chi_square(found: np.ndarray, expected: np.ndarray) -> float:
    """In standard deviations from its mean: beyond 5 is no accident."""
    value = float(((found - expected) ** 2 / expected).sum())
    freedom = len(found) - 1
    return (value - freedom) / (2 * freedom) ** 0.5


def test_uniform_is_even() -> None:
    found = counts(Uniform(1000), 1000)
    assert len(found) == 1000
    assert abs(chi_square(found, np.full(1000, DRAWS / 1000))) < 5


@pytest.mark.parametrize("theta", [0.5, 0.99, 1.5])
def test_zipf_follows_its_formula(theta: float) -> None:
    size = 1000
    shares = np.arange(1, size + 1) ** -theta
    expected = DRAWS * shares / shares.sum()
    found = np.sort(counts(Zipf(size, theta, seed=3), size))[::-1]
    # Sorting moves counts only among ranks that are hard to tell apart, and the head is not.
    assert found[:5] == pytest.approx(expected[:5], rel=0.03)
    assert found[:100].sum() == pytest.approx(expected[:100].sum(), rel=0.02)


def test_zipf_ranks_are_scattered_alike_in_all_processes() -> None:
    first, again, other = (counts(Zipf(1000, 0.99, seed), 1000) for seed in (1, 1, 2))
    head = np.argsort(first)[::-1][:10]
    assert (np.argsort(again)[::-1][:10] == head).all()
    assert set(np.argsort(other)[::-1][:10]) != set(head)
    # The popular keys are no neighbours.
    assert np.diff(np.sort(head)).max() > 10


def test_zipf_chi_square_by_rank() -> None:
    size = 500
    drawn_from = Zipf(size, 0.99, seed=5)
    shares = np.arange(1, size + 1) ** -0.99
    found = counts(drawn_from, size)[drawn_from._of_rank]
    assert abs(chi_square(found, DRAWS * shares / shares.sum())) < 5


def test_latest_is_zipf_from_the_newest_down() -> None:
    size = 500
    shares = np.arange(1, size + 1) ** -0.99
    expected = DRAWS * shares / shares.sum()
    for newest in (499, 800):
        found = counts(Latest(size, 0.99), newest + 1, newest)[::-1][:size]
        assert abs(chi_square(found, expected)) < 5
    # Where there are fewer keys than ranks, the first one stands for what is missing.
    assert counts(Latest(size, 0.99), 1, newest=0)[0] == DRAWS


@pytest.mark.parametrize(("size", "share", "traffic"), [(1000, 0.2, 0.8), (997, 0.01, 0.5), (64, 0.5, 0.9)])
def test_hot_set_has_its_share(size: int, share: float, traffic: float) -> None:
    found = np.sort(counts(HotSet(size, share, traffic, seed=11), size))[::-1]
    hot = round(size * share)
    assert len(found) == size
    assert found[:hot].sum() / DRAWS == pytest.approx(traffic, abs=0.01)
    assert abs(chi_square(found[:hot], np.full(hot, DRAWS * traffic / hot))) < 5
    assert abs(chi_square(found[hot:], np.full(size - hot, DRAWS * (1 - traffic) / (size - hot)))) < 5


@pytest.mark.parametrize("text", ["uniform", "zipf", "zipf:0.5", "latest", "hot:0.2:0.8"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_key_spaces(text: str, size: int) -> None:
    found = counts(distribution(text, size, seed=1), size)
    assert len(found) == size
    assert found.all()


@pytest.mark.parametrize(
    "text",
    [
        *("", "even", "uniform:1", "zipf:0", "zipf:-1", "zipf:nan", "zipf:inf", "zipf:11", "zipf:a"),
        *("zipf:1:2", "hot", "hot:0.2", "hot:0:0.5", "hot:1:0.5", "hot:0.5:nan", "hot:0.1:0.2:0.3"),
        *("latest:0", "latest:x"),
    ],
)
def test_what_is_no_distribution(text: str) -> None:
    with pytest.raises(ValueError, match=r"no distribution of keys: uniform, zipf\[:THETA\], hot:"):
        distribution(text, 10, 1)


@pytest.mark.parametrize("text", ["uniform", "zipf:0.99", "latest", "hot:0.2:0.8"])
def test_seeds_repeat(text: str) -> None:
    def drawn(seed: int) -> list[int]:
        return distribution(text, 1000, 1).draw(np.random.default_rng(seed), 500, 999).tolist()

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)


@pytest.mark.parametrize("kept", [True, False])
def test_names_and_slots(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr("slotwise.loadtest.keys._KEPT", 10)
    space = KeySpace(100, "some:")
    ids = np.array([99, 0, 7, 7])
    names = space.names(ids)
    assert names.tolist() == ["some:0000000099", "some:0000000000", "some:0000000007", "some:0000000007"]
    assert space.singles(ids).tolist() == [(name,) for name in names]
    assert space.slots(ids, names).tolist() == [key_slot(name) for name in names]
    # A new one beside an old one.
    ids = np.array([5, 12345])
    names = space.names(ids)
    assert names.tolist() == ["some:0000000005", "some:0000012345"]
    assert space.singles(ids).tolist() == [(name,) for name in names]
    assert space.slots(ids, names).tolist() == [key_slot(name) for name in names]
