"""Faults at set times of a load test, in a local cluster."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from slotwise.loadtest.generator import clock
from slotwise.loadtest.units import seconds_of
from slotwise.local.errors import LocalError

if TYPE_CHECKING:
    from slotwise.local import LocalNode
    from slotwise.testing import Chaos

# Seconds between two looks whether a replica has taken over, and after which nobody looks any more.
_POLL = 0.02
_ELECTED_WITHIN = 60.0
SLOTS = 16384


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
        if lasts is not None and not seconds_of(lasts):
            raise ValueError(f"{text!r}: a fault of no time is none")
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


def check(faults: Sequence[Fault], primaries: int, replicas: int) -> None:
    """Raises ValueError for what cannot come about in a cluster of ``primaries`` with so many ``replicas`` each."""
    names = {fault.kind for fault in faults}
    if names & {name for name, kind in KINDS.items() if kind.elects or name == "failover"} and (
        primaries < 3 or replicas < 1
    ):
        raise ValueError("a replica takes over where there are 3 primaries and a replica of each, at least")
    moving = sum(int(fault.amount or 0) for fault in faults if fault.kind == "reshard")
    if moving and primaries < 2:
        raise ValueError("slots move where there is another primary: --primaries 2 or more")
    if moving >= SLOTS // primaries:
        raise ValueError(
            f"{moving:,} slots are all that the first of {primaries} primaries has, or more: reshard=NUMBER with less"
        )


class Driver:
    """Strikes at the times that the faults name; threads that give way to the load.

    The shard with ``slots`` is hit, the first of all. Slots move to the node of the slot ``elsewhere``.
    """

    def __init__(self, faults: Sequence[Fault], chaos: Chaos, slots: Sequence[int], elsewhere: int) -> None:
        self._faults = sorted(faults, key=lambda fault: fault.at)
        self._chaos = chaos
        # Moves take the first ones of those that are left; so the last one tells where the shard is.
        self._slots, self._moved, self._elsewhere = slots, 0, elsewhere
        self._lock = threading.Lock()
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

    def stop(self, *, wait: bool = True) -> None:
        """Begins nothing more. ``wait`` for what is under way, which ends as soon as it can be ended."""
        self._stopped.set()
        for thread in self._threads:
            if wait:
                thread.join()
        self.struck.sort(key=lambda struck: struck.began)

    def _strike(self, fault: Fault, zero: float) -> None:
        if self._stopped.wait(max(0.0, zero + fault.at - clock())):
            return
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        kind = KINDS[fault.kind]
        began, elected, failure = clock() - zero, None, None
        try:
            begin, end, replicas = self._plan(fault)
            began = clock() - zero
            begin()
            found: list[float] = []
            watch = threading.Thread(target=self._election, args=(replicas, found), daemon=True)
            if kind.elects:
                watch.start()
            if end is not None and fault.lasts is not None:
                self._stopped.wait(fault.lasts)
                end()
            ended = clock() - zero
            if kind.elects:
                watch.join()
                elected = found[0] - zero - began if found else None
        except Exception as error:
            failure, ended = f"{type(error).__name__}: {error}", clock() - zero
        shard = None if kind.everywhere else 0
        self.struck.append(Struck(fault, began, ended, shard, elected, failure))

    def _plan(
        self, fault: Fault
    ) -> tuple[Callable[[], object], Callable[[], object] | None, Sequence[LocalNode]]:
        """What lets a fault come about, what ends it, and who may take over."""
        chaos = self._chaos
        if fault.kind == "rolling-restart":
            return chaos.rolling_restart, None, ()
        node = chaos.cluster.owner_of(self._slots[-1])
        if fault.kind in ("kill-primary", "pause"):
            replicas = chaos.replicas_of(node)
            if fault.kind == "pause":
                return lambda: chaos.pause(node), lambda: chaos.resume(node), replicas
            return lambda: chaos.kill(node), lambda: chaos.restart(node), replicas
        if fault.kind == "failover":
            return lambda: chaos.failover(node), None, ()
        if fault.kind == "reshard":
            with self._lock:
                first, self._moved = self._moved, self._moved + int(fault.amount or 0)
            slots = self._slots[first : self._moved]
            to = chaos.cluster.owner_of(self._elsewhere)
            return lambda: chaos.move_slots(slots, to), None, ()
        if fault.kind == "partition":
            return lambda: chaos.partition(node), lambda: chaos.mend(node), ()
        return lambda: chaos.slow(node, fault.amount or 0), lambda: chaos.mend(node), ()

    def _election(self, replicas: Sequence[LocalNode], found: list[float]) -> None:
        """Adds to ``found`` when one of the replicas has become a primary."""
        deadline = clock() + _ELECTED_WITHIN
        while clock() < deadline:
            for node in replicas:
                # Another fault may hit it at this moment.
                with suppress(OSError, LocalError, RedisError):
                    if node.running and node.call("ROLE")[0] == "master":
                        found.append(clock())
                        return
            if self._stopped.wait(_POLL):
                return
