"""Whom a client asks for the topology, what, and whom it believes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.errors import ConnectionError, RedisClusterException, ResponseError
from slotwise.routing.inquiry import Knowledge, candidates, inquire, look_for_successor
from slotwise.routing.topology import Address, Shard, Topology

A, B, C, D = (Address(name, 1) for name in "abcd")
UNKNOWN = ResponseError("unknown subcommand")


def node(address: Address) -> list[Any]:
    return [address.host.encode(), address.port, b"id of " + address.host.encode(), []]


def slots(*owners: Address, replicas: tuple[Address, ...] = ()) -> Any:
    """CLUSTER SLOTS of even shares; the replicas are the first owner's."""
    bounds = [16384 * i // len(owners) for i in range(len(owners) + 1)]
    return [
        [bounds[i], bounds[i + 1] - 1, node(owner), *(map(node, replicas) if not i else ())]
        for i, owner in enumerate(owners)
    ]


def ask(knowledge: Knowledge, answers: dict[Address, Any], order: list[Address]) -> tuple[Any, list[Any]]:
    """What comes of asking, and what was asked; a node without answers does not take connections."""
    return drive(inquire(knowledge, order), answers)


def drive(steps: Any, answers: dict[Address, Any]) -> tuple[Any, list[Any]]:
    asked: list[Any] = []
    here: dict[str, Any] = {}
    try:
        step = next(steps)
        while True:
            asked.append(step)
            if isinstance(step, Address):
                here = answers.get(step, {})
                answer: Any = None if here else ConnectionError("refused")
            else:
                answer = here.get(step, UNKNOWN)
            step = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        return end.value, asked


def knowing(topology: Topology | None = None, **options: Any) -> Knowledge:
    knowledge = Knowledge(None, **{"tls": False, "full_coverage": True, **options})
    if topology is not None:
        knowledge.publish(topology)
    return knowledge


def test_older_servers_are_asked_for_slots_from_then_on() -> None:
    knowledge = knowing()
    topology, asked = ask(knowledge, {A: {"CLUSTER SLOTS": slots(A)}}, [A])
    assert topology.shards == (Shard(A),)
    assert asked == [A, "CLUSTER SHARDS", "CLUSTER SLOTS", "CLUSTER NODES"]
    assert ask(knowledge, {A: {"CLUSTER SLOTS": slots(A)}}, [A])[1] == [A, "CLUSTER SLOTS", "CLUSTER NODES"]


def test_no_news_costs_one_question() -> None:
    known = Topology((Shard(A),), ((0, 16383, 0),))
    assert ask(knowing(known), {A: {"CLUSTER SLOTS": slots(A)}}, [A, B])[0] is None
    knowledge = knowing(known)
    knowledge.stale = True
    assert ask(knowledge, {A: {"CLUSTER SLOTS": slots(A)}}, [A, B])[0] == known


def test_the_next_is_asked_when_one_does_not_answer() -> None:
    topology, asked = ask(knowing(), {B: {"CLUSTER SLOTS": slots(B)}}, [A, B, C])
    assert topology.shards == (Shard(B),)
    assert asked[:2] == [A, B]
    assert C not in asked


def test_nobody_answers() -> None:
    with pytest.raises(RedisClusterException, match="at least one reachable node: refused"):
        ask(knowing(), {}, [A, B])


def test_no_cluster() -> None:
    with pytest.raises(RedisClusterException, match="Cluster mode is not enabled"):
        ask(knowing(), {A: {"PING": b"PONG"}}, [A])


@pytest.mark.parametrize("full", [True, False])
def test_slots_that_nobody_serves(full: bool) -> None:
    answers = {A: {"CLUSTER SLOTS": [[0, 5, node(A)]]}, B: {"CLUSTER SLOTS": [[0, 99, node(A)]]}}
    if full:
        with pytest.raises(RedisClusterException, match="100 of 16384 covered"):
            ask(knowing(full_coverage=True), answers, [A, B])
    else:
        topology, asked = ask(knowing(full_coverage=False), answers, [A, B])
        assert topology.covered == 100, "of those who do not know all, who knows most"
        assert B in asked


def claim(owner: Address, epoch: int) -> dict[str, Any]:
    nodes = f"id of {owner.host}".replace(" ", "_")
    lines = f"{nodes} {owner.name}@1 myself,master - 0 0 {epoch} connected 0-16383\n"
    slots = [[0, 16383, [owner.host.encode(), owner.port, nodes.encode(), []]]]
    return {"CLUSTER SLOTS": slots, "CLUSTER NODES": lines.encode()}


def test_an_older_claim_is_believed_when_most_nodes_have_it() -> None:
    """Slots that were given away by hand, a cluster that was restored: epochs do not always grow."""
    known = Topology((Shard(A, id="id_of_a", epoch=9),), ((0, 16383, 0),))
    knowledge = knowing(known)
    older = claim(A, 3) | {"CLUSTER SLOTS": [[0, 16383, [b"a", 1, b"id_of_a", []], node(B)]]}
    assert ask(knowledge, {A: older}, [A, B, C])[0] is None
    topology, asked = ask(knowledge, {A: older, C: older}, [A, B, C])
    assert topology.shards == (Shard(A, (B,)),)
    assert B in asked


def test_order() -> None:
    assert candidates([C], [A, B, C, D], {"a:1"}) == [C, B, D, A]
    assert candidates([], [A, A, B], set()) == [A, B]


@given(
    st.recursive(
        st.none() | st.integers() | st.binary(max_size=9) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=5), inner, max_size=4),
        max_leaves=12,
    )
)
def test_whatever_a_node_says_it_is_a_topology_or_an_error_of_ours(reply: Any) -> None:
    answers = {A: dict.fromkeys(("CLUSTER SHARDS", "CLUSTER SLOTS", "CLUSTER NODES"), reply)}
    try:
        topology, _ = ask(knowing(full_coverage=False), answers, [A])
    except RedisClusterException:
        return
    assert isinstance(topology, Topology)


