"""The search for the highest rate, on a cluster whose limit is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from slotwise import RedisCluster
from slotwise.loadtest import LoadTestError, Options, Result, Workload, data
from slotwise.loadtest import search as module
from slotwise.loadtest.search import FIRST, PRECISION, Step, search
from slotwise.local import LocalCluster
from slotwise.testing import ScriptedCluster
from tests.loadtest.results import made_up

WORKLOAD = Workload({"get": 1}, keys=100, prefix="search:")


def limited(limit: float) -> Callable[..., Result]:
    """Runs of a cluster that answers so many operations a second well, and falls behind from there on."""
    usual = made_up(duration=1, fault=False)

    def run(options: Options, **others: Any) -> Result:
        rate = options.rate or 0.0
        kept_up = rate <= limit
        latency = replace(usual.total.latency, p99=2.0 if kept_up else 500.0)
        operations = round(min(rate, limit) * options.duration)
        total = replace(usual.total, rate=min(rate, limit), operations=operations, latency=latency, errors={})
        return replace(usual, total=total)

    return run


@pytest.mark.parametrize("limit", [1_000, 1_001, 1_999, 37_500, 100_000])
def test_it_finds_the_limit(limit: float, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a limit that is exact, which no real server has."""
    monkeypatch.setattr(module, "run", limited(limit))
    steps: list[Step] = []
    best = search(Options(cluster.url, WORKLOAD), 10.0, after=steps.append)
    assert limit / (1 + PRECISION) <= best.total.rate <= limit
    assert steps[0].rate == FIRST
    assert len(steps) <= 16
    assert [step.met for step in steps] == [step.rate <= limit for step in steps]
    assert best.total.rate == max(step.rate for step in steps if step.met)


def test_the_first_rate_may_be_too_much(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run", limited(500))
    with pytest.raises(
        LoadTestError, match=r"2,000 operations a second are too many .* 10 ms: --rate with less"
    ):
        search(Options(cluster.url, WORKLOAD, rate=2000.0), 10.0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, LoadTestError("died")])
def test_keys_are_deleted_however_it_ends(
    error: Any, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count(1)

    def run(options: Options, **others: Any) -> Result:
        assert options.keep
        assert options.workload.preload == (next(runs) == 1)
        with RedisCluster.from_url(cluster.url) as client:
            if options.workload.preload:
                data.store(client, options.workload, 1, lambda stored: None)
            else:
                assert sum(1 for _ in client.scan_iter("search:*", count=1000)) == 100
                raise error
        return limited(1e9)(options)

    monkeypatch.setattr(module, "run", run)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else LoadTestError):
        search(Options(cluster.url, WORKLOAD), 10.0)
    assert next(runs) == 3
    with RedisCluster.from_url(cluster.url) as client:
        assert list(client.scan_iter("search:*", count=1000)) == []


def test_on_a_real_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes 20 ms for each command answers 50 a second, and no more."""
    monkeypatch.setattr(module, "PRECISION", 3)
    steps: list[Step] = []
    with ScriptedCluster(1, store=True) as servers:
        (node,) = servers.nodes
        node.expect("GET").often().delay(0.02).reply(None)
        node.expect("INFO", "server").often().reply(b"redis_version:7.2.0")
        workload = replace(WORKLOAD, preload=False)
        options = Options(servers.url, workload, duration=1.0, warmup=0.0, rate=20.0, keep=True)
        best = search(options, 300.0, after=steps.append)
    assert [(step.rate, step.met) for step in steps] == [(20, True), (40, True), (80, False)]
    assert steps[2].reached <= 50
    assert best.total.latency.p50 == pytest.approx(20, rel=0.5)
