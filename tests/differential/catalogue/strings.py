"""Strings, bits and HyperLogLogs."""

from typing import Any

from redis.commands.core import DataPersistOptions

from tests.differential.case import NOWHERE, SPREAD, A, B, C, D, E, case
from tests.differential.compare import between

TEXT = ("SET", A, "value")
NUMBER = ("SET", A, 10)
FLOAT = ("SET", A, "10.5")
OTHER = ("SET", B, "other")
EXPIRING = ("SET", A, "value", "EX", 1000)
LIST = ("RPUSH", A, "one")
BITS = ("SET", A, b"\xff\xf0\x00\x01")
FUTURE = 4_000_000_000
FIRST = ("PFADD", A, "a", "b", "c")
SECOND = ("PFADD", B, "c", "d")


def bitfield(client: Any) -> Any:
    return (
        client.bitfield(A, default_overflow="SAT")
        .set("u8", "#0", 250)
        .incrby("u8", 0, 100)
        .incrby("u8", 0, 5, overflow="FAIL")
        .get("i5", 3)
        .execute()
    )


def bitfield_failing(client: Any) -> Any:
    return client.bitfield(A).get("u65", 0).execute()


def get_what_is_no_text(client: Any) -> Any:
    # An error where replies are decoded. Not for pipelines: redis-py loses all replies there, slotwise puts the error in
    # its place.
    return client.get(A)


