"""One call's conversation with the cluster, without the I/O: both shells drive it, and only the last step differs.

The generator yields what to do and is sent what came of it. It returns the reply, or raises.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias

from slotwise._link import LinkFailure, ServerError
from slotwise.errors import (
    AuthenticationError,
    ClusterError,
    MaxConnectionsError,
    NotSentError,
    UnknownOutcomeError,
    UnknownOutcomeTimeoutError,
    parse_error,
)
from slotwise.routing.redirects import REDIRECTS_MAX, Step, after_error, after_failure
from slotwise.routing.topology import Address, Remap

# Seconds between two tries after TRYAGAIN, times the number of tries: a slot's keys move in about this time.
TRYAGAIN_PAUSE = 0.01


class Send(NamedTuple):
    """Send the command to ``address`` (None: to the node of its slot), behind ASKING if ``asking``."""

    address: Address | None
    asking: bool = False
    primary: bool = False
    """The slot's primary is to answer, though a replica might."""


class Moved(NamedTuple):
    """``address`` serves ``slot`` from now on."""

    slot: int
    address: Address


class Refresh(NamedTuple):
    """Pause, then ask for the topology, ``failed`` last."""

    failed: Address | None
    pause: float


class Pause(NamedTuple):
    """Wait for so many seconds."""

    seconds: float


Do: TypeAlias = Send | Moved | Refresh | Pause


class Outcome(NamedTuple):
    """What came of a Send: the parser's reply, or why there is none; and the node that was asked."""

    reply: Any
    failure: Exception | None
    address: Address | None


def converse(
    *,
    pinned: Address | None,
    repeatable: bool,
    retries: int,
    pause_after: Callable[[int], float],
    remap: Remap | None,
    outcome: Outcome | None = None,
) -> Generator[Do, Outcome | None, Any]:
    """Follows one call through redirects and failures, to the node of its slot or to ``pinned`` and no other.

    ``outcome`` is what the first try got, when a short way made it; ``pause_after(n)`` are the seconds before try n + 1.
    """
    target, primary = pinned, False
    asking = False
    failures = redirects = 0
    while True:
        if outcome is None:
            outcome = yield Send(target, asking, primary)
            assert outcome is not None
        asking = False
        reply, failure, asked = outcome
        outcome = None
        if failure is not None:
            if isinstance(failure, (AuthenticationError, MaxConnectionsError)):
                raise failure
            failures += 1
            step = after_failure(sent=getattr(failure, "sent", False), repeatable=repeatable)
            if step.step is Step.GIVE_UP or failures > retries or pinned is not None:
                raise failed(failure, asked)
            yield Refresh(asked, pause_after(failures))
            target = pinned
            continue
        if type(reply) is not ServerError:
            return reply
        step = after_error(reply.text, asked.host if asked is not None else "", remap)
        if step.step is Step.GIVE_UP:
            raise parse_error(reply.text)
        if redirects >= REDIRECTS_MAX:
            raise ClusterError("TTL exhausted.")
        redirects += 1
        if step.step is Step.GO:
            assert step.address is not None
            yield Moved(step.slot, step.address)
            # A replica that was asked for a read names its primary: that one it is now.
            target, primary = (None, True) if pinned is None else (step.address, True)
        elif step.step is Step.ASK:
            target, asking = step.address, True
        elif step.step is Step.WAIT:
            yield Pause(TRYAGAIN_PAUSE * redirects)
            # Behind ASKING only for the one command: begin at the owner again.
            target = pinned
        else:
            failures += 1
            if failures > retries or pinned is not None:
                raise parse_error(reply.text)
            redirects -= 1
            yield Refresh(asked, pause_after(failures))
            target = pinned


def failed(failure: Exception, asked: Address | None) -> Exception:
    """The exception of redis-py's tree for a call that got no reply."""
    if not isinstance(failure, LinkFailure):
        return failure
    where = f" (node {asked.name})" if asked is not None else ""
    made: Exception
    if not failure.sent:
        made = NotSentError(f"{failure}{where}: the command was not sent")
    elif failure.timed_out:
        made = UnknownOutcomeTimeoutError(f"{failure}{where}: the command may or may not have been executed")
    else:
        made = UnknownOutcomeError(f"{failure}{where}: the command may or may not have been executed")
    made.__cause__ = failure
    return made
