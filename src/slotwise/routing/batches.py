"""What to do with the commands of a batch that have no plain reply: one decision for both shells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from slotwise._link import Flawed, ServerError
from slotwise.errors import ClusterError, parse_error
from slotwise.routing.conversation import failed
from slotwise.routing.redirects import Step, after_error, after_failure
from slotwise.routing.topology import Address, Remap


@dataclass(slots=True)
class Verdict:
    """Sorted by what comes next; indices into the batch."""

    errors: dict[int, Exception] = field(default_factory=dict)
    """Over, with an exception."""

    nested: list[int] = field(default_factory=list)
    """Over: the reply holds errors inside."""

    again: list[int] = field(default_factory=list)
    """To be sent to the node of its slot."""

    ask: dict[Address, list[int]] = field(default_factory=dict)
    """To be sent behind ASKING."""

    moved: dict[int, Address] = field(default_factory=dict)
    """Slots that have moved, and where to."""

    refresh: bool = False
    """The topology is to be asked for first, after a pause."""

    wait: bool = False
    """A slot's keys are on their way: a short pause first."""


def judge(
    troubled: Iterable[int],
    results: list[Any],
    failures: dict[int, Exception],
    *,
    asked: Callable[[int], Address | None],
    repeatable: Callable[[int], bool],
    remap: Remap | None,
    redirects_left: bool,
    failures_left: bool,
) -> Verdict:
    """Sorts the ``troubled`` commands; what was answered plainly is never among them, so it is never sent again.

    ``asked(i)`` is the node that command i went to, ``repeatable(i)`` whether it may be executed twice.
    """
    verdict = Verdict()
    for index in troubled:
        reply = results[index]
        if type(reply) is Flawed:
            verdict.nested.append(index)
        elif isinstance(reply, Exception):
            verdict.errors[index] = reply
        elif type(reply) is ServerError:
            where = asked(index)
            step = after_error(reply.text, where.host if where is not None else "", remap)
            if step.step is Step.GIVE_UP:
                verdict.errors[index] = parse_error(reply.text)
            elif step.step is Step.REFRESH:
                if failures_left:
                    verdict.refresh = True
                    verdict.again.append(index)
                else:
                    verdict.errors[index] = parse_error(reply.text)
            elif not redirects_left:
                verdict.errors[index] = ClusterError("TTL exhausted.")
            elif step.step is Step.ASK:
                assert step.address is not None
                verdict.ask.setdefault(step.address, []).append(index)
            else:
                verdict.wait = verdict.wait or step.step is Step.WAIT
                if step.step is Step.GO:
                    assert step.address is not None
                    verdict.moved[step.slot] = step.address
                verdict.again.append(index)
        else:
            failure = failures[index]
            step = after_failure(sent=getattr(failure, "sent", False), repeatable=repeatable(index))
            if step.step is Step.GIVE_UP or not failures_left:
                verdict.errors[index] = failed(failure, asked(index))
            else:
                verdict.refresh = True
                verdict.again.append(index)
    return verdict
