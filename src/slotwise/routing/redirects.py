"""The one switch after a reply or a failure: done, go there, ask there, wait, refresh, or give up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from slotwise.routing.topology import SLOTS, Address, Remap, resolve

# MOVED and ASK replies that one call follows before it gives up; redis-py's RedisClusterRequestTTL.
REDIRECTS_MAX = 16


class Step(Enum):
    """What to do next."""

    GO = "go"
    """The slot lives at ``address`` now (MOVED): patch the table, send there."""

    ASK = "ask"
    """The key may be at ``address`` (ASK): send there once, behind ASKING."""

    WAIT = "wait"
    """Try the same node again after a pause (TRYAGAIN)."""

    REFRESH = "refresh"
    """Ask for the topology, pause, try again (CLUSTERDOWN, LOADING, a lost connection)."""

    GIVE_UP = "give up"
    """Raise."""


@dataclass(frozen=True, slots=True)
class Next:
    """A step; ``slot`` and ``address`` belong to GO and ASK."""

    step: Step
    slot: int = -1
    address: Address | None = None


_GIVE_UP = Next(Step.GIVE_UP)
_BY_CODE = {
    "TRYAGAIN": Next(Step.WAIT),
    "CLUSTERDOWN": Next(Step.REFRESH),
    "LOADING": Next(Step.REFRESH),
    "MASTERDOWN": Next(Step.REFRESH),
}


def after_error(text: str, asked: str, remap: Remap | None = None) -> Next:
    """The step after the error reply ``text`` of the node at host ``asked``.

    ``MOVED 3999 127.0.0.1:6381`` and ``ASK 3999 127.0.0.1:6381`` name the slot and where to go; an empty host is the
    one that was asked. None of these commands was executed, so sending it again is always safe.
    """
    code, _, rest = text.partition(" ")
    if code in ("MOVED", "ASK"):
        slot, _, endpoint = rest.partition(" ")
        host, _, port = endpoint.rpartition(":")
        if not (slot.isdecimal() and int(slot) < SLOTS and port.isdecimal()):
            return _GIVE_UP
        address = resolve(host.strip("[]"), port, asked, remap)
        return Next(Step.GO if code == "MOVED" else Step.ASK, int(slot), address)
    return _BY_CODE.get(code, _GIVE_UP)


def after_failure(*, sent: bool, repeatable: bool) -> Next:
    """The step after a lost connection or a time-out.

    What surely never left this process goes again, and so does what may be executed twice; of the rest nobody knows
    whether it was applied, and a silent second execution is worse than an error.
    """
    return _GIVE_UP if sent and not repeatable else Next(Step.REFRESH)
