"""The asyncio client's view of the cluster: redis-py's nodes and refresh, published as a slot table of endpoints."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis.asyncio.cluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.observability import recorder
from redis.auth.token import TokenInterface
from redis.cluster import PRIMARY, REPLICA, LoadBalancingStrategy
from redis.event import AfterAsyncClusterInstantiationEvent, AsyncAfterSlotsCacheRefreshEvent
from redis.utils import str_if_bytes

from slotwise._aioengine import AsyncEndpoint, AsyncEngine
from slotwise._aiolink import AsyncLink
from slotwise._reply import ServerError
from slotwise._slots import SLOTS, SlotTable
from slotwise.asyncio.connection import AsyncNodePool, apart
from slotwise.asyncio.offsets import Offsets
from slotwise.asyncio.refresher import Refresher
from slotwise.commands import shown
from slotwise.errors import ConnectionError, SlotNotCoveredError, parse_error, with_our_errors
from slotwise.routing import tables
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
from slotwise.routing.redirects import RECONNECT_INTERVAL
from slotwise.routing.refresh import WATCH_INTERVAL
from slotwise.routing.replicas import Readers, ReadFrom, Session
from slotwise.routing.silence import ANSWER_TIMEOUT, GRACE, Suspects, client_id, has_answered_all
from slotwise.routing.topology import Address, Topology


class Node(ClusterNode):
    """redis-py's node. ``endpoint`` has its links; redis-py's own connections ask for the topology."""

    endpoint: AsyncEndpoint | None = None

    async def re_auth_callback(self, token: TokenInterface) -> None:
        """Takes a new credential to the live connections (streaming credential providers)."""
        await super().re_auth_callback(token)
        if self.endpoint is not None:
            await self.endpoint.pool.re_auth(token, self.endpoint.links)


class NodesManager(redis.asyncio.cluster.NodesManager):
    """redis-py's manager; each refresh and each move publishes a table for the engine."""

    def attach(
        self,
        *,
        engine_encoding: tuple[str, str] | None,
        reply_encoding: tuple[str, str] | None,
        on_push: Callable[[list[Any]], None] | None,
        shared_links: int,
        read_from: ReadFrom | None,
        refresh_interval: float | None,
        refresh_min_interval: float,
        refresh_timeout: float,
        max_reply_size: int,
    ) -> None:
        """Called once by the client, before anything is sent. ``on_push`` makes servers tell of changed keys."""
        self.engine = AsyncEngine(SlotTable(), engine_encoding)
        self._reply_encoding = reply_encoding
        self._on_push = on_push
        self._max_reply_size = max_reply_size
        self._shared_links = shared_links
        self._endpoints: dict[str, AsyncEndpoint] = {}
        self._refresh_timeout = refresh_timeout
        self.refresher = Refresher(self, refresh_interval, refresh_min_interval)
        self.knowledge = Knowledge(
            self.address_remap,
            tls=issubclass(self.connection_kwargs.get("connection_class", Connection), SSLConnection),
            full_coverage=self.require_full_coverage,
        )
        self._slots_cache: dict[int, list[ClusterNode]] | None = None
        # When another node was last seen to have slots.
        self.changed = -math.inf
        self._reconnected: dict[Address, float] = {}
        self._suspects: Suspects[tuple[Address, AsyncLink]] = Suspects()
        # Who was primary and is so no more, and at how many watches that has been seen: callers may wait there in vain.
        self._left: dict[Address, tuple[AsyncEndpoint, int]] = {}
        # Who looks into silent links: tasks are kept alive by their owners.
        self._watching: set[asyncio.Task[None]] = set()
        # Both None: primaries answer all reads.
        self.readers: Readers | None = None
        self.offsets: Offsets | None = None
        if read_from is not None:
            self.offsets = Offsets(self, read_from.offsets_every)
            self.readers = Readers(read_from, is_up=_is_up, want_offsets=self.offsets.want)
        # Seeds are never forgotten: they find the cluster again when every known node was replaced.
        self._seeds = dict(self.startup_nodes)

    def endpoint_of(self, address: Address) -> AsyncEndpoint:
        """The node's endpoint, made on first use; the node may be new to the topology."""
        endpoint = self._endpoints.get(address.name)
        if endpoint is None:
            node = self._node_of(address)
            pool = AsyncNodePool(
                node,
                encoding=self._reply_encoding,
                on_push=self._on_push,
                max_reply_size=self._max_reply_size,
                on_shared=_track if self._on_push is not None else None,
                engine=self.engine,
            )
            node.endpoint = AsyncEndpoint(address, pool, self._shared_links)
            endpoint = self._endpoints[address.name] = node.endpoint
        return endpoint

    def endpoint_for(self, slot: int) -> AsyncEndpoint:
        """The endpoint of the primary of ``slot``."""
        return self.shard_of(slot)[0]

    def shard_of(self, slot: int) -> tuple[AsyncEndpoint, ...]:
        """The endpoints of the nodes that have ``slot``, the primary's first."""
        shard: tuple[AsyncEndpoint, ...] | None = self.engine.table[slot] if 0 <= slot < SLOTS else None
        if shard is None:
            raise SlotNotCoveredError(
                f'Slot "{slot}" not covered by the cluster. "require_full_coverage={self.require_full_coverage}"'
            )
        return shard

    def reader_for(
        self,
        shard: Sequence[AsyncEndpoint],
        slot: int,
        session: Session | None,
        *,
        failed: Address | None = None,
    ) -> AsyncEndpoint:
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

    def keepers_of(self, slot: int, session: Session | None) -> Sequence[AsyncEndpoint]:
        """The endpoints whose kept replies may answer a read of ``slot``."""
        shard = self.shard_of(slot)
        if self.readers is None:
            return shard[:1]
        return self.readers.may_answer(shard, slot, time.monotonic(), session)

    def get_node_from_slot(
        self,
        slot: int,
        read_from_replicas: bool = False,
        load_balancing_strategy: LoadBalancingStrategy | None = None,
    ) -> ClusterNode:
        """The node that answers for ``slot``, in redis-py's turns."""
        if read_from_replicas and load_balancing_strategy is None:
            load_balancing_strategy = LoadBalancingStrategy.ROUND_ROBIN
        shard = self.shard_of(slot)
        index = 0
        if load_balancing_strategy is not None and len(shard) > 1:
            name = shard[0].node.name
            index = self.read_load_balancer.get_server_index(name, len(shard), load_balancing_strategy)
        node: ClusterNode = shard[index].pool.node
        return node

    # -- the topology ------------------------------------------------------------------------------------------------

    async def initialize(
        self,
        additional_startup_nodes_info: list[tuple[str, int]] | None = None,
        last_failed_node_name: str | None = None,
    ) -> None:
        """Asks the nodes, one after the other, until one tells the whole topology, and publishes it.

        Tasks that come while one asks wait for its answer. The keywords are redis-py's; the node that just failed is
        asked last.
        """
        more = [Address(host, int(port)) for host, port in additional_startup_nodes_info or ()]
        await self._ask_and_publish(more, {last_failed_node_name or ""}, None)
        self.refresher.start()

    async def refresh(self, told: set[Address], failed: set[Address]) -> None:
        """The refresher's part: asks those first who ``told`` of news, and last those who ``failed``."""
        await self._ask_and_publish(told, {address.name for address in failed}, self._refresh_timeout)

    async def look_for_successor(self, failed: set[Address]) -> bool:
        """The refresher's part: whether a replica has taken the place of a primary that ``failed``."""
        found = await self._drive(
            look_for_successor(self.knowledge, failed), min(ROLE_TIMEOUT, self._refresh_timeout)
        )
        if found is None:
            return False
        primary, replica = map(self.endpoint_of, found)
        # Not a whole topology: slots that MOVED has patched stay where they are.
        self._go_by(tables.promoted(self.engine.table, primary, replica))
        self.knowledge.promoted(replica.node)
        self.refresher.told.add(replica.node)
        primary.pool.node.server_type, replica.pool.node.server_type = REPLICA, PRIMARY
        if self.default_node is primary.pool.node:
            self.default_node = replica.pool.node
        await self._tell()
        return True

    def silent_nodes(self) -> set[Address]:
        """The refresher's part: primaries that somebody waits for and that have sent nothing since this was last asked.
        Whether silent links are half-open is looked into meanwhile."""
        now = time.monotonic()
        left = [endpoint for endpoint, _ in self._left.values()]
        endpoints = list(dict.fromkeys([*self._endpoints.values(), *left]))
        links = [(e, link) for e in endpoints for link in e.links if link is not None]
        silent = {(e, link) for e, link in links if link.is_silent()}
        for endpoint, seen in list(self._left.values()):
            if any(e is endpoint for e, _ in silent):
                self._leave(endpoint)
            elif seen:
                # Whatever was under way there has been answered, or is being answered.
                del self._left[endpoint.node]
            else:
                self._left[endpoint.node] = endpoint, seen + 1
        for address, link in self._suspects.new((e.node, link) for e, link in silent):
            task = asyncio.create_task(self._look_into(address, link))
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)
        nodes = {e.node for e, _ in silent}
        nodes |= {e.node for e in endpoints if e.pool.breaker.is_stuck(now, WATCH_INTERVAL)}
        return {node for node in nodes if self._is_primary(node)}

    async def _look_into(self, address: Address, link: AsyncLink) -> None:
        """Closes a link that was silent and is half-open: reads go again over a new one, and writes end."""
        number = client_id(getattr(link.connection[0], "handshake_metadata", None))
        timeout = min(ANSWER_TIMEOUT, self._refresh_timeout)
        with logged():
            if number is not None and await apart(self._drive(has_answered_all(address, number), timeout)):
                await asyncio.sleep(GRACE)
                if link.is_silent():
                    logger.info("a connection to %s was half-open: closed", address.name)
                    link.close("the connection was half-open: the node has nothing to answer")

    async def end_watch(self) -> None:
        """Nobody looks into silent links any more."""
        watching, self._suspects = list(self._watching), Suspects()
        for task in watching:
            task.cancel()
        if watching:
            await asyncio.wait(watching)

    def leave(self, silent: set[Address]) -> set[Address]:
        """The refresher's part: nobody waits any longer for nodes that were ``silent`` and are primaries no more. The
        others are returned."""
        for endpoint in [endpoint for endpoint, _ in self._left.values() if endpoint.node in silent]:
            self._leave(endpoint)
        return {address for address in silent if self._is_primary(address)}

    def _leave(self, endpoint: AsyncEndpoint) -> None:
        del self._left[endpoint.node]
        endpoint.pool.close(endpoint, "silent, and another node has its slots now")

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

    def _unreachable(self) -> set[str]:
        """Names of nodes that owe replies, or to which no connection comes about: asked last, they keep nobody waiting
        for a refresh."""
        now = time.monotonic()
        return {
            name
            for name, endpoint in self._endpoints.copy().items()
            if not endpoint.pool.breaker.closed
            or endpoint.pool.breaker.is_stuck(now, WATCH_INTERVAL)
            or any(link is not None and link.is_silent(look=False) for link in endpoint.links)
        }

    def _is_primary(self, address: Address) -> bool:
        node = self.nodes_cache.get(address.name)
        return node is not None and node.server_type == PRIMARY

    async def re_auth_callback(self, token: TokenInterface) -> None:
        """Takes a new credential to the live connections of all nodes (streaming credential providers).

        Raises what the first node that does not take it says, when all others have been told.
        """
        told = [endpoint.pool.node.re_auth_callback(token) for endpoint in self._endpoints.values()]
        for outcome in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def count_nodes(self) -> int:
        """How many nodes the topology has."""
        return len(self.nodes_cache)

    async def _ask_and_publish(self, first: Iterable[Address], last: set[str], timeout: float | None) -> None:
        published = self.knowledge.published
        async with self._initialize_lock:
            if published != self.knowledge.published:
                return
            self.read_load_balancer.reset()
            if not published:
                # Itself in place of its nodes, which come and go while it tells them of a new credential.
                self._event_dispatcher.dispatch(
                    AfterAsyncClusterInstantiationEvent(
                        {"all": self}, self.connection_kwargs.get("credential_provider")
                    )
                )
            known = [*self.startup_nodes.values(), *self.nodes_cache.values(), *self._seeds.values()]
            others = [Address(node.host, int(node.port)) for node in known]
            random.shuffle(others)
            steps = inquire(self.knowledge, candidates(first, others, last | self._unreachable()))
            topology: Topology | None = await apart(self._drive(steps, timeout))
            if topology is None:
                return
            self._publish(topology)
        await self._tell()

    async def _drive(self, steps: Ask, timeout: float | None) -> Any:
        """Asks over connections of its own: nobody's replies wait behind it. ``timeout`` in seconds, None for those of
        the client's other connections."""
        connection: Any = None
        try:
            step = next(steps)
            while True:
                value = None
                try:
                    if isinstance(step, Address):
                        if connection is not None:
                            await connection.disconnect()
                        connection = self._make_connection(step, timeout)
                        await connection.connect()
                    else:
                        await connection.send_command(step)
                        value = await connection.read_response()
                except FAILURES as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as end:
            return end.value
        finally:
            if connection is not None:
                await connection.disconnect()

    def _make_connection(self, address: Address, timeout: float | None) -> Any:
        node = self._node_of(address)
        kwargs = dict(node.connection_kwargs)
        if timeout is not None:
            for name in ("socket_timeout", "socket_connect_timeout"):
                kwargs[name] = min(timeout, kwargs.get(name) or timeout)
        return with_our_errors(node.connection_class(**kwargs))

    def _node_of(self, address: Address) -> Node:
        """The node at ``address``, known to the topology or not yet."""
        known = self._endpoints.get(address.name)
        if known is not None and isinstance(known.pool.node, Node):
            return known.pool.node
        for nodes in (self.nodes_cache, self.startup_nodes, self._seeds):
            node = nodes.get(address.name)
            if isinstance(node, Node):
                return node
        return Node(address.host, address.port, PRIMARY, **self.connection_kwargs)

    def _publish(self, topology: Topology) -> None:
        primaries = {shard.primary for shard in topology.shards}
        nodes: dict[str, ClusterNode] = {}
        for address in topology.addresses():
            node = self._node_of(address)
            node.server_type = PRIMARY if address in primaries else REPLICA
            nodes[address.name] = node
        # redis-py's own connections of nodes that have left are closed, and the others' opened anew.
        self.set_nodes(self.nodes_cache, nodes, remove_old=True)
        if self._dynamic_startup_nodes:
            self.set_nodes(self.startup_nodes, self.nodes_cache, remove_old=True)
        for name in self._endpoints.keys() - nodes.keys():
            endpoint = self._endpoints.pop(name)
            endpoint.pool.retire(endpoint)
            # Its machine may be gone, and then nobody says no.
            endpoint.pool.end_openings()
        self._go_by(tables.table_of(topology, self.endpoint_of))
        self._choose_default_node()
        self.knowledge.publish(topology)
        if self.readers is not None:
            self.readers.placed(topology)

    def _choose_default_node(self) -> None:
        # None only where slots may be uncovered, as in redis-py for threads.
        self.default_node = next(iter(self.get_nodes_by_server_type(PRIMARY)), None)  # type: ignore[assignment]

    def put_last(self, failed: Address) -> None:
        """Another primary is the default node, after ``failed`` did not answer."""
        self.move_node_to_end_of_cached_nodes(failed.name)
        self._choose_default_node()

    async def moved(self, slot: int, address: Address) -> bool:
        """``address`` serves ``slot`` from now on. Whether that was news."""
        endpoint = self.endpoint_of(address)
        change = tables.moved(self.engine.table, slot, endpoint)
        if change is None:
            return False
        node = self.nodes_cache.setdefault(address.name, endpoint.pool.node)
        node.server_type = PRIMARY
        if change.demoted is not None:
            change.demoted.pool.node.server_type = REPLICA
            if self.default_node is change.demoted.pool.node:
                self.default_node = node
        self._go_by(change.table)
        self.knowledge.stale = True
        await self._tell()
        return True

    async def _tell(self) -> None:
        try:
            await self._event_dispatcher.dispatch_async(AsyncAfterSlotsCacheRefreshEvent())
        except Exception:
            redis.asyncio.cluster.logger.exception("a listener raised while the slots changed")

    def reconnect(self, address: Address) -> None:
        """Calls from now on go over new connections to ``address``; those under way end on the old ones."""
        # All calls that were under way there come here, one after the other.
        now = time.monotonic()
        recent = now - self._reconnected.get(address, -math.inf) <= RECONNECT_INTERVAL
        endpoint = None if recent else self._endpoints.pop(address.name, None)
        if endpoint is not None:
            self._reconnected[address] = now
            endpoint.pool.retire(endpoint)
            fresh = self.endpoint_of(address)
            table = self.engine.table
            shards = [tuple(fresh if e is endpoint else e for e in shard) for shard in table.shards]
            self.engine.table = SlotTable(table.ranges(), shards)

    @property
    def slots_cache(self) -> dict[int, list[ClusterNode]]:
        """redis-py's table, slot to its nodes, the primary first; made when somebody looks."""
        if self._slots_cache is None:
            self._slots_cache = tables.by_slot(self.engine.table, lambda endpoint: endpoint.pool.node)
        return self._slots_cache

    @slots_cache.setter
    def slots_cache(self, slots: dict[int, list[ClusterNode]]) -> None:
        # redis-py's own, before anything is known.
        self._slots_cache = slots

    async def move_slot(self, e: Any) -> None:
        """redis-py's transactions report their redirects here."""
        await self.moved(e.slot_id, Address(e.host, e.port))

    def forget_links(self) -> None:
        """Drops everything that belonged to an event loop that is gone."""
        self._endpoints.clear()
        self._close_table()
        self._watching.clear()
        self._suspects = Suspects()
        self._left.clear()
        self.refresher.forget()
        if self.offsets is not None:
            self.offsets.forget()
        for node in (*self.nodes_cache.values(), *self.startup_nodes.values(), *self._seeds.values()):
            node._free.clear()
            node._connections.clear()

    def renew_lock(self) -> None:
        """A lock belongs to the loop in which somebody waited for it."""
        self._initialize_lock = asyncio.Lock()

    def _close_table(self) -> None:
        self.engine.table = SlotTable()
        self._slots_cache = None
        self.knowledge.stale = True

    def close_links(self) -> None:
        """Closes every link; what is under way fails."""
        self.knowledge.stale = True
        for endpoint in [*self._endpoints.values(), *(endpoint for endpoint, _ in self._left.values())]:
            endpoint.pool.close(endpoint)
        self._left.clear()

    def retire_links(self) -> list[AsyncLink]:
        """Ends every link as soon as it has answered; who comes later finds none. Those that have something to answer."""
        endpoints = list(self._endpoints.values())
        self._endpoints.clear()
        self._close_table()
        for endpoint in endpoints:
            endpoint.pool.retire(endpoint)
        links = [link for endpoint in endpoints for link in endpoint.links]
        return [link for link in links if link is not None and not link.closed]


async def record(name: str, started: float, node: Address | None, outcome: Any) -> None:
    """Tells redis-py's metrics of one exchange with one node, where the user turned them on."""
    if recorder._async_metrics_collector is not None:
        error = parse_error(outcome.text) if type(outcome) is ServerError else outcome
        await recorder.record_operation_duration(
            command_name=shown(name),
            duration_seconds=time.monotonic() - started,
            server_address=node.host if node is not None else None,
            server_port=node.port if node is not None else None,
            db_namespace="0",
            error=error if isinstance(error, Exception) else None,
        )


async def _track(connection: Any) -> None:
    """Asks the server to tell when a key that was read over this connection changes (CLIENT TRACKING)."""
    await connection.send_command("CLIENT", "TRACKING", "ON")
    if str_if_bytes(await connection.read_response()) != "OK":
        raise ConnectionError("CLIENT TRACKING failed: client-side caching needs a server with RESP3")


def _is_up(endpoint: AsyncEndpoint, now: float, probe: bool) -> bool:
    breaker: Breaker = endpoint.pool.breaker
    return breaker.may_probe(now) if probe else breaker.closed
