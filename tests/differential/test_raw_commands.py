"""`execute_command` with commands as people write them: any case, separate words, bytes."""

from typing import Any

import pytest

from slotwise import RedisCluster as Subject
from tests.differential.case import NOWHERE, A, B, C, Command, case
from tests.differential.compare import kind, kinds, some_kinds
from tests.differential.conftest import EVERY_SHAPE, Pair

TEXT = ("SET", A, "value")
HASH = ("HSET", A, "one", 1, "two", 2)
SCORES = ("ZADD", A, 1, "one", 2.5, "two")
STREAM = ("XADD", A, "1-1", "field", "value")
GROUP = (STREAM, ("XGROUP", "CREATE", A, "group", "0"))

KEYED: list[tuple[tuple[Command, ...], Command]] = [
    ((TEXT,), ("get", A)),
    ((TEXT,), ("Get", A.encode())),
    ((), ("set", A, "value", "ex", 100)),
    ((TEXT,), ("strlen", A)),
    ((TEXT,), ("append", A, 1.5)),
    ((TEXT,), ("mget", A, B)),
    ((), ("mset", A, 1, B, 2)),
    ((TEXT,), ("exists", A, B)),
    ((TEXT,), ("del", A, B)),
    ((TEXT,), ("object", "encoding", A)),
    ((TEXT,), ("OBJECT ENCODING", A)),
    ((TEXT,), ("memory", "usage", A)),
    ((TEXT,), ("MEMORY USAGE", A)),
    ((TEXT,), ("type", A)),
    ((TEXT,), ("ttl", A)),
    ((HASH,), ("hgetall", A)),
    ((HASH,), ("HGETALL", A)),
    ((HASH,), ("hmget", A, "one", "missing")),
    ((HASH,), ("hincrbyfloat", A, "one", 0.5)),
    ((SCORES,), ("zrange", A, 0, -1, "withscores")),
    ((SCORES,), ("ZRANGE", A, 0, -1, "WITHSCORES")),
    ((SCORES,), ("zscore", A, "two")),
    ((SCORES,), ("zadd", A, "INCR", 1, "one")),
    ((SCORES,), ("zunion", 2, A, B)),
    ((("SADD", A, 1, 2),), ("smembers", A)),
    ((("SADD", A, 1, 2),), ("SMEMBERS", A)),
    ((("RPUSH", A, 1, 2),), ("lrange", A, 0, -1)),
    ((("RPUSH", A, 1, 2),), ("blpop", A, B, 1)),
    ((("RPUSH", A, 1, 2),), ("sort", A, "STORE", C)),
    ((STREAM,), ("xrange", A, "-", "+")),
    ((STREAM,), ("XREAD", "COUNT", 1, "STREAMS", A, 0)),
    (GROUP, ("xinfo", "groups", A)),
    (GROUP, ("XINFO GROUPS", A)),
    (GROUP, ("xreadgroup", "group", "group", "me", "streams", A, ">")),
    ((TEXT,), ("eval", "return redis.call('GET', KEYS[1])", 1, A)),
    ((TEXT,), ("EVAL", "return KEYS", "2", A, B)),
    ((), ("get", NOWHERE)),
    ((TEXT,), ("nosuchcommand", A)),
    ((TEXT,), ("get",)),
    ((TEXT,), ("get", A, "too", "many")),
    ((TEXT,), ("object", "nosense", A)),
]

