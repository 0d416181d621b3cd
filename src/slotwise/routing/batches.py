"""Where the commands of a batch go, and what to do with those that got no plain reply: decided for both shells."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slotwise._encoder import Batch, Indices
from slotwise._reply import Flawed, ServerError
from slotwise._slots import SlotTable
from slotwise.errors import ClusterError, SlotNotCoveredError, parse_error
from slotwise.routing.conversation import after_loss, is_mere_loss
from slotwise.routing.redirects import SETTLED, RetryWrites, Step, after_error
from slotwise.routing.topology import Address, Remap


def parts_of(
    batch: Batch, table: SlotTable, pinned: Mapping[int, Any], indices: Iterable[int] | None = None
) -> tuple[list[tuple[Any, Indices]], dict[int, Exception]]:
    """The commands ``indices`` of ``batch``, by default all, by the endpoint that each goes to: the one it is pinned to,
    else the primary of its slot. And those whose slot nobody serves."""
    if indices is None:
        if not pinned:
            groups = batch.by_shard(table)
            nobodys = groups.pop(-1, ())
            parts = [(table.shards[shard][0], members) for shard, members in groups.items()]
            return parts, {index: _uncovered(batch.slot(index)) for index in nobodys}
        indices = range(len(batch))
    lists: dict[Any, list[int]] = {}
    failures: dict[int, Exception] = {}
    for index in indices:
        endpoint = pinned.get(index)
        if endpoint is None:
            slot = batch.slot(index)
            shard = table[slot] if slot >= 0 else None
            if shard is None:
                failures[index] = _uncovered(slot)
                continue
            endpoint = shard[0]
        lists.setdefault(endpoint, []).append(index)
    return [(endpoint, Indices(members)) for endpoint, members in lists.items()], failures


def asked_of(parts: Iterable[tuple[Any, Iterable[int]]], indices: Iterable[int]) -> dict[int, Address]:
    """The node that each of the commands ``indices`` went to, of the ``parts`` that were sent: the table may be another
    by now."""
    wanted = set(indices)
    return {index: endpoint.node for endpoint, members in parts for index in members if index in wanted}


def short_way_asked(
    shard: Sequence[Any] | None, failure: Exception | None, links: Iterable[Any], since: float
) -> Address | None:
    """The node that a short way asked, by the ``shard`` of its slot now, ``since`` seconds after the last change of the
    table; None: it may have been the one before. ``links``: the shared ones of the shard's primary.

    A node whose link is open has not failed. Where there is none it was not the one that got the command.
    """
    if shard is None:
        return None
    if since <= SETTLED:
        opened = [link for link in links if link is not None]
        if failure is None or any(not link.retired for link in opened):
            return None
        if not opened and getattr(failure, "sent", True):
            return None
    address: Address = shard[0].node
    return address


def choose_reads(
    batch: Batch,
    table: SlotTable,
    reads: Mapping[int, Address | None],
    choose: Callable[[Sequence[Any], int, Address | None], Any],
    *,
    own_writes: bool,
) -> dict[int, Any]:
    """The endpoints that answer the commands ``reads`` of ``batch``, by ``choose(shard, slot, failed)``; each with the
    node that has failed to, if there is one.

    ``own_writes``: they are to find what the batch itself has written before them, which their primaries have.
    """
    chosen: dict[int, Any] = {}
    written: set[int] = set()
    for index in range(len(batch)) if own_writes else reads:
        slot = batch.slot(index)
        if index not in reads:
            written.add(slot)
        elif slot >= 0 and slot not in written and (shard := table[slot]) is not None:
            chosen[index] = choose(shard, slot, reads[index])
    return chosen


def _uncovered(slot: int) -> SlotNotCoveredError:
    return SlotNotCoveredError(f'Slot "{slot}" not covered by the cluster.')


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

    reconnect: set[Address] = field(default_factory=set)
    """Nodes that named themselves: another server has their address by now, and connections lead to the old one."""

    pause: float | None = None
    """Seconds to wait first, because somebody failed."""

    refresh: bool = False
    """And for the topology. False where connections were lost, for the first time: new ones may do."""

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
    next_pause: Callable[[], float | None],
    first_failure: bool,
    closed: bool = False,
    retry_writes: RetryWrites = "safe",
    may_repeat: Callable[[], bool] = lambda: True,
    waits: Callable[[int], bool] = lambda index: False,
) -> Verdict:
    """Sorts the ``troubled`` commands; what was answered plainly is never among them, so it is never sent again.

    ``asked(i)`` is the node that command i went to, ``repeatable(i)`` whether it may be executed twice, ``waits(i)`` whether
    it waits at the server and has done nothing until then. Of these two each is asked once at the most: ``next_pause()``,
    the seconds to wait before what failed goes again, None when it does not; and ``may_repeat()``, the retry budget, for
    all that may have been executed and go again: it counts a batch as one call. It is not asked when connections were lost
    for the first time.
    """
    verdict = Verdict()
    next_pause, may_repeat = functools.cache(next_pause), functools.cache(may_repeat)
    for index in troubled:
        reply = results[index]
        if type(reply) is Flawed:
            verdict.nested.append(index)
        elif isinstance(reply, Exception):
            verdict.errors[index] = reply
        elif type(reply) is ServerError:
            where = asked(index)
            host = where.host if where is not None else ""
            step = after_error(reply.text, host, remap, waited=waits(index) or repeatable(index))
            if step.step is Step.GIVE_UP:
                verdict.errors[index] = parse_error(reply.text)
            elif step.step is Step.REFRESH:
                if next_pause() is not None:
                    verdict.pause, verdict.refresh = next_pause(), True
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
                    if step.address == where:
                        verdict.reconnect.add(step.address)
                verdict.again.append(index)
        else:
            first_loss = first_failure and is_mere_loss(failures[index])
            error = after_loss(
                failures[index],
                asked(index),
                repeatable=repeatable(index),
                closed=closed,
                left=next_pause() is not None,
                retry_writes=retry_writes,
                may_repeat=(lambda: True) if first_loss else may_repeat,
            )
            if error is not None:
                verdict.errors[index] = error
            else:
                verdict.pause = next_pause()
                verdict.refresh = verdict.refresh or not first_loss
                verdict.again.append(index)
    return verdict
