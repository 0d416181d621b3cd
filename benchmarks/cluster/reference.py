"""redis-benchmark, the C program that comes with the server, as a client among the others."""

import re
import shutil
import subprocess
from dataclasses import dataclass

from benchmarks.cluster.data import KEYS, VALUE_BYTES
from slotwise.cli._timing import Figures, Stretch
from slotwise.local import LocalCluster

NAME = "redis-benchmark"

# Enough random writes to leave next to no key of a node unwritten.
_FILLING = 30 * len(KEYS)

# It looks at its clock every 250 ms only. The rate that it prints in the end counts the time from
# its last request to the next look; the ones that it prints at its looks are right.
_LOOK = re.compile(r"rps=[\d.]+ \(overall: ([\d.]+)\)")
_LATENCIES = re.compile(r"latency summary \(msec\):\s+avg +min +p50 +p95 +p99 +max\s+([\d. ]+)")
# Seconds that a run takes at least, so that there is a look in its midst.
_SHORTEST = 0.6


@dataclass(frozen=True)
class Load:
    """What redis-benchmark is told to do."""

    #: Of its tests: "get" or "set".
    test: str
    connections: int
    #: Commands sent together on each connection.
    pipeline: int = 1

    @property
    def size(self) -> str:
        """All of it but the test, as options."""
        return f"-c {self.connections}" + (f" -P {self.pipeline}" if self.pipeline > 1 else "")


class Reference:
    """redis-benchmark on `cluster`. Raises FileNotFoundError when it is not installed."""

    def __init__(self, cluster: LocalCluster) -> None:
        program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
        if program is None:
            raise FileNotFoundError("redis-benchmark is not installed")
        self._command = [program, "-p", str(cluster.nodes[0].port), "--cluster", "--threads", "2"]
        self._command += ["-d", str(VALUE_BYTES), "-r", str(len(KEYS))]
        # It reads keys of its own names.
        self._run(Load("set", 50, 100), _FILLING)

    def stretch(self, load: Load) -> Stretch:
        # It takes a number of requests instead of a time: as many as the last run's rate tells.
        rate = 10_000.0

        def stretch(seconds: float) -> Figures:
            nonlocal rate
            while (figures := self._run(load, int(rate * max(seconds, _SHORTEST)))) is None:
                rate *= 4
            rate = figures.rate
            return figures

        return stretch

    def close(self) -> None:
        """Between two stretches it does not run."""

    def _run(self, load: Load, requests: int) -> Figures | None:
        """None if it was over before it could be measured."""
        whole = -(-requests // load.pipeline) * load.pipeline  # it aborts over a part of a pipeline
        command = [*self._command, "-t", load.test, *load.size.split(), "-n", str(whole)]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        looks, latencies = _LOOK.findall(output), _LATENCIES.search(output)
        if len(looks) < 2 or latencies is None:  # the first look comes at once
            return None
        _avg, _min, p50, _p95, p99, _max = map(float, latencies[1].split())
        return Figures(float(looks[-1]), p50 / 1e3, p99 / 1e3)
