"""Keys of any type: expiry, names, copies, scans."""

from typing import Any

from tests.differential.case import NOWHERE, SPREAD, A, B, E, case
from tests.differential.compare import between, kind, kinds, unordered

TEXT = ("SET", A, "value")
OTHER = ("SET", B, "other")
EXPIRING = ("SET", A, "value", "EX", 1000)
EVERYWHERE = tuple(("SET", key, key) for key in SPREAD)
FUTURE = 4_000_000_000
LIST = ("RPUSH", A, "3", "1", "2")
WEIGHTED = (
    ("RPUSH", A, "3", "1", "2"),
    ("HSET", "{d}h1", "w", 30, "name", "first"),
    ("HSET", "{d}h2", "w", 20, "name", "second"),
    ("HSET", "{d}h3", "w", 10, "name", "third"),
)


# DUMP of the string "value" by the oldest server line.
DUMPED = b"\x00\x05value\t\x00Q\x04\x90\xf4\x95,\xf8\xdf"


def scan_rounds(client: Any) -> Any:
    cursor, found = 0, []
    while True:
        cursor, keys = client.scan(
            cursor, match="spread-*", count=10_000, target_nodes=client.get_node_from_key(A)
        )
        found += keys
        if not any(cursor.values()):
            return sorted(found)


def scan_all(client: Any) -> Any:
    return list(client.scan_iter(match="spread-*", count=1000))


def scan_type(client: Any) -> Any:
    return list(client.scan_iter(match="{d}*", _type="LIST"))


def scan_some_nodes(client: Any) -> Any:
    return list(client.scan_iter(match="spread-*", target_nodes=[client.get_node_from_key(SPREAD[0])]))