KEYLESS: list[tuple[Command, Any]] = [
    (("ping",), None),
    (("PING", "hello"), None),
    (("config", "get", "maxmemory"), None),
    (("CONFIG GET", "maxmemory"), None),
    (("dbsize",), kind),
    (("client", "id"), kind),
    (("CLIENT ID",), kind),
    (("cluster", "keyslot", A), None),
    (("CLUSTER INFO",), some_kinds),
    (("cluster", "slots"), some_kinds),
    (("command", "count"), kind),
    (("COMMAND GETKEYS", "SET", "a", "b"), None),
    (("pubsub", "numsub", "channel"), None),
    (("PUBSUB CHANNELS",), None),
    (("script", "exists", "f" * 40), None),
    (("SCRIPT LOAD", "return 1"), None),
    (("slowlog", "len"), kind),
    (("time",), kinds),
    (("wait", 0, 1), kind),
    (("publish", "channel", "message"), None),
    (("acl", "whoami"), None),
    (("echo", "hello"), None),
    (("eval", "return 1", 0), None),
]


def name_of(value: Any) -> str:
    """The same in every process, so that workers agree on the tests' names."""
    return getattr(value, "__name__", repr(value))


def raw(*words: Any) -> Any:
    def call(client: Any) -> Any:
        return client.execute_command(*words)

    call.__name__ = repr(words)
    return call


@pytest.mark.parametrize(("setup", "words"), KEYED, ids=repr)
def test_same_answer_about_a_key(setup: tuple[Command, ...], words: Command, pairs: list[Pair]) -> None:
    for pair in pairs[:EVERY_SHAPE]:
        pair.answers(case("execute_command").doing(raw(*words)).given(*setup).newer())


@pytest.mark.parametrize(("words", "view"), KEYLESS, ids=name_of)
def test_same_answer_without_a_key(words: Command, view: Any, pairs: list[Pair]) -> None:
    one = case("execute_command").doing(raw(*words)).newer()
    for pair in pairs[:EVERY_SHAPE]:
        pair.answers(one.seen_as(view) if view else one)


@pytest.mark.parametrize(("setup", "words"), KEYED[:12], ids=repr)
def test_a_name_in_bytes_is_the_same_name(
    setup: tuple[Command, ...], words: Command, pairs: list[Pair]
) -> None:
    """redis-py fails on bytes with a TypeError of its own, so it is asked with text."""
    name = words[0]

    def by_class(client: Any) -> Any:
        return client.execute_command(name.encode() if isinstance(client, Subject) else name, *words[1:])

    by_class.__name__ = repr(words)
    for pair in pairs[:EVERY_SHAPE]:
        pair.answers(case("execute_command").doing(by_class).given(*setup))


@pytest.mark.parametrize("target", ["primaries", "replicas", "all", "random", "default-node"])
def test_same_answer_of_chosen_nodes(target: str, pairs: list[Pair]) -> None:
    def ping(client: Any) -> Any:
        return client.execute_command("PING", target_nodes=target)

    def role(client: Any) -> Any:
        return client.execute_command("INFO", "replication", target_nodes=target)

    for pair in pairs[:EVERY_SHAPE]:
        pair.answers(case("execute_command").doing(ping))
        pair.answers(case("execute_command").doing(role).seen_as(some_kinds))


def test_options_reach_the_reply_parser(pairs: list[Pair]) -> None:
    def scores(client: Any) -> Any:
        return client.execute_command("ZRANGE", A, 0, -1, "WITHSCORES", withscores=True, score_cast_func=int)

    def never_decoded(client: Any) -> Any:
        return client.execute_command("GET", A, NEVER_DECODE=[])

    for pair in pairs:
        pair.answers(case("execute_command").doing(scores).given(("ZADD", A, 1, "one", 2, "two")))
        pair.answers(case("execute_command").doing(never_decoded).given(("SET", A, b"\xff")))


def test_a_response_callback_of_the_caller_is_used(pairs: list[Pair]) -> None:
    def with_callback(client: Any) -> Any:
        client.set_response_callback("GET", lambda reply, **options: ("mine", reply))
        with client.pipeline() as pipe:
            return client.get(A), client.execute_command("get", A), pipe.get(A).strlen(A).execute()

    for pair in pairs[:EVERY_SHAPE]:
        pair.answers(case("set_response_callback").doing(with_callback).given(TEXT).alone())
