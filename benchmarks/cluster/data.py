"""The keys and values that all rows work on."""

import redis

from slotwise.local import LocalCluster

VALUE_BYTES = 100
KEYS = [f"key:{number:012}" for number in range(10_000)]


def value_of(key: str) -> bytes:
    """The value of a key begins with it, so that a mixed-up reply shows."""
    return key.encode().ljust(VALUE_BYTES, b".")


def fill(cluster: LocalCluster) -> None:
    """Give every key its value."""
    with redis.RedisCluster.from_url(cluster.url) as client:
        client.mset_nonatomic({key: value_of(key) for key in KEYS})
