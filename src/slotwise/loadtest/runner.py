"""A whole load test: stores the data, starts the generators, strikes with faults, adds up, cleans up."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from math import ceil
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from slotwise.loadtest import analysis, clients, data
from slotwise.loadtest.expect import Wish, judge
from slotwise.loadtest.faults import Driver, Fault
from slotwise.loadtest.generator import GRACE, clock
from slotwise.loadtest.machine import describe
from slotwise.loadtest.result import Result, Shard
from slotwise.loadtest.tally import Counts, Totals
from slotwise.loadtest.worker import Done, Failed, Plan, Ready, main
from slotwise.loadtest.workload import Workload

if TYPE_CHECKING:
    from slotwise.sync.cluster import RedisCluster
    from slotwise.testing import Chaos

# Seconds for all generators to connect, and for one to end after it was to.
_READY_WITHIN = 60.0
_ENDED_WITHIN = 15.0


class LoadTestError(RuntimeError):
    """The load test could not be run; the text says why."""


@dataclass(frozen=True)
class Options:
    """What is run. See ``slotwise load-test --help``."""

    url: str
    workload: Workload
    client: str = "slotwise"
    #: Tasks under asyncio, or threads, in each process.
    callers: int = 50
    threads: bool = False
    processes: int = 1
    loop: str = "uvloop"
    #: Operations a second, for an open loop.
    rate: float | None = None
    poisson: bool = False
    most_under_way: int = 10_000
    #: Seconds.
    duration: float = 10.0
    warmup: float = 2.0
    ramp: float = 0.0
    seed: int = 1
    #: What the run has stored stays.
    keep: bool = False
    faults: Sequence[Fault] = ()
    expectations: Sequence[Wish] = ()
    #: For the result: as the user has typed it.
    command: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clients.check(self.client, threads=self.threads, url=self.url, kinds=self.workload.mix)
        for name, number, least in (
            ("duration", self.duration, 1),
            ("warm-up", self.warmup, 0),
            ("ramp", self.ramp, 0),
            ("number of tasks or threads", self.callers, 1),
            ("number of processes", self.processes, 1),
            ("number of operations under way", self.most_under_way, 1),
        ):
            if number < least:
                raise ValueError(f"the {name} is {least} at least")
        if self.rate is not None and self.rate <= 0:
            raise ValueError("a rate is a number of operations a second above 0")
        late = [fault.name for fault in self.faults if fault.at >= self.duration]
        if late:
            raise ValueError(
                f"{', '.join(late)}: the run of {self.duration:g} s is over by then, see --duration"
            )


@dataclass(frozen=True)
class Progress:
    """How far a run is. Seconds from the beginning of the measured part, below 0 in the warm-up."""

    at: float
    seconds: float
    #: Of the last whole second; latencies in milliseconds.
    rate: float
    p50: float | None
    p99: float | None
    errors: int


def run(
    options: Options,
    *,
    chaos: Chaos | None = None,
    say: Callable[[str], object] = lambda text: None,
    progress: Callable[[Progress], object] = lambda progress: None,
) -> Result:
    """Runs a load test. KeyboardInterrupt ends it early and leaves nothing behind.

    ``chaos`` drives the faults. Raises `LoadTestError`, or an error of the cluster.
    """
    if options.faults and chaos is None:
        raise LoadTestError("faults are for a local cluster: leave out --url")
    workload = options.workload
    with connected(options.url) as client:
        shards, ranges = _shards(client)
        server = _server(client)
        say(f"{server}; {len(shards)} shards.")
        try:
            if workload.preload:
                say(f"Storing {workload.keys:,} keys ...")
                data.store(client, workload, options.seed, lambda stored: None)
            machine = describe()
            began = datetime.now(timezone.utc).isoformat(timespec="seconds")
            outcome = _generate(options, shards, ranges, chaos, progress)
        finally:
            if not options.keep:
                clean_up(client, workload, say)
    return _result(options, outcome, shards, server, machine, began)


def clean_up(client: Any, workload: Workload, say: Callable[[str], object]) -> None:
    """Deletes the keys of a load test; what a cluster that is not whole keeps is told, and fails nothing."""
    say("Deleting what was stored ...")
    try:
        data.delete(client, workload)
    except Exception as error:
        say(f"Some keys that begin with {workload.prefix} are left: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        say(f"Interrupted once more: keys that begin with {workload.prefix} are left.")
        raise


def connected(url: str) -> RedisCluster:
    """A client. Raises `LoadTestError` for options in the URL that it does not have."""
    from slotwise.sync.cluster import RedisCluster

    try:
        return RedisCluster.from_url(url)
    except TypeError as error:
        raise LoadTestError(f"the URL has an option that is none: {error}") from None


@dataclass
class _Outcome:
    totals: Totals
    overhead: float
    driver: Driver | None
    seconds: float


def _generate(
    options: Options,
    shards: list[Shard],
    ranges: tuple[tuple[int, int, int], ...],
    chaos: Chaos | None,
    progress: Callable[[Progress], object],
) -> _Outcome:
    plan = Plan(
        client=options.client,
        url=options.url,
        workload=options.workload,
        callers=options.callers,
        threads=options.threads,
        loop=options.loop,
        processes=options.processes,
        seed=options.seed,
        duration=options.duration,
        warmup=options.warmup,
        ramp=options.ramp,
        rate=options.rate,
        poisson=options.poisson,
        most_under_way=options.most_under_way,
        ranges=ranges,
        shards=len(shards),
    )
    driver = None
    if chaos is not None and options.faults:
        slots = [slot for first, last, of in ranges if of == 0 for slot in range(first, last + 1)]
        driver = Driver(options.faults, chaos, slots, ranges[-1][0])
    generators = _Generators(plan)
    completed = False
    try:
        generators.start()
        overhead = generators.wait_ready()
        zero = clock() + 0.2 + options.warmup + options.ramp
        generators.begin(zero)
        if driver is not None:
            driver.start(zero)
        generators.follow(zero, progress)
        completed = True
    finally:
        if driver is not None:
            # Nobody waits for what a fault would still do to a run that came to nothing.
            driver.stop(wait=completed)
        generators.end()
    return _Outcome(generators.totals, overhead, driver, options.duration)


class _Generators:
    """The processes, and what they have told."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.totals = Totals(len(plan.workload.mix), plan.shards, plan.processes)
        self._connections: list[Connection] = []
        self._processes: list[SpawnProcess] = []

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        # Its start would let SIGINT through again.
        resource_tracker.ensure_running()
        for number in range(self._plan.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=main, args=(theirs, self._plan, number), daemon=True)
            # Ctrl-C reaches new processes before they can ignore it, and each would tell of it at length.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
                theirs.close()
                self._connections.append(ours)
                self._processes.append(process)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait_ready(self) -> float:
        """Waits for all clients to be connected; the mean of their own part in an operation, in seconds."""
        deadline = clock() + _READY_WITHIN
        overheads = []
        for connection in self._connections:
            if not connection.poll(max(0.0, deadline - clock())):
                raise LoadTestError(f"{self._plan.client} was not connected within {_READY_WITHIN:g} s")
            message = self._receive(connection)
            if isinstance(message, Ready):
                overheads.append(message.overhead)
        return sum(overheads) / len(overheads)

    def begin(self, zero: float) -> None:
        for connection in self._connections:
            connection.send(zero)

    def follow(self, zero: float, progress: Callable[[Progress], object]) -> None:
        """Adds up what the generators tell, until all are done."""
        left = {connection: number for number, connection in enumerate(self._connections)}
        end = zero + self._plan.duration
        while left:
            for ready in wait(list(left), timeout=0.5):
                assert isinstance(ready, Connection)
                message = self._receive(ready)
                if isinstance(message, Counts):
                    self.totals.add(left[ready], message)
                elif isinstance(message, Done):
                    del left[ready]
            progress(self._progress(clock() - zero))
            if clock() > end + GRACE + _ENDED_WITHIN:
                raise LoadTestError(f"a generator with {self._plan.client} did not end")

    def _progress(self, at: float) -> Progress:
        # The last second that all of them have told of.
        second = int(min(self.totals.at)) - 1
        cell = self.totals.second(second)
        errors = sum(self.totals.errors.values())
        return Progress(at, self._plan.duration, cell.operations, cell.at(0.5), cell.at(0.99), errors)

    def _receive(self, connection: Connection) -> Any:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            raise LoadTestError(f"a generator with {self._plan.client} died") from None
        if isinstance(message, Failed):
            raise LoadTestError(f"{self._plan.client}: {message.reason}")
        return message

    def end(self) -> None:
        """Ends what still runs, for which the end of its connection is the word."""
        for connection in self._connections:
            connection.close()
        deadline = time.monotonic() + GRACE + 2
        for process in self._processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _shards(client: Any) -> tuple[list[Shard], tuple[tuple[int, int, int], ...]]:
    """The shards in the order of their first slots, and which slots are theirs."""
    slots: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for (first, last), nodes in client.cluster_slots().items():
        host, port = nodes["primary"][:2]
        slots.setdefault((host, port), []).append((int(first), int(last)))
    found = sorted((sorted(runs), node) for node, runs in slots.items())
    shards = [
        Shard(
            ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs),
            f"{host}:{port}",
        )
        for runs, (host, port) in found
    ]
    ranges = tuple((first, last, shard) for shard, (runs, _) in enumerate(found) for first, last in runs)
    return shards, ranges


