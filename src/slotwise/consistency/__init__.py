"""Values that know how old they are: versions, last write wins, and proof that all nodes hold the same."""

from slotwise._versions import Version
from slotwise.consistency.auditing import audit
from slotwise.consistency.clock import HybridClock
from slotwise.consistency.comparison import ComparisonReport, Difference, compare, reconcile
from slotwise.consistency.errors import (
    BatchError,
    ConsistencyError,
    DamagedValueError,
    ForeignValueError,
    NotAValueError,
    StoredFormError,
    UnknownFormatError,
    VersionDriftError,
)
from slotwise.consistency.findings import AuditReport, Finding
from slotwise.consistency.lost import LostWrite
from slotwise.consistency.monitor import ConsistencyMonitor
from slotwise.consistency.results import HistoryEntry, StoreStats, Versioned, WriteResult
from slotwise.consistency.store import AsyncVersionedStore, VersionedStore

__all__ = [
    "AsyncVersionedStore",
    "AuditReport",
    "BatchError",
    "ComparisonReport",
    "ConsistencyError",
    "ConsistencyMonitor",
    "DamagedValueError",
    "Difference",
    "Finding",
    "ForeignValueError",
    "HistoryEntry",
    "HybridClock",
    "LostWrite",
    "NotAValueError",
    "StoreStats",
    "StoredFormError",
    "UnknownFormatError",
    "Version",
    "VersionDriftError",
    "Versioned",
    "VersionedStore",
    "WriteResult",
    "audit",
    "compare",
    "reconcile",
]