# -- the successor of a primary that failed ---------------------------------------------------------------------------------

TWO = Topology((Shard(A, (C, D)), Shard(B)), ((0, 99, 0), (100, 16383, 1)))


def test_a_replica_that_took_over() -> None:
    nodes = b"x d:1@2 myself,master - 0 0 9 connected 0-99\n"
    answers = {
        C: {"ROLE": [b"slave", b"a", 1, b"connect", 9]},
        D: {"ROLE": [b"master", 9, []], "CLUSTER NODES": nodes},
    }
    found, asked = drive(look_for_successor(knowing(TWO), [A]), answers)
    assert found == (A, D)
    assert asked == [C, "ROLE", D, "ROLE", "CLUSTER NODES"]


def test_a_primary_without_slots_is_no_successor() -> None:
    """A replica that was reset."""
    nodes = b"x c:1@2 myself,master - 0 0 9 connected\ny a:1@2 master - 0 0 9 connected 0-99\n"
    answers = {C: {"ROLE": [b"master", 9, []], "CLUSTER NODES": nodes}}
    assert drive(look_for_successor(knowing(TWO), [A]), answers)[0] is None


def test_what_a_promotion_makes_of_the_topology() -> None:
    knowledge = knowing(TWO)
    knowledge.promoted(D)
    assert knowledge.topology.shards == (Shard(D, (C,)), Shard(B))
    assert knowledge.topology.ranges == TWO.ranges
    assert knowledge.stale
    assert TWO.is_older(knowledge.topology), "its claim is the newer one"


def test_none_has_yet() -> None:
    answers = {D: {"ROLE": [b"slave", b"a", 1, b"connect", 9]}}
    assert drive(look_for_successor(knowing(TWO), [A]), answers) == (None, [C, D, "ROLE"])


def test_only_replicas_of_primaries_that_failed_are_asked() -> None:
    assert drive(look_for_successor(knowing(TWO), [B, C]), {}) == (None, [])


def test_a_user_who_may_not_ask() -> None:
    assert drive(look_for_successor(knowing(TWO), [A]), {C: {"PING": b""}, D: {"PING": b""}})[0] is None
