"""What an audit or a comparison tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

#: Kind of a finding -> what it means. "busy" is no difference: nothing was proven.
KINDS = {
    "missing": "the primary has the key, the replica has not",
    "different": "their values differ",
    "extra": "the replica has a key that the primary has not",
    "wrong_ttl": "they expire at different times",
    "damaged": "the checksum of a versioned value does not hold",
    "unknown_format": "a versioned value of a form that this slotwise does not know, or cut off",
    "misplaced": "the key lies on a node that does not own its slot",
    "lagging": "they differ, and the replica has not applied what its primary has written",
    "busy": "the key changed each time it was looked at",
}


@dataclass(frozen=True)
class Finding:
    """One key with something wrong about it. The key is left out of its text: keys can be personal data."""

    #: One of `KINDS`.
    kind: str
    slot: int
    #: "host:port" of the primary, or of the node that holds a misplaced key.
    node: str
    #: "host:port" of the copy that is not as it should be; None: the primary's own.
    replica: str | None
    #: "string", "list", ...; empty if nobody knows.
    type: str
    detail: str = ""
    #: Versions of the two copies as hexadecimal digits, where they are versioned.
    version: str | None = None
    replica_version: str | None = None
    #: Whether repair has mended it; None if nobody tried.
    repaired: bool | None = None
    key: bytes = field(default=b"", repr=False)

    def as_dict(self, show_keys: bool = False) -> dict[str, Any]:
        """For JSON; a key that is not UTF-8 is shown with backslashes."""
        return about_key(self, self.key, show_keys)


def about_key(told: Any, key: bytes, show_key: bool) -> dict[str, Any]:
    """A dataclass for JSON, with its ``key`` only if asked for."""
    found = asdict(told)
    del found["key"]
    if show_key:
        found["key"] = key.decode("utf-8", "backslashreplace")
    return found


@dataclass
class Lag:
    """How far a replica was behind its primary."""

    node: str
    primary: str
    #: Bytes of the replication stream: when last asked, and at most.
    bytes: int = 0
    most_bytes: int = 0
    #: Seconds that the audit waited for it, all in all.
    waited: float = 0.0
    #: Whether it was connected to its primary when last asked.
    linked: bool = True
    #: Whether it had not caught up within the time that it has for that.
    late: bool = False

    def saw(self, behind: int, linked: bool) -> None:
        """It was asked how far it is."""
        self.bytes, self.most_bytes, self.linked = behind, max(behind, self.most_bytes), linked


@dataclass(frozen=True)
class Failure:
    """A node that could not be looked at, or not to the end."""

    node: str
    error: str


class Verdict:
    """What every report concludes from its counts."""

    counts: Counter[str]
    failures: list[Failure]
    stopped: bool

    @property
    def different(self) -> int:
        """How many keys are not as they should be: all that was found but "busy"."""
        return self.counts.total() - self.counts["busy"]

    @property
    def equal(self) -> bool:
        """Whether all was looked at and is as it should be."""
        return not (self.different or self.failures or self.stopped)

    def _are_mended(self, mended: int) -> bool:
        return self.different == mended and not (self.failures or self.stopped)


@dataclass
class AuditReport(Verdict):
    """What came of an audit."""

    pattern: str
    sample: int | None
    #: How the keys were chosen.
    how: str
    #: Unix time.
    began: float
    seconds: float = 0.0
    #: Keys of primaries that were looked at, and their values' bytes (those of large ones not counted).
    keys: int = 0
    bytes: int = 0
    #: Copies of them on replicas that were looked at.
    copies: int = 0
    #: Keys of replicas of which was asked whether their primary has them.
    replica_keys: int = 0
    #: How many of `keys` hold versioned values, and how many anything else.
    versioned: int = 0
    unversioned: int = 0
    #: Keys in slots that are being moved: not looked at.
    moving: int = 0
    #: Kind -> how many, also of those beyond the findings that are kept.
    counts: Counter[str] = field(default_factory=Counter)
    #: How many of them were repaired, and could not be.
    repaired: int = 0
    not_repaired: int = 0
    findings: list[Finding] = field(default_factory=list)
    lag: list[Lag] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    #: Where to go on, for `resume`; None if all was looked at.
    cursor: dict[str, Any] | None = None
    #: Whether somebody stopped it.
    stopped: bool = False

    @property
    def keys_per_second(self) -> float:
        return self.keys / self.seconds if self.seconds else 0.0

    @property
    def mended(self) -> bool:
        """Whether all is equal now: it was, or all differences were repaired."""
        return self._are_mended(self.repaired)

    def as_dict(self, show_keys: bool = False) -> dict[str, Any]:
        """For JSON."""
        told = asdict(self)
        told["findings"] = [finding.as_dict(show_keys) for finding in self.findings]
        return {
            "equal": self.equal,
            "mended": self.mended,
            "keys_per_second": self.keys_per_second,
            **told,
            "counts": dict(self.counts),
        }