STRINGS = [
    case("append", A, "more").given(TEXT),
    case("append", A, b"\x00\xff"),
    case("append", A, 3.5),
    case("append", A, "x").given(LIST).fails(),
    case("decr", A).given(NUMBER),
    case("decr", A, 7),
    case("decrby", A, 3).given(NUMBER),
    case("decrby", A, 3).given(TEXT).fails(),
    case("get", A).given(TEXT),
    case("get", A).given(("SET", A, "żółw")),
    case("get", A).given(("SET", A, "")),
    case("get").given(("SET", A, b"\xff\xfe")).doing(get_what_is_no_text).newer(),
    case("get", A.encode()).given(TEXT),
    case("get", NOWHERE),
    case("get", A).given(LIST).fails(),
    case("get", None).fails(),
    case("get", ["{d}a"]).fails(),
    case("get", {"{d}a": 1}).fails(),
    case("get", True).fails(),
    case("get", 12),
    case("get", ""),
    case("getdel", A).given(TEXT),
    case("getdel", NOWHERE),
    case("getex", A).given(EXPIRING),
    case("getex", A, ex=100).given(TEXT),
    case("getex", A, px=100_000).given(TEXT),
    case("getex", A, exat=FUTURE).given(TEXT),
    case("getex", A, pxat=FUTURE * 1000).given(TEXT),
    case("getex", A, persist=True).given(EXPIRING),
    case("getex", A, ex=1, px=1).given(TEXT).fails(),
    case("getex", NOWHERE, ex=1),
    case("getrange", A, 1, -2).given(TEXT),
    case("getrange", NOWHERE, 0, -1),
    case("getset", A, "new").given(TEXT),
    case("getset", A, "new"),
    case("incr", A),
    case("incr", A, 5).given(NUMBER),
    case("incr", A).given(TEXT).fails(),
    case("incr", A).given(LIST).fails(),
    case("incr", A).given(("SET", A, 2**63 - 1)).fails(),
    case("incrby", A, -3).given(NUMBER),
    case("incrby", A, 2**62),
    case("incrby", A, 1.5).fails(),
    case("incrbyfloat", A).given(FLOAT),
    case("incrbyfloat", A, 1e-3).given(FLOAT),
    case("incrbyfloat", A, 2).given(NUMBER),
    case("incrbyfloat", A, 2).given(TEXT).fails(),
    case("lcs", A, B).given(("SET", A, "ohmytext"), ("SET", B, "mynewtext")),
    case("lcs", A, B, len=True).given(("SET", A, "ohmytext"), ("SET", B, "mynewtext")),
    case("lcs", A, B, idx=True).given(("SET", A, "ohmytext"), ("SET", B, "mynewtext")),
    case("lcs", A, B, idx=True, minmatchlen=3, withmatchlen=True).given(
        ("SET", A, "ohmytext"), ("SET", B, "mynewtext")
    ),
    case("lcs", A, B, len=True, idx=True).given(TEXT, OTHER).fails(),
    case("lcs", A, NOWHERE).given(TEXT),
    case("stralgo", "LCS", A, B, specific_argument="keys").newer(),
    # Not of two texts: redis-py finds no node for a call without keys, slotwise asks any.
    case("stralgo", "OTHER", "abc", "ac").fails(),
    case("stralgo", "LCS", "abc", "ac", len=True, idx=True).fails(),
    case("mget", A, B, NOWHERE).given(TEXT, OTHER),
    case("mget", [A, B]).given(TEXT, OTHER),
    case("mget", [A], B).given(TEXT, OTHER),
    case("mget", A, A).given(TEXT),
    case("mget", A, B).given(TEXT, ("RPUSH", B, 1)),
    case("mget", SPREAD).fails(),
    case("mget", []).fails(),
    case("mget_nonatomic", SPREAD).given(*(("SET", key, key) for key in SPREAD[1:])),
    case("mget_nonatomic", A, B).given(TEXT, OTHER),
    case("mget_nonatomic", A, SPREAD[0], A).given(TEXT),
    case("mget_nonatomic", [A, SPREAD[0]], B).given(TEXT),
    case("mget_nonatomic", []),
    case("mset", {A: 1, B: "two", C: b"3", D: 4.5}),
    case("mset", {A: 1, SPREAD[0]: 2}).fails(),
    case("mset", {}).fails(),
    case("mset_nonatomic", {key: number for number, key in enumerate(SPREAD)}),
    case("mset_nonatomic", {A: 1, B: 2, SPREAD[3]: 3}),
    case("mset_nonatomic", {}),
    case("mset_nonatomic", {A: None, SPREAD[0]: "x"}).fails(),
    case("msetnx", {A: 1, B: 2}),
    case("msetnx", {A: 1, B: 2}).given(OTHER),
    case("msetnx", {A: 1, SPREAD[0]: 2}).fails(),
    case("psetex", A, 100_000, "value"),
    case("psetex", A, 0, "value").fails(),
    case("set", A, "value"),
    case("set", A, b"\x00\xff\r\n"),
    case("set", A, bytearray(b"array")),
    case("set", A, memoryview(b"view")),
    case("set", A, 42),
    case("set", A, -(2**80)),
    case("set", A, 0.1),
    case("set", A, 1e300),
    case("set", A, float("inf")),
    case("set", A, ""),
    case("set", A, "żółw"),
    case("set", A, "\ud800").fails(),
    case("set", A, "x" * 100_000),
    case("set", A, None).fails(),
    case("set", A, True).fails(),
    case("set", A, {"a": 1}).fails(),
    case("set", A, ["a"]).fails(),
    case("set", {"{d}a": 1}, "value").fails(),
    case("set", 17, "value"),
    case("set", A, "value", ex=100),
    case("set", A, "value", px=100_000),
    case("set", A, "value", exat=FUTURE),
    case("set", A, "value", pxat=FUTURE * 1000),
    case("set", A, "value", ex="soon").fails(),
    case("set", A, "value", ex="100"),
    case("set", A, "value", ex=1.5).fails(),
    case("set", A, "value", ex=0).fails(),
    case("set", A, "value", ex=1, px=1).fails(),
    case("set", A, "new", nx=True),
    case("set", A, "new", nx=True).given(TEXT),
    case("set", A, "new", xx=True),
    case("set", A, "new", xx=True).given(TEXT),
    case("set", A, "new", nx=True, xx=True).fails(),
    case("set", A, "new", keepttl=True).given(EXPIRING),
    case("set", A, "new", get=True).given(TEXT),
    case("set", A, "new", get=True),
    case("set", A, "new", nx=True, get=True).given(TEXT).newer(),
    case("set", A, "new", get=True).given(LIST).fails(),
    case("set", A, "new", ifeq="value").given(TEXT).newer(),
    case("set", A, "new", ifne="value").given(TEXT).newer(),
    case("set", A, "new", ifdeq="0123456789abcdef").given(TEXT).newer(),
    case("setex", A, 100, "value"),
    case("setex", A, -1, "value").fails(),
    case("setnx", A, "new"),
    case("setnx", A, "new").given(TEXT),
    case("setrange", A, 2, "XYZ").given(TEXT),
    case("setrange", A, 5, "x"),
    case("setrange", A, -1, "x").fails(),
    case("strlen", A).given(TEXT),
    case("strlen", NOWHERE),
    case("substr", A, 1).given(TEXT),
    case("substr", A, 0, 1).given(TEXT),
    case("delex", A).given(TEXT),
    case("delex", A, ifeq="value").given(TEXT),
    case("delex", A, ifeq="x", ifne="y").fails(),
    case("digest", A).given(TEXT),
    case("digest", NOWHERE),
    case("digest_local", "value").newer(),  # needs the xxhash library
    case("increx", A),
    case("increx", A, byint=3, ubound=12, saturate=True, ex=100).given(NUMBER),
    case("increx", A, byfloat=0.5, lbound=0).given(NUMBER),
    case("increx", A, byint=1, byfloat=1.0).fails(),
    case("increx", A, enx=True).fails(),
    case("msetex", {A: 1, B: "two"}),
    case("msetex", {A: 1, B: "two"}, ex=100, data_persist_option=DataPersistOptions.NX),
    case("msetex", {A: 1}, ex=1, px=1).fails(),
]

