"""The client's view of the cluster: the published topology, its nodes, and their connections.

The topology is a frozen value; a refresh or a MOVED publishes a new `SlotTable` by one assignment, so that calls read it
without a lock. `NodesManager` carries redis-py's name and attributes, because frameworks read them there.
"""

from __future__ import annotations

import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import redis
import redis.cluster
from redis._defaults import DEFAULT_SOCKET_TIMEOUT
from redis.auth.token import TokenInterface
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

from slotwise._engine import Endpoint, Engine
from slotwise._link import Link
from slotwise._locks import holding
from slotwise._reply import MAX_REPLY_SIZE
from slotwise._slots import SlotTable
from slotwise.errors import (
    AskError,
    ConnectionError,
    MovedError,
    RedisError,
    SlotNotCoveredError,
    with_our_errors,
)
from slotwise.routing import refresh, tables
from slotwise.routing.breaker import Breaker
from slotwise.routing.conversation import Outcome
from slotwise.routing.inquiry import (
    FAILURES,
    ROLE_TIMEOUT,
    Ask,
    Knowledge,
    candidates,
    inquire,
    logged,
    logger,
    look_for_successor,
)
from slotwise.routing.options import seconds, seconds_or_none
from slotwise.routing.redirects import RECONNECT_INTERVAL
from slotwise.routing.refresh import WATCH_INTERVAL
from slotwise.routing.replicas import Readers, ReadFrom, Session
from slotwise.routing.silence import ANSWER_TIMEOUT, GRACE, Suspects, client_id, has_answered_all
from slotwise.routing.topology import SLOTS, Address, Topology, resolve
from slotwise.sync.connection import POOL_TIMEOUT, NodePool, OnPush
from slotwise.sync.forks import remember, renew_lock
from slotwise.sync.offsets import Offsets
from slotwise.sync.refresher import Refresher
from slotwise.sync.tls import TLSConnection
from slotwise.tls import SharedContext

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
        read_from: ReadFrom | None = None,
        topology_refresh_interval: float | None = refresh.INTERVAL,
        topology_refresh_min_interval: float = refresh.MIN_INTERVAL,
        topology_refresh_timeout: float = refresh.TIMEOUT,
        max_reply_size: int = MAX_REPLY_SIZE,
        **kwargs: Any,
    ) -> None:
        # redis-py's own __init__ would build its engine; these are its attributes.
        self.himport_registry = himport_registry
        self.nodes_cache: dict[str, ClusterNode] = {}
        self.startup_nodes: dict[str, ClusterNode] = {node.name: node for node in startup_nodes}
        self.default_node: ClusterNode | None = None
        self.knowledge = Knowledge(
            address_remap,
            tls=bool(kwargs.get("ssl"))
            or issubclass(kwargs.get("connection_class") or Connection, SSLConnection),
            full_coverage=require_full_coverage,
        )
        self.from_url = from_url
        self._require_full_coverage = require_full_coverage
        self._dynamic_startup_nodes = dynamic_startup_nodes
        self.connection_pool_class = NodePool
        self.address_remap = address_remap
        self._cache: CacheInterface | None = (
            cache if cache is not None else cache_config and CacheFactory(cache_config).get_cache()
        )
        self.connection_kwargs = kwargs
        self._tls = SharedContext()
        self.read_load_balancer = LoadBalancer()
        self._lock = threading.RLock()
        self._initialization_lock = threading.RLock()
        self._event_dispatcher = event_dispatcher or EventDispatcher()
        self._credential_provider = kwargs.get("credential_provider")
        self.maint_notifications_config = maint_notifications_config

        self.engine = Engine(SlotTable(), engine_encoding)
        self._reply_encoding = reply_encoding
        self._max_reply_size = max_reply_size
        # Seeds are never forgotten: they find the cluster again when every known node was replaced.
        self._seeds = dict(self.startup_nodes)
        self._endpoints: dict[str, Endpoint] = {}
        self._pools: dict[str, NodePool] = {}
        self._reconnected: dict[Address, float] = {}
        self._suspects: Suspects[tuple[Address, Link]] = Suspects()
        # Who was primary and is so no more, and at how many watches that has been seen: callers may wait there in vain.
        self._left: dict[Address, tuple[Endpoint, int]] = {}
        self._slots_cache: dict[int, list[ClusterNode]] | None = None
        # When another node was last seen to have slots.
        self.changed = -math.inf
        self.on_push: OnPush | None = None
        self.closed = False
        self._refresh_timeout = seconds("topology_refresh_timeout", topology_refresh_timeout)
        self.refresher = Refresher(
            self,
            seconds_or_none("topology_refresh_interval", topology_refresh_interval),
            seconds("topology_refresh_min_interval", topology_refresh_min_interval),
        )
        # Both None: primaries answer all reads.
        self.readers: Readers | None = None
        self.offsets: Offsets | None = None
        if read_from is not None:
            self.offsets = Offsets(self, read_from.offsets_every)
            self.readers = Readers(read_from, is_up=_is_up, want_offsets=self.offsets.want)
        remember(self)
        # A streaming provider has one listener, so this is it: pools come and go.
        self._event_dispatcher.dispatch(
            AfterPooledConnectionsInstantiationEvent([self], ClientType.SYNC, self._credential_provider)
        )
        self.initialize()
        self.refresher.start()

    # -- nodes and their connections ---------------------------------------------------------------------------------

    @holding("_lock")
    def pool_of(self, address: Address) -> NodePool:
        """The pool of a node, known to the topology or not yet."""
        pool = self._pools.get(address.name)
        if pool is None:
            pool = self._pools[address.name] = self._make_pool(address)
        return pool

    @holding("_lock")
    def endpoint_of(self, address: Address) -> Endpoint:
        """The node's endpoint, made on first use."""
        endpoint = self._endpoints.get(address.name)
        if endpoint is None:
            endpoint = self._endpoints[address.name] = Endpoint(address, self.pool_of(address), self._open)
        return endpoint

    def shared_link(self, endpoint: Endpoint) -> Link:
        """The node's shared link, open."""
        link = endpoint.link
        return self._open(endpoint) if link is None or link.retired else link

    def _open(self, endpoint: Endpoint) -> Link:
        # A call after close() opens the client again, as it does in redis-py.
        self.closed = False
        self.refresher.start()
        return endpoint.pool.shared(endpoint)

    def reconnect(self, address: Address) -> None:
        """Calls from now on go over new connections to ``address``; those under way end on the old ones."""
        # All calls that were under way there come here, one after the other.
        now = time.monotonic()
        if now - self._reconnected.get(address, -math.inf) > RECONNECT_INTERVAL:
            self._reconnected[address] = now
            self.pool_of(address).disconnect(inuse_connections=False)

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
        if kwargs["connection_class"] is SSLConnection:
            kwargs["connection_class"] = TLSConnection
            kwargs["ssl_shared"] = self._tls
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
            max_reply_size=self._max_reply_size,
            on_shared=_track if self._cache is not None else None,
            **kwargs,
        )
        pool.cache = self._cache
        return pool

    def re_auth_callback(self, token: TokenInterface) -> None:
        """Takes a new credential to the live connections of all nodes (streaming credential providers).

        Raises what the first node that does not take it says, when all others have been told.
        """
        refused: Exception | None = None
        for pool in self._all_pools():
            try:
                pool.re_auth_callback(token)
            except RedisError as error:
                refused = refused or error
        if refused is not None:
            raise refused

    @holding("_lock")
    def _all_pools(self) -> list[NodePool]:
        return list(self._pools.values())

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
        more = [Address(host, int(port)) for host, port in additional_startup_nodes_info or ()]
        self._ask_and_publish(self.knowledge.published, more, {last_failed_node_name or ""}, None)

    def refresh(self, told: set[Address], failed: set[Address]) -> None:
        """The refresher's part: asks those first who ``told`` of news, and last those who ``failed``."""
        if not self.closed:
            names = {address.name for address in failed}
            self._ask_and_publish(self.knowledge.published, told, names, self._refresh_timeout)

    def look_for_successor(self, failed: set[Address]) -> bool:
        """The refresher's part: whether a replica has taken the place of a primary that ``failed``."""
        found = self._drive(
            look_for_successor(self.knowledge, failed), min(ROLE_TIMEOUT, self._refresh_timeout)
        )
        if found is None:
            return False
        self._promote(*found)
        self._tell()
        return True

    @holding("_lock")
    def silent_nodes(self) -> set[Address]:
        """The refresher's part: primaries that somebody waits for and that have sent nothing since this was last asked.
        Whether silent links are half-open is looked into meanwhile."""
        now = time.monotonic()
        left = [endpoint for endpoint, _ in self._left.values()]
        endpoints = list(dict.fromkeys([*self._endpoints.values(), *left]))
        silent = {(e, e.link) for e in endpoints if e.link is not None and e.link.is_silent()}
        for endpoint, seen in list(self._left.values()):
            if any(e is endpoint for e, _ in silent):
                self._leave(endpoint)
            elif seen:
                # Whatever was under way there has been answered, or is being answered.
                del self._left[endpoint.node]
            else:
                self._left[endpoint.node] = endpoint, seen + 1
        for address, link in self._suspects.new((e.node, link) for e, link in silent):
            # The refresher's own thread finds replaced nodes: it must not wait for one that does not answer.
            arguments = weakref.ref(self), address, link
            thread = threading.Thread(target=_look_into, args=arguments, name="slotwise-watch", daemon=True)
            # The interpreter is about to end.
            with suppress(RuntimeError):
                thread.start()
        nodes = {e.node for e, _ in silent}
        nodes |= {e.node for e in endpoints if e.pool.breaker.is_stuck(now, WATCH_INTERVAL)}
        return {node for node in nodes if self._is_primary(node)}

    def look_into(self, address: Address, link: Link) -> None:
        """Closes a link that was silent and is half-open: reads go again over a new one, and writes end."""
        number = client_id(getattr(link.connection, "handshake_metadata", None))
        timeout = min(ANSWER_TIMEOUT, self._refresh_timeout)
        if number is not None and self._drive(has_answered_all(address, number), timeout):
            time.sleep(GRACE)
            if link.is_silent():
                logger.info("a connection to %s was half-open: closed", address.name)
                link.close()

    def _unreachable(self) -> set[str]:
        """Names of nodes that owe replies, or to which no connection comes about: asked last, they keep nobody waiting
        for a refresh."""
        now = time.monotonic()
        return {
            name
            for name, endpoint in self._endpoints.copy().items()
            if not endpoint.pool.breaker.closed
            or endpoint.pool.breaker.is_stuck(now, WATCH_INTERVAL)
            or (endpoint.link is not None and endpoint.link.is_silent(look=False))
        }

    def _is_primary(self, address: Address) -> bool:
        node = self.nodes_cache.get(address.name)
        return node is not None and node.server_type == PRIMARY

    @holding("_lock")
    def leave(self, silent: set[Address]) -> set[Address]:
        """The refresher's part: nobody waits any longer for nodes that were ``silent`` and are primaries no more. The
        others are returned."""
        for endpoint in [endpoint for endpoint, _ in self._left.values() if endpoint.node in silent]:
            self._leave(endpoint)
        return {address for address in silent if self._is_primary(address)}

    def _leave(self, endpoint: Endpoint) -> None:
        del self._left[endpoint.node]
        endpoint.pool.disconnect()
        # The pool has forgotten it if the node has left the topology.
        if endpoint.link is not None:
            endpoint.link.close()

    def _go_by(self, table: SlotTable) -> None:
        """Publishes ``table``, and keeps in mind who is no primary any more."""
        primaries = {shard[0].node for shard in table.shards}
        for shard in self.engine.table.shards:
            if shard[0].node not in primaries:
                self._left[shard[0].node] = shard[0], 0
        if self.engine.table.shards:
            self.changed = time.monotonic()
        self.engine.table = table
        self._slots_cache = None

    @holding("_lock")
    def _promote(self, primary: Address, replica: Address) -> None:
        # Not a whole topology: slots that MOVED has patched stay where they are.
        ends = self.endpoint_of(primary), self.endpoint_of(replica)
        self._go_by(tables.promoted(self.engine.table, *ends))
        self.knowledge.promoted(replica)
        self.refresher.told.add(replica)
        old, new = self.nodes_cache.get(primary.name), self.nodes_cache.get(replica.name)
        if new is not None:
            new.server_type = PRIMARY
        if old is not None:
            old.server_type = REPLICA
            if self.default_node is old:
                self.default_node = new

    def count_nodes(self) -> int:
        """How many nodes the topology has."""
        return len(self.nodes_cache)

    def _ask_and_publish(
        self, published: int, first: Iterable[Address], last: set[str], timeout: float | None
    ) -> None:
        if self._ask_once(published, first, last, timeout):
            self._tell()

    @holding("_initialization_lock")
    def _ask_once(
        self, published: int, first: Iterable[Address], last: set[str], timeout: float | None
    ) -> bool:
        """Whether there were news, which are published now."""
        if published != self.knowledge.published:
            return False
        self.reset()
        known = [*self.startup_nodes.values(), *self.nodes_cache.values(), *self._seeds.values()]
        others = [Address(node.host, int(node.port)) for node in known]
        random.shuffle(others)
        topology: Topology | None = self._drive(
            inquire(self.knowledge, candidates(first, others, last | self._unreachable())), timeout
        )
        if topology is None:
            return False
        for pool in self._publish(topology):
            pool.disconnect(inuse_connections=False)
        return True

    def _drive(self, steps: Ask, timeout: float | None) -> Any:
        """Asks over connections of its own: nobody's replies wait behind it. ``timeout`` in seconds, None for those of
        the client's other connections."""
        connection = value = None
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Address):
                        if connection is not None:
                            connection.disconnect()
                        connection = self.make_connection(step, timeout)
                        connection.connect()
                    elif connection is not None:
                        connection.send_command(step)
                        value = connection.read_response()
                except FAILURES as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as end:
            return end.value
        finally:
            if connection is not None:
                connection.disconnect()

    def make_connection(self, address: Address, timeout: float | None) -> Any:
        """One of redis-py's connections, not in any pool and not open yet; ``timeout`` in seconds, None for the
        client's own."""
        pool = self.pool_of(address)
        kwargs = dict(pool.connection_kwargs)
        if timeout is not None:
            for name in ("socket_timeout", "socket_connect_timeout"):
                kwargs[name] = min(timeout, kwargs.get(name) or timeout)
        return with_our_errors(pool.connection_class(**kwargs))

    @holding("_lock")
    def _publish(self, topology: Topology) -> list[NodePool]:
        """Pools of nodes that have left are returned."""
        nodes: dict[str, ClusterNode] = {}
        primaries = {shard.primary for shard in topology.shards}
        for address in topology.addresses():
            role = PRIMARY if address in primaries else REPLICA
            node = self.nodes_cache.get(address.name)
            if node is None:
                node = Node(address.host, address.port, role, self)
            node.server_type = role
            nodes[node.name] = node
        gone = self.nodes_cache.keys() - nodes.keys()
        self.nodes_cache = nodes
        self._go_by(tables.table_of(topology, self.endpoint_of))
        default = self.default_node and nodes.get(self.default_node.name)
        if default is None or default.server_type != PRIMARY:
            default = next((node for node in nodes.values() if node.server_type == PRIMARY), None)
        self.default_node = default
        if self._dynamic_startup_nodes:
            self.startup_nodes = dict(nodes)
        self.knowledge.publish(topology)
        if self.readers is not None:
            self.readers.placed(topology)
        # Also of nodes that only an ASK has named.
        gone = (gone | self._pools.keys()) - nodes.keys() - self._seeds.keys()
        pools = [self._pools.pop(name) for name in gone if name in self._pools]
        for name in gone:
            self._endpoints.pop(name, None)
        return pools

    def move_slot(self, e: AskError | MovedError) -> None:
        """Makes the node that a MOVED names the owner of its slot."""
        self.moved(e.slot_id, resolve(e.host, e.port, "", None))

    def moved(self, slot: int, address: Address) -> bool:
        """``address`` serves ``slot`` from now on. Whether that was news."""
        news = self._move(slot, address)
        if news:
            self._tell()
        return news

    @holding("_lock")
    def _move(self, slot: int, address: Address) -> bool:
        node = self.nodes_cache.get(address.name)
        change = tables.moved(self.engine.table, slot, self.endpoint_of(address))
        if change is None:
            return False
        if node is None:
            node = self.nodes_cache[address.name] = Node(address.host, address.port, PRIMARY, self)
        node.server_type = PRIMARY
        demoted = change.demoted and self.nodes_cache.get(change.demoted.node.name)
        if demoted:
            demoted.server_type = REPLICA
            if self.default_node is demoted:
                self.default_node = node
        self._go_by(change.table)
        self.knowledge.stale = True
        return True

    def _tell(self) -> None:
        """Tells the listeners, among them subscribers. No lock is held: nobody knows what listeners wait for."""
        try:
            self._event_dispatcher.dispatch(AfterSlotsCacheRefreshEvent())
        except Exception:
            redis.cluster.logger.exception("a listener raised while the slots changed")

    @property
    @holding("_lock")
    def slots_cache(self) -> dict[int, list[ClusterNode]]:
        """redis-py's table, slot to its nodes, the primary first; made when somebody looks."""
        if self._slots_cache is None:
            self._slots_cache = tables.by_slot(self.engine.table, lambda e: self.nodes_cache[e.node.name])
        return self._slots_cache

    @slots_cache.setter
    @holding("_lock")
    def slots_cache(self, slots: dict[int, list[ClusterNode]]) -> None:
        known = {node.name: node for nodes in slots.values() for node in nodes}
        shards: dict[tuple[str, ...], int] = {}
        ranges = [
            (slot, slot, shards.setdefault(tuple(node.name for node in nodes), len(shards)))
            for slot, nodes in slots.items()
        ]
        self.engine.table = SlotTable(
            ranges,
            [
                tuple(self.endpoint_of(Address(known[name].host, int(known[name].port))) for name in names)
                for names in shards
            ],
        )
        self._slots_cache = slots

    def endpoint_for(self, slot: int) -> Endpoint:
        """The endpoint of the primary of ``slot``."""
        return self.shard_of(slot)[0]

    def shard_of(self, slot: int) -> tuple[Endpoint, ...]:
        """The endpoints of the nodes that have ``slot``, the primary's first."""
        shard: tuple[Endpoint, ...] | None = self.engine.table[slot] if 0 <= slot < SLOTS else None
        if shard is None:
            raise SlotNotCoveredError(
                f'Slot "{slot}" not covered by the cluster. '
                f'"require_full_coverage={self._require_full_coverage}"'
            )
        return shard

    def reader_for(
        self, shard: Sequence[Endpoint], slot: int, session: Session | None, *, failed: Address | None = None
    ) -> Endpoint:
        """The endpoint in ``shard`` that answers a read of ``slot``, after the node ``failed`` did not."""
        if self.readers is None:
            return shard[0]
        return self.readers.choose(shard, slot, time.monotonic(), session, failed=failed)

    def answered(self, outcome: Outcome, began: float) -> None:
        """A read that was sent when the clock read ``began`` has come to this."""
        if self.readers is not None and self.readers.wants_latency and outcome.address is not None:
            now = time.monotonic()
            self.readers.answered(outcome.address, now - began, now, failed=outcome.failure is not None)

    def others_answer(
        self, reads: Iterable[tuple[int | None, Address | None]], session: Session | None
    ) -> bool:
        """True when each of the ``reads``, a slot and the node that has failed there, is next answered by another node:
        then nobody has to wait."""
        now = time.monotonic()
        for slot, failed in reads:
            if self.readers is None or slot is None or slot < 0:
                return False
            shard = self.engine.table[slot] or ()
            if all(place.node != failed for place in shard):
                return False
            if self.readers.choose(shard, slot, now, session, failed=failed).node == failed:
                return False
        return True

    def keepers_of(self, slot: int, session: Session | None) -> Sequence[Endpoint]:
        """The endpoints whose kept replies may answer a read of ``slot``."""
        shard = self.shard_of(slot)
        if self.readers is None:
            return shard[:1]
        return self.readers.may_answer(shard, slot, time.monotonic(), session)

    def node_of(self, slot: int, endpoint: Endpoint) -> ClusterNode:
        """redis-py's node of an endpoint in the shard of ``slot``."""
        name = endpoint.node.name
        return self.nodes_cache.get(name) or next(n for n in self.slots_cache[slot] if n.name == name)

    def get_node_from_slot(
        self,
        slot: int,
        read_from_replicas: bool = False,
        load_balancing_strategy: LoadBalancingStrategy | None = None,
        server_type: str | None = None,
    ) -> ClusterNode:
        """The node that answers for ``slot``, in redis-py's turns."""
        if read_from_replicas and load_balancing_strategy is None:
            load_balancing_strategy = LoadBalancingStrategy.ROUND_ROBIN
        if load_balancing_strategy is None and server_type == REPLICA:
            load_balancing_strategy = LoadBalancingStrategy.RANDOM_REPLICA
        shard = self.shard_of(slot)
        index = 0
        if load_balancing_strategy is not None and len(shard) > 1:
            name = shard[0].node.name
            index = self.read_load_balancer.get_server_index(name, len(shard), load_balancing_strategy)
        return self.node_of(slot, shard[index])

    def find_connection_owner(self, connection: Any) -> ClusterNode | None:
        """The node that a redis-py connection leads to."""
        return self.nodes_cache.get(f"{connection.host}:{connection.port}")

    def forget(self) -> None:
        """In a child process: new locks, since another thread may have held one at the fork."""
        self._lock = threading.RLock()
        self._initialization_lock = threading.RLock()
        renew_lock(self._event_dispatcher)
        self._left.clear()
        self.refresher.forget()
        if self.offsets is not None:
            self.offsets.forget()
        self.read_load_balancer = LoadBalancer()

    def close(self) -> None:
        """Closes every connection of every node."""
        self.closed = self.knowledge.stale = True
        self.refresher.end()
        if self.offsets is not None:
            self.offsets.end()
        self.default_node = None
        for pool in list(self._pools.values()):
            pool.disconnect()
        with self._lock:
            for endpoint, _ in list(self._left.values()):
                self._leave(endpoint)


def _look_into(reference: weakref.ref[NodesManager], address: Address, link: Link) -> None:
    nodes = reference()
    if nodes is not None:
        with logged():
            nodes.look_into(address, link)


def _track(connection: Any) -> None:
    """Asks the server to tell when a key that was read over this connection changes (CLIENT TRACKING)."""
    connection.send_command("CLIENT", "TRACKING", "ON")
    if str_if_bytes(connection.read_response()) != "OK":
        raise ConnectionError("CLIENT TRACKING failed: client-side caching needs a server with RESP3")


def _is_up(endpoint: Endpoint, now: float, probe: bool) -> bool:
    breaker: Breaker = endpoint.pool.breaker
    return breaker.may_probe(now) if probe else breaker.closed
