"""Processes with wrong clocks write the same keys, through failovers: what is there in the end is what was written last.

By default six seconds and 200 keys; SLOTWISE_STRESS=1 makes it 30 seconds and 1,000 keys, and kills a primary as well::

    SLOTWISE_STRESS=1 pytest -s tests/consistency/test_convergence.py
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from slotwise import RedisCluster, key_slot
from slotwise._versions import TOMBSTONE, header
from slotwise.consistency import VersionedStore, audit
from slotwise.local import LocalCluster, LocalNode
from slotwise.local.view import read_view
from slotwise.testing.chaos import Chaos
from tests.consistency.writers import APPLIED, DISCARDED, FAILED, UNKNOWN, Record, Writers, key_of

STRESS = os.environ.get("SLOTWISE_STRESS") == "1"
SECONDS = 30.0 if STRESS else 6.0
KEYS = 1000 if STRESS else 200
HISTORY = 100 if STRESS else 40
# Seconds that the writers' clocks are wrong, and what they gain in a second.
SKEWS = [(-20, 0.0), (-13, 0.02), (-6, -0.01), (-1, 0.0), (0, 0.0), (2, 0.01), (11, -0.02), (20, 0.0)]


@pytest.fixture
def prefix() -> str:
    return f"converging:{secrets.token_hex(4)}"


@dataclass
class Kill:
    """A primary that was killed: what it had acknowledged may be gone, from a moment before it lost its replica on."""

    slots: frozenset[int]
    alone: float
    at: float


@dataclass
class OfKey:
    """What the writers know of one key: each writer's writes in its order."""

    writes: dict[int, list[Record]] = field(default_factory=lambda: defaultdict(list))

    def all(self) -> Iterator[Record]:
        for some in self.writes.values():
            yield from some

    def greatest(self, outcome: bytes = APPLIED) -> bytes:
        """The greatest version of all writes with that outcome; empty: none."""
        return max((record.version for record in self.all() if record.outcome == outcome), default=b"")


class Verdict:
    """The writers' records against the servers."""

    def __init__(self, prefix: str, records: list[list[Record]], kill: Kill | None) -> None:
        self.prefix = prefix
        self.records = records
        self.kill = kill
        self.keys: dict[int, OfKey] = defaultdict(OfKey)
        for writer, written in enumerate(records):
            for record in written:
                if record.outcome != FAILED:
                    self.keys[record.key].writes[writer].append(record)

    def may_be_lost(self, record: Record) -> bool:
        """Whether the primary that was killed may have executed it."""
        kill = self.kill
        if kill is None or key_slot(key_of(self.prefix, record.key)) not in kill.slots:
            return False
        return kill.alone - 1 <= record.sent <= kill.at

    # -- values --------------------------------------------------------------------------------------------------------

    def check_values(self, found: dict[int, tuple[bytes, bool]], *, rewritten: bool) -> None:
        """Each key has the greatest version, and is deleted if a delete had that."""
        for number, key in self.keys.items():
            version, deleted = found.get(number, (b"", False))
            by_version = {record.version: record for record in key.all()}
            greatest = key.greatest()
            if not greatest and not version:
                continue
            assert version in by_version, "a version that nobody wrote"
            record = by_version[version]
            assert deleted == (record.action == b"d")
            assert record.outcome in (APPLIED, UNKNOWN)
            if version > greatest:
                assert record.outcome == UNKNOWN
            if version < greatest:
                assert not rewritten
                # The servers have lost all that were greater.
                greater = [one for one in key.all() if one.outcome == APPLIED and one.version > version]
                assert all(self.may_be_lost(one) for one in greater)

    def remembered(self, writer: int) -> dict[int, bytes]:
        """The versions that a writer's store is to remember."""
        memory: dict[int, bytes] = {}
        for record in self.records[writer]:
            if record.outcome == APPLIED:
                memory[record.key] = max(record.version, memory.get(record.key, b""))
            elif record.current > memory.get(record.key, b"\xff"):
                # Somebody else's, and newer.
                del memory[record.key]
        return memory

    def expected_lost(self, writer: int, found: dict[int, tuple[bytes, bool]]) -> set[tuple[int, str]]:
        return {
            (number, version.hex())
            for number, version in self.remembered(writer).items()
            if found.get(number, (b"", False))[0] < version
        }

    # -- histories -----------------------------------------------------------------------------------------------------

    def check_histories(self, histories: dict[int, list[Any]], numbers: dict[int, int]) -> set[Record]:
        """The histories, newest first, against the records; ``numbers`` has the writers' by theirs in versions.

        Returns what is missing of what the killed primary had acknowledged.
        """
        missing: set[Record] = set()
        for number, key in self.keys.items():
            entries = histories[number][::-1]
            assert len(entries) <= HISTORY
            self._check_order(entries)
            by_version = {record.version: record for record in key.all()}
            writer_of = {record.version: writer for writer, some in key.writes.items() for record in some}
            seen = [bytes(entry.version) for entry in entries]
            assert len(set(seen)) == len(seen), "a write stands there twice"
            for entry, version in zip(entries, seen, strict=True):
                record = by_version[version]
                assert entry.action[0].encode() == record.action
                assert numbers[entry.writer] == writer_of[version]
                assert record.outcome in (UNKNOWN, entry.outcome[0].encode())
            missing.update(self._missing(key, seen, full=len(entries) == HISTORY))
            oldest = min((bytes(e.version) for e in entries if e.outcome == "applied"), default=None)
            for record in key.all() if oldest is not None else ():
                # Versions that are applied grow: all that are newer than the oldest one have to be there.
                if record.outcome == APPLIED and record.version > oldest and record.version not in seen:
                    missing.add(record)
        assert all(self.may_be_lost(record) for record in missing)
        return missing

    @staticmethod
    def _check_order(entries: list[Any]) -> None:
        """From the oldest: what is applied is newer than all that was, and what is discarded is not."""
        newest = None
        for entry in entries:
            if newest is not None:
                assert (entry.version > newest) == (entry.outcome == "applied")
            if entry.outcome == "applied":
                newest = entry.version

    def _missing(self, key: OfKey, seen: list[bytes], full: bool) -> Iterator[Record]:
        """Each writer's are in its order, and from the oldest on they are all there, except for unknown ones."""
        place = {version: i for i, version in enumerate(seen)}
        for some in key.writes.values():
            places = [place[record.version] for record in some if record.version in place]
            assert places == sorted(places)
            first = next((i for i, record in enumerate(some) if record.version in place), None)
            if first is None and full:
                continue
            for record in some[0 if not full else first :]:
                if record.version not in place and record.outcome != UNKNOWN:
                    yield record


