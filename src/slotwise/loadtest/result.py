"""What a load test has found: plain values, written to JSON and read from it again.

Times on the run's own clock are seconds since the measured part began: after the warm-up, second 0 begins. Latencies are
milliseconds; in an open loop they count from the moment at which the operation should have begun.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hdrh.histogram import HdrHistogram

#: Of the JSON. Another number where a field is renamed, removed or means something else; not where one is added.
FORMAT = "slotwise-load-test/1"


class NotAResultError(ValueError):
    """A file that should be the JSON of a load test is none, or of a format this version does not know."""


@dataclass(frozen=True)
class Latency:
    """A distribution of latencies, in milliseconds; nan where nothing was answered."""

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    p9999: float
    max: float


@dataclass(frozen=True)
class Part:
    """All operations, those of one kind, or those on one shard."""

    #: ``all``, the kind (``get``), or the slots of the shard (``0-5460``).
    name: str
    #: Operations answered in the measured time; a pipeline or a read of many keys is one, and one of each of its shards.
    operations: int
    #: Operations answered a second, mean of the measured time.
    rate: float
    #: Keys that they read or wrote.
    keys: int
    #: Failed operations by the name of the exception.
    errors: dict[str, int]
    #: In an open loop of the operations that were due in the measured time, those answered a little later as well.
    latency: Latency
    #: The histogram of the latencies in nanoseconds, in HdrHistogram's V2 encoding (compressed, base64).
    histogram: str


@dataclass(frozen=True)
class ShardSecond:
    """What one shard answered in a second. No latency where it answered nothing."""

    operations: int
    errors: dict[str, int]
    p99_ms: float | None
    max_ms: float | None


@dataclass(frozen=True)
class Second:
    """What was answered in one second."""

    #: 0 is the first one measured.
    second: int
    operations: int
    errors: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    #: In the order of `Result.shards`.
    shards: list[ShardSecond]


@dataclass(frozen=True)
class Silence:
    """The longest time in which a shard answered nobody: the last answer before, the first one after it."""

    began: float
    #: None: it lasted to the end of the run.
    ended: float | None


@dataclass(frozen=True)
class FaultReport:
    """One fault and what callers noticed of it."""

    #: As it was asked for, such as ``kill-primary@10s``.
    name: str
    kind: str
    #: Seconds on the run's clock; `ended` is when it was over or, if it does not end by itself, had come about.
    began: float
    ended: float
    #: Which of `Result.shards` was hit; None: all.
    shard: int | None
    #: Seconds after `began` at which the servers had made a replica the primary, where that was theirs to find out.
    elected_after: float | None
    #: Seconds after `began` at which the first caller was told of it by an error; None where nobody was.
    noticed_after: float | None
    #: Of the shard that was hit, the longest one that touches the fault; None where it was never silent for 0.1 s.
    silence: Silence | None
    #: Seconds after `began` at which the shard answered again; 0 where it was never silent, None where it stayed so.
    recovered_after: float | None
    #: Operations that failed while the fault was there and until the shard answered again, by exception.
    errors: dict[str, int]
    #: Those of them that are writes of unknown outcome, and those that surely did not take place.
    unknown: int
    lost: int
    #: p99 in milliseconds of the other shards, of which a reshard's target is none: before the fault, and while it was
    #: there; None then if the generator itself could not go on (`Result.held_s`).
    others_p99_before: float | None
    others_p99_during: float | None


@dataclass(frozen=True)
class Expectation:
    """A figure that was asked for (``--expect``), such as ``p99 <= 10 ms``."""

    name: str
    #: ``>=`` or ``<=``.
    relation: str
    bound: float
    #: Of bound and measured; empty for counts.
    unit: str
    measured: float | None
    met: bool


@dataclass(frozen=True)
class Shard:
    """The slots that one primary served when the run began."""

    #: Such as ``0-5460`` or ``0-99,200-5460``.
    slots: str
    #: The primary's address then.
    node: str


@dataclass(frozen=True)
class Result:
    """One load test, with everything that is needed to run it again."""

    #: UTC, ISO 8601.
    began: str
    #: The command line, without passwords.
    command: list[str]
    #: Every option with its value, those left at their defaults as well.
    options: dict[str, Any]
    #: slotwise, redis-py, valkey-glide or coredis.
    client: str
    #: Words about the machine, Python and the libraries.
    machine: dict[str, str]
    #: Name and version of the servers, and how many nodes they are.
    server: str
    shards: list[Shard]
    #: Of everything that was drawn at random.
    seed: int
    #: ``closed`` (a caller's next operation begins when its last has ended) or ``open`` (they begin when they are due).
    loop: str
    #: Seconds measured.
    duration: float
    total: Part
    operations: list[Part]
    by_shard: list[Part]
    #: Keys read or written on the busiest shard over the mean of all shards.
    imbalance: float
    seconds: list[Second]
    faults: list[FaultReport] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)
    #: What the generator itself takes: microseconds of processor time for each operation, and which share of the time
    #: between two operations that is; in an open loop how late (p99, milliseconds) operations were begun.
    overhead_us: float = 0.0
    overhead_share: float = 0.0
    late_p99_ms: float | None = None
    #: In an open loop: operations that were due in the measured time, on the average, and how many of them had neither
    #: been answered nor failed a while after it, mostly for never having begun. They are in no latency.
    due: int | None = None
    unanswered: int | None = None
    #: In an open loop, seconds in which a generator began nothing that was due, because all operations that may be under
    #: way were, or all threads were busy; what was due then has the wait in its latency, whatever its shard.
    held_s: float | None = None

    @property
    def met(self) -> bool:
        """All that was expected is there."""
        return all(expectation.met for expectation in self.expectations)

    def to_json(self) -> str:
        """JSON for `read`; nan, of what nobody answered, becomes null."""
        return json.dumps({"format": FORMAT, **_without_nan(asdict(self))}, indent=1)


def read(path: Path) -> Result:
    """The result in a file. Raises `NotAResultError`, or OSError where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # Halves of characters, which nothing could print.
        json.dumps(found, ensure_ascii=False).encode()
        if not isinstance(found, dict) or "format" not in found:
            raise ValueError("it has no format")
        if found["format"] == FORMAT:
            return _result(found)
    except (ValueError, OverflowError, RecursionError) as error:
        raise NotAResultError(
            f"{path} is no result of slotwise load-test (--save writes them): {error}"
        ) from error
    raise NotAResultError(f"{path} is no {FORMAT}: another version of slotwise wrote it")


