"""What a load test does: which operations, how often each, on which keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import isfinite

from slotwise.loadtest import values
from slotwise.loadtest.keys import MOST_KEYS, PREFIX, distribution

MOST_COMMANDS = 100_000


class Family(Enum):
    """What lies at a key; the keys of each family have a prefix of their own."""

    STRING = "s:"
    HASH = "h:"
    COUNTER = "c:"
    VERSIONED = "v:"


@dataclass(frozen=True)
class Kind:
    """One kind of operation."""

    family: Family
    writes: bool
    #: One command, which may be part of a pipeline.
    single: bool
    help: str


KINDS: Mapping[str, Kind] = {
    "get": Kind(Family.STRING, False, True, "GET"),
    "set": Kind(Family.STRING, True, True, "SET, with --ttl SET EX"),
    "delete": Kind(Family.STRING, True, True, "DEL"),
    "mget": Kind(Family.STRING, False, False, "the values of --mget-keys keys in any slots"),
    "cached": Kind(Family.STRING, True, False, "cache-aside: GET, and SET EX where there was nothing"),
    "incr": Kind(Family.COUNTER, True, True, "INCR"),
    "hgetall": Kind(Family.HASH, False, True, "HGETALL of ten fields"),
    "hset": Kind(Family.HASH, True, True, "HSET of one field"),
    "insert": Kind(
        Family.HASH, True, False, "HSET of ten fields at a new key, ZADD to an index of 1,000 keys"
    ),
    "scan": Kind(
        Family.HASH, False, False, "ZRANGEBYSCORE of an index, HGETALL of up to 100 keys from there on"
    ),
    "rmw": Kind(Family.HASH, True, False, "HGETALL, then HSET of one field"),
    "vget": Kind(Family.VERSIONED, False, False, "VersionedStore.get, of slotwise only"),
    "vset": Kind(Family.VERSIONED, True, False, "VersionedStore.set, of slotwise only"),
}


@dataclass(frozen=True)
class Workload:
    """The whole description of a load; it goes to the generators and into the result.

    Raises ValueError for what cannot be run, with the way out; OSError for a file of values.
    """

    #: Shares of the operations by kind; they need not add up to anything.
    mix: Mapping[str, float]
    #: See `slotwise.loadtest.keys.distribution` and `slotwise.loadtest.values.values`.
    distribution: str = "uniform"
    keys: int = 100_000
    value_size: str = "100"
    #: Seconds that what is written lives; 0 for ever.
    ttl: int = 0
    #: Commands in a pipeline; 1 without one.
    pipeline: int = 1
    #: Keys in an ``mget``.
    mget_keys: int = 100
    prefix: str = PREFIX
    #: All keys are stored before the run begins.
    preload: bool = True

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.mix if kind not in KINDS]
        if unknown or not self.mix:
            raise ValueError(f"no operation {', '.join(unknown) or 'at all'}: there are {', '.join(KINDS)}")
        if any(not share > 0 or not isfinite(share) for share in self.mix.values()):
            raise ValueError("the share of an operation is a number above 0; leave out what is not wanted")
        if not 1 <= self.keys <= MOST_KEYS:
            raise ValueError(f"the number of keys is 1 to {MOST_KEYS:,}")
        if self.ttl < 0:
            raise ValueError("a TTL is a number of seconds, 0 for none")
        for name, number in (("pipeline", self.pipeline), ("mget", self.mget_keys)):
            if not 1 <= number <= MOST_COMMANDS:
                raise ValueError(f"a {name} has 1 to {MOST_COMMANDS:,} commands or keys")
        if self.pipeline > 1:
            composed = [kind for kind in self.mix if not KINDS[kind].single]
            if composed:
                raise ValueError(f"{', '.join(composed)} cannot be part of a pipeline: --pipeline 1")
        if "cached" in self.mix and not self.ttl:
            raise ValueError("a cache lets its entries expire: --ttl SECONDS")
        distribution(self.distribution, 1, 0)
        values.check(self.value_size)
        if not self.prefix:
            raise ValueError("keys need a prefix, by which they are known and deleted afterwards")

    @property
    def wide(self) -> bool:
        """Whether operations have keys on several shards."""
        return self.pipeline > 1 or "mget" in self.mix

    @property
    def families(self) -> list[Family]:
        """Those that the mix needs."""
        return [family for family in Family if any(KINDS[kind].family is family for kind in self.mix)]


def mix(text: str) -> dict[str, float]:
    """``get=90,set=10``. Raises ValueError that says what is allowed."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if name in found:
            raise ValueError(f"{name} has two shares of the operations: leave out one")
        try:
            found[name] = float(share)
        except ValueError:
            raise ValueError(
                f"{part!r} is no share of operations: name=number, such as get=90,set=10"
            ) from None
    return found


@dataclass(frozen=True)
class Preset:
    """A workload by name."""

    help: str
    workload: Workload = field(repr=False)


def _ycsb(help: str, mix: Mapping[str, float], distribution: str = "zipf:0.99") -> Preset:
    # Ten fields of 100 bytes, as the core workloads have them; reads take all fields, updates write one.
    return Preset(help, Workload(mix, distribution, keys=100_000, value_size="100"))


#: YCSB: https://github.com/brianfrankcooper/YCSB/wiki/Core-Workloads
PRESETS: Mapping[str, Preset] = {
    "read-heavy": Preset("9 GET to 1 SET, 100 bytes, all keys alike", Workload({"get": 90, "set": 10})),
    "write-heavy": Preset("1 GET to 4 SET, 100 bytes, all keys alike", Workload({"get": 20, "set": 80})),
    "cache": Preset(
        "cache-aside: GET, SET for a minute after a miss; few popular keys (Zipf), 300 bytes in the median",
        Workload({"cached": 1}, "zipf:0.99", value_size="lognormal:300:1.0", ttl=60, preload=False),
    ),
    "session": Preset(
        "sessions of half an hour: 3 GET to 1 SET, 1,000 bytes in the median; a fifth of the users is active",
        Workload({"get": 75, "set": 25}, "hot:0.2:0.8", value_size="lognormal:1000:0.8", ttl=1800),
    ),
    "ycsb-a": _ycsb("YCSB A, update heavy: half reads, half updates", {"hgetall": 50, "hset": 50}),
    "ycsb-b": _ycsb("YCSB B, read mostly: 95 % reads, 5 % updates", {"hgetall": 95, "hset": 5}),
    "ycsb-c": _ycsb("YCSB C, read only", {"hgetall": 1}),
    "ycsb-d": _ycsb(
        "YCSB D, read latest: 95 % reads of what was inserted last, 5 % inserts",
        {"hgetall": 95, "insert": 5},
        "latest:0.99",
    ),
    "ycsb-e": _ycsb(
        "YCSB E, short ranges: 95 % scans of 1 to 100 records, 5 % inserts", {"scan": 95, "insert": 5}
    ),
    "ycsb-f": _ycsb("YCSB F, read-modify-write: half of that, half reads", {"hgetall": 50, "rmw": 50}),
}
