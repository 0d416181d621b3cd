"""The faults, one after the other on a cluster that is whole again each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from slotwise.testing import Chaos

#: Slots that were hit.
Hit = tuple[range, ...]

# Callers' shards are the three even ones that a cluster begins with; the first is hit.
FIRST: Hit = (range(5461),)
ALL: Hit = (range(16384),)


@dataclass(frozen=True)
class Fault:
    """``run(chaos)`` returns the slots that it has hit, when the fault is there and, if it ends by itself, over."""

    name: str
    run: Callable[[Chaos], Hit]
    #: Slotwise promises that no caller sees an error.
    silent: bool = False
    #: Seconds that are watched after `run` has returned.
    watched: float = 4.0
    #: Needs relays.
    proxied: bool = False
    #: The servers find out for themselves that a replica has to take over.
    elects: bool = False


def kill(chaos: Chaos) -> Hit:
    chaos.kill(chaos.cluster.owner_of(0))
    return FIRST


def pause(chaos: Chaos) -> Hit:
    node = chaos.cluster.owner_of(0)
    chaos.pause(node)
    time.sleep(10)
    chaos.resume(node)
    return FIRST


def half_open(chaos: Chaos) -> Hit:
    chaos.freeze(chaos.cluster.owner_of(0))
    return FIRST


def slow(chaos: Chaos) -> Hit:
    chaos.slow(chaos.cluster.owner_of(0), 0.05)
    return FIRST


def failover(chaos: Chaos) -> Hit:
    chaos.failover(chaos.cluster.owner_of(0))
    return FIRST


def reshard(chaos: Chaos) -> Hit:
    # The shard that takes the slots in has as much to do as the one that gives them away.
    chaos.move_slots(range(1000), chaos.cluster.owner_of(16383))
    return (*FIRST, range(10923, 16384))


def rolling_restart(chaos: Chaos) -> Hit:
    chaos.rolling_restart()
    return ALL


def replaced_addresses(chaos: Chaos) -> Hit:
    for node in chaos.cluster.nodes:
        chaos.replace_address(node)
        time.sleep(2)
    return ALL


FAULTS = [
    Fault("kill -9 a primary", kill, watched=10, elects=True),
    Fault("SIGSTOP a primary for 10 s", pause, watched=5, elects=True),
    Fault("half-open connections to a primary", half_open, watched=9, proxied=True),
    Fault("slow shard (50 ms)", slow, watched=5, proxied=True),
    Fault("manual failover", failover, silent=True),
    Fault("reshard of 1,000 slots", reshard, silent=True),
    Fault("rolling restart of all nodes", rolling_restart, silent=True),
    Fault("all addresses replaced, one after another", replaced_addresses, proxied=True),
]