def the_servers_values(cluster: LocalCluster, prefix: str) -> dict[int, tuple[bytes, bool]]:
    """Number of each key -> version and whether it is a tombstone, alike on its primary and on its replicas."""
    found: dict[int, tuple[bytes, bool]] = {}
    owned = {node.id: node for node in cluster.primaries}
    views = {node_id: read_view(node)[node_id].slots for node_id, node in owned.items()}
    by_node: dict[str, list[int]] = defaultdict(list)
    for number in range(KEYS):
        slot = key_slot(key_of(prefix, number))
        by_node[next(node_id for node_id, slots in views.items() if slot in slots)].append(number)
    for node_id, numbers in by_node.items():
        primary = owned[node_id]
        assert primary.call("WAIT", 1, 20_000) == 1
        mine = stored(primary, prefix, numbers)
        (replica,) = cluster.replicas_of(primary)
        until = time.monotonic() + 20
        while int(replica.info("replication")["slave_repl_offset"]) < int(
            primary.info("replication")["master_repl_offset"]
        ):
            assert time.monotonic() < until
        assert stored(replica, prefix, numbers) == mine
        for number, value in mine.items():
            if value is not None:
                version, flags = header(value)
                found[number] = bytes(version), bool(flags & TOMBSTONE)
    return found


def stored(node: LocalNode, prefix: str, numbers: list[int]) -> dict[int, bytes | None]:
    with redis.Redis(node.host, node.port, **node.client_options) as client:
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("READONLY")
        for number in numbers:
            pipe.get(key_of(prefix, number))
        return dict(zip(numbers, pipe.execute()[1:], strict=True))


@dataclass
class Result:
    """What came of a run."""

    keys: int
    #: Of all writers, as their stores counted.
    counted: Counter[str]
    #: What `lost_writes` of all writers told, and what is missing in histories.
    lost: int
    missing: int

    def __str__(self) -> str:
        told = ", ".join(f"{number:,} {name}" for name, number in self.counted.items())
        return f"{len(SKEWS)} writers, {SECONDS:g} s, {self.keys} keys: {told}; lost: {self.lost}, {self.missing} in histories"


