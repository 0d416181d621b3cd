"""What an application does with a client, through every way that leads to a server."""

from collections.abc import Callable
from typing import Any

import pytest
import redis


def commands(client: Any) -> None:
    """One command each, short-cut methods and long ways, one slot and several, an option, an error."""
    client.set("a", 1)
    client.set("a", 2, ex=100, get=True)
    client.get("a")
    client.mget("{t}a", "{t}b")
    client.mset({"{t}a": 1, "{t}b": 2})
    client.incr("n")
    client.incrby("n", 5)
    client.decr("n")
    client.expire("n", 100)
    client.ttl("n")
    client.exists("a")
    client.delete("a")
    client.hset("h", "field", "value")
    client.hset("h", mapping={"one": 1, "two": 2})
    client.hget("h", "one")
    client.hgetall("h")
    client.hincrby("h", "one", 1)
    client.lpush("l", "x", "y")
    client.rpush("l", "z")
    client.lrange("l", 0, -1)
    client.lpop("l")
    client.blpop("l", 1)
    client.sadd("s", "x")
    client.smembers("s")
    client.sismember("s", "x")
    client.zadd("z", {"x": 1})
    client.zrange("z", 0, -1, withscores=True)
    client.zscore("z", "x")
    client.xadd("x", {"f": "v"}, id="1-1")
    client.xread({"x": 0})
    client.publish("channel", "message")
    client.eval("return KEYS[1]", 1, "e")
    client.ping()
    client.ping(target_nodes="primaries")
    client.config_get("maxmemory")
    client.dbsize()
    client.execute_command("GET", "raw")
    client.execute_command("strlen", "raw")
    client.bitfield("b").set("u8", 0, 1).execute()
    list(client.sscan_iter("s"))
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.incr("h")


def composites(client: Any) -> None:
    """What sends more than one command, or pipelines of its own."""
    client.mset_nonatomic({"m1": 1, "m2": 2, "m3": 3})
    client.mget_nonatomic("m1", "m2", "m3")
    client.exists("m1", "m2", "m3")
    client.touch("m1", "m2")
    client.delete("m1", "m2")
    client.unlink("m3", "none")
    list(client.scan_iter(match="none*"))
    client.register_script("return ARGV[1]")(keys=["script"], args=["first"])
    client.script_load("return 2")
    client.script_exists("0" * 40)
    client.keys("none*")


def pipelines(client: Any) -> None:
    with client.pipeline() as pipe:
        pipe.set("p1", 1).get("p1").incr("p2").execute()
    with client.pipeline() as pipe:
        pipe.hset("p3", "field", "value").execute(raise_on_error=False)
        pipe.get("p1").execute()
    with client.pipeline(transaction=True) as pipe:
        pipe.set("{p}1", 1).incr("{p}1").execute()
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("{p}1")
        value = int(pipe.get("{p}1") or 0)
        pipe.multi()
        pipe.set("{p}1", value + 1)
        pipe.execute()
    client.transaction(increment, "{p}1")


def increment(pipe: Any) -> None:
    value = int(pipe.get("{p}1"))
    pipe.multi()
    pipe.set("{p}1", value + 1)


ALL: list[Callable[[Any], None]] = [commands, composites, pipelines]
