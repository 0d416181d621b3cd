"""Values that know how old they are: versions, last write wins, and proof that all nodes hold the same."""

from slotwise._versions import Version
from slotwise.consistency.clock import HybridClock
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

__all__ = [
    "BatchError",
    "ConsistencyError",
    "DamagedValueError",
    "ForeignValueError",
    "HybridClock",
    "NotAValueError",
    "StoredFormError",
    "UnknownFormatError",
    "Version",
    "VersionDriftError",
]
