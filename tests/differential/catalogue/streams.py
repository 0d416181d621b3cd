"""Streams and their consumer groups."""

from typing import Any

from tests.differential.case import NOWHERE, SPREAD, A, B, case
from tests.differential.compare import kinds

STREAM = tuple(("XADD", A, f"{number}-1", "field", f"value {number}", "n", number) for number in (1, 2, 3))
OTHER = ("XADD", B, "5-5", "other", "value")
GROUP = (*STREAM, ("XGROUP", "CREATE", A, "group", "0"))
READ = (*GROUP, ("XREADGROUP", "GROUP", "group", "first", "COUNT", 2, "STREAMS", A, ">"))
TEXT = ("SET", A, "value")


def without_times(value: Any) -> Any:
    """Replies about streams in which idle and delivery times are only numbers."""
    if isinstance(value, dict):
        names = {name.decode() if isinstance(name, bytes) else name: name for name in value}
        timed = (
            "idle",
            "inactive",
            "seen-time",
            "active-time",
            "time_since_delivered",
            "radix-tree-keys",
            "radix-tree-nodes",
        )
        return type(value), {
            raw: type(value[raw]) if name in timed else without_times(value[raw])
            for name, raw in names.items()
        }
    if isinstance(value, list | tuple):
        # An entry that a consumer holds: id, consumer, delivery time, count; or without the consumer.
        if 3 <= len(value) <= 4 and isinstance(value[-1], int) and isinstance(value[-2], int):
            return type(value), [*map(without_times, value[:-2]), type(value[-2]), value[-1]]
        return type(value), [without_times(inner) for inner in value]
    return value


