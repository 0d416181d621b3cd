"""Whatever nodes tell of the cluster, a client makes a sound topology of it or none; see `tests.fuzz.test_replies`."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from slotwise._link import LinkFailure
from slotwise._reply import Flawed, ServerError
from slotwise._slots import SlotTable
from slotwise.errors import RedisClusterException, parse_error
from slotwise.routing.inquiry import MALFORMED, Knowledge, inquire
from slotwise.routing.topology import SLOTS, Address, Topology, from_nodes, from_shards, from_slots
from tests.fuzz import numbers
from tests.fuzz.streams import pieces
from tests.fuzz.test_replies import Received
from tests.fuzz.topologies import damaged, encoded, nodes, shards, slots

# Aggregates inside one another that a link takes.
DEEPEST = 256
KINDS: dict[str, Callable[[random.Random], Any]] = {
    "CLUSTER SHARDS": shards,
    "CLUSTER SLOTS": slots,
    "CLUSTER NODES": nodes,
}
PARSERS: dict[str, Callable[[Any], Any]] = {
    "CLUSTER SHARDS": lambda reply: from_shards(reply, "asked"),
    "CLUSTER SLOTS": lambda reply: from_slots(reply, "asked"),
    "CLUSTER NODES": from_nodes,
}


def told(rnd: random.Random, command: str) -> Any:
    reply = KINDS[command](rnd)
    for _ in range(rnd.choice([0, 1, 1, 2, 3])):
        reply = damaged(rnd, reply)
    return reply


def sound(topology: Topology, rnd: random.Random) -> bool:
    """What the rest of the client relies on, and now and then, because it takes long, that the table takes it."""
    assert all(isinstance(part, str) for shard in topology.shards for part in (shard.id, shard.primary.host))
    assert all(isinstance(address, Address) for address in topology.addresses())
    slots = sum(last + 1 - first for first, last, _ in topology.ranges)
    assert slots <= SLOTS
    if rnd.random() < 0.95:
        return True
    assert slots == topology.covered
    table = SlotTable(topology.ranges, topology.shards)
    assert sum(last + 1 - first for first, last, _ in table.ranges()) == slots
    assert not topology.is_older(topology)
    return True


def parse(command: str, reply: Any) -> Any:
    try:
        return PARSERS[command](reply)
    except MALFORMED as error:
        return type(error)


def over_a_link(loop: asyncio.AbstractEventLoop, rnd: random.Random, reply: Any) -> Any:
    """The reply as it comes over a link; LinkFailure where that refuses it."""
    received = Received(loop, pieces(rnd, encoded(reply)), 2, None, 2**32)
    if received.broken:
        return received.failures[0]
    (value,) = received.replies
    return value.reply if isinstance(value, Flawed) else value


def depth(reply: Any) -> int:
    """How many aggregates are inside one another."""
    items = [*reply, *reply.values()] if isinstance(reply, dict) else reply
    return 1 + max(map(depth, items), default=0) if isinstance(items, (list, tuple)) else 0


def check_parser(loop: asyncio.AbstractEventLoop, rnd: random.Random) -> bool:
    command = rnd.choice(list(KINDS))
    reply = told(rnd, command)
    found = parse(command, reply)
    if rnd.random() < 0.1:
        heard = over_a_link(loop, rnd, reply)
        if isinstance(heard, LinkFailure):
            assert depth(reply) > DEEPEST
            return False
        assert parse(command, heard) == found
    if isinstance(found, Topology):
        return sound(found, rnd)
    if isinstance(found, tuple):
        epochs, in_touch = found
        return all(isinstance(epoch, int) for epoch in epochs.values()) and isinstance(in_touch, bool)
    return False


def check_inquiry(rnd: random.Random) -> bool:
    """A client asks three nodes, of which each may tell what it likes."""
    knowledge = Knowledge(None, tls=False, full_coverage=rnd.random() < 0.5)
    steps = inquire(knowledge, [Address("asked", port) for port in (1, 2, 3)])
    try:
        step = next(steps)
        while True:
            if isinstance(step, Address):
                step = next(steps)
                continue
            reply = told(rnd, step)
            is_error = type(reply) is ServerError
            step = steps.throw(parse_error(reply.text)) if is_error else steps.send(reply)
    except StopIteration as end:
        return end.value is None or sound(end.value, rnd)
    except RedisClusterException:
        return False


def fuzz(count: int, check: Callable[[asyncio.AbstractEventLoop, random.Random], bool]) -> None:
    loop = asyncio.new_event_loop()
    taken = tried = 0
    try:
        for name, rnd in numbers(count):
            try:
                taken += check(loop, rnd)
            except BaseException as error:
                raise AssertionError(name) from error
            tried += 1
            if not tried % 100:
                # Callbacks that the links asked for.
                loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    # Some replies are taken and some are not, or the generator is a bad one.
    assert tried / 10 < taken < tried * 9 / 10


@pytest.mark.timeout(3600)
def test_parsers() -> None:
    fuzz(5_000, check_parser)


@pytest.mark.timeout(3600)
def test_inquiry() -> None:
    fuzz(1_000, lambda loop, rnd: check_inquiry(rnd))
