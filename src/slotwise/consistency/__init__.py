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
from slotwise.consistency.monitor import ConsistencyMonitor

__all__ = [
    "AuditReport",
    "BatchError",
    "ComparisonReport",
    "ConsistencyError",
    "ConsistencyMonitor",
    "DamagedValueError",
    "Difference",
    "Finding",
    "ForeignValueError",
    "HybridClock",
    "NotAValueError",
    "StoredFormError",
    "UnknownFormatError",
    "Version",
    "VersionDriftError",
    "audit",
    "compare",
    "reconcile",
]
