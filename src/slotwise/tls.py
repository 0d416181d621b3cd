"""The TLS context that the connections of one client share, for both shells.

redis-py reads the system's authorities and the files for each connection, which takes tens of milliseconds.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from redis.asyncio.connection import RedisSSLContext


class SharedContext:
    """A context that is made anew when a file it was read from has changed.

    It lies with the options of the client's connections and goes with them, and with it what was read.
    """

    def __init__(self) -> None:
        # One value, so that no thread sees a mixture. Two that come at once may both read, which costs time only.
        self._made: tuple[Any, ssl.SSLContext] | None = None

    def get(self, **options: Any) -> ssl.SSLContext:
        """The context of the files as they are now; the keywords, the same at each call, are those of redis-py's
        ``RedisSSLContext``."""
        system = ssl.get_default_verify_paths()
        named = (options[name] for name in ("keyfile", "certfile", "ca_certs", "ca_path"))
        stamps = [_stamp(path) for path in (*named, system.cafile, system.capath)]
        made = self._made
        if made is None or made[0] != stamps:
            # What changes while it is read has other stamps than these, and is read once more for the next connection.
            made = self._made = (stamps, RedisSSLContext(**options).get())
        return made[1]


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    """What is another after a file was replaced or written to; None where there is none, which reading it says."""
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return status and (status.st_ino, status.st_mtime_ns, status.st_size)