def _result(found: dict[str, Any]) -> Result:
    result: Result = _typed(Result, found, "the result")
    for part in (result.total, *result.operations, *result.by_shard):
        _check_histogram(part)
    shards = len(result.shards)
    if any(len(second.shards) != shards for second in result.seconds):
        raise ValueError("a second has other shards than the run")
    if any(fault.shard is not None and not 0 <= fault.shard < shards for fault in result.faults):
        raise ValueError("a fault is on a shard that is none")
    if any(expectation.relation not in (">=", "<=") for expectation in result.expectations):
        raise ValueError("an expectation is neither >= nor <=")
    return result


def _typed(hint: Any, value: Any, name: str) -> Any:
    """The ``value`` from JSON as one of this type. Raises ValueError with its ``name`` where it is none."""
    origin, of = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return None if value is None else _typed(of[0], value, name)
    if origin is list and isinstance(value, list):
        return [_typed(of[0], each, name) for each in value]
    if origin is dict and isinstance(value, dict):
        return {key: _typed(of[1], each, f"{name} {key}") for key, each in value.items()}
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        needed = [each.name for each in fields(hint) if each.default is each.default_factory is MISSING]
        if missing := [key for key in needed if key not in value]:
            raise ValueError(f"{name} has no {', '.join(missing)}")
        types = _types(hint)
        # Other fields were added by a later version.
        known = {key: _typed(types[key], each, key) for key, each in value.items() if key in types}
        return hint(**known)
    if hint is float and value is None and name in _MAY_BE_NAN:
        return float("nan")
    if hint in (int, float):
        if type(value) in (int, hint) and isfinite(value) and not (name.endswith("_ms") and value < 0):
            return hint(value)
    elif hint is Any or type(value) is hint:
        return value
    raise ValueError(f"{name} is {value!r:.50}")


# What `_without_nan` has made null.
_MAY_BE_NAN = frozenset({"imbalance", *(each.name for each in fields(Latency))})
_types = cache(get_type_hints)


def _check_histogram(part: Part) -> None:
    try:
        HdrHistogram.decode(part.histogram)
    except Exception as error:
        # Of whatever finds no sense in it: base64, zlib, struct, the library.
        raise ValueError(f"the histogram of {part.name} cannot be decoded") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value
