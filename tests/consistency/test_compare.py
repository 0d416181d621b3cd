"""`compare` and `reconcile` on two real clusters, and the rule by which copies are merged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from benchmarks.consistency.faults import fill, versioned
from hypothesis import given
from hypothesis import strategies as st

from slotwise import RedisCluster
from slotwise._slots import key_slot
from slotwise.consistency.comparison import ComparisonReport, compare, reconcile
from slotwise.consistency.digests import FETCH, NOTHING, Look
from slotwise.consistency.merging import decide, merge, rank
from slotwise.consistency.nodes import Wire
from slotwise.consistency.store import VersionedStore
from slotwise.local import LocalCluster, ServerBinary


@pytest.fixture(scope="module")
def other_cluster(server: ServerBinary, security: dict[str, Any]) -> Iterator[LocalCluster]:
    """Two primaries: their slots are not those of the three."""
    with LocalCluster(2, 0, server=server.command, **security) as cluster:
        yield cluster


@pytest.fixture
def pair(cluster: LocalCluster, other_cluster: LocalCluster) -> Iterator[tuple[RedisCluster, RedisCluster]]:
    """Clients of two clusters without keys."""
    with RedisCluster.from_url(cluster.url) as a, RedisCluster.from_url(other_cluster.url) as b:
        for client in (a, b):
            client.flushall(target_nodes="primaries")
        yield a, b
        for client in (a, b):
            client.flushall(target_nodes="primaries")


Pair = tuple[RedisCluster, RedisCluster]


def told(report: ComparisonReport) -> set[tuple[str, str, str | None]]:
    return {(each.kind, each.key.decode(), each.newer) for each in report.differences}


def test_equal(pair: Pair) -> None:
    a, b = pair
    for client in pair:
        fill(client, 2_000)
    report = compare(a, b)
    assert report.equal, report
    assert report.keys_a == report.keys_b == 2_007
    assert report.failures == []
    # Those of the large ones, whose elements sums leave out; two of them may share one.
    assert report.slots_looked_into == len({key_slot(key) for key in a.scan_iter("large:*")})


def test_equal_halves_cost_almost_nothing(
    pair: Pair, cluster: LocalCluster, other_cluster: LocalCluster
) -> None:
    for client in pair:
        client.mset_nonatomic({f"key:{n}": "x" * 1_000 for n in range(5_000)})

    def sent() -> int:
        nodes = [*cluster.primaries, *other_cluster.primaries]
        return sum(int(node.info("stats")["total_net_output_bytes"]) for node in nodes)

    compare(*pair)
    before = sent()
    assert compare(*pair).equal
    # Ten million bytes are stored; the sums, the counts of 2 x 16,384 slots, and who is who.
    assert sent() - before < 150_000


def test_differences(pair: Pair) -> None:
    a, b = pair
    for client in pair:
        fill(client, 1_000)
    a.set("only:a", "x")
    b.set("only:b", "x")
    a.set("different", "a")
    b.set("different", "b")
    a.set("newer:a", versioned(2_000, b""))
    b.set("newer:a", versioned(1_000, b""))
    a.set("newer:b", versioned(1_000, b""))
    b.set("newer:b", versioned(2_000, b""))
    a.set("ttl", "x", ex=1_000)
    b.set("ttl", "x", ex=2_000)
    a.set("no:ttl", "x")
    b.set("no:ttl", "x", ex=2_000)
    a.hset("large:hash", "field:2999", "changed")
    b.lset("key:3", 0, "changed")
    expected = {
        ("only_in_a", "only:a", None),
        ("only_in_b", "only:b", None),
        ("different", "different", None),
        ("different", "newer:a", "a"),
        ("different", "newer:b", "b"),
        ("wrong_ttl", "ttl", None),
        ("wrong_ttl", "no:ttl", None),
        ("different", "large:hash", None),
        ("different", "key:3", None),
    }
    report = compare(a, b)
    assert told(report) == expected
    assert not report.equal
    assert "only:a" not in f"{report} {report.as_dict()}"
    # The other way round everything is told the other way round.
    turned = {"a": "b", "b": "a", None: None}
    kinds = {"only_in_a": "only_in_b", "only_in_b": "only_in_a"}
    assert told(compare(b, a)) == {
        (kinds.get(kind, kind), key, turned[newer]) for kind, key, newer in expected
    }


def test_a_slot_with_many_keys(pair: Pair) -> None:
    for client in pair:
        client.mset({f"{{tag}}:{n}": n for n in range(3_000)})
    a, b = pair
    assert compare(a, b).equal
    b.set("{tag}:2999", "changed")
    b.delete("{tag}:7")
    report = compare(a, b)
    assert told(report) == {("different", "{tag}:2999", None), ("only_in_a", "{tag}:7", None)}
    assert report.slots_looked_into == 1


def test_values_too_big_to_sum_up(pair: Pair) -> None:
    for client in pair:
        client.mset({f"{{tag}}:{n}": "x" * 200_000 for n in range(40)})
    a, b = pair
    assert compare(a, b).equal
    b.setrange("{tag}:39", 199_999, "y")
    assert told(compare(a, b)) == {("different", "{tag}:39", None)}


def test_reconcile_by_version(pair: Pair) -> None:
    a, b = pair
    new = versioned(2_000, b"new")
    a.set("newer:a", new, ex=1_000)
    b.set("newer:a", versioned(1_000, b"old"))
    b.set("newer:b", new)
    a.set("newer:b", versioned(1_000, b"old"))
    a.set("only:a", new)
    b.set("only:b", new)
    a.set("damaged", b"\xc1SW\x01" + bytes(30))
    b.set("damaged", new)
    report = reconcile(a, b)
    assert report.mended
    assert report.reconciled == 5
    assert compare(a, b).equal
    for key in ("newer:a", "newer:b", "only:a", "only:b", "damaged"):
        assert a.get(key) == b.get(key) == new
    assert 900 < b.ttl("newer:a") <= 1_000
    # Once more changes nothing.
    assert reconcile(a, b).equal


def test_conflicts_are_left_unless_one_side_is_preferred(pair: Pair) -> None:
    a, b = pair
    a.set("value", "a")
    b.set("value", "b")
    a.rpush("list", "a")
    b.rpush("list", "b")
    a.sadd("only:a", "x")
    b.hset("only:b", "field", "x")
    a.set("versioned", versioned(1_000, b""))
    b.set("versioned", "not versioned")
    report = reconcile(a, b)
    assert (report.reconciled, report.conflicts, report.different) == (0, 5, 5)
    assert not report.mended
    assert (a.get("value"), b.get("value")) == (b"a", b"b")
    assert reconcile(a, b, prefer="b").mended
    assert compare(a, b).equal
    assert (a.get("value"), a.lrange("list", 0, -1)) == (b"b", [b"b"])
    assert a.get("versioned") == b"not versioned"
    assert b.smembers("only:a") == {b"x"}
    assert a.hgetall("only:b") == {b"field": b"x"}


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """``meanwhile(key, act)``: acts once, after the looks at the key and before the first command that names it."""

    def arrange(key: str, act: Callable[[], object]) -> None:
        waiting = [act]
        on_key, run = Wire.on_key, Wire.run

        def acting_on_key(wire: Wire, *command: Any) -> Any:
            if waiting and key.encode() in command:
                waiting.pop()()
            return on_key(wire, *command)

        def acting_run(wire: Wire, script: Any, *arguments: Any, **options: Any) -> Any:
            if waiting and options.get("key") == key.encode():
                waiting.pop()()
            return run(wire, script, *arguments, **options)

        monkeypatch.setattr(Wire, "on_key", acting_on_key)
        monkeypatch.setattr(Wire, "run", acting_run)

    return arrange


def test_a_write_meanwhile_is_carried_over_with_its_own_expiry(pair: Pair, meanwhile: Any) -> None:
    a, b = pair
    store = VersionedStore(a)
    b.set("session", versioned(1_000, b""))
    store.set("session", b"short", ttl=100)
    meanwhile("session", lambda: store.set("session", b"for ever"))
    assert reconcile(a, b).mended
    assert VersionedStore(b).get("session") == b"for ever"
    assert b.ttl("session") == -1


def test_a_deletion_meanwhile_is_carried_over_with_its_own_expiry(pair: Pair, meanwhile: Any) -> None:
    a, b = pair
    store = VersionedStore(a)
    b.set("gone", versioned(1_000, b""))
    store.set("gone", b"there")
    meanwhile("gone", lambda: store.delete("gone"))
    assert reconcile(a, b).mended
    found = VersionedStore(b).get_with_version("gone")
    assert found is not None
    assert found.deleted
    assert a.ttl("gone") == b.ttl("gone") > 600_000


@pytest.mark.parametrize("foreign", [b"\xff" * 40, b"\xc1SW\x01" + b"\xff" * 40], ids=["foreign", "damaged"])
def test_what_is_no_version_any_more_is_not_carried_over(pair: Pair, meanwhile: Any, foreign: bytes) -> None:
    a, b = pair
    old = versioned(1_000, b"old")
    a.set("key", versioned(2_000, b"new"))
    b.set("key", old)
    meanwhile("key", lambda: a.set("key", foreign))
    report = reconcile(a, b)
    assert (report.mended, report.conflicts, report.not_reconciled) == (False, 0, 1)
    assert b.get("key") == old


def test_reconcile_large_versioned_values(pair: Pair) -> None:
    a, b = pair
    new, old = versioned(2_000, b"n" * 300_000), versioned(1_000, b"o" * 300_000)
    a.set("newer:a", new)
    b.set("newer:a", old)
    a.set("damaged", new[:-1] + b"x")
    b.set("damaged", new)
    a.set("ttl", new, ex=100)
    b.set("ttl", new, ex=1_000)
    a.set("no:ttl", new)
    b.set("no:ttl", new, ex=100)
    report = reconcile(a, b)
    assert told(report) == {
        ("different", "newer:a", "a"),
        ("different", "damaged", "b"),
        ("wrong_ttl", "ttl", None),
        ("wrong_ttl", "no:ttl", None),
    }
    assert report.mended
    assert compare(a, b).equal
    for key in ("newer:a", "damaged", "ttl", "no:ttl"):
        assert a.get(key) == b.get(key) == new
    assert 900 < a.ttl("ttl") <= 1_000
    assert b.ttl("no:ttl") == -1


def test_large_values_without_versions_are_conflicts(pair: Pair) -> None:
    a, b = pair
    a.set("key", "a" * 300_000)
    b.set("key", "b" * 300_000, ex=1_000)
    a.set("same", "x" * 300_000)
    b.set("same", "x" * 300_000, ex=1_000)
    report = reconcile(a, b)
    assert told(report) == {("different", "key", None), ("wrong_ttl", "same", None)}
    assert (report.reconciled, report.conflicts) == (1, 1)
    assert b.get("key") == b"b" * 300_000
    assert b.ttl("same") == -1


@pytest.mark.parametrize("size", [1, 300_000])
def test_two_values_of_one_version(pair: Pair, size: int) -> None:
    a, b = pair
    pairs = {"one": (b"1", b"2"), "two": (b"2", b"1"), "three": (b"3", b"12")}
    for key, payloads in pairs.items():
        for client, payload in zip(pair, payloads, strict=True):
            client.set(key, versioned(1_000, payload * size))
    report = reconcile(a, b)
    assert report.mended
    assert report.reconciled == 3
    assert all(a.get(key) == b.get(key) for key in pairs)
    assert a.get("one") == a.get("two")
    assert compare(a, b).equal


def test_what_is_written_meanwhile_stays(pair: Pair, meanwhile: Any) -> None:
    a, b = pair
    newest = versioned(3_000, b"newest")
    a.set("key", versioned(2_000, b"new"))
    b.set("key", versioned(1_000, b"old"))
    meanwhile("key", lambda: b.set("key", newest))
    report = reconcile(a, b)
    # The two are not alike, whatever was right when it was looked at.
    assert (report.mended, report.not_reconciled) == (False, 1)
    assert b.get("key") == newest
    assert reconcile(a, b).mended
    assert a.get("key") == newest


def test_what_a_server_refuses_keeps_no_other_from_being_reconciled(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    for number in range(20):
        a.rpush(f"{{tag}}:{number}", "a")
    run = Wire.run

    def from_a_newer_server(wire: Wire, *arguments: Any, key: bytes | None = None) -> Any:
        reply = run(wire, *arguments, key=key)
        return [reply[0], reply[1], b"\xff" * 20] if arguments[0] is FETCH and key in broken else reply

    broken = {b"{tag}:7", b"{tag}:8"}
    monkeypatch.setattr(Wire, "run", from_a_newer_server)
    report = reconcile(a, b, prefer="a")
    assert (report.reconciled, report.not_reconciled, report.conflicts) == (18, 2, 0)
    assert {each.key for each in report.differences if each.reconciled is False} == broken
    assert not report.mended
    # Told once, and without the key.
    assert len(report.failures) == 1
    assert "DUMP payload version or checksum are wrong" in report.failures[0].error
    assert "tag" not in report.failures[0].error
    assert len(list(b.scan_iter())) == 18


def test_strings_and_expiries_go_to_other_releases_too(
    pair: Pair, cluster: LocalCluster, other_cluster: LocalCluster
) -> None:
    a, b = pair
    for client in pair:
        client.rpush("list", "x")
    a.set("string", "a")
    b.set("string", "b")
    a.set("ttl", versioned(1_000, b""), ex=100)
    b.set("ttl", versioned(1_000, b""), ex=1_000)
    a.set("versioned", versioned(2_000, b""))
    b.set("versioned", versioned(1_000, b""))
    a.expire("list", 1_000)
    nodes = [*cluster.primaries, *other_cluster.primaries]
    for node in nodes:
        node.call("CONFIG", "RESETSTAT")
    assert reconcile(a, b, prefer="a").mended
    assert b.get("string") == b"a"
    assert (900 < a.ttl("ttl") <= 1_000, a.ttl("list")) == (True, -1)
    # What DUMP makes, an older server does not take.
    assert not [node for node in nodes if "cmdstat_dump" in node.info("commandstats")]


def test_prefer_is_a_or_b(pair: Pair) -> None:
    with pytest.raises(ValueError, match="prefer"):
        reconcile(*pair, prefer="c")  # type: ignore[arg-type]


# -- slots on their way ------------------------------------------------------------------------------------------------


def test_a_slot_that_stays_on_its_way_is_told(pair: Pair, other_cluster: LocalCluster) -> None:
    a, b = pair
    b.set("key", "nobody lists it on its old node any more")
    slot = key_slot(b"key")
    target = next(node for node in other_cluster.primaries if node is not other_cluster.owner_of(slot))
    move = other_cluster.slot_move([slot], target)
    move.open()
    assert move.move_keys() == 1
    for report in (compare(a, b), reconcile(a, b, prefer="b")):
        assert (report.equal, report.mended, report.moving) == (False, False, 1)
        assert report.as_dict()["moving"] == 1
        assert (report.counts, report.failures) == ({}, [])
    move.close()
    assert told(compare(a, b)) == {("only_in_b", "key", None)}


def test_a_slot_that_arrives_is_looked_at_there(pair: Pair, other_cluster: LocalCluster) -> None:
    a, b = pair
    for number in range(4):
        b.set(f"{{tag}}:{number}", "b")
    a.set("{tag}:0", "a")
    b.set("elsewhere", "b")
    slot = key_slot(b"{tag}")
    target = next(node for node in other_cluster.primaries if node is not other_cluster.owner_of(slot))
    move = other_cluster.slot_move([slot], target)
    move.open()
    move.move_keys(2)

    class Arriving(threading.Event):
        """Waits between two tries."""

        def wait(self, timeout: float | None = None) -> bool:
            move.move_keys()
            move.close()
            return False

    report = compare(a, b, stop=Arriving())
    # Each is told once, also those that were seen at the first try.
    assert report.counts == {"different": 1, "only_in_b": 4}
    assert len(told(report)) == 5
    assert (report.moving, report.failures, report.keys_a, report.keys_b) == (0, [], 1, 5)


# -- expiries ----------------------------------------------------------------------------------------------------------


def test_one_expiry_among_many(pair: Pair) -> None:
    a, b = pair
    at = int(time.time()) + 7_200
    for client in pair:
        with client.pipeline() as pipe:
            for number in range(2_000):
                pipe.set(f"key:{number}", "x", exat=at)
            pipe.execute()
    report = compare(a, b)
    assert report.equal
    # What was set to the same point of time is summed up alike, and costs no more.
    assert report.slots_looked_into == 0
    b.expireat("key:7", at - 10)
    report = compare(a, b)
    assert told(report) == {("wrong_ttl", "key:7", None)}
    assert report.slots_looked_into == 1
    assert reconcile(a, b).mended
    assert b.ttl("key:7") > 7_150


def test_expiries_that_all_differ_a_little_are_alike(pair: Pair) -> None:
    a, b = pair
    at = int(time.time() * 1_000) + 7_200_000
    for client, more in ((a, 0), (b, 500)):
        with client.pipeline() as pipe:
            for number in range(300):
                pipe.set(f"key:{number}", "x", pxat=at + more)
            pipe.execute()
    assert compare(a, b).equal
    assert compare(a, b, ttl_tolerance=0.1).counts == {"wrong_ttl": 300}


def test_many_that_differ_and_expire_are_not_busy(pair: Pair) -> None:
    for client, letter in zip(pair, "ab", strict=True):
        for number in range(200):
            client.set(f"{{tag}}:{number}", letter * 20_000, ex=3_000)
    assert compare(*pair).counts == {"different": 200}


# -- the rule ----------------------------------------------------------------------------------------------------------


def look(letter: str, milliseconds: int, digest: int, expires: int) -> Look:
    header = versioned(milliseconds, b"")[:25] if letter in "vd" else b""
    return Look(letter, b"%d" % digest, expires, 30, header, "string")


LOOKS = st.one_of(
    st.just(NOTHING),
    st.builds(
        look,
        st.sampled_from("vd"),
        st.integers(1, 3),
        st.integers(0, 2),
        st.sampled_from([-1, 1_000, 2_000]),
    ),
)


@given(LOOKS, LOOKS, LOOKS)
def test_merge_is_commutative_associative_idempotent(x: Look, y: Look, z: Look) -> None:
    assert rank(merge(x, y)) == rank(merge(y, x))
    assert rank(merge(merge(x, y), z)) == rank(merge(x, merge(y, z)))
    assert merge(x, x) == x
    # What is merged once more is no different.
    assert rank(merge(merge(x, y), y)) == rank(merge(x, y))


@given(st.lists(LOOKS, min_size=1), st.randoms(use_true_random=False))
def test_any_order_of_merges_gives_the_newest(looks: list[Look], random: Any) -> None:
    shuffled = list(looks)
    random.shuffle(shuffled)
    one, other = looks[0], shuffled[0]
    for each in looks[1:]:
        one = merge(one, each)
    for each in shuffled[1:]:
        other = merge(each, other)
    assert rank(one) == rank(other) == max(map(rank, looks))
    versions = [each.version for each in looks if each.version is not None]
    assert one.version == (max(versions) if versions else None)


@given(LOOKS, LOOKS)
def test_both_sides_decide_alike(x: Look, y: Look) -> None:
    same = x.value == y.value
    here, there = decide(x, y, None, same), decide(y, x, None, same)
    winner = {"a": x, "b": y, None: None}[here]
    loser = {"a": y, "b": x, None: None}[there]
    assert (winner is None) == (loser is None)
    if winner is not None and loser is not None:
        assert rank(winner) == rank(loser)
