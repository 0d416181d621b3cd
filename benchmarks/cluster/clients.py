"""The clients, behind one set of calls.

Each is used as its own documentation shows it, with its defaults. A call that a client has under
another name is bound here, not wrapped, so that all of them run through equally little.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from slotwise.local import LocalCluster

Keys = Sequence[str]


class SyncClient(Protocol):
    """What the rows of blocking clients call."""

    get: Callable[[str], Any]
    set: Callable[[str, bytes], Any]
    #: The values of keys in any slots.
    mget: Callable[[Keys], Any]
    close: Callable[[], Any]

    def pipeline(self, keys: Keys) -> Any:
        """The values of keys in any slots, by a pipeline of GET."""


class RedisPyLike:
    """redis-py's cluster client, or one that has its interface."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.get = client.get
        self.set = client.set
        self.mget = client.mget_nonatomic
        self.close = client.close

    def pipeline(self, keys: Keys) -> Any:
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.get(key)
        return pipeline.execute()


class Glide:
    """valkey-glide's blocking cluster client."""

    def __init__(self, cluster: LocalCluster) -> None:
        from glide_sync import ClusterBatch, GlideClusterClient, GlideClusterClientConfiguration, NodeAddress

        addresses = [NodeAddress(node.host, node.port) for node in cluster.nodes]
        client: Any = GlideClusterClient.create(GlideClusterClientConfiguration(addresses))
        self._client = client
        self._batch = ClusterBatch
        self.get = client.get
        self.set = client.set
        self.mget = client.mget
        self.close = client.close

    def pipeline(self, keys: Keys) -> Any:
        batch = self._batch(is_atomic=False)
        for key in keys:
            batch.get(key)
        return self._client.exec(batch, raise_on_error=True)


def _slotwise(cluster: LocalCluster) -> SyncClient:
    from slotwise import RedisCluster

    return RedisPyLike(RedisCluster.from_url(cluster.url))


def _redis_py(cluster: LocalCluster) -> SyncClient:
    from redis import RedisCluster

    return RedisPyLike(RedisCluster.from_url(cluster.url))


#: How to connect each client; ImportError says that it is not installed.
SYNC: Mapping[str, Callable[[LocalCluster], SyncClient]] = {
    "slotwise": _slotwise,
    "redis-py": _redis_py,
    "valkey-glide": Glide,
}
