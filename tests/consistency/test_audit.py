"""`audit` on real clusters: every fault is found, and none besides; what is mended is mended."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import compress
from typing import Any

import pytest
from benchmarks.consistency.faults import LASTING, MENDABLE, Expected, Injector, fill, versioned

from slotwise import RedisCluster
from slotwise._slots import key_slot
from slotwise.consistency import walks
from slotwise.consistency.auditing import Audit, Options, audit
from slotwise.consistency.digests import LARGE_BYTES
from slotwise.consistency.nodes import Wire
from slotwise.consistency.repair import Mender
from slotwise.consistency.suspects import Suspects
from slotwise.consistency.walks import Places
from slotwise.local import LocalCluster, LocalNode


@pytest.fixture
def client(faulty_cluster: LocalCluster) -> Iterator[RedisCluster]:
    with RedisCluster.from_url(faulty_cluster.url) as client:
        yield client


@pytest.fixture
def inject(faulty_cluster: LocalCluster, client: RedisCluster) -> Injector:
    return Injector(faulty_cluster, client)


class Writer:
    """Changes a few keys of all types as fast as it can, until it is left."""

    def __init__(self, url: str) -> None:
        self._client = RedisCluster.from_url(url)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0

    def _run(self) -> None:
        client = self._client
        while not self._stop.is_set():
            n = self.rounds
            client.set(f"busy:{n % 50}", n, ex=1_000 + n % 7 * 100)
            client.set(f"busy:versioned:{n % 50}", versioned(n + 1, b"%d" % n))
            client.hset(f"busy:hash:{n % 10}", f"field:{n % 2_000}", n)
            client.lpush(f"busy:list:{n % 10}", n)
            client.zincrby("busy:zset", 0.5, f"member:{n % 2_000}")
            client.delete(f"busy:{(n + 25) % 50}")
            client.sadd("busy:set", n % 3_000)
            client.xadd("busy:stream", {"n": n}, maxlen=2_000)
            self.rounds += 1

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


def test_a_sound_cluster(client: RedisCluster, inject: Injector) -> None:
    fill(client, 2_000)
    inject.settle()
    report = audit(client)
    assert report.equal
    assert report.mended
    assert (report.findings, report.counts, report.failures) == ([], {}, [])
    assert report.keys == report.copies == report.replica_keys == 2_007
    assert (report.versioned, report.unversioned) == (201, 1_806)
    assert report.cursor is None
    assert len(report.lag) == 3
    assert all(lag.linked for lag in report.lag)
    json.dumps(report.as_dict())


def test_every_fault_is_found_and_none_besides(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    fill(client, 1_000)
    for name, fault in {**MENDABLE, **LASTING}.items():
        for n in range(3):
            fault(inject, f"fault:{name}:{n}")
    inject.settle()
    with Writer(faulty_cluster.url) as writer:
        # Slowly, for the writer to be seen.
        report = audit(client, rate=500)
    assert writer.rounds > 10
    assert inject.found(report) == inject.expected
    assert report.different == len(inject.expected)
    assert not report.equal


def test_repair(faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector) -> None:
    fill(client, 500)
    for name, fault in MENDABLE.items():
        for n in range(3):
            fault(inject, f"fault:{name}:{n}")
    inject.settle()
    with Writer(faulty_cluster.url):
        report = audit(client, repair=True)
    assert inject.found(report) == inject.expected
    assert {finding.kind for finding in report.findings if finding.repaired is not True} <= {"busy"}
    assert report.mended
    inject.settle()
    again = audit(client)
    assert again.equal, again
    # The newer value has won, wherever it was; of the others the primary's.
    for n in range(3):
        assert client.get(f"fault:newer_on_the_replica:{n}") == versioned(2_000, b"new")
        assert client.get(f"fault:newer_on_the_primary:{n}") == versioned(2_000, b"new")
        assert client.get(f"fault:damaged_primary:{n}") == versioned(1_000, b"payload")
        assert client.get(f"fault:damaged_replica:{n}") == versioned(1_000, b"payload")
        assert client.get(f"fault:different:{n}") == b"of the primary"
        assert client.get(f"fault:misplaced:{n}") == b"astray"
        assert client.exists(f"fault:extra:{n}") == 0
        assert 5_000 < client.ttl(f"fault:wrong_ttl:{n}") <= 9_000
        assert client.ttl(f"fault:ttl_of_the_replica:{n}") == -1


def test_missing_keys_that_expire(client: RedisCluster, inject: Injector) -> None:
    """Each look at an expiry before Redis 7 is another by a millisecond; so they were told as busy, and not mended."""
    keys = [f"expiring:{n}" for n in range(60)]
    for key in keys:
        inject.alone(key, "SET", key, "only here", "EX", 5_000)
    inject.settle()
    report = audit(client, repair=True)
    assert report.counts == {"missing": 60}
    assert report.mended
    inject.settle()
    assert audit(client).equal
    assert all(4_000 < client.ttl(key) <= 5_000 for key in keys)


def test_what_cannot_be_repaired(client: RedisCluster, inject: Injector) -> None:
    for name, fault in LASTING.items():
        fault(inject, name)
    inject.settle()
    before = {name: client.get(name) for name in LASTING}
    report = audit(client, repair=True)
    assert inject.found(report) == inject.expected
    assert [finding.repaired for finding in report.findings] == [False, False]
    assert not report.mended
    assert {name: client.get(name) for name in LASTING} == before


def test_misplaced_keys_and_forgotten_scripts(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    for n in range(20):
        inject.misplaced(f"fault:{n}")
    inject.settle()
    audit(client, repair=False)
    before = [int(node.info("stats")["total_connections_received"]) for node in faulty_cluster.nodes]
    for node in faulty_cluster.nodes:
        node.call("SCRIPT", "FLUSH")
    report = audit(client, repair=True)
    assert inject.found(report) == inject.expected
    assert report.mended
    assert client.mget_nonatomic([f"fault:{n}" for n in range(20)]) == [b"astray"] * 20
    after = [int(node.info("stats")["total_connections_received"]) for node in faulty_cluster.nodes]
    # Not one for every key.
    assert sum(after) - sum(before) < 60
    inject.settle()
    assert audit(client).equal


OLD, NEW = versioned(1_000, b"old"), versioned(2_000, b"new")
LARGE_OLD, LARGE_NEW = versioned(1_000, b"o" * 300_000), versioned(2_000, b"n" * 300_000)
DAMAGED, LARGE_DAMAGED = NEW[:-1] + b"#", LARGE_NEW[:-1] + b"#"
UNKNOWN, LARGE_UNKNOWN = b"\xc1SW\x02" + NEW[4:], b"\xc1SW\x02" + LARGE_NEW[4:]


@pytest.mark.parametrize(
    ("astray", "owners", "left"),
    [
        # What the owner has at the end; None: both stay as they are.
        (NEW, OLD, NEW),
        (OLD, NEW, NEW),
        (NEW, DAMAGED, NEW),
        (NEW, None, NEW),
        (LARGE_NEW, OLD, LARGE_NEW),
        (LARGE_NEW, LARGE_OLD, LARGE_NEW),
        (LARGE_OLD, NEW, NEW),
        (LARGE_NEW, None, LARGE_NEW),
        (LARGE_DAMAGED, OLD, OLD),
        (b"plain", b"plain", b"plain"),
        # Nobody can say which is newer.
        (NEW, b"plain", None),
        (LARGE_NEW, b"plain", None),
        (b"plain", b"another", None),
        (b"plain" * 100_000, b"another", None),
        (DAMAGED, b"plain", None),
        (NEW, UNKNOWN, None),
        (UNKNOWN, OLD, None),
        (LARGE_UNKNOWN, OLD, None),
        (UNKNOWN, None, None),
    ],
    ids=lambda value: str(value and value[:30]),
)
def test_a_misplaced_key_goes_only_when_nothing_is_lost(
    faulty_cluster: LocalCluster,
    client: RedisCluster,
    inject: Injector,
    astray: bytes,
    owners: bytes | None,
    left: bytes | None,
) -> None:
    if owners is not None:
        client.set("key", owners)
    wrong = put_astray(faulty_cluster, "key", astray)
    inject.settle()
    report = audit(client, repair=True)
    [finding] = [finding for finding in report.findings if finding.kind == "misplaced"]
    assert finding.repaired is (left is not None)
    assert client.get("key") == (owners if left is None else left)
    slot = key_slot("key")
    assert int(wrong.call("CLUSTER", "COUNTKEYSINSLOT", slot)) == (left is None)
    if left is None:
        assert not report.mended


def test_a_newer_format_of_a_replica_stays(client: RedisCluster, inject: Injector) -> None:
    client.set("key", UNKNOWN)
    inject.alone("key", "SET", "key", OLD)
    inject.settle()
    report = audit(client, repair=True)
    assert inject.found(report) == {Expected("different", "key", True)}
    assert [finding.repaired for finding in report.findings] == [False]
    assert audit(client).counts == {"different": 1}


def test_repair_of_what_somebody_waits_for(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    """Redis 8.0 does not survive a client that said NO-TOUCH and wakes up another."""
    inject.different_entry("fault")
    inject.missing_hash("hash")
    owner = inject.owner("fault")
    reader = RedisCluster.from_url(faulty_cluster.url)
    waiting = threading.Thread(target=reader.xread, args=({"fault": "1-2"},), kwargs={"block": 1_500})
    waiting.start()
    while "blocked_clients:0" in owner.call("INFO", "clients"):
        assert waiting.is_alive()
    report = audit(client, repair=True)
    assert inject.found(report) == inject.expected
    assert report.mended
    waiting.join()
    reader.close()
    inject.settle()
    assert audit(client).equal


def test_repair_without_memory(faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector) -> None:
    """What a server refuses to write costs the rest of the audit nothing."""
    fill(client, 300)
    for n in range(3):
        inject.missing(f"fault:{n}")
    inject.settle()
    for node in faulty_cluster.primaries:
        node.call("CONFIG", "SET", "maxmemory", "1")
    try:
        report = audit(client, repair=True)
    finally:
        for node in faulty_cluster.primaries:
            node.call("CONFIG", "SET", "maxmemory", "0")
    assert inject.found(report) == inject.expected
    assert [finding.repaired for finding in report.findings] == [False] * 3
    assert not report.mended
    assert report.keys == 310
    assert all("'maxmemory'" in failure.error for failure in report.failures)
    assert report.failures


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("hash", ("HSET", "field:2999", "changed")),
        ("hash", ("HDEL", "field:2999")),
        ("set", ("SREM", "2999")),
        ("zset", ("ZADD", "0.5", "member:2999")),
        ("list", ("LSET", "2999", "changed")),
        ("string", ("SETRANGE", "999999", "y")),
        ("stream", ("XADD", "9999-1", "n", "1")),
        ("stream", ("XGROUP", "SETID", "group", "0")),
    ],
)
def test_a_large_value(client: RedisCluster, inject: Injector, kind: str, change: tuple[str, ...]) -> None:
    fill(client, 0)
    inject.settle()
    key = f"large:{kind}"
    at = 2 if change[0] == "XGROUP" else 1
    inject.alone(key, *change[:at], key, *change[at:])
    report = audit(client, repair=True)
    assert inject.found(report) == {Expected("different", key, True)}
    inject.settle()
    assert audit(client).equal


def test_a_large_damaged_value(client: RedisCluster, inject: Injector) -> None:
    value = versioned(1_000, b"x" * 2 * LARGE_BYTES)
    client.set("large", value)
    inject.settle()
    inject.alone("large", "SETRANGE", "large", 400_000, "#")
    report = audit(client, repair=True)
    assert inject.found(report) == {Expected("damaged", "large", False)}
    inject.settle()
    assert audit(client).equal
    assert client.get("large") == value


def test_a_lagging_replica(client: RedisCluster, inject: Injector) -> None:
    client.set("before", "x")
    inject.settle()
    with inject.lagging("late"):
        report = audit(client, lag_timeout=0.2)
    assert inject.found(report) == inject.expected
    [lag] = [lag for lag in report.lag if lag.most_bytes]
    assert not lag.linked
    assert lag.late
    assert lag.node == report.findings[0].replica


def test_a_silent_replica(faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector) -> None:
    inject.missing("fault")
    owner = inject.owner("fault")
    victim = next(node for node in faulty_cluster.replicas if node not in faulty_cluster.replicas_of(owner))
    faulty_cluster.pause(victim)
    report = audit(client, timeout=0.3)
    assert [failure.node for failure in report.failures] == [address(victim)]
    assert inject.found(report) == inject.expected
    assert not report.equal
    # The primaries were looked at to their ends.
    assert all(
        state["done"]
        for state in (report.cursor or {"nodes": {}})["nodes"].values()
        if state["node"] != address(victim)
    )


def test_connections_that_are_closed_on_the_way(
    client: RedisCluster, inject: Injector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One to a replica was made anew without READONLY: all keys that were looked at by it were told as missing."""
    fill(client, 300)
    for n in range(20):
        inject.missing(f"fault:{n}")
    inject.settle()
    mend = Mender.mend

    def closing(self: Mender, key: bytes, kinds: Any) -> bool:
        for wire in (self._primary, *self._replicas):
            close(client, wire)
        return mend(self, key, kinds)

    monkeypatch.setattr(Mender, "mend", closing)
    report = audit(client, repair=True)
    assert inject.found(report) == inject.expected
    assert report.counts == {"missing": 20}
    assert report.failures == []
    assert report.mended


