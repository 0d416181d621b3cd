"""Sets."""

from typing import Any

from tests.differential.case import NOWHERE, SPREAD, A, B, E, case
from tests.differential.compare import drawn_from

NUMBERS = ("SADD", A, 1, 2, 3)
WORDS = ("SADD", A, "x", "y", "z")
OTHER = ("SADD", B, "y", "z", 3, "other")
TEXT = ("SET", A, "value")
IN_NUMBERS = drawn_from(1, 2, 3)


def scan_all(client: Any) -> Any:
    return set(client.sscan_iter(A, match="*", count=1))


CASES = [
    case("sadd", A, "a", "b", 3, b"\xff"),
    case("sadd", A, 1, 9).given(NUMBERS),
    case("sadd", A).fails(),
    case("sadd", A, "a").given(TEXT).fails(),
    case("scard", A).given(WORDS),
    case("scard", NOWHERE),
    case("sdiff", A, B).given(WORDS, OTHER),
    case("sdiff", [A, B]).given(WORDS, OTHER),
    case("sdiff", [A], NOWHERE).given(NUMBERS),
    case("sdiff", A, SPREAD[0]).fails(),
    case("sdiffstore", E, A, B).given(WORDS, OTHER),
    case("sdiffstore", E, [A]).given(NUMBERS),
    case("sdiffstore", SPREAD[0], A).fails(),
    case("sinter", A, B).given(WORDS, OTHER),
    case("sinter", A, NOWHERE).given(WORDS),
    case("sinter", A).given(TEXT).fails(),
    case("sintercard", 2, [A, B]).given(WORDS, OTHER),
    case("sintercard", 2, [A, B], limit=1).given(WORDS, OTHER),
    case("sinterstore", E, A, B).given(WORDS, OTHER),
    case("sinterstore", E, A, NOWHERE).given(WORDS),
    case("sismember", A, "x").given(WORDS),
    case("sismember", A, 1).given(NUMBERS),
    case("sismember", NOWHERE, 1),
    case("smembers", A).given(NUMBERS),
    case("smembers", A).given(WORDS),
    case("smembers", NOWHERE),
    case("smembers", A).given(TEXT).fails(),
    case("smismember", A, ["x", "missing"]).given(WORDS),
    case("smismember", A, "x", "y").given(WORDS),
    case("smismember", NOWHERE, "x"),
    case("smove", A, B, "x").given(WORDS, OTHER),
    case("smove", A, B, "missing").given(WORDS),
    case("smove", A, SPREAD[0], "x").given(WORDS).fails(),
    case("spop", A).given(("SADD", A, "only")),
    case("spop", A, 3).given(NUMBERS).seen_as(IN_NUMBERS),
    case("spop", NOWHERE),
    case("spop", NOWHERE, 2),
    case("srandmember", A).given(NUMBERS).seen_as(IN_NUMBERS),
    case("srandmember", A, 3).given(NUMBERS).seen_as(IN_NUMBERS),
    case("srandmember", A, -5).given(NUMBERS).seen_as(IN_NUMBERS),
    case("srandmember", NOWHERE),
    case("srandmember", NOWHERE, 2),
    case("srem", A, 1, 9).given(NUMBERS),
    case("srem", NOWHERE, 1),
    case("sunion", A, B).given(WORDS, OTHER),
    case("sunion", [A, NOWHERE]).given(NUMBERS),
    case("sunionstore", E, A, B).given(WORDS, OTHER),
    case("sunionstore", E, A, SPREAD[0]).fails(),
    case("sscan", A).given(NUMBERS),
    case("sscan", A, 0, match="1*", count=100).given(NUMBERS),
    case("sscan", NOWHERE),
    case("sscan_iter").doing(scan_all).given(WORDS),
    case("sdiffcard", 2, [A, B]).given(WORDS, OTHER),
    case("sunioncard", 2, [A, B], limit=3).given(WORDS, OTHER),
    case("sunioncard", 2, [A, B], approx=True).given(WORDS, OTHER),
]
