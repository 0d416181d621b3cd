"""The smallest client that can set up a server and ask about it.

Clusters are formed and watched with this rather than with a cluster client, so that a fault
in the client under test cannot hide in the ground it is tested on.
"""

import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
from redis.exceptions import ResponseError

Argument = str | bytes | int


class Wire:
    """One blocking RESP2 connection; a context manager.

    Replies are text as str (what is not UTF-8 as surrogate escapes), int, None or lists.
    `tls` wraps it; `timeout` is in seconds, for connecting and for each read. Raises OSError when the server
    is away or silent, redis.ResponseError for an error reply.
    """

    def __init__(
        self,
        host: str,
        port: int,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape", replyError=ResponseError)
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
            if password is not None:
                self.call("AUTH", *(() if username is None else (username,)), password)
        except BaseException:
            self.close()
            raise

    def call(self, *command: Argument) -> Any:
        """The reply to one command."""
        return self.pipeline([command])[0]

    def pipeline(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """The replies to several commands, sent together; raises the first error among them."""
        packed = [_pack(command) for command in commands]
        self._socket.sendall(b"".join(packed))
        replies = [self._read() for _ in packed]
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def _read(self) -> Any:
        # hiredis says "incomplete" with False, which RESP2 has no reply for.
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(data)
        return reply

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pack(command: Sequence[Argument]) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        if not isinstance(argument, bytes):
            argument = str(argument).encode("utf-8", "surrogateescape")
        parts.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
    return b"".join(parts)