def write_and_compare(cluster: LocalCluster, prefix: str, folder: Path, *, kill: bool = False) -> Result:
    killed: Kill | None = None
    with (
        Chaos(cluster, proxied=False) as chaos,
        Writers(cluster.url, SKEWS, prefix, KEYS, HISTORY, folder) as writers,
    ):
        writers.tell("write", SECONDS)
        until = time.monotonic() + SECONDS
        time.sleep(SECONDS / 2)
        chaos.failover(chaos.owner_of(key_of(prefix, 0)))
        if kill:
            # Near the end: what is lost must not have been overwritten.
            time.sleep(max(0.0, until - 0.4 - time.monotonic()))
            killed = kill_alone(chaos, chaos.owner_of(key_of(prefix, 0)))
        told = writers.answers()
        chaos.heal()
        verdict = Verdict(prefix, writers.records(), killed)
        counted = check_counters(verdict.records, told)
        found = the_servers_values(cluster, prefix)
        verdict.check_values(found, rewritten=False)
        keys = {number: key_of(prefix, number) for number in range(KEYS)}
        with RedisCluster.from_url(cluster.url) as client:
            store = VersionedStore(client)
            histories = {number: store.sync_history(key) for number, key in keys.items()}
            numbers = {answer["writer"]: number for number, answer in enumerate(told)}
            missing = verdict.check_histories(histories, numbers)
            # What the servers have forgotten, each writer knows of its own, and nothing else.
            writers.tell("lost", False)
            lost = writers.answers()
            for writer, writes in enumerate(lost):
                assert {(number, version) for number, version, _, _ in writes} == verdict.expected_lost(
                    writer, found
                )
            writers.tell("lost", True)
            writers.answers()
            writers.tell("lost", False)
            assert writers.answers() == [[]] * len(SKEWS)
            found = the_servers_values(cluster, prefix)
            verdict.check_values(found, rewritten=True)
            check_reads(store, keys, found)
            report = audit(client)
            assert report.equal, report
            assert report.versioned == len(found)
    result = Result(len(verdict.keys), counted, sum(map(len, lost)), len(missing))
    print(f"\n{result}")
    return result


def kill_alone(chaos: Chaos, victim: LocalNode) -> Kill:
    """Kills a primary whose replica has not heard of its last writes."""
    slots = read_view(victim)[victim.id].slots
    (replica,) = chaos.replicas_of(victim)
    alone = time.monotonic()
    chaos.pause(replica)
    victim.call("CLIENT", "KILL", "TYPE", "replica")
    time.sleep(0.1)
    chaos.kill(victim)
    at = time.monotonic()
    chaos.resume(replica)
    # Before it is restarted, empty as it is.
    chaos.wait_ready()
    return Kill(slots, alone, at)


def check_counters(records: list[list[Record]], told: list[Any]) -> Counter[str]:
    """Each store has counted what its writer was told; the sums."""
    whole: Counter[str] = Counter()
    names = {"applied": APPLIED, "discarded": DISCARDED, "unknown": UNKNOWN, "failed": FAILED}
    for written, answer in zip(records, told, strict=True):
        outcomes = Counter(record.outcome for record in written)
        stats = answer["stats"]
        assert {name: stats[name] for name in names} == {name: outcomes[one] for name, one in names.items()}
        assert (stats["refused"], stats["unconfirmed"], stats["drifted"]) == (0, 0, 0)
        whole.update({name: stats[name] for name in (*names, "repeated")})
        whole["writes"] += len(written)
    return whole


def check_reads(store: VersionedStore, keys: dict[int, str], found: dict[int, tuple[bytes, bool]]) -> None:
    """What is deleted stays deleted for those who read."""
    values = store.get_many(keys.values())
    assert {key for key in keys.values() if key in values} == {
        keys[number] for number, (_, deleted) in found.items() if not deleted
    }
    deleted = [number for number, (_, gone) in found.items() if gone]
    assert deleted
    for number in deleted[:20]:
        assert store.get(keys[number]) is None
        there = store.get_with_version(keys[number])
        assert there is not None
        assert there.deleted


def test_writers_with_wrong_clocks_and_a_failover(
    faulty_cluster: LocalCluster, prefix: str, tmp_path: Path
) -> None:
    result = write_and_compare(faulty_cluster, prefix, tmp_path)
    assert result.keys == KEYS
    assert min(result.counted["applied"], result.counted["discarded"]) > KEYS
    assert (result.lost, result.missing) == (0, 0)


@pytest.mark.skipif(not STRESS, reason="SLOTWISE_STRESS=1 kills a primary as well")
def test_writers_with_wrong_clocks_and_a_killed_primary(
    faulty_cluster: LocalCluster, prefix: str, tmp_path: Path
) -> None:
    result = write_and_compare(faulty_cluster, prefix, tmp_path, kill=True)
    assert result.keys == KEYS
    assert result.lost > 0
