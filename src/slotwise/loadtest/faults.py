"""Faults at set times of a load test, in a local cluster."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotwise.loadtest.generator import clock
from slotwise.loadtest.units import seconds_of

if TYPE_CHECKING:
    from slotwise.local import LocalNode
    from slotwise.testing import Chaos

# Seconds between two looks whether a replica has taken over, and after which nobody looks any more.
_POLL = 0.02
_ELECTED_WITHIN = 60.0


@dataclass(frozen=True)
class FaultKind:
    help: str
    #: Seconds that it lasts unless asked otherwise; None: it does not end by itself, or is over when it is there.
    lasts: float | None = None
    #: Whether it can be told to end.
    ends: bool = True
    #: Of ``KIND=AMOUNT``, and what that is: seconds, or a number.
    amount: float | None = None
    in_seconds: bool = False
    #: Needs relays before the nodes.
    proxied: bool = False
    #: The servers find out for themselves that a replica has to take over.
    elects: bool = False
    #: Not one shard is hit but all.
    everywhere: bool = False


KINDS = {
    "kill-primary": FaultKind("kill -9; it comes back after FOR, if given", elects=True),
    "pause": FaultKind("SIGSTOP for 5 s: connections stay open and silent", lasts=5.0, elects=True),
    "failover": FaultKind("a replica is promoted by hand", ends=False),
    "reshard": FaultKind("1,000 slots move to another primary, key by key", ends=False, amount=1000),
    "partition": FaultKind("nothing passes to or from its clients for 5 s", lasts=5.0, proxied=True),
    "slow": FaultKind(
        "each command takes 50 ms longer, for 5 s", lasts=5.0, amount=0.05, in_seconds=True, proxied=True
    ),
    "rolling-restart": FaultKind("all nodes, one after the other", ends=False, everywhere=True),
}


@dataclass(frozen=True)
class Fault:
    """``KIND[=AMOUNT]@AT[:FOR]``, such as ``kill-primary@10s``, ``slow=20ms@10s:30s``, ``reshard=500@5s``."""

    name: str
    kind: str
    #: Seconds after the measured part has begun; for how many, None if it does not end.
    at: float
    lasts: float | None
    amount: float | None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Raises ValueError that says what is allowed."""
        found = re.fullmatch(r"([a-z-]+)(?:=([^@:]+))?@([^:]+)(?::(.+))?", text.strip())
        if found is None or found[1] not in KINDS:
            raise ValueError(
                f"{text!r} is no fault: KIND[=AMOUNT]@AT[:FOR], such as kill-primary@10s or slow=20ms@10s:5s; "
                f"kinds are {', '.join(KINDS)}"
            )
        name, amount, at, lasts = found.groups()
        kind = KINDS[name]
        if lasts is not None and not kind.ends:
            raise ValueError(f"{text!r}: {name} takes the time that it takes, leave out :{lasts}")
        if amount is not None and kind.amount is None:
            raise ValueError(f"{text!r}: {name} has no amount, leave out ={amount}")
        size = kind.amount
        if amount is not None:
            size = seconds_of(amount) if kind.in_seconds else _whole(amount)
        return cls(
            text.strip(), name, seconds_of(at), kind.lasts if lasts is None else seconds_of(lasts), size
        )


def _whole(text: str) -> float:
    if not text.isdigit() or not 1 <= int(text) <= 5000:
        raise ValueError(f"{text!r} is no number of slots from 1 to 5,000")
    return int(text)


@dataclass(frozen=True)
class Struck:
    """A fault that has been there. Seconds of the run."""

    fault: Fault
    began: float
    ended: float
    #: None: all of them.
    shard: int | None
    elected_after: float | None
    #: Why it did not come about, in words; then the rest says little.
    failure: str | None = None


class Driver:
    """Strikes at the times that the faults name; a thread that gives way to the load."""

    def __init__(self, faults: Sequence[Fault], chaos: Chaos, first_slots: Sequence[int]) -> None:
        self._faults = sorted(faults, key=lambda fault: fault.at)
        self._chaos = chaos
        self._first_slots = first_slots
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.struck: list[Struck] = []

    def start(self, zero: float) -> None:
        """``zero``: when the measured part begins, on `clock`."""
        self._threads = [
            threading.Thread(target=self._strike, args=(fault, zero), daemon=True) for fault in self._faults
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits for what is under way, and begins nothing more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self.struck.sort(key=lambda struck: struck.began)

    def _strike(self, fault: Fault, zero: float) -> None:
        if self._stopped.wait(max(0.0, zero + fault.at - clock())):
            return
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        kind = KINDS[fault.kind]
        shard = None if kind.everywhere else 0
        began = clock() - zero
        elected, failure = None, None
        try:
            end, replicas = self._begin(fault), self._chaos.replicas if kind.elects else []
            watch = threading.Thread(target=lambda: found.append(self._election(replicas)), daemon=True)
            found: list[float | None] = []
            if kind.elects:
                watch.start()
            if end is not None and fault.lasts is not None:
                self._stopped.wait(fault.lasts)
                end()
            ended = clock() - zero
            if kind.elects:
                watch.join()
                elected = None if found[0] is None else found[0] - zero - began
        except Exception as error:
            failure, ended = f"{type(error).__name__}: {error}", clock() - zero
        self.struck.append(Struck(fault, began, ended, shard, elected, failure))

    def _begin(self, fault: Fault) -> Callable[[], object] | None:
        """Lets a fault come about; what ends it."""
        chaos = self._chaos
        if fault.kind == "rolling-restart":
            chaos.rolling_restart()
            return None
        node = chaos.cluster.owner_of(self._first_slots[0])
        if fault.kind == "kill-primary":
            chaos.kill(node)
            return lambda: chaos.restart(node)
        if fault.kind == "pause":
            chaos.pause(node)
            return lambda: chaos.resume(node)
        if fault.kind == "failover":
            chaos.failover(node)
            return None
        if fault.kind == "reshard":
            to = chaos.cluster.owner_of(self._first_slots[-1])
            first = self._first_slots[0]
            chaos.move_slots(range(first, first + int(fault.amount or 0)), to)
            return None
        if fault.kind == "partition":
            chaos.partition(node)
        else:
            chaos.slow(node, fault.amount or 0)
        return lambda: chaos.mend(node)

    def _election(self, replicas: Sequence[LocalNode]) -> float | None:
        deadline = clock() + _ELECTED_WITHIN
        while clock() < deadline and not self._stopped.is_set():
            if any(node.running and node.call("ROLE")[0] == "master" for node in replicas):
                return clock()
            time.sleep(_POLL)
        return None
