"""The exceptions of slotwise: redis-py's own classes, and a few of ours where redis-py's say too little.

Code written for redis-py keeps working: every exception of slotwise is one of redis-py's classes or derives
from one that redis-py raises in the same place.

    Exception
    ├── RedisError
    │   ├── ConnectionError
    │   │   ├── AuthenticationError, AuthorizationError, ExternalAuthProviderError
    │   │   ├── BusyLoadingError
    │   │   ├── MaxConnectionsError
    │   │   ├── NotSentError                    (ours) surely not executed: it never left the client
    │   │   │   ├── ClosedClientError           (ours) because the client was closed
    │   │   │   └── NodeUnavailableError        (ours) because its node has not answered lately
    │   │   └── UnknownOutcomeError             (ours) sent, and the reply never came
    │   │       └── UnknownOutcomeTimeoutError  (ours) ... within the time-out; a TimeoutError as well
    │   ├── TimeoutError
    │   ├── ResponseError                       the server's reply is an error
    │   │   ├── AskError
    │   │   │   └── MovedError
    │   │   ├── AuthenticationWrongNumberOfArgsError, NoPermissionError
    │   │   ├── ClusterCrossSlotError, TryAgainError
    │   │   ├── ExecAbortError, NoScriptError, NoSuchFieldsetError
    │   │   └── ModuleError, OutOfMemoryError, ReadOnlyError
    │   ├── ClusterError
    │   │   └── ClusterDownError                (a ResponseError as well)
    │   │       └── MasterDownError
    │   ├── DataError
    │   │   └── CommandRefusedError             (ours) not sent, because it could not work as called
    │   ├── InvalidResponse, PubSubError, WatchError
    │   └── LockError                           (a ValueError as well)
    │       └── LockNotOwnedError
    ├── RedisClusterException
    │   ├── CommandRefusedError                 (ours, see above)
    │   ├── CrossSlotTransactionError
    │   ├── InvalidPipelineStack
    │   └── SlotNotCoveredError
    ├── ChildDeadlockedError
    └── IncorrectPolicyType
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis._parsers.base import BaseParser
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ChildDeadlockedError,
    ClusterCrossSlotError,
    ClusterDownError,
    ClusterError,
    ConnectionError,
    CrossSlotTransactionError,
    DataError,
    ExecAbortError,
    ExternalAuthProviderError,
    IncorrectPolicyType,
    InvalidPipelineStack,
    InvalidResponse,
    LockError,
    LockNotOwnedError,
    MasterDownError,
    MaxConnectionsError,
    ModuleError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    NoSuchFieldsetError,
    OutOfMemoryError,
    PubSubError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TimeoutError,
    TryAgainError,
    WatchError,
)

__all__ = [
    "AskError",
    "AuthenticationError",
    "AuthenticationWrongNumberOfArgsError",
    "AuthorizationError",
    "BusyLoadingError",
    "ChildDeadlockedError",
    "ClosedClientError",
    "ClusterCrossSlotError",
    "ClusterDownError",
    "ClusterError",
    "CommandRefusedError",
    "ConnectionError",
    "CrossSlotTransactionError",
    "DataError",
    "ExecAbortError",
    "ExternalAuthProviderError",
    "IncorrectPolicyType",
    "InvalidPipelineStack",
    "InvalidResponse",
    "LockError",
    "LockNotOwnedError",
    "MasterDownError",
    "MaxConnectionsError",
    "ModuleError",
    "MovedError",
    "NoPermissionError",
    "NoScriptError",
    "NoSuchFieldsetError",
    "NodeUnavailableError",
    "NotSentError",
    "OutOfMemoryError",
    "PubSubError",
    "ReadOnlyError",
    "RedisClusterException",
    "RedisError",
    "ResponseError",
    "SlotNotCoveredError",
    "TimeoutError",
    "TryAgainError",
    "UnknownOutcomeError",
    "UnknownOutcomeTimeoutError",
    "WatchError",
    "parse_error",
]


class UnknownOutcomeError(ConnectionError):
    """A command that changes data was sent and its reply never came: it may have been applied, or not.

    slotwise does not send such a command again by itself. Read the data back, or repeat the command if
    applying it twice does no harm.
    """


class UnknownOutcomeTimeoutError(UnknownOutcomeError, TimeoutError):
    """The reply to a command that changes data did not come within the time-out: it may have been applied, or not."""


class NotSentError(ConnectionError):
    """The command never left the client, so it was surely not executed and may safely be called again."""


class ClosedClientError(NotSentError):
    """The client was closed; the command was not sent."""

    def __init__(
        self, message: str = "the client was closed; make a new one, or call close() after its last use"
    ) -> None:
        super().__init__(message)


class NodeUnavailableError(NotSentError):
    """The node did not answer the last calls, so this one was not sent to it: its circuit breaker is open.

    ``retry_in``: seconds until one call is let through, to see whether the node is back.
    """

    sent = False
    """As `slotwise._link.LinkFailure` has it: nothing has left the client."""

    def __init__(self, message: str, retry_in: float = 0.0) -> None:
        super().__init__(message)
        self.retry_in = retry_in


class CommandRefusedError(DataError, RedisClusterException, ValueError):
    """The command was not sent, because it could not work as it was called; the message names the fix.

    redis-py raises `DataError` for bad arguments, `RedisClusterException` for commands that it cannot route to a
    node, and `ValueError` for a number of keys that is none; this is all three.
    """


_parse: Callable[[str], Exception] = BaseParser.parse_error


def parse_error(text: str) -> Exception:
    """The exception for a server's error reply (without the leading "-"), the one redis-py makes of it.

    A MOVED or ASK that names no slot and address, which breaks redis-py's parser, is a plain `ResponseError`,
    so that one odd reply does not cost the connection its other replies.
    """
    try:
        return _parse(text)
    except ValueError:
        return ResponseError(text)


def with_our_errors(connection: Any) -> Any:
    """One of redis-py's connections that is not open yet, made to take what it raises from `parse_error`."""
    connection._parser.parse_error = parse_error
    return connection