CASES = [
    case("xadd", A, {"field": "value"}, id="7-7"),
    case("xadd", A, {"a": 1, b"b": 2.5, "c": b"\xff"}, id="7-7"),
    case("xadd", A, {"field": "value"}, id="1-1").given(*STREAM).fails(),
    case("xadd", A, {"field": "value"}, id="9-9", maxlen=2, approximate=False).given(*STREAM),
    case("xadd", A, {"field": "value"}, id="9-9", minid="2", approximate=False).given(*STREAM),
    case("xadd", A, {"field": "value"}, id="9-9", maxlen=2, limit=10).given(*STREAM),
    case("xadd", NOWHERE, {"field": "value"}, nomkstream=True),
    case("xadd", A, {"field": "value"}, id="9-9", ref_policy="KEEPREF").newer(),
    case("xadd", A, {"field": "value"}, maxlen=1, minid=1).fails(),
    case("xadd", A, {"field": "value"}, maxlen=-1).fails(),
    case("xadd", A, {}).fails(),
    case("xadd", A, "no mapping").fails(),
    case("xadd", A, {"field": "value"}, id="7-7").given(TEXT).fails(),
    case("xlen", A).given(*STREAM),
    case("xlen", NOWHERE),
    case("xdel", A, "1-1", "9-9").given(*STREAM),
    case("xdel", A).given(*STREAM).fails(),
    case("xdelex", A, "1-1", "9-9").given(*STREAM),
    case("xdelex", A, "1-1", ref_policy="DELREF").given(*STREAM),
    case("xdelex", A).fails(),
    case("xdelex", A, "1-1", ref_policy="MAYBE").fails(),
    case("xrange", A).given(*STREAM),
    case("xrange", A, min="2", max="+", count=1).given(*STREAM),
    case("xrange", A, min="(1-1").given(*STREAM),
    case("xrange", A, count=0).fails(),
    case("xrange", NOWHERE),
    case("xrange", A).given(TEXT).fails(),
    case("xrevrange", A).given(*STREAM),
    case("xrevrange", A, max="2", count=1).given(*STREAM),
    case("xread", {A: "0"}).given(*STREAM),
    case("xread", {A: "1-1", B: 0}, count=1).given(*STREAM, OTHER),
    case("xread", {A: "$"}).given(*STREAM),
    case("xread", {A: "$"}, block=5).given(*STREAM),
    case("xread", {A: 0}, block=1000).given(*STREAM),
    case("xread", {NOWHERE: "0"}),
    case("xread", {A: 0, SPREAD[0]: 0}).fails(),
    case("xread", {}).fails(),
    case("xread", {A: 0}, count=0).fails(),
    case("xread", {A: 0}, block=-1).fails(),
    case("xread", {A: 0}, max_count=2).given(*STREAM).newer(),
    case("xtrim", A, maxlen=1, approximate=False).given(*STREAM),
    case("xtrim", A, minid="3", approximate=False).given(*STREAM),
    case("xtrim", A, maxlen=1, limit=5).given(*STREAM),
    case("xtrim", A, maxlen=1, approximate=False, ref_policy="ACKED").given(*STREAM).newer(),
    case("xtrim", A, maxlen=1, minid=1).fails(),
    case("xtrim", A).fails(),
    case("xinfo_stream", A).given(*STREAM).seen_as(without_times),
    case("xinfo_stream", A, full=True).given(*READ).seen_as(without_times),
    case("xinfo_stream", NOWHERE).fails(),
    case("xinfo_groups", A).given(*READ),
    case("xinfo_groups", A).given(*STREAM),
    case("xinfo_consumers", A, "group").given(*READ).seen_as(without_times),
    case("xinfo_consumers", A, "missing").given(*STREAM).fails(),
    case("xgroup_create", A, "group").given(*STREAM),
    case("xgroup_create", A, "group", id="1-1").given(*STREAM),
    case("xgroup_create", B, "group", mkstream=True),
    case("xgroup_create", A, "group", entries_read=2).given(*STREAM).newer(),
    case("xgroup_create", A, "group").given(*GROUP).fails(),
    case("xgroup_create", NOWHERE, "group").fails(),
    case("xgroup_createconsumer", A, "group", "second").given(*GROUP),
    case("xgroup_createconsumer", A, "group", "first").given(*READ),
    case("xgroup_createconsumer", A, "missing", "first").given(*GROUP).fails(),
    case("xgroup_delconsumer", A, "group", "first").given(*READ),
    case("xgroup_delconsumer", A, "group", "missing").given(*READ),
    case("xgroup_destroy", A, "group").given(*GROUP),
    case("xgroup_destroy", A, "missing").given(*GROUP),
    case("xgroup_setid", A, "group", "2-1").given(*GROUP),
    case("xgroup_setid", A, "group", "2-1", entries_read=1).given(*GROUP).newer(),
    case("xgroup_setid", A, "missing", 0).given(*GROUP).fails(),
    case("xreadgroup", "group", "first", {A: ">"}).given(*GROUP),
    case("xreadgroup", "group", "first", {A: ">"}, count=1, block=10, noack=True).given(*GROUP),
    case("xreadgroup", "group", "first", {A: 0}).given(*READ),
    case("xreadgroup", "group", "second", {A: 0}).given(*READ),
    case("xreadgroup", "group", "first", {A: ">"}, block=5).given(
        *GROUP, ("XGROUP", "SETID", A, "group", "$")
    ),
    case("xreadgroup", "group", "first", {A: 0}).given(*READ, ("XDEL", A, "1-1")),
    case("xreadgroup", "group", "first", {A: ">"}, claim_min_idle_time=0).given(*READ).newer().seen_as(kinds),
    case("xreadgroup", "missing", "first", {A: ">"}).given(*STREAM).fails(),
    case("xreadgroup", "group", "first", {}).fails(),
    case("xreadgroup", "group", "first", {A: ">"}, count=0).fails(),
    case("xack", A, "group", "1-1", "9-9").given(*READ),
    case("xack", NOWHERE, "group", "1-1"),
    case("xackdel", A, "group", "1-1", "9-9").given(*READ),
    case("xackdel", A, "group").fails(),
    case("xackdel", A, "group", "1-1", ref_policy="MAYBE").fails(),
    case("xnack", A, "group", "SILENT", "1-1").given(*READ),
    case("xnack", A, "group", "FAIL", "1-1", retrycount=2, force=True).given(*READ),
    case("xnack", A, "group", "LOUD", "1-1").fails(),
    case("xnack", A, "group", "FAIL").fails(),
    case("xcfgset", A, idmp_duration=10, idmp_maxsize=10).given(*STREAM),
    case("xcfgset", A).fails(),
    case("xcfgset", A, idmp_duration=0).fails(),
    case("xpending", A, "group").given(*READ),
    case("xpending", A, "group").given(*GROUP),
    case("xpending", A, "missing").given(*GROUP).fails(),
    case("xpending_range", A, "group", "-", "+", 10).given(*READ).seen_as(without_times),
    case("xpending_range", A, "group", "-", "+", 1, consumername="first", idle=0)
    .given(*READ)
    .seen_as(without_times),
    case("xpending_range", A, "group", "-", "+", 10).given(*GROUP),
    case("xpending_range", A, "group", "-", "+", None).fails(),
    case("xpending_range", A, "group", None, None, None, consumername="first").fails(),
    case("xclaim", A, "group", "second", 0, ["1-1", "2-1"]).given(*READ),
    case("xclaim", A, "group", "second", 0, ("1-1",), justid=True).given(*READ),
    case("xclaim", A, "group", "second", 0, ["1-1"], idle=5, retrycount=3, force=True).given(*READ),
    case("xclaim", A, "group", "second", 0, ["1-1"], time=1000).given(*READ),
    case("xclaim", A, "group", "second", 0, ["9-9"]).given(*READ),
    case("xclaim", A, "group", "second", 0, []).fails(),
    case("xclaim", A, "group", "second", -1, ["1-1"]).fails(),
    case("xautoclaim", A, "group", "second", 0).given(*READ),
    case("xautoclaim", A, "group", "second", 0, start_id="0-0", count=1).given(*READ),
    case("xautoclaim", A, "group", "second", 0, justid=True).given(*READ),
    case("xautoclaim", A, "group", "second", 0).given(*READ, ("XDEL", A, "1-1")),
    case("xautoclaim", A, "group", "second", -1).fails(),
]
