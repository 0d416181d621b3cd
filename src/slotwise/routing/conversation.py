"""One call's conversation with the cluster, without the I/O: both shells drive it, and only the last step differs.

The generator yields what to do and is sent what came of it. It returns the reply, or raises.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias

from slotwise._link import LinkFailure
from slotwise._reply import ServerError
from slotwise.errors import (
    AuthenticationError,
    ClosedClientError,
    ClusterError,
    ConnectionError,
    MaxConnectionsError,
    NodeUnavailableError,
    NotSentError,
    SlotNotCoveredError,
    TimeoutError,
    UnknownOutcomeError,
    UnknownOutcomeTimeoutError,
    parse_error,
)
from slotwise.routing.redirects import REDIRECTS_MAX, RetryWrites, Step, after_error, after_failure
from slotwise.routing.topology import Address, Remap

# Seconds between two tries after TRYAGAIN, times the number of tries: a slot's keys move in about this time.
TRYAGAIN_PAUSE = 0.01
# Failures that another try would only meet again.
FINAL = (AuthenticationError, MaxConnectionsError)
CLOSED = "This client was closed. Enter it again with `with client:` or make a new one."


class Send(NamedTuple):
    """Send the command to ``address`` (None: to the node of its slot), behind ASKING if ``asking``."""

    address: Address | None
    asking: bool = False
    primary: bool = False
    """The slot's primary is to answer, though a replica might, unless it is down."""


class Moved(NamedTuple):
    """``address`` serves ``slot`` from now on."""

    slot: int
    address: Address


class Reconnect(NamedTuple):
    """The server at ``address`` is another one by now: its connections lead to the old one."""

    address: Address


class Refresh(NamedTuple):
    """Pause, and wait until the topology was asked for, ``failed`` last."""

    failed: Address | None
    pause: float


class Pause(NamedTuple):
    """Wait for so many seconds."""

    seconds: float


Do: TypeAlias = Send | Moved | Reconnect | Refresh | Pause


class Outcome(NamedTuple):
    """What came of a Send: the parser's reply, or why there is none; and the node that was asked, None where a short way
    made it and nobody knows."""

    reply: Any
    failure: Exception | None
    address: Address | None


def converse(
    *,
    pinned: Address | None,
    repeatable: bool,
    retries: int,
    pause_after: Callable[[int], float | None],
    remap: Remap | None,
    closed: Callable[[], bool] = lambda: False,
    retry_writes: RetryWrites = "safe",
    may_repeat: Callable[[], bool] = lambda: True,
    waits: bool = False,
    outcome: Outcome | None = None,
) -> Generator[Do, Outcome | None, Any]:
    """Follows one call through redirects and failures, to the node of its slot or to ``pinned`` and no other.

    ``outcome`` is what the first try got, when a short way made it. ``pause_after(n)`` are the seconds before try n + 1,
    None when there is no time for it. ``may_repeat()``, the retry budget, is asked before a command is sent again that a
    node may have executed: not after an error reply, and not when a connection was lost for the first time, which all
    calls on it notice at once. A client that is ``closed()`` sends nothing again. A command that ``waits`` at the server
    has done nothing until then.
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
            failures += 1
            first_loss = failures == 1 and is_mere_loss(failure)
            error = after_loss(
                failure,
                asked,
                repeatable=repeatable,
                closed=closed(),
                left=failures <= retries and pinned is None,
                retry_writes=retry_writes,
                may_repeat=(lambda: True) if first_loss else may_repeat,
            )
            if error is not None:
                raise error
            pause = pause_after(failures)
            if pause is None:
                raise failed(failure, asked, repeatable)
            yield Pause(pause) if first_loss else Refresh(asked, pause)
            if closed():
                raise ClosedClientError(CLOSED) from failure
            # Not to the same replica once more: the primary knows.
            target, primary = pinned, True
            continue
        if type(reply) is not ServerError:
            return reply
        host = asked.host if asked is not None else ""
        step = after_error(reply.text, host, remap, waited=waits or repeatable)
        if step.step is Step.GIVE_UP:
            if asked is None and reply.text.startswith(("MOVED ", "ASK ")):
                # Perhaps it names the host that was asked: from now on that is known.
                continue
            raise parse_error(reply.text)
        if redirects >= REDIRECTS_MAX:
            raise ClusterError("TTL exhausted.")
        redirects += 1
        if step.step is Step.GO:
            assert step.address is not None
            if step.address == asked:
                yield Reconnect(step.address)
            yield Moved(step.slot, step.address)
            # A replica that was asked for a read names its primary: that one it is now.
            target, primary = (None, True) if pinned is None else (step.address, True)
        elif step.step is Step.ASK:
            target, asking = step.address, True
        elif step.step is Step.WAIT:
            yield Pause(TRYAGAIN_PAUSE * redirects)
            # Behind ASKING only for the one command: begin at the owner again.
            target, primary = pinned, True
        else:
            failures += 1
            pause = pause_after(failures) if failures <= retries and pinned is None else None
            if pause is None:
                raise parse_error(reply.text)
            redirects -= 1
            # It has answered: others did not.
            yield Refresh(None, pause)
            if closed():
                raise ClosedClientError(CLOSED)
            target, primary = pinned, True


def is_mere_loss(failure: Exception) -> bool:
    """True of a connection that ended: that says nothing of the topology, and a new connection may do."""
    lost = isinstance(failure, (LinkFailure, ConnectionError))
    more = isinstance(failure, (TimeoutError, NodeUnavailableError)) or getattr(failure, "timed_out", False)
    return lost and not more


def after_loss(
    failure: Exception,
    asked: Address | None,
    *,
    repeatable: bool,
    closed: bool,
    left: bool,
    retry_writes: RetryWrites = "safe",
    may_repeat: Callable[[], bool] = lambda: True,
) -> Exception | None:
    """What to raise after a call that got no reply; None when it may be sent once more, and tries are ``left``."""
    if isinstance(failure, FINAL):
        return failure
    # What does not say so is none of ours: a signal handler may raise a TimeoutError, and the command was sent by then.
    sent = getattr(failure, "sent", not isinstance(failure, SlotNotCoveredError))
    step = after_failure(sent=sent, repeatable=repeatable, retry_writes=retry_writes)
    if step.step is not Step.GIVE_UP:
        if closed:
            error = ClosedClientError(CLOSED)
            error.__cause__ = failure
            return error
        # What was not sent is no second load on anybody.
        if left and (not sent or may_repeat()):
            return None
    return failed(failure, asked, repeatable)


def failed(failure: Exception, asked: Address | None, repeatable: bool) -> Exception:
    """The exception of redis-py's tree for a call that got no reply."""
    if not isinstance(failure, LinkFailure):
        return failure
    where = f" (node {asked.name})" if asked is not None else ""
    made: Exception
    if not failure.sent:
        made = NotSentError(f"{failure}{where}: the command was not sent")
    elif repeatable:
        # Nothing was changed, so whether it was executed is no question.
        made = (TimeoutError if failure.timed_out else ConnectionError)(f"{failure}{where}")
    elif failure.timed_out:
        made = UnknownOutcomeTimeoutError(f"{failure}{where}: the command may or may not have been executed")
    else:
        made = UnknownOutcomeError(f"{failure}{where}: the command may or may not have been executed")
    made.__cause__ = failure
    return made
