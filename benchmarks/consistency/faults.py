"""Faults in the copies of keys, put into a local cluster on purpose.

A script of the primary may keep a write from its replicas (``redis.set_repl``). So a copy that was changed behind the
primary's back is one that everybody was told, and of which the primary has then taken back its part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from slotwise._slots import key_slot
from slotwise.consistency.findings import AuditReport
from slotwise.local import LocalCluster, LocalNode

_ALONE = "redis.replicate_commands() redis.set_repl(redis.REPL_NONE) return redis.call(unpack(ARGV))"


def versioned(milliseconds: int, payload: bytes, writer: int = 7) -> bytes:
    """A value in the stored form of docs/consistency.md."""
    version = milliseconds.to_bytes(6, "big") + bytes(2) + writer.to_bytes(8, "big")
    body = version + b"\x00" + payload
    return b"\xc1SW\x01" + hashlib.sha1(body).digest()[:4] + body


@dataclass(frozen=True)
class Expected:
    """What an audit is to tell of a fault: kind, key, and whether it is the copy of a replica."""

    kind: str
    key: str
    of_replica: bool


class Injector:
    """Puts faults into a cluster; `expected` is what an audit is to find."""

    def __init__(self, cluster: LocalCluster, client: Any) -> None:
        self.cluster = cluster
        self.client = client
        self.expected: set[Expected] = set()

    def owner(self, key: str) -> LocalNode:
        return self.cluster.owner_of(key_slot(key))

    def alone(self, key: str, *command: str | bytes | int) -> Any:
        """A command on the primary that its replicas do not hear of."""
        return self.owner(key).call("EVAL", _ALONE, 1, key, *command)

    def _expect(self, kind: str, key: str, of_replica: bool = True) -> None:
        self.expected.add(Expected(kind, key, of_replica))

    # -- faults --------------------------------------------------------------------------------------------------------

    def missing(self, key: str) -> None:
        """A key that a replica has lost."""
        self.alone(key, "SET", key, "only here")
        self._expect("missing", key)

    def missing_hash(self, key: str) -> None:
        self.alone(key, "HSET", key, "field", "only here")
        self._expect("missing", key)

    def different(self, key: str) -> None:
        """Another value on the replica."""
        self.client.set(key, "of the replica")
        self.alone(key, "SET", key, "of the primary")
        self._expect("different", key)

    def different_element(self, key: str, elements: int = 20) -> None:
        """One element of a hash is another on the replica."""
        self.client.hset(key, mapping={f"field:{n}": n for n in range(elements)})
        self.alone(key, "HSET", key, "field:7", "changed")
        self._expect("different", key)

    def different_score(self, key: str, elements: int = 20) -> None:
        self.client.zadd(key, {f"member:{n}": n for n in range(elements)})
        self.alone(key, "ZADD", key, "7.25", "member:7")
        self._expect("different", key)

    def different_member(self, key: str, elements: int = 20) -> None:
        self.client.sadd(key, *(f"member:{n}" for n in range(elements)))
        self.alone(key, "SREM", key, "member:3")
        self.alone(key, "SADD", key, "stranger")
        self._expect("different", key)

    def different_order(self, key: str, elements: int = 20) -> None:
        """The same elements of a list in another order."""
        self.client.rpush(key, *range(elements))
        self.alone(key, "RPUSH", key, self.alone(key, "LPOP", key))
        self._expect("different", key)

    def different_entry(self, key: str) -> None:
        self.client.xadd(key, {"field": "value"}, id="1-1")
        self.alone(key, "XADD", key, "1-2", "field", "value")
        self._expect("different", key)

    def different_type(self, key: str) -> None:
        self.client.rpush(key, "x")
        self.alone(key, "DEL", key)
        self.alone(key, "SADD", key, "x")
        self._expect("different", key)

    def newer_on_the_replica(self, key: str) -> None:
        """A write that the primary has lost."""
        self.client.set(key, versioned(2_000, b"new"))
        self.alone(key, "SET", key, versioned(1_000, b"old"))
        self._expect("different", key)

    def newer_on_the_primary(self, key: str) -> None:
        """A write that the replica has lost."""
        self.client.set(key, versioned(1_000, b"old"))
        self.alone(key, "SET", key, versioned(2_000, b"new"))
        self._expect("different", key)

    def extra(self, key: str) -> None:
        """A deletion that the replica has not heard of."""
        self.client.set(key, "gone")
        self.alone(key, "DEL", key)
        self._expect("extra", key)

    def wrong_ttl(self, key: str) -> None:
        self.client.set(key, "x", ex=5_000)
        self.alone(key, "PEXPIRE", key, 9_000_000)
        self._expect("wrong_ttl", key)

    def no_ttl(self, key: str) -> None:
        """A key that the replica will never let expire."""
        self.client.set(key, "x")
        self.alone(key, "PEXPIRE", key, 9_000_000)
        self._expect("wrong_ttl", key)

    def ttl_of_the_replica(self, key: str) -> None:
        """A key that only the replica will let expire."""
        self.client.set(key, "x", ex=5_000)
        self.alone(key, "PERSIST", key)
        self._expect("wrong_ttl", key)

    def damaged_primary(self, key: str) -> None:
        """A byte has flipped on the primary."""
        self.client.set(key, versioned(1_000, b"payload"))
        self.alone(key, "SETRANGE", key, 27, "#")
        self._expect("damaged", key, False)

    def damaged_replica(self, key: str) -> None:
        """A byte has flipped on the replica."""
        self.client.set(key, versioned(1_000, b"payload"))
        self.client.setrange(key, 27, "#")
        self.alone(key, "SETRANGE", key, 27, "y")
        self._expect("damaged", key)

    def misplaced(self, key: str) -> None:
        """A key on a node that does not own its slot."""
        slot, owner = key_slot(key), self.owner(key)
        wrong = next(node for node in self.cluster.primaries if node is not owner)
        wrong.call("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.id)
        with wrong.connect() as wire:
            wire.pipeline([("ASKING",), ("SET", key, "astray")])
        wrong.call("CLUSTER", "SETSLOT", slot, "STABLE")
        self._expect("misplaced", key, False)

    # -- faults that no repair undoes ----------------------------------------------------------------------------------

    def damaged_everywhere(self, key: str) -> None:
        """A byte has flipped, and replication has carried it on."""
        self.client.set(key, versioned(1_000, b"payload"))
        self.client.setrange(key, 27, "#")
        self._expect("damaged", key, False)

    def unknown_format(self, key: str) -> None:
        """A value in a form of the future."""
        self.client.set(key, b"\xc1SW\x02" + bytes(30))
        self._expect("unknown_format", key, False)

    @contextmanager
    def lagging(self, key: str) -> Iterator[None]:
        """A replica that answers and gets no writes: it cannot log in to its primary."""
        [replica] = self.cluster.replicas_of(self.owner(key))
        names = ("masteruser", "masterauth")
        before = {name: replica.call("CONFIG", "GET", name)[1] for name in names}
        for name in names:
            replica.call("CONFIG", "SET", name, "nobody")
        replica.call("CLIENT", "KILL", "TYPE", "master")
        self.client.set(key, "on its way")
        self._expect("lagging", key)
        try:
            yield
        finally:
            for name in names:
                replica.call("CONFIG", "SET", name, before[name])

    # -- what came of it -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Returns when the replicas have heard of all that they are told."""
        for primary in self.cluster.primaries:
            primary.call("WAIT", 1, 10_000)

    def found(self, report: AuditReport) -> set[Expected]:
        return {
            Expected(finding.kind, finding.key.decode(), finding.replica is not None)
            for finding in report.findings
            if finding.kind != "busy"
        }


