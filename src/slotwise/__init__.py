"""slotwise: a fast, cluster-aware Redis/Valkey client, imported in place of redis-py's ``RedisCluster``.

>>> from slotwise import RedisCluster
>>> client = RedisCluster(host="localhost", port=6379)
>>> client.set("user:1", "Ada")
True
"""

from __future__ import annotations

from redis.cluster import ClusterNode, LoadBalancingStrategy

from slotwise._slots import key_slot, key_slots
from slotwise.connect import connect
from slotwise.routing.replicas import ReadFrom
from slotwise.sync.cluster import RedisCluster

__version__ = "0.1.0"

__all__ = [
    "ClusterNode",
    "LoadBalancingStrategy",
    "ReadFrom",
    "RedisCluster",
    "__version__",
    "connect",
    "key_slot",
    "key_slots",
]
