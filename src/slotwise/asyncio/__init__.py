"""The asyncio shell: `RedisCluster` in place of ``redis.asyncio.RedisCluster``."""

from slotwise.asyncio.cluster import RedisCluster
from slotwise.asyncio.connect import connect

__all__ = ["RedisCluster", "connect"]