CASES = [
    case("copy", A, E).given(TEXT),
    case("copy", A, E).given(TEXT, ("SET", E, 1)),
    case("copy", A, E, replace=True).given(EXPIRING, ("SET", E, 1)),
    case("copy", A, E, destination_db=1).given(TEXT).newer(),
    case("copy", A, SPREAD[0]).given(TEXT).fails(),
    case("delete", A, B, NOWHERE).given(TEXT, OTHER),
    case("delete", *SPREAD).given(*EVERYWHERE),
    case("delete", *SPREAD, A).given(*EVERYWHERE[:3], TEXT),
    case("delete", A, A).given(TEXT),
    case("delete", A, None).given(TEXT).fails(),
    case("delete"),
    case("exists", A).given(TEXT),
    case("exists", A, A, NOWHERE).given(TEXT),
    case("exists", *SPREAD, NOWHERE).given(*EVERYWHERE[2:]),
    case("exists"),
    case("touch", A, NOWHERE).given(TEXT),
    case("touch", *SPREAD).given(*EVERYWHERE[2:]),
    case("unlink", A, NOWHERE).given(TEXT),
    case("unlink", *SPREAD).given(*EVERYWHERE[2:]),
    case("dump", A).given(TEXT).newer(),  # not text: an error where replies are decoded
    case("dump", NOWHERE),
    case("expire", A, 100).given(TEXT),
    case("expire", NOWHERE, 100),
    case("expire", A, -1).given(TEXT),
    case("expire", A, 100, nx=True).given(TEXT).newer(),
    case("expire", A, 100, xx=True).given(TEXT).newer(),
    case("expire", A, 100, gt=True).given(EXPIRING).newer(),
    case("expire", A, 100, lt=True).given(EXPIRING).newer(),
    case("expire", A, "soon").given(TEXT).fails(),
    case("expireat", A, FUTURE).given(TEXT),
    case("expireat", A, FUTURE, nx=True).given(TEXT).newer(),
    case("expireat", NOWHERE, FUTURE),
    case("expiretime", A).given(TEXT, ("EXPIREAT", A, FUTURE)),
    case("expiretime", A).given(TEXT),
    case("expiretime", NOWHERE),
    case("pexpire", A, 100_000).given(TEXT),
    case("pexpire", A, 100_000, xx=True).given(TEXT).newer(),
    case("pexpireat", A, FUTURE * 1000).given(TEXT),
    case("pexpireat", A, FUTURE * 1000, nx=True).given(EXPIRING).newer(),
    case("pexpiretime", A).given(TEXT, ("EXPIREAT", A, FUTURE)),
    case("pexpiretime", NOWHERE),
    case("persist", A).given(EXPIRING),
    case("persist", A).given(TEXT),
    case("pttl", A).given(EXPIRING).seen_as(between(990_000, 1_000_000)),
    case("pttl", A).given(TEXT),
    case("pttl", NOWHERE),
    case("ttl", A).given(EXPIRING).seen_as(between(990, 1000)),
    case("ttl", A).given(TEXT),
    case("ttl", NOWHERE),
    case("rename", A, B).given(TEXT),
    case("rename", A, B).given(TEXT, OTHER),
    case("rename", NOWHERE, B).fails(),
    case("rename", A, SPREAD[0]).given(TEXT).fails(),
    case("renamenx", A, B).given(TEXT),
    case("renamenx", A, B).given(TEXT, OTHER),
    case("renamenx", A, SPREAD[0]).given(TEXT).fails(),
    case("move", A, 1).given(TEXT).newer(),
    case("object", "encoding", A).given(TEXT),
    case("object", "ENCODING", A).given(LIST),
    case("object", "refcount", A).given(TEXT),
    case("object", "idletime", A).given(TEXT).seen_as(between(0, 5)),
    case("object", "freq", A).given(TEXT).fails(),
    case("object", "encoding", NOWHERE).newer(),
    case("type", A).given(TEXT),
    case("type", A).given(LIST),
    case("type", A).given(("XADD", A, "1-1", "f", "v")),
    case("type", NOWHERE),
    case("sort", A).given(LIST),
    case("sort", A, desc=True, start=0, num=2).given(LIST),
    case("sort", A, alpha=True).given(("RPUSH", A, "b", "a")),
    case("sort", A, store=E).given(LIST),
    case("sort", A, start=1).given(LIST).fails(),
    case("sort", A, by="nosort", get="#").given(LIST).newer(),
    case("sort", A, by="{d}h*->w", get=["#", "{d}h*->name"], groups=True).given(*WEIGHTED).newer(),
    case("sort", A, groups=True).given(LIST).fails(),
    case("sort", A).given(("RPUSH", A, "x", "y")).fails(),
    case("sort_ro", A, desc=True).given(LIST),
    case("sort_ro", A, start=0, num=1, alpha=True).given(LIST),
    case("restore", E, 0, DUMPED),
    case("restore", E, 50_000, DUMPED, replace=True).given(("SET", E, 1)),
    case("restore", E, FUTURE * 1000, DUMPED, absttl=True, idletime=10),
    case("restore", E, 0, DUMPED).given(("SET", E, 1)).fails(),
    case("restore", E, 0, b"no dump").fails(),
    case("restore", E, 0, b"", replace=True, absttl=True, idletime=1, frequency=1).fails(),
    case("restore", E, 0, b"x", idletime="never").fails(),
    case("migrate", "127.0.0.1", 1, [A], 0, 100, copy=True, replace=True, auth="any").given(TEXT).newer(),
    case("migrate", "127.0.0.1", 1, A, 0, 100),
    case("migrate", "127.0.0.1", 1, [], 0, 100).fails(),
    # How much it is depends on the allocator's mood.
    case("memory_usage", A).given(TEXT).seen_as(kind),
    case("memory_usage", A, samples=2).given(LIST).seen_as(kind),
    case("memory_usage", NOWHERE),
    case("randomkey").given(*EVERYWHERE).seen_as(kind),
    case("randomkey", target_nodes="primaries").given(*EVERYWHERE).seen_as(kinds),
    case("keys", "spread-*", target_nodes="primaries").given(*EVERYWHERE).seen_as(unordered),
    case("keys", "no such key*"),
    case("keys", "{d}?", target_nodes="all").given(TEXT).seen_as(unordered),
    case("scan", match="spread-*", count=100_000).given(*EVERYWHERE).seen_as(kinds),
    case("scan", 0, match="no such key", count=10, _type="string").seen_as(kinds),
    case("scan").doing(scan_rounds).given(*EVERYWHERE),
    case("scan", "x").fails(),
    case("scan_iter").doing(scan_all).given(*EVERYWHERE).seen_as(unordered),
    case("scan_iter").doing(scan_type).given(LIST, ("SET", B, 1)),
    case("scan_iter").doing(scan_some_nodes).given(*EVERYWHERE).seen_as(unordered),
]
