"""A cluster of any number of primaries, played by one process that knows all replies by heart.

Real servers share the machine's few processors with the client: thirty of them measure the machine. This one does the
same work for three nodes as for thirty, so what differs is the client's.
"""

import asyncio
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

import hiredis

from benchmarks.cluster.data import KEYS, value_of

_HOST = "127.0.0.1"
_SLOTS = 16_384


class RoteCluster:
    """A context manager. ``url`` is that of the first of its `primaries`; they answer GET of the benchmarks' keys."""

    def __init__(self, primaries: int) -> None:
        self._primaries = primaries
        self.url = ""

    def __enter__(self) -> "RoteCluster":
        command = [sys.executable, "-m", __name__, str(self._primaries)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"{' '.join(command)} did not start")
        self.url = f"redis://{_HOST}:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It ends with its input, also when this process is killed.
        self._process.communicate()


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _get(key: str) -> bytes:
    return b"*2\r\n$3\r\nGET\r\n" + _bulk(key.encode())


# By the command as it is on the wire; all are of one length.
_REPLIES = {_get(key): _bulk(value_of(key)) for key in KEYS}
_SIZE = len(_get(KEYS[0]))
_BEGIN = _get("")[:13]


class _Node(asyncio.Protocol):
    """One connection to one of the nodes at `ports`."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._left = b""
        self._reader = hiredis.Reader()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._left + data
        if data.startswith(_BEGIN[: len(data)]):
            whole = len(data) - len(data) % _SIZE
            self._left = data[whole:]
            answer = b"".join([_REPLIES[data[at : at + _SIZE]] for at in range(0, whole, _SIZE)])
        else:
            # What a new connection asks.
            self._reader.feed(data)
            answer = b""
            while (call := self._reader.gets()) is not False:
                answer += self._answer(call)
        if answer:
            self._transport.write(answer)

    def _answer(self, call: list[bytes]) -> bytes:
        name = call[0].upper()
        if name == b"HELLO":
            return b"%1\r\n+proto\r\n:3\r\n"
        if name == b"COMMAND":
            return b"*0\r\n"
        if name != b"CLUSTER":
            return b"+OK\r\n"
        answer = b"*%d\r\n" % len(self._ports)
        for number, port in enumerate(self._ports):
            first = number * _SLOTS // len(self._ports)
            last = (number + 1) * _SLOTS // len(self._ports) - 1
            node = b"*3\r\n+%b\r\n:%d\r\n+%040d\r\n" % (_HOST.encode(), port, number)
            answer += b"*3\r\n:%d\r\n:%d\r\n%b" % (first, last, node)
        return answer


async def _serve(primaries: int) -> None:
    loop = asyncio.get_running_loop()
    ports: list[int] = []
    for _ in range(primaries):
        server = await loop.create_server(lambda: _Node(ports), _HOST, 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(ports[0], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    # Connections may be open, and nobody waits for them.
    os._exit(0)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(int(sys.argv[1])))
