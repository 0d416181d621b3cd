"""What a network interface saw of a load test: GETs and their replies, by tcpdump.

The file's form is that of libpcap (`pcap-savefile`): a header of 24 bytes, then packets, each with its time and its length.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

# By the link type: what comes before an IPv4 packet on Ethernet, to which Linux counts loopback, and on BSD's loopback.
_LINK_HEADER = {0: 4, 1: 14}
_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
# Bytes of each packet that are kept: all headers, and the first words of a command.
_KEPT = 96
_GET = b"*2\r\n$3\r\nGET\r\n"


class Capture:
    """What goes over the loopback interface from and to ``ports`` while the block runs. A context manager."""

    def __init__(self, ports: Collection[int]) -> None:
        self._ports = frozenset(ports)
        self._directory = tempfile.TemporaryDirectory()
        self._file = Path(self._directory.name, "packets")

    @staticmethod
    def can_run() -> bool:
        """Whether there is a tcpdump that may listen, mostly root's."""
        found = shutil.which("tcpdump")
        if found is None:
            return False
        asked = subprocess.run([found, "-i", _LOOPBACK, "-L"], capture_output=True, check=False)
        return asked.returncode == 0

    def __enter__(self) -> Capture:
        wanted = f"tcp and ({' or '.join(f'port {port}' for port in sorted(self._ports))})"
        command = ["tcpdump", "-i", _LOOPBACK, "-s", str(_KEPT), "-B", "65536", "-w", str(self._file), wanted]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        # It says that it is "listening" when it is.
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        while "listening" not in said:
            if not said:
                raise RuntimeError("tcpdump does not listen")
            said = self._process.stderr.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It takes packets out of the kernel's buffer once a second.
        time.sleep(1.5)
        self._process.terminate()
        self._process.communicate()
        if kind is None:
            self.packets = self._file.read_bytes()
        self._directory.cleanup()

    def gets(self) -> NDArray[np.float64]:
        """A row for each GET that was answered: when the reply came, in seconds of Unix time, and how long it took."""
        return pairs(self.packets, self._ports)


_LOOPBACK = "lo" if Path("/sys/class/net/lo").exists() else "lo0"


def pairs(packets: bytes, ports: Collection[int]) -> NDArray[np.float64]:
    """The same of a file. A connection has one GET under way at the most."""
    asked: dict[tuple[int, int], float] = {}
    answered = []
    for at, source, target, payload in _payloads(packets):
        if target in ports:
            if payload.startswith(_GET):
                asked[source, target] = at
        elif (target, source) in asked:
            answered.append((at, at - asked.pop((target, source))))
    return np.array(answered).reshape(-1, 2)


def _payloads(packets: bytes) -> Iterator[tuple[float, int, int, bytes]]:
    """Time, source port, target port and the first bytes, of each packet that has any."""
    for order in "<>":
        magic, link = struct.unpack(f"{order}I16xI", packets[:24])
        if magic in (_MICROSECONDS, _NANOSECONDS):
            break
    else:
        raise ValueError("no file of libpcap")
    unit = 1e-9 if magic == _NANOSECONDS else 1e-6
    place = 24
    while place < len(packets):
        seconds, fraction, kept, _ = struct.unpack_from(f"{order}IIII", packets, place)
        packet = packets[place + 16 + _LINK_HEADER[link & 0xFFFF] : place + 16 + kept]
        place += 16 + kept
        ip_header = (packet[0] & 15) * 4
        whole = int.from_bytes(packet[2:4], "big")
        segment = packet[ip_header:]
        source, target = struct.unpack(">HH", segment[:4])
        tcp_header = (segment[12] >> 4) * 4
        if whole > ip_header + tcp_header:
            yield seconds + fraction * unit, source, target, segment[tcp_header:]
