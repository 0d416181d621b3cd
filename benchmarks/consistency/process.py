"""The processes of the benchmark: ``audit URL [RATE]`` and ``client URL``. Each prints one line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time

import numpy as np

from slotwise import RedisCluster
from slotwise.consistency import audit

# Seconds between two calls of the client: what it notices is the servers' doing, not its own haste.
_PAUSE = 0.0005


def run_audit(url: str, rate: float | None) -> None:
    """Prints keys, seconds, the most bytes of memory that this process has had, and whether all was equal."""
    with RedisCluster.from_url(url) as client:
        report = audit(client, rate=rate)
    # Linux tells kilobytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps([report.keys, report.seconds, memory, report.equal]))


def run_client(url: str) -> None:
    """Prints p50 and p99 in ms and the number of calls, once its input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    latencies = []
    with RedisCluster.from_url(url) as client:
        print("ready", flush=True)
        n = 0
        while not ended.is_set():
            # Of `faults.fill`, those that end in 7 are strings.
            key = f"key:{n * 7919 % 1_000 * 10 + 7}"
            began = time.perf_counter()
            client.get(key)
            latencies.append(time.perf_counter() - began)
            n += 1
            time.sleep(_PAUSE)
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    print(json.dumps([p50, p99, n]))


if __name__ == "__main__":
    if sys.argv[1] == "audit":
        run_audit(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else None)
    else:
        run_client(sys.argv[2])
