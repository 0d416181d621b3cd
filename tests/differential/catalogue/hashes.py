"""Hashes and their fields."""

from typing import Any

from redis.commands.core import HashDataPersistOptions

from tests.differential.case import NOWHERE, A, case
from tests.differential.compare import between, drawn_from

HASH = ("HSET", A, "one", 1, "two", "zwei", "three", 3.5)
TEXT = ("SET", A, "value")
FIELD_EXPIRES = (HASH, ("HPEXPIREAT", A, 4_000_000_000_000, "FIELDS", 1, "one"))
FUTURE = 4_000_000_000


def scan_all(client: Any) -> Any:
    return list(client.hscan_iter(A, match="t*", count=1))


def scan_names(client: Any) -> Any:
    return list(client.hscan_iter(A, no_values=True))


CASES = [
    case("hdel", A, "one", "missing").given(HASH),
    case("hdel", A, "one", "two", "three").given(HASH),
    case("hdel", NOWHERE, "one"),
    case("hdel", A).given(HASH).fails(),
    case("hexists", A, "one").given(HASH),
    case("hexists", A, "missing").given(HASH),
    case("hget", A, "two").given(HASH),
    case("hget", A, b"two").given(HASH),
    case("hget", A, "missing").given(HASH),
    case("hget", NOWHERE, "one"),
    case("hget", A, "one").given(TEXT).fails(),
    case("hgetall", A).given(HASH),
    case("hgetall", A).given(("HSET", A, "", "", "żółw", "ćma")),
    case("hgetall", NOWHERE),
    case("hgetall", A).given(TEXT).fails(),
    case("hincrby", A, "one").given(HASH),
    case("hincrby", A, "new", -5).given(HASH),
    case("hincrby", A, "two").given(HASH).fails(),
    case("hincrbyfloat", A, "three").given(HASH),
    case("hincrbyfloat", A, "one", 0.25).given(HASH),
    case("hincrbyfloat", A, "two", 1).given(HASH).fails(),
    case("hkeys", A).given(HASH),
    case("hkeys", NOWHERE),
    case("hlen", A).given(HASH),
    case("hlen", NOWHERE),
    case("hmget", A, "one", "missing", "three").given(HASH),
    case("hmget", A, ["one", "two"]).given(HASH),
    case("hmget", A, ["one"], "two").given(HASH),
    case("hmget", A, []).fails(),
    case("hmset", A, {"a": 1, "b": b"2"}),
    case("hmset", A, {}).fails(),
    case("hrandfield", A).given(HASH).seen_as(drawn_from("one", "two", "three")),
    case("hrandfield", A, 3).given(HASH).seen_as(drawn_from("one", "two", "three")),
    case("hrandfield", A, -5).given(HASH).seen_as(drawn_from("one", "two", "three")),
    case("hrandfield", A, 3, withvalues=True)
    .given(HASH)
    .seen_as(drawn_from("one", "two", "three", 1, "zwei", 3.5)),
    case("hrandfield", NOWHERE),
    case("hrandfield", NOWHERE, 2, withvalues=True),
    case("hscan", A).given(HASH),
    case("hscan", A, 0, match="t*", count=10).given(HASH),
    case("hscan", A, no_values=True).given(HASH).newer(),
    case("hscan", NOWHERE),
    case("hscan_iter").doing(scan_all).given(HASH),
    case("hscan_iter").doing(scan_names).given(HASH).newer(),
    case("hset", A, "one", 1),
    case("hset", A, "one", 2).given(HASH),
    case("hset", A, mapping={"a": 1, "b": 2.5, b"c": b"\xff"}),
    case("hset", A, "a", 1, mapping={"b": 2}, items=["c", 3]),
    case("hset", A, items=["a", 1, "b"]).fails(),
    case("hset", A).fails(),
    case("hset", A, "one", None).fails(),
    case("hset", A, "one", 1).given(TEXT).fails(),
    case("hsetnx", A, "one", 5).given(HASH),
    case("hsetnx", A, "new", 5).given(HASH),
    case("hstrlen", A, "two").given(HASH),
    case("hstrlen", NOWHERE, "two"),
    case("hvals", A).given(HASH),
    case("hvals", NOWHERE),
    # fields that expire
    case("hexpire", A, 100, "one", "missing").given(HASH),
    case("hexpire", A, 100, "one", nx=True).given(*FIELD_EXPIRES),
    case("hexpire", A, 100, "one", nx=True, xx=True).given(HASH).fails(),
    case("hexpire", NOWHERE, 100, "one"),
    case("hexpire", A, 0, "one").given(HASH),
    case("hexpireat", A, FUTURE, "one", "two").given(HASH),
    case("hexpireat", A, 1, "one").given(HASH),
    case("hexpireat", A, FUTURE, "one", gt=True).given(*FIELD_EXPIRES),
    case("hexpiretime", A, "one", "two", "missing").given(*FIELD_EXPIRES),
    case("hexpiretime", NOWHERE, "one"),
    case("hpexpire", A, 100_000, "one").given(HASH),
    case("hpexpire", A, 100_000, "one", lt=True).given(*FIELD_EXPIRES),
    case("hpexpireat", A, FUTURE * 1000, "one").given(HASH),
    case("hpexpireat", A, FUTURE * 1000, "one", xx=True).given(HASH),
    case("hpexpiretime", A, "one", "two").given(*FIELD_EXPIRES),
    case("hpersist", A, "one", "two", "missing").given(*FIELD_EXPIRES),
    case("hpttl", A, "one", "two").given(*FIELD_EXPIRES).seen_as(between(-2, FUTURE * 1000)),
    case("httl", A, "one", "two").given(*FIELD_EXPIRES).seen_as(between(-2, FUTURE)),
    case("httl", NOWHERE, "one"),
    case("hgetdel", A, "one", "missing").given(HASH),
    case("hgetdel", A).fails(),
    case("hgetex", A, "one", "missing", ex=100).given(HASH),
    case("hgetex", A, "one", persist=True).given(*FIELD_EXPIRES),
    case("hgetex", A, "one", ex=1, px=1).fails(),
    case("hgetex", A).fails(),
    case("hsetex", A, "one", 1, ex=100),
    case("hsetex", A, mapping={"a": 1, "b": 2}, px=100_000, data_persist_option=HashDataPersistOptions.FNX),
    case("hsetex", A, items=["a", 1], keepttl=True).given(HASH),
    case("hsetex", A).fails(),
    case("hsetex", A, "one", 1, ex=1, px=1).fails(),
    # fieldsets
    case("himport_set", A, "fieldset", [1, 2]).newer(),
    case("himport_set", A, "fieldset", "one").fails(),
    case("himport_prepare_internal", "fieldset", ["a", "b"]).newer(),
    case("himport_discard_internal", "fieldset").newer(),
    case("himport_discard_all_internal").newer(),
    case("himport_prepare", "fieldset", ["a", "b"]).alone(),
    case("himport_prepare", "fieldset", []).alone().newer(),
    case("himport_discard", "fieldset").alone(),
    case("himport_discard_all").alone(),
]
