"""TLS connections of one client under asyncio, which share what was read from the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import SSLConnection

from slotwise.tls import SharedContext


class TLSConnection(SSLConnection):
    """redis-py's, with a context that others share. Looked for at each connect: pub/sub connects again."""

    def __init__(self, *, ssl_shared: SharedContext, **options: Any) -> None:
        self._shared = ssl_shared
        super().__init__(**options)

    def _connection_arguments(self) -> Mapping[str, Any]:
        own = self.ssl_context
        options = {name: getattr(own, name) for name in own.__slots__ if name != "context"}
        own.context = self._shared.get(**options)
        arguments: Mapping[str, Any] = super()._connection_arguments()
        return arguments
