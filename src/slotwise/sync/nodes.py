"""The client's view of the cluster: the published topology, its nodes, and their connections.

The topology is a frozen value; a refresh or a MOVED publishes a new `SlotTable` by one assignment, so that calls read it
without a lock. `NodesManager` carries redis-py's name and attributes, because frameworks read them there.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from typing import Any

import redis
import redis.cluster
from redis._defaults import DEFAULT_SOCKET_TIMEOUT
from redis.backoff import NoBackoff
from redis.cache import CacheFactory, CacheInterface
from redis.cluster import PRIMARY, REPLICA, ClusterNode, LoadBalancer, LoadBalancingStrategy
from redis.connection import Connection, SSLConnection
from redis.event import (
    AfterPooledConnectionsInstantiationEvent,
    AfterSlotsCacheRefreshEvent,
    ClientType,
    EventDispatcher,
)
from redis.retry import Retry
from redis.utils import str_if_bytes

from slotwise._link import Endpoint, Engine, Link
from slotwise._slots import SlotTable
from slotwise.errors import (
    AskError,
    ConnectionError,
    MovedError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from slotwise.routing.topology import SLOTS, Address, Topology, from_slots, resolve
from slotwise.sync.connection import POOL_TIMEOUT, NodePool, OnPush
from slotwise.sync.forks import remember

# Keywords of redis-py's connections that are not for a connection here.
_NOT_FOR_CONNECTIONS = frozenset(
    {
        "connection_class",
        "connection_pool",
        "connection_pool_class",
        "queue_class",
        "max_connections",
        "timeout",
        "nodes_flag",
        "ssl",
        "cache",
        "cache_config",
        "unix_socket_path",
        "socket_timeout",
    }
)


class Node(ClusterNode):
    """redis-py's ClusterNode; its standalone client is made when somebody asks for it."""

    def __init__(self, host: str, port: int, server_type: str | None, manager: NodesManager) -> None:
        self._redis_connection: redis.Redis | None = None
        self._manager = manager
        super().__init__(host, port, server_type)

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)

    @property
    def redis_connection(self) -> redis.Redis | None:
        """A standalone client of this node."""
        if self._redis_connection is None:
            self._redis_connection = self._manager.client_of(self)
        return self._redis_connection

    @redis_connection.setter
    def redis_connection(self, client: redis.Redis | None) -> None:
        self._redis_connection = client

    def __repr__(self) -> str:
        return f"[host={self.host},port={self.port},name={self.name},server_type={self.server_type}]"


