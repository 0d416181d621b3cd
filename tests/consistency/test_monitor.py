"""`ConsistencyMonitor`: audits come, are kept, and go on coming when one fails."""

from __future__ import annotations

import queue
import threading

import pytest
from benchmarks.consistency.faults import Injector, fill

from slotwise import RedisCluster, asyncio
from slotwise.consistency.findings import AuditReport
from slotwise.consistency.monitor import INTERVAL, VARIABLE, ConsistencyMonitor
from slotwise.local import LocalCluster

WITHIN = 30.0


def test_reports_come_and_are_kept(faulty_cluster: LocalCluster) -> None:
    come: queue.Queue[AuditReport] = queue.Queue()
    with RedisCluster.from_url(faulty_cluster.url) as client:
        fill(client, 500)
        inject = Injector(faulty_cluster, client)
        inject.settle()
        monitor = ConsistencyMonitor(client, 0.05, sample=100, keep=3, on_report=come.put)
        assert monitor.latest is None
        with monitor:
            for _ in range(5):
                report = come.get(timeout=WITHIN)
                assert report.equal
                assert 100 <= report.keys < 507
            assert monitor.latest is not None
            assert len(monitor.reports) == 3
            assert monitor.running
        assert not monitor.running
        assert not [thread for thread in threading.enumerate() if thread.name == "slotwise-consistency"]
        # It can be started anew, and finds what has happened since.
        monitor.sample = 100_000
        inject.missing("fault")
        with monitor:
            report = come.get(timeout=WITHIN)
            while report.equal:
                report = come.get(timeout=WITHIN)
        assert report.counts == {"missing": 1}


def test_errors_are_reports_too(faulty_cluster: LocalCluster) -> None:
    come: queue.Queue[AuditReport] = queue.Queue()

    def on_report(report: AuditReport) -> None:
        come.put(report)
        raise RuntimeError("a listener that fails")

    with RedisCluster.from_url(faulty_cluster.url) as client:
        victim = faulty_cluster.replicas[0]
        faulty_cluster.kill(victim)
        with ConsistencyMonitor(client, 0.05, on_report=on_report, timeout=0.5) as monitor:
            report = come.get(timeout=WITHIN)
            assert f"{victim.host}:{victim.port}" in [failure.node for failure in report.failures]
            faulty_cluster.restart(victim)
            faulty_cluster.wait_ready()
            client.nodes_manager.initialize()
            while report.failures:
                report = come.get(timeout=WITHIN)
            assert report.equal
            assert monitor.running


class Broken:
    """A client that finds no cluster."""

    def get_nodes(self) -> list[object]:
        raise ConnectionError("nobody there")

    def execute_command(self, *command: object) -> object:
        raise AssertionError("without nodes there is nobody to ask")


def test_an_audit_that_fails_as_a_whole() -> None:
    monitor = ConsistencyMonitor(Broken(), 300)
    report = monitor.check()
    assert [failure.error for failure in report.failures] == ["nobody there"]
    assert not report.equal
    assert monitor.reports == [report]


def test_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert ConsistencyMonitor(Broken()).interval == INTERVAL == 300
    monkeypatch.setenv(VARIABLE, "12.5")
    assert ConsistencyMonitor(Broken()).interval == 12.5
    assert ConsistencyMonitor(Broken(), 3).interval == 3
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ValueError, match=VARIABLE):
            ConsistencyMonitor(Broken())
    with pytest.raises(ValueError, match="interval"):
        ConsistencyMonitor(Broken(), 0)
    with pytest.raises(ValueError, match="keep"):
        ConsistencyMonitor(Broken(), 1, keep=0)


def test_what_is_no_client_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"ConsistencyMonitor takes a client, .*, not str$"):
        ConsistencyMonitor("redis://127.0.0.1")
    with pytest.raises(TypeError, match="for asyncio"):
        ConsistencyMonitor(asyncio.RedisCluster(host="127.0.0.1"))