def _server(client: Any) -> str:
    node = client.get_default_node()
    info = client.info("server", target_nodes=node)
    name = info.get("server_name", "redis")
    version = info.get(f"{name}_version", info.get("redis_version"))
    roles = [node.server_type for node in client.get_nodes()]
    primaries = roles.count("primary")
    return f"{name} {version}, {primaries} primaries and {len(roles) - primaries} replicas"


def _result(
    options: Options, outcome: _Outcome, shards: list[Shard], server: str, machine: dict[str, str], began: str
) -> Result:
    totals, seconds = outcome.totals, outcome.seconds
    kinds = ["pipeline"] if options.workload.pipeline > 1 else list(options.workload.mix)
    total, operations, by_shard, imbalance = analysis.parts(totals, kinds, shards, seconds)
    struck = outcome.driver.struck if outcome.driver is not None else []
    if failed := [f"{each.fault.name}: {each.failure}" for each in struck if each.failure]:
        raise LoadTestError(f"a fault did not come about: {'; '.join(failed)}")
    faults = analysis.fault_reports(totals, struck, len(shards), seconds)
    # In a closed loop without a pause all of the time is somebody's; in an open one the generator waits.
    each = seconds * options.processes / total.operations if total.operations else float("inf")
    late = sorted(totals.late.items())
    due = None if options.rate is None else round(options.rate * seconds)
    unanswered = None if due is None else _unanswered(due, totals, options)
    return Result(
        began=began,
        command=list(options.command),
        options=options.settings or _settings(options),
        client=options.client,
        machine=machine,
        server=server,
        shards=shards,
        seed=options.seed,
        loop="closed" if options.rate is None else "open",
        duration=seconds,
        total=total,
        operations=operations,
        by_shard=by_shard,
        imbalance=imbalance,
        seconds=analysis.timeline(totals, len(shards), ceil(seconds)),
        faults=faults,
        expectations=judge(
            options.expectations, total, imbalance, faults, unanswered / due if due and unanswered else 0.0
        ),
        overhead_us=outcome.overhead * 1e6,
        overhead_share=outcome.overhead / each,
        late_p99_ms=_late(late) if options.rate is not None else None,
        due=due,
        unanswered=unanswered,
        held_s=None if due is None else sum(until - began for began, until in analysis.held(totals, seconds)),
    )


def _settings(options: Options) -> dict[str, Any]:
    """All of the options but the URL, which may hold a password."""
    left_out = ("url", "command", "settings")
    found = {each.name: getattr(options, each.name) for each in fields(options) if each.name not in left_out}
    found["workload"] = dict(vars(options.workload), mix=dict(options.workload.mix))
    found["faults"] = [fault.name for fault in options.faults]
    found["expectations"] = [f"{wish.name}={wish.bound:g}{wish.unit}" for wish in options.expectations]
    return found


def _unanswered(due: int, totals: Totals, options: Options) -> int:
    answered = sum(cell.operations for cell in totals.places.values())
    missing = due - answered - totals.errors.total()
    # Each stream has one more or less at the edges, and random arrivals come fewer at times: up to three standard deviations.
    streams = options.processes * (options.callers if options.threads else 1)
    return missing if missing > (3 * due**0.5 if options.poisson else streams) else 0


def _late(late: list[tuple[int, int]]) -> float | None:
    total, passed = sum(times for _, times in late), 0
    for hundredths, times in late:
        passed += times
        if passed >= total * 0.99:
            return hundredths / 100
    return None