class NodesManager(redis.cluster.NodesManager):
    """What redis-py's class of this name offers, over a published topology."""

    def __init__(
        self,
        startup_nodes: Iterable[ClusterNode],
        *,
        engine_encoding: tuple[str, str] | None,
        reply_encoding: tuple[str, str] | None,
        from_url: bool = False,
        require_full_coverage: bool = True,
        dynamic_startup_nodes: bool = True,
        address_remap: Callable[[tuple[str, int]], tuple[str, int]] | None = None,
        cache: Any = None,
        cache_config: Any = None,
        event_dispatcher: EventDispatcher | None = None,
        maint_notifications_config: Any = None,
        himport_registry: Any = None,
        **kwargs: Any,
    ) -> None:
        # redis-py's own __init__ would build its engine; these are its attributes.
        self.himport_registry = himport_registry
        self.nodes_cache: dict[str, ClusterNode] = {}
        self.startup_nodes: dict[str, ClusterNode] = {node.name: node for node in startup_nodes}
        self.default_node: ClusterNode | None = None
        self._epoch = 0
        self.from_url = from_url
        self._require_full_coverage = require_full_coverage
        self._dynamic_startup_nodes = dynamic_startup_nodes
        self.connection_pool_class = NodePool
        self.address_remap = address_remap
        self._cache: CacheInterface | None = (
            cache if cache is not None else cache_config and CacheFactory(cache_config).get_cache()
        )
        self.connection_kwargs = kwargs
        self.read_load_balancer = LoadBalancer()
        self._lock = threading.RLock()
        self._initialization_lock = threading.RLock()
        self._event_dispatcher = event_dispatcher or EventDispatcher()
        self._credential_provider = kwargs.get("credential_provider")
        self.maint_notifications_config = maint_notifications_config

        self.engine = Engine(SlotTable(), engine_encoding)
        self._reply_encoding = reply_encoding
        # Seeds are never forgotten: they find the cluster again when every known node was replaced.
        self._seeds = dict(self.startup_nodes)
        self._endpoints: dict[str, Endpoint] = {}
        self._pools: dict[str, NodePool] = {}
        self._slots_cache: dict[int, list[ClusterNode]] | None = None
        self.on_push: OnPush | None = None
        self.closed = False
        remember(self)
        self.initialize()

    # -- nodes and their connections ---------------------------------------------------------------------------------

    def pool_of(self, address: Address) -> NodePool:
        """The pool of a node, known to the topology or not yet."""
        with self._lock:
            pool = self._pools.get(address.name)
            if pool is None:
                pool = self._pools[address.name] = self._make_pool(address)
            return pool

    def endpoint_of(self, address: Address) -> Endpoint:
        """The node's endpoint, made on first use."""
        with self._lock:
            endpoint = self._endpoints.get(address.name)
            if endpoint is None:
                endpoint = self._endpoints[address.name] = Endpoint(
                    address, self.pool_of(address), self._open
                )
            return endpoint

    def shared_link(self, endpoint: Endpoint) -> Link:
        """The node's shared link, open."""
        link = endpoint.link
        return self._open(endpoint) if link is None or link.retired else link

    def _open(self, endpoint: Endpoint) -> Link:
        # A call after close() opens the client again, as it does in redis-py.
        self.closed = False
        return endpoint.pool.shared(endpoint)

    def client_of(self, node: ClusterNode) -> redis.Redis:
        """A standalone redis-py client over the node's pool."""
        pool = self.pool_of(Address(node.host, node.port))
        client = redis.Redis(connection_pool=pool)
        return client

    def create_redis_node(self, host: str, port: int, **kwargs: Any) -> redis.Redis:
        """A standalone client of the node at ``host:port``."""
        return redis.Redis(connection_pool=self.pool_of(Address(host, int(port))))

    def create_redis_connections(self, nodes: Iterable[ClusterNode]) -> None:
        """Gives each node its standalone client."""
        for node in nodes:
            if node.redis_connection is None:
                node.redis_connection = self.create_redis_node(node.host, node.port)

    def _make_pool(self, address: Address) -> NodePool:
        kwargs = {k: v for k, v in self.connection_kwargs.items() if k not in _NOT_FOR_CONNECTIONS}
        given = self.connection_kwargs
        kwargs["connection_class"] = given.get("connection_class") or (
            SSLConnection if given.get("ssl") else Connection
        )
        if not given.get("ssl") and kwargs["connection_class"] is Connection:
            kwargs = {k: v for k, v in kwargs.items() if not k.startswith("ssl_")}
        # redis-py tries again on the cluster's level, never on a connection's.
        kwargs["retry"] = Retry(NoBackoff(), 0, supported_errors=(ConnectionError,))
        if self.maint_notifications_config is not None:
            kwargs["maint_notifications_config"] = self.maint_notifications_config
        if self.himport_registry is not None:
            kwargs["himport_registry"] = self.himport_registry
        pool = NodePool(
            host=address.host,
            port=address.port,
            max_connections=given.get("max_connections"),
            timeout=given.get("timeout", POOL_TIMEOUT),
            socket_timeout=given.get("socket_timeout", DEFAULT_SOCKET_TIMEOUT),
            reply_encoding=self._reply_encoding,
            on_push=self._pushed,
            on_shared=_track if self._cache is not None else None,
            **kwargs,
        )
        pool.cache = self._cache
        self._event_dispatcher.dispatch(
            AfterPooledConnectionsInstantiationEvent([pool], ClientType.SYNC, self._credential_provider)
        )
        return pool

    def _pushed(self, message: list[Any]) -> None:
        if self.on_push is not None:
            self.on_push(message)

    # -- the topology ------------------------------------------------------------------------------------------------

    def initialize(
        self,
        additional_startup_nodes_info: Iterable[tuple[str, int]] | None = None,
        disconnect_startup_nodes_pools: bool = True,
        last_failed_node_name: str | None = None,
    ) -> None:
        """Asks the nodes, one after the other, until one tells the whole topology, and publishes it.

        Threads that come while one asks wait for its answer. The keywords are redis-py's; the node that just failed is
        asked last.
        """
        epoch = self._epoch
        with self._initialization_lock:
            if epoch != self._epoch:
                return
            self.reset()
            topology = self._ask_around(additional_startup_nodes_info or (), last_failed_node_name)
            if not topology.complete and self._require_full_coverage:
                raise RedisClusterException(
                    "All slots are not covered after query all startup_nodes. "
                    f"{topology.covered} of {SLOTS} covered..."
                )
            self._publish(topology)

    def _ask_around(self, more: Iterable[tuple[str, int]], last: str | None) -> Topology:
        with self._lock:
            known = [*self.startup_nodes.values(), *self._seeds.values()]
        addresses = [Address(node.host, int(node.port)) for node in known]
        random.shuffle(addresses)
        addresses += [Address(host, int(port)) for host, port in more]
        candidates = sorted(dict.fromkeys(addresses), key=lambda address: address.name == last)
        best: Topology | None = None
        failure: Exception | None = None
        for address in candidates:
            try:
                topology = self._ask(address)
            except (RedisError, RedisClusterException, OSError) as error:
                failure = error
                continue
            if topology.complete:
                return topology
            if best is None or topology.covered > best.covered:
                best = topology
        if best is None:
            raise RedisClusterException(
                f"Redis Cluster cannot be connected. Please provide at least one reachable node: {failure}"
            ) from failure
        return best

    def _ask(self, address: Address) -> Topology:
        """One node's answer, over a connection of its own: nobody's replies wait behind it."""
        pool = self.pool_of(address)
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            connection.connect()
            connection.send_command("CLUSTER SLOTS")
            try:
                reply = connection.read_response()
            except ResponseError as error:
                raise RedisClusterException("Cluster mode is not enabled on this node") from error
        finally:
            connection.disconnect()
        return from_slots(reply, address.host, self.address_remap)

    def _publish(self, topology: Topology) -> None:
        with self._lock:
            nodes: dict[str, ClusterNode] = {}
            primaries = {shard.primary for shard in topology.shards}
            for address in topology.addresses():
                role = PRIMARY if address in primaries else REPLICA
                node = self.nodes_cache.get(address.name)
                if node is None:
                    node = Node(address.host, address.port, role, self)
                node.server_type = role
                nodes[node.name] = node
            shards = [
                tuple(self.endpoint_of(address) for address in (shard.primary, *shard.replicas))
                for shard in topology.shards
            ]
            gone = self.nodes_cache.keys() - nodes.keys()
            self.nodes_cache = nodes
            self._slots_cache = None
            self.engine.table = SlotTable(topology.ranges, shards)
            default = self.default_node and nodes.get(self.default_node.name)
            if default is None or default.server_type != PRIMARY:
                default = next((node for node in nodes.values() if node.server_type == PRIMARY), None)
            self.default_node = default
            if self._dynamic_startup_nodes:
                self.startup_nodes = dict(nodes)
            self._epoch += 1
            pools = [self._pools.pop(name) for name in gone if name in self._pools]
            for name in gone:
                self._endpoints.pop(name, None)
        for pool in pools:
            pool.disconnect(inuse_connections=False)
        self._tell()

    def move_slot(self, e: AskError | MovedError) -> None:
        """Makes the node that a MOVED names the owner of its slot."""
        self.moved(e.slot_id, resolve(e.host, e.port, "", None))

    def moved(self, slot: int, address: Address) -> None:
        """``address`` serves ``slot`` from now on. A replica that took its primary's place takes the shard's other nodes
        with it; a node that is new to the topology starts a shard."""
        with self._lock:
            table = self.engine.table
            shards = list(table.shards)
            owner = table.index(slot)
            for index, shard in enumerate(shards):
                if shard[0].node == address:
                    if index == owner:
                        return
                    break
            else:
                node = self.nodes_cache.get(address.name)
                if node is None:
                    node = self.nodes_cache[address.name] = Node(address.host, address.port, PRIMARY, self)
                node.server_type = PRIMARY
                new = self.endpoint_of(address)
                old: tuple[Endpoint, ...] = shards[owner] if owner is not None else ()
                if new in old:
                    # A failover: the old primary is the shard's replica now. Other slots follow with their own MOVED.
                    demoted = self.nodes_cache.get(old[0].node.name)
                    if demoted is not None:
                        demoted.server_type = REPLICA
                        if self.default_node is demoted:
                            self.default_node = node
                    shards.append((new, *(endpoint for endpoint in old[1:] if endpoint is not new), old[0]))
                else:
                    shards.append((new,))
                index = len(shards) - 1
            self.engine.table = table.with_slot(slot, index, shards)
            self._slots_cache = None
        self._tell()

    def _tell(self) -> None:
        try:
            self._event_dispatcher.dispatch(AfterSlotsCacheRefreshEvent())
        except Exception:
            redis.cluster.logger.exception("a listener raised while the slots changed")

    @property
    def slots_cache(self) -> dict[int, list[ClusterNode]]:
        """redis-py's table, slot to its nodes, the primary first; made when somebody looks."""
        with self._lock:
            if self._slots_cache is None:
                table = self.engine.table
                lists = [[self.nodes_cache[e.node.name] for e in shard] for shard in table.shards]
                self._slots_cache = {
                    slot: lists[index]
                    for first, last, index in table.ranges()
                    for slot in range(first, last + 1)
                }
            return self._slots_cache

    @slots_cache.setter
    def slots_cache(self, slots: dict[int, list[ClusterNode]]) -> None:
        with self._lock:
            known = {node.name: node for nodes in slots.values() for node in nodes}
            shards: dict[tuple[str, ...], int] = {}
            ranges = [
                (slot, slot, shards.setdefault(tuple(node.name for node in nodes), len(shards)))
                for slot, nodes in slots.items()
            ]
            self.engine.table = SlotTable(
                ranges,
                [
                    tuple(
                        self.endpoint_of(Address(known[name].host, int(known[name].port))) for name in names
                    )
                    for names in shards
                ],
            )
            self._slots_cache = slots

    def endpoint_for(self, slot: int, strategy: LoadBalancingStrategy | None = None) -> Endpoint:
        """The endpoint that answers for ``slot``, chosen among its shard's nodes by ``strategy``."""
        shard: tuple[Endpoint, ...] | None = self.engine.table[slot] if 0 <= slot < SLOTS else None
        if shard is None:
            raise SlotNotCoveredError(
                f'Slot "{slot}" not covered by the cluster. '
                f'"require_full_coverage={self._require_full_coverage}"'
            )
        if strategy is None or len(shard) == 1:
            return shard[0]
        return shard[self.read_load_balancer.get_server_index(shard[0].node.name, len(shard), strategy)]

    def get_node_from_slot(
        self,
        slot: int,
        read_from_replicas: bool = False,
        load_balancing_strategy: LoadBalancingStrategy | None = None,
        server_type: str | None = None,
    ) -> ClusterNode:
        """The node that answers for ``slot``."""
        if read_from_replicas and load_balancing_strategy is None:
            load_balancing_strategy = LoadBalancingStrategy.ROUND_ROBIN
        if load_balancing_strategy is None and server_type == REPLICA:
            load_balancing_strategy = LoadBalancingStrategy.RANDOM_REPLICA
        address = self.endpoint_for(slot, load_balancing_strategy).node
        with self._lock:
            node = self.nodes_cache.get(address.name)
            return node or next(known for known in self.slots_cache[slot] if known.name == address.name)

    def find_connection_owner(self, connection: Any) -> ClusterNode | None:
        """The node that a redis-py connection leads to."""
        with self._lock:
            return self.nodes_cache.get(f"{connection.host}:{connection.port}")

    def forget(self) -> None:
        """In a child process: new locks, since another thread may have held one at the fork."""
        self._lock = threading.RLock()
        self._initialization_lock = threading.RLock()
        self.read_load_balancer = LoadBalancer()

    def close(self) -> None:
        """Closes every connection of every node."""
        self.closed = True
        with self._lock:
            self.default_node = None
            pools = list(self._pools.values())
        for pool in pools:
            pool.disconnect()


def _track(connection: Any) -> None:
    """Asks the server to tell when a key that was read over this connection changes (CLIENT TRACKING)."""
    connection.send_command("CLIENT", "TRACKING", "ON")
    if str_if_bytes(connection.read_response()) != "OK":
        raise ConnectionError("CLIENT TRACKING failed: client-side caching needs a server with RESP3")