#: Faults that repair undoes, by name.
MENDABLE: dict[str, Callable[[Injector, str], None]] = {
    name: getattr(Injector, name)
    for name in (
        "missing",
        "missing_hash",
        "different",
        "different_element",
        "different_score",
        "different_member",
        "different_order",
        "different_entry",
        "different_type",
        "newer_on_the_replica",
        "newer_on_the_primary",
        "extra",
        "wrong_ttl",
        "no_ttl",
        "ttl_of_the_replica",
        "damaged_primary",
        "damaged_replica",
        "misplaced",
    )
}
LASTING: dict[str, Callable[[Injector, str], None]] = {
    name: getattr(Injector, name) for name in ("damaged_everywhere", "unknown_format")
}


def fill(client: Any, number: int) -> None:
    """Keys of every type, some of each large, and as many small ones as it takes."""
    client.hset("large:hash", mapping={f"field:{n}": n for n in range(3_000)})
    client.sadd("large:set", *range(3_000))
    client.zadd("large:zset", {f"member:{n}": n / 3 for n in range(3_000)})
    client.rpush("large:list", *range(3_000))
    client.set("large:string", "x" * 1_000_000)
    client.set("large:versioned", versioned(1_000, b"x" * 1_000_000))
    client.delete("large:stream")
    stream = client.pipeline()
    for n in range(1, 2_001):
        stream.xadd("large:stream", {"n": n}, id=f"{n}-1")
    stream.execute()
    client.xgroup_create("large:stream", "group", "0")
    client.xreadgroup("group", "consumer", {"large:stream": ">"}, count=10)
    for begin in range(0, number, 10_000):
        pipe = client.pipeline()
        for n in range(begin, min(number, begin + 10_000)):
            match n % 10:
                case 0:
                    pipe.hset(f"key:{n}", mapping={"a": n, "b": "x"})
                case 1:
                    pipe.sadd(f"key:{n}", "a", "b", str(n))
                case 2:
                    pipe.zadd(f"key:{n}", {"a": n, "b": 0.1, "c": float("inf")})
                case 3:
                    pipe.rpush(f"key:{n}", "a", n)
                case 4:
                    pipe.set(f"key:{n}", versioned(n + 1, b"payload"))
                case 5:
                    pipe.set(f"key:{n}", n, ex=10_000)
                case 6 if n < 1_000:
                    pipe.delete(f"key:{n}")
                    pipe.xadd(f"key:{n}", {"a": n}, id="5-5")
                case _:
                    pipe.set(f"key:{n}", f"value {n}" * 5)
        pipe.execute()
