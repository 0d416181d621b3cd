"""`workload` for asyncio: what an application does with a client, through every way that leads to a server."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis


async def commands(client: Any) -> None:
    """One command each, short-cut methods and long ways, one slot and several, an option, an error."""
    await client.set("a", 1)
    await client.set("a", 2, ex=100, get=True)
    await client.get("a")
    await client.mget("{t}a", "{t}b")
    await client.mset({"{t}a": 1, "{t}b": 2})
    await client.incr("n")
    await client.incrby("n", 5)
    await client.decr("n")
    await client.expire("n", 100)
    await client.ttl("n")
    await client.hset("h", mapping={"one": 1, "two": 2})
    await client.hget("h", "one")
    await client.hgetall("h")
    await client.rpush("l", "z")
    await client.lrange("l", 0, -1)
    await client.blpop("l", 1)
    await client.sadd("s", "x")
    await client.zadd("z", {"x": 1})
    await client.zrange("z", 0, -1, withscores=True)
    await client.xadd("x", {"f": "v"}, id="1-1")
    await client.xread({"x": 0})
    await client.publish("channel", "message")
    await client.eval("return KEYS[1]", 1, "e")
    await client.ping()
    await client.ping(target_nodes="primaries")
    await client.config_get("maxmemory")
    await client.dbsize()
    await client.execute_command("GET", "raw")
    await client.execute_command("strlen", "raw")
    await client.bitfield("b").set("u8", 0, 1).execute()
    [member async for member in client.sscan_iter("s")]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await client.incr("h")


async def composites(client: Any) -> None:
    """What sends more than one command, or pipelines of its own."""
    await client.mset_nonatomic({"m1": 1, "m2": 2, "m3": 3})
    await client.mget_nonatomic("m1", "m2", "m3")
    await client.exists("m1")
    await client.exists("m1", "m2", "m3")
    await client.touch("m1", "m2")
    await client.delete("m1")
    await client.delete("m1", "m2")
    await client.unlink("m3", "none")
    [key async for key in client.scan_iter(match="none*")]
    await client.register_script("return ARGV[1]")(keys=["script"], args=["first"])
    await client.script_load("return 2")
    await client.script_exists("0" * 40)
    await client.keys("none*")
    async with client.lock("lock", timeout=10):
        pass


async def pipelines(client: Any) -> None:
    async with client.pipeline() as pipe:
        await pipe.set("p1", 1).get("p1").incr("p2").execute()
    async with client.pipeline() as pipe:
        await pipe.hset("p3", "field", "value").execute(raise_on_error=False)
        await pipe.get("p1").execute()
    async with client.pipeline(transaction=True) as pipe:
        await pipe.set("{p}1", 1).incr("{p}1").execute()
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("{p}1")
        value = int(await pipe.get("{p}1") or 0)
        pipe.multi()
        pipe.set("{p}1", value + 1)
        await pipe.execute()
    await client.transaction(increment, "{p}1")


async def increment(pipe: Any) -> None:
    value = int(await pipe.get("{p}1"))
    pipe.multi()
    pipe.set("{p}1", value + 1)


async def together(client: Any) -> None:
    """Many tasks at once, which slotwise sends in common writes."""
    await asyncio.gather(*(client.set(f"t{number}", number) for number in range(50)))
    await asyncio.gather(*(client.get(f"t{number}") for number in range(50)))
    await asyncio.gather(*(client.pipeline().get(f"t{number}").incr("n").execute() for number in range(10)))


ALL: list[Callable[[Any], Awaitable[None]]] = [commands, composites, pipelines, together]