def test_servers_that_close_idle_connections(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those for suspects are idle for as long as there are none."""
    fill(client, 600)
    for n in range(6):
        inject.missing(f"fault:{n}")
    inject.settle()
    resolve = Suspects.resolve
    resolved = 0

    def idle(self: Suspects) -> None:
        nonlocal resolved
        resolved += 1
        resolve(self)
        for wire in (self._primary, *self._copies.values()):
            if wire is not None:
                close(client, wire)

    monkeypatch.setattr(Suspects, "resolve", idle)
    # At once.
    monkeypatch.setattr(walks, "_PATIENCE", -1)
    report = audit(client, batch=20)
    assert inject.found(report) == inject.expected
    assert resolved > 6
    assert report.failures == []


def test_a_replica_that_has_yet_to_hear_whose_a_slot_is(
    client: RedisCluster, inject: Injector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers no command for the slot, so nothing is known of its copy."""
    client.mset_nonatomic({f"key:{n}": n for n in range(100)})
    inject.settle()
    opened = Wire.open

    def without_readonly(self: Wire) -> None:
        opened(self)
        self.call("READWRITE")

    monkeypatch.setattr(Wire, "open", without_readonly)
    report = audit(client)
    assert (report.findings, report.failures) == ([], [])
    assert report.moving == 100


def test_a_primary_that_fails_on_the_way(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    fill(client, 3_000)
    inject.settle()
    victim = faulty_cluster.primaries[0]

    def kill(_: Any) -> None:
        if victim.running:
            faulty_cluster.kill(victim)

    report = audit(client, rate=4_000, timeout=1.0, progress=kill)
    assert address(victim) in [failure.node for failure in report.failures]
    assert report.counts == {}
    assert not report.equal
    assert report.cursor is not None
    # Another takes its place, whose keys come in another order: they are all looked at.
    faulty_cluster.wait_ready()
    faulty_cluster.restart(victim)
    faulty_cluster.wait_ready()
    client.nodes_manager.initialize()
    resumed = audit(client, resume=json.loads(json.dumps(report.cursor)))
    assert resumed.equal, resumed
    # The others had come to their ends.
    assert 0 < resumed.keys < 3_007


def test_a_replica_that_the_client_does_not_know(client: RedisCluster, inject: Injector) -> None:
    """CLUSTER SHARDS tells a replica as loading for some time after its start."""
    inject.missing("fault")
    nodes = client.get_nodes()
    hidden = next(node for node in nodes if node.server_type == "replica")

    class Unaware:
        """The client, whose table lacks a node."""

        def get_nodes(self) -> list[Any]:
            return [node for node in nodes if node is not hidden]

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

    report = audit(Unaware())
    assert report.failures == []
    assert len(report.lag) == 3
    assert inject.found(report) == inject.expected


def test_resume(client: RedisCluster, inject: Injector) -> None:
    fill(client, 2_000)
    inject.settle()
    stop = threading.Event()
    first = audit(client, rate=2_000, stop=stop, progress=lambda now: now.keys > 500 and stop.set())
    assert first.stopped
    assert not first.equal
    assert 0 < first.keys < 2_007
    second = audit(client, resume=first.cursor)
    assert second.equal
    # Not one is left out; a batch of each node may be looked at twice.
    assert 2_007 <= first.keys + second.keys <= 2_007 + 3 * 250
    # The cursor of another pattern leads nowhere.
    assert audit(client, "key:*", resume=first.cursor).keys == 2_000


def test_resume_after_a_primary_that_did_not_answer(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    fill(client, 2_000)
    inject.settle()
    stop = threading.Event()
    first = audit(client, rate=2_000, stop=stop, progress=lambda now: now.keys > 500 and stop.set())
    assert first.cursor is not None
    victim = faulty_cluster.primaries[0]
    [heir] = faulty_cluster.replicas_of(victim)
    heir.call("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    faulty_cluster.pause(victim)
    try:
        second = audit(client, timeout=0.3, resume=first.cursor)
    finally:
        faulty_cluster.resume(victim)
        faulty_cluster.wait_ready()
        heir.call("CONFIG", "SET", "cluster-replica-no-failover", "no")
    assert address(victim) in [failure.node for failure in second.failures]
    places = {place["node"]: place for place in (second.cursor or {"nodes": {}})["nodes"].values()}
    # It is where it was.
    assert places[address(victim)] in first.cursor["nodes"].values()
    third = audit(client, resume=json.loads(json.dumps(second.cursor)))
    assert third.equal
    assert third.cursor is None
    assert first.keys + second.keys + third.keys >= 2_007


def test_a_node_that_answers_for_no_key(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    """Its keys were told as on their way, and all as equal."""
    fill(client, 100)
    inject.settle()
    slot = next(
        slot
        for slot in range(16_384)
        if not faulty_cluster.owner_of(slot).call("CLUSTER", "COUNTKEYSINSLOT", slot)
    )
    victim = faulty_cluster.owner_of(slot)
    victim.call("CLUSTER", "DELSLOTS", slot)
    report = audit(client)
    victim.call("CLUSTER", "ADDSLOTS", slot)
    [failure] = report.failures
    assert failure.node == address(victim)
    assert "the cluster is down" in failure.error
    assert not report.equal
    assert report.moving == 0
    # Nothing was passed over.
    faulty_cluster.wait_ready()
    rest = audit(client, resume=report.cursor)
    assert rest.equal
    assert report.keys + rest.keys == 107


def test_resume_after_a_replica_that_failed_on_the_way(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    """What it was not asked for is not passed over."""
    fill(client, 3_000)
    inject.settle()
    replicas = faulty_cluster.replicas

    def kill(_: Any) -> None:
        for victim in replicas:
            if victim.running:
                faulty_cluster.kill(victim)

    first = audit(client, rate=4_000, timeout=1.0, progress=kill)
    assert {failure.node for failure in first.failures} == set(map(address, replicas))
    assert first.cursor is not None
    for victim in replicas:
        faulty_cluster.restart(victim)
    faulty_cluster.wait_ready()
    client.nodes_manager.initialize()
    second = audit(client, resume=first.cursor)
    assert second.equal
    assert second.cursor is None
    assert first.copies < 3_007 <= first.copies + second.copies


@pytest.mark.parametrize(
    "resume", [[1], {}, {"nodes": []}, {"nodes": {"id": 1}}, {"nodes": {"id": {"node": "x"}}}]
)
def test_what_is_no_cursor(client: RedisCluster, resume: Any) -> None:
    with pytest.raises(ValueError, match="not a report's cursor"):
        audit(client, resume=resume)


def test_a_sample_cannot_be_resumed(client: RedisCluster) -> None:
    with pytest.raises(ValueError, match="leave one of the two out"):
        audit(client, sample=10, resume={"pattern": "*", "nodes": {}})


def test_a_pattern(client: RedisCluster, inject: Injector) -> None:
    fill(client, 300)
    for prefix in ("in", "out"):
        for name, fault in MENDABLE.items():
            fault(inject, f"{prefix}:{name}")
    inject.settle()
    report = audit(client, "in:*")
    assert inject.found(report) == {each for each in inject.expected if each.key.startswith("in:")}
    # Those that only replicas have are not the primaries'.
    assert report.keys <= len(MENDABLE)


def test_a_sample(client: RedisCluster, inject: Injector) -> None:
    fill(client, 5_000)
    inject.settle()
    keys: set[int] = set()
    for _ in range(5):
        report = audit(client, sample=300)
        assert report.equal
        keys.add(report.keys)
        assert 300 <= report.keys < 600
    # Of everything it is everything.
    inject.missing("fault")
    inject.extra("another fault")
    inject.settle()
    report = audit(client, sample=100_000)
    assert report.keys == 5_008
    assert inject.found(report) == inject.expected


def test_a_sample_is_random(faulty_cluster: LocalCluster, client: RedisCluster) -> None:
    """Where each slot has its own table, most random cursors led to the first slot of the node."""
    pipe = client.pipeline()
    for n in range(3_000):
        pipe.set(f"key:{n}", n)
    for n in range(500):
        pipe.set(f"{{tag}}:{n}", n)
    pipe.execute()
    share = 100
    options = Options("*", 3 * share, False, None, 2.0, 5.0, 5.0, 250, 10)
    for node in faulty_cluster.primaries:
        # As if it were one of an audit that looks at so many.
        looking = Audit(client, options, None, None, threading.Event())
        wire = looking.wire(client.get_node(node.host, node.port))
        size = int(wire.call("DBSIZE"))
        drawn: Counter[bytes] = Counter()
        rounds = 5 * size // share
        for _ in range(rounds):
            places = Places(looking, wire, share, size)
            while not places.done:
                cursor, keys = wire.call("SCAN", places.cursor, "COUNT", places.count)
                drawn.update(compress(keys, places.scanned(int(cursor), keys)))
        wire.close()
        # Five times on average, so one key in 150 not at all; some follow one another, so luck has its part.
        assert len(drawn) > 0.95 * size
        assert max(drawn.values()) <= rounds
        tagged = sum(count for key, count in drawn.items() if key.startswith(b"{tag}"))
        if tagged:
            assert 0.7 < tagged / drawn.total() / (500 / size) < 1.3


def test_a_sample_has_no_key_twice(client: RedisCluster, inject: Injector) -> None:
    for n in range(100):
        inject.missing(f"fault:{n}")
    for _ in range(3):
        report = audit(client, sample=60)
        assert 60 <= report.keys <= 100
        assert report.counts == {"missing": report.keys}
        assert len({finding.key for finding in report.findings}) == report.keys


def test_a_rate(client: RedisCluster, inject: Injector) -> None:
    fill(client, 1_000)
    inject.settle()
    report = audit(client, rate=2_000)
    assert report.equal
    assert report.keys_per_second <= 2_400


def test_slots_on_their_way_are_nobodys_fault(
    faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector
) -> None:
    slot = key_slot("{moving}")
    client.mset({f"{{moving}}:{n}": n for n in range(20)})
    client.rpush("{moving}:large", *range(3_000))
    owner = faulty_cluster.owner_of(slot)
    other = next(node for node in faulty_cluster.primaries if node is not owner)
    move = faulty_cluster.slot_move([slot], other)
    move.open()
    options = other.client_options
    login = ("AUTH2", options["username"], options["password"]) if options.get("password") else ()
    owner.call("MIGRATE", other.host, other.port, "", 0, 5_000, *login, "KEYS", "{moving}:3")
    inject.settle()
    report = audit(client)
    assert report.equal
    assert report.moving == 2  # on its new primary, and on the replica of that
    move.move_keys()
    move.close()


def test_keys_are_not_told_by_chance(client: RedisCluster, inject: Injector) -> None:
    inject.missing("secret")
    report = audit(client)
    assert "secret" not in f"{report} {report.as_dict()}"
    assert report.as_dict(show_keys=True)["findings"][0]["key"] == "secret"


def test_findings_are_kept_up_to_a_number(client: RedisCluster, inject: Injector) -> None:
    for n in range(30):
        inject.missing(f"fault:{n}")
    report = audit(client, kept=10)
    assert len(report.findings) == 10
    assert report.counts == {"missing": 30}


def test_forgotten_scripts(faulty_cluster: LocalCluster, client: RedisCluster, inject: Injector) -> None:
    fill(client, 100)
    inject.settle()
    audit(client)
    for node in faulty_cluster.nodes:
        node.call("SCRIPT", "FLUSH")
    assert audit(client).equal


def test_no_connections_are_left(faulty_cluster: LocalCluster, client: RedisCluster) -> None:
    client.set("key", "x")
    before = [node.info("clients")["connected_clients"] for node in faulty_cluster.nodes]
    audit(client)
    audit(client)
    assert [node.info("clients")["connected_clients"] for node in faulty_cluster.nodes] <= before


@pytest.mark.parametrize(
    "options",
    [
        {"pattern": ""},
        {"sample": 0},
        {"rate": 0},
        {"rate": float("nan")},
        {"batch": 0},
        {"timeout": 0},
        {"kept": -1},
        {"lag_timeout": -1},
    ],
)
def test_options_that_make_no_sense(client: RedisCluster, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|is empty"):
        audit(client, **options)


def address(node: LocalNode) -> str:
    return f"{node.host}:{node.port}"


def put_astray(cluster: LocalCluster, key: str, value: bytes) -> LocalNode:
    """Puts a value on a primary that does not own the key's slot, and returns that."""
    slot = key_slot(key)
    owner = cluster.owner_of(slot)
    wrong = next(node for node in cluster.primaries if node is not owner)
    wrong.call("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.id)
    with wrong.connect() as wire:
        wire.pipeline([("ASKING",), ("SET", key, value)])
    wrong.call("CLUSTER", "SETSLOT", slot, "STABLE")
    return wrong


def close(client: RedisCluster, wire: Wire) -> None:
    """Closes a connection as its server does when it was idle for too long."""
    host, _, port = wire.name.rpartition(":")
    node = client.get_redis_connection(client.get_node(host, int(port)))
    node.execute_command("CLIENT", "KILL", "ID", wire.call("CLIENT", "ID"))
