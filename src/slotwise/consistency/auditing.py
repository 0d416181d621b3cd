"""`audit`: every key on its primary and on each of its replicas.

A shard has one task that walks over the primary's keys and one per replica that walks over the replica's. What differs
in a batch is a suspect: it is looked at again (`suspects`) before it becomes a finding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from redis.cluster import ClusterNode

from slotwise.consistency.findings import AuditReport, Failure, Finding, Lag
from slotwise.consistency.nodes import AT_ONCE, FAILURES, SLOTS, View, Wire
from slotwise.consistency.values import check_client
from slotwise.consistency.walks import PrimaryWalk, ReplicaWalk

#: Findings that a report keeps; the others are counted.
KEPT = 10_000
# Tasks at the same time, each of one shard or replica.
_TASKS = 32
# Seconds between two calls of `progress`.
_PROGRESS = 0.2
# With a rate, this many batches a second, of no fewer keys than that: others wait behind short steps only.
_STEPS, _FEWEST = 400, 25


@dataclass(frozen=True)
class Progress:
    """How far an audit is."""

    #: Keys of primaries looked at, and about how many there are.
    keys: int
    total: int
    seconds: float
    findings: int


@dataclass(frozen=True)
class Options:
    pattern: str
    sample: int | None
    repair: bool
    rate: float | None
    ttl_tolerance: float
    lag_timeout: float
    timeout: float
    batch: int
    kept: int


class Throttle:
    """Lets a number of keys a second through, over all threads."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, keys: int) -> None:
        if self._rate is None or not keys:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + keys / self._rate
        self._stop.wait(begin - now)


@dataclass
class Shard:
    """A primary and its replicas that answer."""

    primary: Any
    view: View
    wire: Wire
    keys: int
    #: How many keys of the sample are of this shard.
    share: int = 0
    replicas: list[tuple[Any, Wire]] = field(default_factory=list)
    lags: dict[str, Lag] = field(default_factory=dict)


