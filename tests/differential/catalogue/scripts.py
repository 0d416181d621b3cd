"""Scripts and functions."""

from typing import Any

import pytest

from tests.differential.case import SPREAD, A, B, case
from tests.differential.compare import kinds

TEXT = ("SET", A, "value")
GET = "return redis.call('GET', KEYS[1])"
SET = "redis.call('SET', KEYS[1], ARGV[1]); return {KEYS[1], ARGV[1], 1, {2, false}}"
GET_SHA = "d3c21d0c2b9ca22f82737626a27bcaf5d288f99f"
UNKNOWN_SHA = "f" * 40
LOADED = ("SCRIPT", "LOAD", GET)

LIBRARY = """#!lua name=differential
redis.register_function('differential_set', function(keys, args)
  return redis.call('SET', keys[1], args[1])
end)
redis.register_function{function_name='differential_get', callback=function(keys, args)
  return {keys[1], redis.call('GET', keys[1])}
end, flags={'no-writes'}}
"""
OTHER_LIBRARY = "#!lua name=other\nredis.register_function('other', function(keys, args) return 1 end)"
FRESH = ("FUNCTION", "FLUSH", "SYNC")
WITH_LIBRARY = (FRESH, ("FUNCTION", "LOAD", LIBRARY))


def registered(client: Any) -> Any:
    script = client.register_script(SET)
    return script.sha, script([A], ["one"]), script(keys=[A], args=[2.5], client=client)


def registered_reloads(client: Any) -> Any:
    script = client.register_script(GET)
    client.script_flush("SYNC")
    return script(keys=[A])


def registered_across_slots(client: Any) -> Any:
    return client.register_script(GET)(keys=[A, SPREAD[0]])


def dumped_and_restored(client: Any) -> Any:
    payload = client.execute_command("FUNCTION DUMP", target_nodes=client.get_node_from_key(A))
    return client.function_restore(payload, "REPLACE")


def eval_without_a_number_of_keys(client: Any) -> Any:
    # redis-py lets int() complain; slotwise says what the argument should be, in an exception that is a ValueError too.
    with pytest.raises(ValueError, match="x"):
        client.eval(GET, "x", A)
    return "refused"


CASES = [
    case("eval", GET, 1, A).given(TEXT),
    case("eval", SET, 1, A, "new"),
    case("eval", "return {1, 'two', {3}, redis.status_reply('fine')}", 1, A),
    case("eval", "return {double=3.25}", 1, A),
    case("eval", "redis.setresp(3); return redis.call('HGETALL', KEYS[1])", 1, A).given(("HSET", A, "a", 1)),
    case("eval", "return 42", 0),
    case("eval", "return redis.error_reply('MY own error')", 1, A).fails(),
    case("eval", "no lua", 1, A).fails(),
    case("eval", GET, 2, A, SPREAD[0]).fails(),
    case("eval", GET, "x", A).doing(eval_without_a_number_of_keys),
    case("eval_ro", GET, 1, A).given(TEXT),
    case("eval_ro", SET, 1, A, "new").newer(),
    case("evalsha", GET_SHA, 1, A).given(TEXT, LOADED),
    case("evalsha", UNKNOWN_SHA, 1, A).fails(),
    case("evalsha_ro", GET_SHA, 1, A).given(TEXT, LOADED),
    case("script_load", GET),
    case("script_load", "no lua").fails(),
    case("script_exists", GET_SHA, UNKNOWN_SHA).given(LOADED),
    case("script_flush").given(LOADED),
    case("script_flush", "SYNC").given(LOADED),
    case("script_flush", "LATER").fails(),
    case("script_kill").fails(),
    case("script_debug", "YES").fails(),
    case("register_script").doing(registered),
    case("register_script").doing(registered_reloads).given(TEXT),
    case("register_script").doing(registered_across_slots).fails(),
    case("function_load", LIBRARY).given(FRESH),
    case("function_load", LIBRARY).given(*WITH_LIBRARY).fails(),
    case("function_load", LIBRARY, replace=True).given(*WITH_LIBRARY),
    case("function_load", "no library").fails(),
    case("function_delete", "differential").given(*WITH_LIBRARY),
    case("function_delete", "missing").given(FRESH).fails(),
    case("function_flush").given(*WITH_LIBRARY),
    case("function_flush", "ASYNC").given(*WITH_LIBRARY),
    case("function_list").given(*WITH_LIBRARY).seen_as(kinds),
    case("function_list", "diff*", withcode=True).given(*WITH_LIBRARY).seen_as(kinds),
    case("function_list", "missing").given(FRESH),
    case("function_stats").newer(),
    case("function_kill").fails(),
    case("function_dump").given(*WITH_LIBRARY).newer(),
    case("function_dump").given(FRESH).newer(),
    case("function_restore").doing(dumped_and_restored).given(*WITH_LIBRARY).newer(),
    case("function_restore", b"no dump").fails(),
    case("fcall", "differential_set", 1, A, "new").given(*WITH_LIBRARY),
    case("fcall", "differential_get", 1, A).given(*WITH_LIBRARY, TEXT),
    case("fcall", "missing", 1, B).given(FRESH).fails(),
    case("fcall_ro", "differential_get", 1, A).given(*WITH_LIBRARY, TEXT),
    case("fcall_ro", "differential_set", 1, A, "new").given(*WITH_LIBRARY).fails(),
]
