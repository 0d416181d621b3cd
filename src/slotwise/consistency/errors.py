"""What can go wrong with versioned values. No text holds a key or a value.

RedisError
└── ConsistencyError
    ├── NotAValueError       the key holds no string: a list, a hash, ...
    ├── StoredFormError      a string that is no versioned value
    │   ├── ForeignValueError    somebody else's form; a counter, for instance
    │   ├── UnknownFormatError   a newer format, or flags that this version does not know
    │   └── DamagedValueError    cut short, or another checksum than it says
    ├── VersionDriftError    a version from the far future
    └── BatchError           some of many keys failed; holds the results of all
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError

__all__ = [
    "BatchError",
    "ConsistencyError",
    "DamagedValueError",
    "ForeignValueError",
    "NotAValueError",
    "StoredFormError",
    "UnknownFormatError",
    "VersionDriftError",
]


class ConsistencyError(RedisError):
    """A versioned value could not be read or written; nothing was written."""


class NotAValueError(ConsistencyError):
    """The key holds no string, so last-write-wins cannot rule it: of two updates one would be lost."""

    def __init__(
        self,
        message: str = "the key holds a list, a hash or another collection: the last write would win and the updates of "
        "others be lost; change it with the commands of its type",
    ) -> None:
        super().__init__(message)


class StoredFormError(ConsistencyError):
    """The key holds a string that cannot be read as a versioned value."""


class ForeignValueError(StoredFormError):
    """The key holds a string that no versioned store has written."""

    def __init__(
        self,
        message: str = "the key holds a string that no versioned store has written, perhaps a counter, whose updates would be "
        'lost; with foreign="adopt" it is read as it is and is older than every version',
    ) -> None:
        super().__init__(message)


class UnknownFormatError(StoredFormError):
    """The value was written in a format that this version of slotwise does not know."""

    def __init__(
        self,
        message: str = "the value has a format that this version of slotwise does not know; install a newer one",
    ) -> None:
        super().__init__(message)


class DamagedValueError(StoredFormError):
    """The value is cut short, or differs from its checksum."""

    def __init__(
        self,
        message: str = "the value is damaged: it is cut short or differs from its checksum; delete it with DEL, or repair it",
    ) -> None:
        super().__init__(message)


class VersionDriftError(ConsistencyError):
    """A version is further ahead of the wall clock than ``max_drift``: a host's clock is wrong, there or here."""

    def __init__(
        self,
        message: str = "a version lies further in the future than max_drift: compare the clocks of the hosts",
    ) -> None:
        super().__init__(message)


class BatchError(ConsistencyError):
    """Some keys of a batch failed, and the others did not.

    ``errors``: the exception of each key that failed. ``results``: what the call would have returned, for the other keys.
    """

    def __init__(
        self, results: Mapping[Any, Any] | None = None, errors: Mapping[Any, Exception] | None = None
    ) -> None:
        self.results: dict[Any, Any] = dict(results or {})
        self.errors: dict[Any, Exception] = dict(errors or {})
        kinds = Counter(type(error).__name__ for error in self.errors.values())
        told = ", ".join(f"{name} ({count})" for name, count in kinds.most_common())
        super().__init__(
            f"{len(self.errors)} of {len(self.errors) + len(self.results)} keys failed: {told}; "
            "the attributes errors and results have both by key"
        )

    def __reduce__(self) -> tuple[type[BatchError], tuple[dict[Any, Any], dict[Any, Exception]]]:
        return type(self), (self.results, self.errors)
