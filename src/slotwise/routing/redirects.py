"""The one switch after a reply or a failure: done, go there, ask there, wait, refresh, or give up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from slotwise.errors import AskError, MovedError, TryAgainError
from slotwise.routing.topology import SLOTS, Address, Remap, resolve

# Seconds within which a node that names itself in MOVED is not connected to anew once more.
RECONNECT_INTERVAL = 1.0
# Seconds after a change of the table within which a call may have been sent by the one before.
SETTLED = 10.0
# MOVED and ASK replies that one call follows before it gives up; redis-py's RedisClusterRequestTTL.
REDIRECTS_MAX = 16

# What becomes of commands that are not safe to repeat when nobody knows whether they were executed.
RetryWrites: TypeAlias = Literal["safe", "always"]


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


def after_error(text: str, asked: str, remap: Remap | None = None, *, waited: bool = False) -> Next:
    """The step after the error reply ``text`` of the node at host ``asked``, "" for one that nobody knows. ``waited``: it is
    the reply to a command that waits at the server until it can be executed, or that may be executed twice.

    ``MOVED 3999 127.0.0.1:6381`` and ``ASK 3999 127.0.0.1:6381`` name the slot and where to go; an empty host is the
    one that was asked. None of these commands was executed, so sending it again is always safe. One that names no slot
    or no address gives up: to follow it would be to guess.
    """
    code, _, rest = text.partition(" ")
    if code in ("MOVED", "ASK"):
        slot, _, endpoint = rest.partition(" ")
        host, _, port = endpoint.rpartition(":")
        try:
            unknown = not asked and host in ("", "?")
            if unknown or not (slot.isdecimal() and int(slot) < SLOTS and port.isdecimal()):
                return _GIVE_UP
            address = resolve(host.strip("[]"), port, asked, remap)
        except ValueError:
            return _GIVE_UP
        return Next(Step.GO if code == "MOVED" else Step.ASK, int(slot), address)
    if code == "UNBLOCKED" and waited and "instance state changed" in rest:
        # The node is a primary no more. CLIENT UNBLOCK with ERROR has other words, and is what somebody wanted.
        return Next(Step.REFRESH)
    return _BY_CODE.get(code, _GIVE_UP)


def after_exception(error: Exception, asked: str, remap: Remap | None = None) -> Next:
    """`after_error` for transactions, in which redis-py has made an exception of the reply: GIVE_UP for any other."""
    if isinstance(error, AskError):
        code = "MOVED" if isinstance(error, MovedError) else "ASK"
        return after_error(f"{code} {error.slot_id} {error.host}:{error.port}", asked, remap)
    return Next(Step.WAIT) if isinstance(error, TryAgainError) else _GIVE_UP


def after_failure(*, sent: bool, repeatable: bool, retry_writes: RetryWrites = "safe") -> Next:
    """The step after a lost connection or a time-out.

    What surely never left this process goes again, and so does what may be executed twice; of the rest nobody knows
    whether it was applied, and a silent second execution is worse than an error, unless the user said "always".
    """
    if not sent or repeatable or retry_writes == "always":
        return Next(Step.REFRESH)
    return _GIVE_UP
