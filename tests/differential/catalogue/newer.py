"""Arrays, vector sets and the commands of modules: what only some servers have.

Without them both clients must say alike that the command is missing.
"""

from typing import Any

from redis.commands.core import ArrayAggregateOperations, ArrayPredicateCombinator, ArrayPredicateType
from redis.commands.vectorset.commands import QuantizationOptions

from tests.differential.case import NOWHERE, A, Case, case
from tests.differential.compare import drawn_from, some_kinds

ARRAY = ("ARMSET", A, 0, "zero", 1, "one", 5, "five")
VECTORS = (
    ("VADD", A, "VALUES", 3, 1.0, 0.5, 0.25, "first", "NOQUANT"),
    ("VADD", A, "VALUES", 3, 0.5, 1.0, 0.25, "second", "NOQUANT", "SETATTR", '{"year": 1990}'),
)


def through(group: str, method: str, /, *args: Any, **kwargs: Any) -> Case:
    """The call ``client.group().method(*args, **kwargs)``."""

    def call(client: Any) -> Any:
        return getattr(getattr(client, group)(), method)(*args, **kwargs)

    call.__name__ = method
    return case(group).doing(call)


def lowest_layer(links: Any) -> Any:
    """How many layers lie above the one that holds all elements is drawn at random."""
    return type(links), links[-1]


def drop_other_index(client: Any) -> Any:
    return client.ft(index_name="other").dropindex()


ARRAYS = [
    case("arset", A, 0, "zero", "one"),
    case("arset", A, 3, b"\xff").given(ARRAY),
    case("armset", A, {0: "zero", 7: "seven"}),
    case("arget", A, 1).given(ARRAY),
    case("arget", A, 3).given(ARRAY),
    case("argetrange", A, 0, 5).given(ARRAY),
    case("armget", A, 0, 1, 3).given(ARRAY),
    case("arcount", A).given(ARRAY),
    case("arlen", A).given(ARRAY),
    case("arlen", NOWHERE),
    case("ardel", A, 0, 3).given(ARRAY),
    case("ardelrange", A, (0, 1), (4, 9)).given(ARRAY),
    case("argrep", A, 0, 5, [(ArrayPredicateType.EXACT, "one")]).given(ARRAY),
    case(
        "argrep",
        A,
        0,
        5,
        [(ArrayPredicateType.GLOB, "*e*"), (ArrayPredicateType.MATCH, "o")],
        combinator=ArrayPredicateCombinator.AND,
        limit=2,
        withvalues=True,
        nocase=True,
    ).given(ARRAY),
    case("arinfo", A).given(ARRAY).seen_as(some_kinds),
    case("arinfo", A, full=True).given(ARRAY).seen_as(some_kinds),
    case("arinsert", A, "x", "y").given(ARRAY),
    case("arlastitems", A, 2).given(ARRAY),
    case("arlastitems", A, 2, rev=True).given(ARRAY),
    case("arnext", A).given(ARRAY),
    case("arop", A, 0, 5, ArrayAggregateOperations.USED).given(ARRAY),
    case("arop", A, 0, 5, ArrayAggregateOperations.MATCH, "one").given(ARRAY),
    case("arring", A, 3, "x", "y"),
    case("arscan", A, 0, 5, limit=2).given(ARRAY),
    case("arseek", A, 3).given(ARRAY),
]

VECTOR_SETS = [
    through("vset", "vadd", A, [1.0, 0.5, 0.25], "first"),
    through(
        "vset",
        "vadd",
        A,
        b"\x00\x00\x80?\x00\x00\x00?",
        "first",
        quantization=QuantizationOptions.NOQUANT,
        cas=True,
    ),
    through("vset", "vadd", A, [1.0, 2.0], "first", attributes={"year": 1990}, ef=100, numlinks=8),
    through("vset", "vadd", A, [], "first").fails(),
    through("vset", "vcard", A).given(*VECTORS),
    through("vset", "vcard", NOWHERE),
    through("vset", "vdim", A).given(*VECTORS),
    through("vset", "vdim", NOWHERE).newer(),
    through("vset", "vemb", A, "first").given(*VECTORS),
    through("vset", "vemb", A, "first", raw=True).given(*VECTORS),
    through("vset", "vemb", A, "missing").given(*VECTORS),
    through("vset", "vgetattr", A, "second").given(*VECTORS),
    through("vset", "vgetattr", A, "first").given(*VECTORS),
    through("vset", "vinfo", A).given(*VECTORS).seen_as(some_kinds),
    through("vset", "vinfo", NOWHERE),
    through("vset", "vlinks", A, "first").given(*VECTORS).seen_as(lowest_layer),
    through("vset", "vlinks", A, "first", with_scores=True).given(*VECTORS).seen_as(lowest_layer),
    through("vset", "vrandmember", A).given(*VECTORS).seen_as(drawn_from("first", "second")),
    through("vset", "vrandmember", A, -3).given(*VECTORS).seen_as(drawn_from("first", "second")),
    through("vset", "vrem", A, "first").given(*VECTORS),
    through("vset", "vsetattr", A, "first", {"year": 2000}).given(*VECTORS),
    through("vset", "vsim", A, "first").given(*VECTORS),
    through("vset", "vsim", A, [1.0, 0.0, 0.0], with_scores=True, count=1).given(*VECTORS),
    through("vset", "vsim", A, "second", with_scores=True, with_attribs=True).given(*VECTORS).newer(),
    through("vset", "vsim", A, "first", filter=".year > 1980", ef=10).given(*VECTORS),
]

MODULES = [
    through("bf", "add", A, "item"),
    through("bf", "create", A, 0.01, 100),
    through("cf", "exists", A, "item"),
    through("cms", "initbydim", A, 10, 10),
    through("json", "set", A, "$", {"a": 1}),
    through("json", "get", A),
    through("json", "mget", [A], "$"),
    through("tdigest", "create", A),
    through("topk", "list", A),
    through("ts", "add", A, 1, 2.5),
    through("ts", "mget", ["a=b"]),
    through("ft", "info"),
    through("ft", "search", "query"),
    case("ft").doing(drop_other_index),
]

CASES = [*ARRAYS, *VECTOR_SETS, *MODULES]
