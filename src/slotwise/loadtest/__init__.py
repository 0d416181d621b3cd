"""Load tests of a cluster: what it takes, how fast it answers, and what a fault costs.

``slotwise load-test`` is the way in; `run` is the same for programs, whose main module is imported once more in each
generator's process::

    from slotwise.loadtest import Options, Workload, run

    if __name__ == "__main__":
        result = run(Options("redis://localhost:6379", Workload({"get": 90, "set": 10}), duration=30))
        print(result.total.rate, result.total.latency.p99)

The way of an operation: `workload` says what is done, `stream` draws it ahead of its time, `generator` does it and writes down
when it ended, `tally` counts, `worker` is the process in which that happens, `runner` starts the processes, strikes with
`faults` and adds up, `analysis` makes a `result` of it, `report` shows that.
"""

from slotwise.loadtest.faults import Fault
from slotwise.loadtest.result import Result, read
from slotwise.loadtest.runner import LoadTestError, Options, Progress, run
from slotwise.loadtest.workload import PRESETS, Workload

__all__ = ["PRESETS", "Fault", "LoadTestError", "Options", "Progress", "Result", "Workload", "read", "run"]