class Audit:
    """One run; `audit` is the way in."""

    def __init__(
        self,
        client: Any,
        options: Options,
        progress: Callable[[Progress], object] | None,
        resume: Mapping[str, Any] | None,
        stop: threading.Event,
    ) -> None:
        self.client = client
        self.options = options
        self._progress = progress
        # Run id -> where the walk over that process's keys had come to.
        self._resumed: dict[str, Any] = {}
        if resume is not None and resume.get("pattern") == options.pattern:
            self._resumed = dict(resume["nodes"])
        self.stop = stop
        self.throttle = Throttle(options.rate, stop)
        self.replica_throttle = Throttle(options.rate, stop)
        self.lock = threading.Lock()
        self.owners: list[tuple[str, View]] = []
        self.nodes: dict[str, Any] = {}
        self._cursors: dict[str, Any] = {}
        self._wires: list[Wire] = []
        how = "every key of every primary, and every key of every replica, by SCAN"
        if options.sample is not None:
            how = (
                f"about {options.sample} keys of primaries and as many of replicas, spread by the number of keys of each "
                "node: SCAN from random cursors, a handful of keys from each place"
            )
        self.report = AuditReport(options.pattern, options.sample, how, time.time())
        self.total = 0

    # -- what tasks share ----------------------------------------------------------------------------------------------

    def wire(self, node: Any) -> Wire:
        """A connection of its own to a node, closed when the audit ends."""
        wire = Wire(self.client, node, self.options.timeout)
        with self.lock:
            self._wires.append(wire)
        wire.open()
        return wire

    def fail(self, node: str, error: BaseException) -> None:
        with self.lock:
            if all(failure.node != node for failure in self.report.failures):
                self.report.failures.append(Failure(node, str(error) or type(error).__name__))

    def found(self, finding: Finding) -> None:
        with self.lock:
            report = self.report
            report.counts[finding.kind] += 1
            if finding.repaired is not None:
                report.repaired += finding.repaired
                report.not_repaired += not finding.repaired
            if len(report.findings) < self.options.kept:
                report.findings.append(finding)

    def owner_of(self, slot: int) -> tuple[str, View] | None:
        """The primary that owns a slot by its own words."""
        return next(((name, view) for name, view in self.owners if view.owned[slot]), None)

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> AuditReport:
        began = time.monotonic()
        try:
            shards = self._discover()
            tasks: list[Callable[[], None]] = []
            for shard in shards:
                walk = PrimaryWalk(self, shard)
                tasks += [walk.run, *(ReplicaWalk(self, shard, *pair).run for pair in shard.replicas)]
            if tasks:
                self._carry_out(tasks, began)
        finally:
            for wire in self._wires:
                wire.close()
        report = self.report
        report.seconds = time.monotonic() - began
        report.stopped = self.stop.is_set()
        if report.sample is None and not self._is_complete():
            report.cursor = {"pattern": report.pattern, "nodes": self._places()}
        report.lag.sort(key=lambda lag: (lag.primary, lag.node))
        self._tell(began)
        return report

    def _is_complete(self) -> bool:
        """Whether all keys were looked at, but for those of replicas that did not answer from the beginning on."""
        covered = sum(sum(view.owned) for _, view in self.owners)
        # If nobody failed, nobody owns the other slots.
        lacks_primaries = covered < SLOTS and bool(self.report.failures)
        return not lacks_primaries and all(state["done"] for state in self._cursors.values())

    def _places(self) -> dict[str, Any]:
        """Where every walk is; those over nodes that did not answer are where they were."""
        answered = {wire.name: wire.run_id for wire in self._wires if wire.run_id}
        before = {
            run_id: state
            for run_id, state in self._resumed.items()
            if answered.get(state["node"], run_id) == run_id
        }
        return before | self._cursors

    def _carry_out(self, tasks: Sequence[Callable[[], None]], began: float) -> None:
        with ThreadPoolExecutor(min(_TASKS, len(tasks)), "slotwise-audit") as pool:
            running: set[Future[None]] = {pool.submit(task) for task in tasks}
            try:
                while running:
                    done, running = wait(running, _PROGRESS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self._tell(began)
            except BaseException:
                # Ctrl-C, or a progress function that raised: the tasks end with their batch.
                self.stop.set()
                raise

    def _tell(self, began: float) -> None:
        if self._progress is not None:
            report = self.report
            now = time.monotonic() - began
            self._progress(Progress(report.keys, max(self.total, report.keys), now, report.counts.total()))

    def _discover(self) -> list[Shard]:
        """Asks every node who it is: its own word counts, not the client's table, which may be older."""
        known: list[tuple[Any, Wire, View, int]] = []
        nodes = sorted(self.client.get_nodes(), key=lambda node: str(node.name))
        for node in nodes:
            try:
                wire = self.wire(node)
                known.append((node, wire, wire.view(), int(wire.call("DBSIZE"))))
            except FAILURES as error:
                self.fail(node.name, error)
        shards = {
            view.id: Shard(node, view, wire, keys) for node, wire, view, keys in known if not view.primary_id
        }
        met = {view.id for _, _, view, _ in known}
        for node, wire, view, _ in known:
            if view.primary_id in shards:
                self._join(shards[view.primary_id], node, wire)
            elif view.primary_id:
                self.fail(node.name, RuntimeError("its primary does not answer"))
        self.nodes = {node.name: node for node in nodes}
        failed = {failure.node for failure in self.report.failures}
        for shard in shards.values():
            for id, (address, is_mine) in shard.view.others.items():
                if is_mine and id not in met and address not in failed:
                    self._join_unknown(shard, address)
        self.owners = [(shard.wire.name, shard.view) for shard in shards.values()]
        self.total = sum(shard.keys for shard in shards.values())
        sample = self.options.sample
        if sample is not None and self.total:
            for shard in shards.values():
                shard.share = -(-sample * shard.keys // self.total)
            self.total = min(self.total, sample)
        return list(shards.values())

    def _join_unknown(self, shard: Shard, address: str) -> None:
        """A replica that its primary names and the client's table lacks, as it does for seconds after its start."""
        host, _, port = address.rpartition(":")
        node = ClusterNode(host, int(port or 0))
        self.nodes[node.name] = node
        try:
            wire = self.wire(node)
        except FAILURES:
            self.fail(address, RuntimeError(f"a replica of {shard.wire.name} that does not answer"))
            return
        self._join(shard, node, wire)

    def _join(self, shard: Shard, node: Any, wire: Wire) -> None:
        """A replica of the shard, with how far it is behind."""
        lag = Lag(wire.name, shard.wire.name)
        try:
            offset = shard.wire.offset()
            told = wire.info("replication")
        except FAILURES as error:
            self.fail(wire.name, error)
            return
        behind = max(0, offset - int(told.get("slave_repl_offset", 0)))
        lag.saw(behind, told.get("master_link_status") == "up")
        shard.lags[wire.name] = lag
        self.report.lag.append(lag)
        shard.replicas.append((node, wire))

    def state(self, wire: Wire) -> dict[str, Any]:
        """Where the walk over a node's keys is. A node that was restarted begins anew: cursors are of a process."""
        told = self._resumed.get(wire.run_id) or {"node": wire.name, "cursor": 0, "done": False}
        with self.lock:
            state = self._cursors[wire.run_id] = dict(told)
        return state


def is_cursor(value: Any) -> bool:
    """Whether it is what `AuditReport.cursor` may be, or that from JSON."""
    nodes = value.get("nodes") if isinstance(value, Mapping) else None
    return isinstance(nodes, Mapping) and all(
        isinstance(state, Mapping)
        and isinstance(state.get("node"), str)
        and isinstance(state.get("cursor"), int)
        and isinstance(state.get("done"), bool)
        for state in nodes.values()
    )


def audit(
    client: Any,
    pattern: str = "*",
    sample: int | None = None,
    repair: bool = False,
    *,
    rate: float | None = None,
    ttl_tolerance: float = 2.0,
    lag_timeout: float = 5.0,
    timeout: float = 5.0,
    batch: int = AT_ONCE,
    kept: int = KEPT,
    progress: Callable[[Progress], object] | None = None,
    resume: Mapping[str, Any] | None = None,
    stop: threading.Event | None = None,
) -> AuditReport:
    """Looks at every key of a cluster on its primary and on each replica, and tells what is not as it should be.

    ``client`` is a `RedisCluster`; the audit has connections of its own, and reads values on the servers. ``pattern`` is
    a glob as of SCAN, ``sample`` about how many keys to look at (None: all). ``repair`` mends by last write wins, see
    docs/consistency.md.

    ``rate`` limits the keys a second (None: as fast as it goes); ``ttl_tolerance`` is how many seconds two expiries may
    be apart. What differs is looked at again once the replica has applied all that its primary had written by then: it
    has ``lag_timeout`` seconds for that, or is told as lagging. A node has ``timeout`` seconds for an answer, else it is
    told as failed and the others go on. ``batch`` is the number of keys in one call, ``kept`` how many findings the
    report keeps.

    ``progress`` is called about five times a second, in the caller's thread. An audit that ``stop`` ends, or in which a
    primary fails, has a ``cursor`` in its report: a JSON-able value that ``resume`` goes on from.

    Raises ValueError for options that make no sense. Failures of nodes are in the report.
    """
    check_client(client, awaited=False, taker="audit")
    if not pattern:
        raise ValueError("pattern is empty: '*' stands for all keys")
    if sample is not None and sample < 1:
        raise ValueError("sample must be at least 1")
    if rate is not None and not rate > 0:
        raise ValueError("rate must be above 0")
    if batch < 1 or kept < 0 or not timeout > 0 or lag_timeout < 0 or ttl_tolerance < 0:
        raise ValueError("batch and timeout must be above 0; kept, lag_timeout and ttl_tolerance not below")
    if resume is not None:
        if sample is not None:
            raise ValueError(
                "sample looks at random keys, so there is nothing to resume: leave one of the two out"
            )
        if not is_cursor(resume):
            raise ValueError(
                "resume is not a report's cursor: pass report.cursor as it was, or None to begin anew"
            )
    if rate is not None:
        batch = min(batch, max(_FEWEST, int(rate / _STEPS)))
    options = Options(pattern, sample, repair, rate, ttl_tolerance, lag_timeout, timeout, batch, kept)
    return Audit(client, options, progress, resume, stop or threading.Event()).run()
