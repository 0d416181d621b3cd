"""The asyncio client's view of the cluster: redis-py's nodes and refresh, published as a slot table of endpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import redis.asyncio.cluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.observability import recorder
from redis.cluster import PRIMARY, LoadBalancingStrategy
from redis.exceptions import MovedError
from redis.utils import str_if_bytes

from slotwise._aiolink import AsyncEndpoint, AsyncEngine
from slotwise._link import ServerError
from slotwise._slots import SLOTS, SlotTable
from slotwise.asyncio.connection import AsyncNodePool
from slotwise.errors import ConnectionError, SlotNotCoveredError, parse_error
from slotwise.routing.topology import Address


class NodesManager(redis.asyncio.cluster.NodesManager):
    """redis-py's manager; each refresh and each move publishes a table for the engine."""

    def attach(
        self,
        *,
        engine_encoding: tuple[str, str] | None,
        reply_encoding: tuple[str, str] | None,
        on_push: Callable[[list[Any]], None] | None,
        tracking: bool,
    ) -> None:
        """Called once by the client, before anything is sent."""
        self.engine = AsyncEngine(SlotTable(), engine_encoding)
        self._reply_encoding = reply_encoding
        self._on_push = on_push
        self._tracking = tracking
        self._endpoints: dict[str, AsyncEndpoint] = {}
        # Seeds are never forgotten: they find the cluster again when every known node was replaced.
        self._seeds = dict(self.startup_nodes)

    def endpoint_of(self, address: Address) -> AsyncEndpoint:
        """The node's endpoint, made on first use; the node may be new to the topology."""
        endpoint = self._endpoints.get(address.name)
        if endpoint is None:
            node = self.nodes_cache.get(address.name)
            if node is None:
                node = ClusterNode(address.host, address.port, PRIMARY, **self.connection_kwargs)
            pool = AsyncNodePool(
                node,
                encoding=self._reply_encoding,
                on_push=self._on_push,
                on_shared=_track if self._tracking else None,
            )
            endpoint = self._endpoints[address.name] = AsyncEndpoint(address, pool)
        return endpoint

    def endpoint_for(self, slot: int, strategy: LoadBalancingStrategy | None = None) -> AsyncEndpoint:
        """The endpoint that answers for ``slot``, chosen among its shard's nodes by ``strategy``."""
        shard: tuple[AsyncEndpoint, ...] | None = self.engine.table[slot] if 0 <= slot < SLOTS else None
        if shard is None:
            raise SlotNotCoveredError(
                f'Slot "{slot}" not covered by the cluster. "require_full_coverage={self.require_full_coverage}"'
            )
        if strategy is None or len(shard) == 1:
            return shard[0]
        return shard[self.read_load_balancer.get_server_index(shard[0].node.name, len(shard), strategy)]

    async def initialize(
        self,
        additional_startup_nodes_info: list[tuple[str, int]] | None = None,
        last_failed_node_name: str | None = None,
    ) -> None:
        """Asks the nodes for the topology and publishes it."""
        for name, node in self._seeds.items():
            self.startup_nodes.setdefault(name, node)
        await super().initialize(additional_startup_nodes_info, last_failed_node_name)
        self._publish()

    def _publish(self) -> None:
        shards: dict[tuple[str, ...], int] = {}
        ranges: list[tuple[int, int, int]] = []
        first = last = index = -1
        for slot in sorted(self.slots_cache):
            names = tuple(node.name for node in self.slots_cache[slot])
            found = shards.setdefault(names, len(shards))
            if found == index and slot == last + 1:
                last = slot
            else:
                if index >= 0:
                    ranges.append((first, last, index))
                first, last, index = slot, slot, found
        if index >= 0:
            ranges.append((first, last, index))
        for name in self._endpoints.keys() - self.nodes_cache.keys():
            endpoint = self._endpoints.pop(name)
            endpoint.pool.retire(endpoint)
        tuples = [
            tuple(
                self.endpoint_of(Address(node.host, int(node.port)))
                for node in map(self.nodes_cache.__getitem__, names)
            )
            for names in shards
        ]
        self.engine.table = SlotTable(ranges, tuples)

    async def moved(self, slot: int, address: Address) -> None:
        """``address`` serves ``slot`` from now on."""
        await super().move_slot(MovedError(f"{slot} {address.name}"))
        table = self.engine.table
        endpoint = self.endpoint_of(address)
        shards = list(table.shards)
        index = next((i for i, shard in enumerate(shards) if shard[0] is endpoint), len(shards))
        if index == len(shards):
            # A replica that was promoted keeps the shard's other nodes; a node of elsewhere comes alone.
            old = table[slot] or ()
            rest = tuple(other for other in old if other is not endpoint) if endpoint in old else ()
            shards.append((endpoint, *rest))
        self.engine.table = table.with_slot(slot, index, shards)

    async def move_slot(self, e: Any) -> None:
        """redis-py's transactions report their redirects here."""
        await self.moved(e.slot_id, Address(e.host, e.port))

    def forget_links(self) -> None:
        """Drops everything that belonged to an event loop that is gone."""
        self._endpoints.clear()
        self.engine.table = SlotTable()
        for node in (*self.nodes_cache.values(), *self.startup_nodes.values(), *self._seeds.values()):
            node._free.clear()
            node._connections.clear()
        self._initialize_lock = asyncio.Lock()

    async def aclose(self, attr: str = "nodes_cache") -> None:
        """Closes every link and every connection."""
        for endpoint in self._endpoints.values():
            endpoint.pool.close()
            endpoint.link = None
        await super().aclose(attr)


async def record(name: str, started: float, node: Address | None, outcome: Any) -> None:
    """Tells redis-py's metrics of one exchange with one node, where the user turned them on."""
    if recorder._async_metrics_collector is not None:
        error = parse_error(outcome.text) if type(outcome) is ServerError else outcome
        await recorder.record_operation_duration(
            command_name=name,
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