BIT_MAPS = [
    case("bitcount", A).given(BITS),
    case("bitcount", A, 0, 1).given(BITS),
    case("bitcount", A, 0, -1, "BIT").given(BITS).newer(),
    case("bitcount", A, 0).given(BITS).fails(),
    case("bitcount", NOWHERE),
    case("bitfield").doing(bitfield).given(BITS),
    case("bitfield").doing(bitfield_failing).fails(),
    case("bitfield_ro", A, "u4", 0).given(BITS),
    case("bitfield_ro", A, "u8", 0, [("i5", 3), ("u16", "#1")]).given(BITS),
    case("bitop", "AND", E, A, B).given(BITS, ("SET", B, b"\x0f\x0f")),
    case("bitop", "NOT", E, A).given(BITS),
    case("bitop", "XOR", E, A, NOWHERE).given(BITS),
    case("bitop", "DIFF", E, A, B).given(BITS, ("SET", B, b"\x0f\x0f")).newer(),
    case("bitop", "AND", E, SPREAD[0]).fails(),
    case("bitpos", A, 0).given(BITS),
    case("bitpos", A, 1, 2).given(BITS),
    case("bitpos", A, 1, 2, -1).given(BITS),
    case("bitpos", A, 1, 8, -1, "BIT").given(BITS).newer(),
    case("bitpos", A, 2).given(BITS).fails(),
    case("getbit", A, 0).given(BITS),
    case("getbit", A, 31).given(BITS),
    case("getbit", A, 1000).given(BITS),
    case("setbit", A, 7, 1),
    case("setbit", A, 0, 0).given(BITS),
    case("setbit", A, 0, True).given(BITS),
    case("setbit", A, -1, 1).fails(),
]

HYPER_LOG_LOGS = [
    case("pfadd", A, "a", "b", 1, b"\xff"),
    case("pfadd", A, "a").given(FIRST),
    case("pfadd", A).given(),
    case("pfadd", A, "x").given(TEXT).fails(),
    case("pfcount", A).given(FIRST),
    case("pfcount", A, B).given(FIRST, SECOND).seen_as(between(4, 4)),
    case("pfcount", NOWHERE),
    case("pfcount", A, SPREAD[0]).fails(),
    case("pfmerge", E, A, B).given(FIRST, SECOND),
    case("pfmerge", E),
    case("pfmerge", E, SPREAD[0]).fails(),
]

CASES = [*STRINGS, *BIT_MAPS, *HYPER_LOG_LOGS]
