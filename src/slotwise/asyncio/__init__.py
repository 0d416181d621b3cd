"""The asyncio shell: `RedisCluster` in place of ``redis.asyncio.RedisCluster``."""

from slotwise.asyncio.cluster import RedisCluster

__all__ = ["RedisCluster"]
