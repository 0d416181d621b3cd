"""Pub/sub under asyncio: redis-py's, on connections of the pools that wait; see `slotwise.sync.pubsub`."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis.asyncio.cluster
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, _ClusterNodePoolAdapter
from redis.asyncio.connection import Connection

from slotwise.asyncio.connection import AsyncNodePool
from slotwise.errors import AskError, ConnectionError, TimeoutError
from slotwise.routing.conversation import FINAL
from slotwise.routing.gaps import Gaps, Message, OnGap
from slotwise.routing.redirects import Step, after_exception
from slotwise.routing.subscriptions import PlainChannels, PubSubEvents, ShardChannels, forget
from slotwise.routing.topology import Address

if TYPE_CHECKING:
    from slotwise.asyncio.cluster import RedisCluster

# Seconds between two attempts to subscribe anew, where a caller waits for a message at least so long.
_PAUSE = 0.1
# Seconds in which the loop reads what has come.
_LOOK = 0.001


class _Pool(_ClusterNodePoolAdapter):
    """A node's pool in the shape that redis-py's pub/sub asks for."""

    def __init__(self, pool: AsyncNodePool) -> None:
        super().__init__(pool.node)
        self._pool = pool

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Connection:
        return await self._pool.connection()

    async def release(self, connection: Any) -> None:
        self._pool.release(connection)


class _Watched(PubSub):
    """Pub/sub over one connection, whose end is no end of the subscriptions."""

    gaps: Gaps
    # When the PING that is under way counts as lost.
    _answer_due = math.inf

    async def check_health(self) -> None:
        """Sends PING after ``health_check_interval`` seconds of silence, and misses the answer after ``socket_timeout``."""
        connection, now = self.connection, asyncio.get_running_loop().time()
        if connection is None or not connection.health_check_interval or now <= connection.next_health_check:
            self._answer_due = math.inf
        elif self._answer_due is math.inf:
            await super().check_health()
            self._answer_due = now + (connection.socket_timeout or math.inf)
        elif now > self._answer_due and not await self._can_read():
            self._answer_due = math.inf
            await connection.disconnect(nowait=True)
            raise TimeoutError(f"{self._where()} did not answer a PING")

    async def _can_read(self) -> bool:
        """Whether there is something to read, after a look at the socket: the loop may have been busy for long."""
        assert self.connection is not None
        # Not 0: the loop would come back before it has read anything.
        await asyncio.sleep(_LOOK)
        return await self.connection.can_read()

    async def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """The next message; who blocks looks to the connection's health in between."""
        if not (block and self.connection is not None and self.connection.health_check_interval):
            return await super().parse_response(block, timeout)
        response = None
        while response is None:
            response = await super().parse_response(False, _PAUSE)
        return response

    async def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """redis-py's, but None where the connection is lost: the subscriptions are made anew."""
        if self.subscribed and self._cut_off:
            self._forget_pending()
            if not self.subscribed:
                return None
        try:
            return await super().get_message(ignore_subscribe_messages, timeout)
        except FINAL:
            raise
        except (ConnectionError, TimeoutError, AskError) as error:
            await self._lost(error)
            return None

    async def on_connect(self, connection: Any) -> None:
        """Subscribes anew, over a connection that was opened again."""
        self._forget_pending()
        try:
            await self._subscribe_anew()
        except BaseException:
            # With half of the subscriptions it would be taken for whole.
            await connection.disconnect(nowait=True)
            raise

    @property
    def _cut_off(self) -> bool:
        """Whether the connection was lost, and not opened again yet."""
        return self.connection is not None and not self.connection.is_connected

    async def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """redis-py's, which also shows where there are gaps."""
        self.gaps.received(response)
        return await super().handle_message(response, ignore_subscribe_messages)

    def _where(self) -> str:
        host, port = getattr(self.connection, "host", "?"), getattr(self.connection, "port", 0)
        return f"{host}:{port}"

    async def _lost(self, error: Exception) -> None:
        raise NotImplementedError

    async def _subscribe_anew(self) -> None:
        raise NotImplementedError

    def _forget_pending(self) -> None:
        """The connection took the confirmations with it that were on their way."""
        raise NotImplementedError


class _NodePubSub(_Watched):
    """The shard channels at one node."""

    def __init__(self, owner: ClusterPubSub, node: ClusterNode, **options: Any) -> None:
        self._owner = owner
        self.gaps = owner.shard_gaps
        self._address = Address(node.host, int(node.port))
        super().__init__(owner._waiting(node), **options)  # type: ignore[arg-type]  # as in redis-py

    async def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """None while the node is connected to, elsewhere in this process."""
        if self.connection is None:
            return None
        message = await super().get_message(ignore_subscribe_messages, timeout)
        if message is None and not self.shard_channels:
            await self._owner._part_from(self)
        return message

    async def _subscribe_anew(self) -> None:
        self.gaps.expect("ssubscribe", self.shard_channels)
        # More than one slot of a node: a SSUBSCRIBE each.
        await redis.asyncio.cluster.ClusterPubSub._resubscribe_shard_channels(self)  # type: ignore[arg-type]

    def _forget_pending(self) -> None:
        self._owner._forget_at(self._address.name, self.pending_unsubscribe_shard_channels)
        forget(self.shard_channels, self.pending_unsubscribe_shard_channels)

    async def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """redis-py's. A node ends subscriptions by itself when their slot has moved."""
        if response and response[0] in (b"sunsubscribe", "sunsubscribe"):
            channel = response[1]
            if channel in self.shard_channels and channel not in self.pending_unsubscribe_shard_channels:
                self.pending_unsubscribe_shard_channels.add(channel)
                await self._owner._homeless(channel, self._address)
        return await super().handle_message(response, ignore_subscribe_messages)

    async def _lost(self, error: Exception) -> None:
        cluster = self._owner.cluster
        step = after_exception(error, self._address.host, cluster.nodes_manager.address_remap)
        if step.step is Step.GO:
            assert step.address is not None
            async with self._owner._shard_state_lock:
                self._give_up(step.slot)
            await cluster._moved(step.slot, step.address)
            await self._owner.on_slots_changed()
        elif isinstance(error, AskError):
            raise error
        else:
            cluster.nodes_manager.refresher.want(self._address)

    def _give_up(self, slot: int) -> None:
        """The node does not serve the slot, and has none of these subscriptions."""
        refused = {channel for channel in self.shard_channels if self._owner.cluster.keyslot(channel) == slot}
        self._owner._forget_at(self._address.name, refused & self.pending_unsubscribe_shard_channels)
        self._owner._homeless_at(self._address.name, refused)
        self.pending_unsubscribe_shard_channels -= refused
        for channel in refused:
            self.shard_channels.pop(channel, None)


class ClusterPubSub(PlainChannels, ShardChannels, _Watched, redis.asyncio.cluster.ClusterPubSub):
    """redis-py's, whose subscriptions are made again at another node when theirs is lost, or their slot has moved.

    Each node that it listens to costs a connection out of ``max_connections``. Gaps are told as
    `slotwise.sync.pubsub.ClusterPubSub` tells them; ``on_gap`` is a plain function.
    """

    cluster: RedisCluster

    def __init__(
        self,
        redis_cluster: RedisCluster,
        node: ClusterNode | None = None,
        host: str | None = None,
        port: int | None = None,
        *,
        on_gap: OnGap | None = None,
        **options: Any,
    ) -> None:
        self.gaps, self.shard_gaps = Gaps(on_gap), Gaps(on_gap)
        # When subscriptions without a node are tried again.
        self._next_try = 0.0
        # While the old subscriptions are being made again.
        self._renewing = False
        # Rotates, so that no node's messages keep those of others waiting.
        self._turn = 0
        # redis-py's constructor sets the pool before it.
        self.cluster = redis_cluster
        options["event_dispatcher"] = options.get("event_dispatcher") or PubSubEvents()
        super().__init__(redis_cluster, node, host, port, **options)
        # The user has chosen the node.
        self._pinned = self.node is not None

    @property
    def connection_pool(self) -> Any:
        """Where the connection comes from; None until there is a node."""
        return self._pool

    @connection_pool.setter
    def connection_pool(self, pool: Any) -> None:
        # redis-py sets one that raises when the node's connections are all in use.
        self._pool = self._waiting(pool._node) if isinstance(pool, _ClusterNodePoolAdapter) else pool

    def _waiting(self, node: ClusterNode) -> _Pool:
        return _Pool(self.cluster.nodes_manager.endpoint_of(Address(node.host, int(node.port))).pool)

    # -- plain channels ----------------------------------------------------------------------------------------------

    async def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """The next message, or None; see `ClusterPubSub` for those of type ``gap``."""
        ignore = ignore_subscribe_messages or self.ignore_subscribe_messages
        message = self.gaps.told(ignore)
        if message is None:
            if self._is_astray():
                await self._leave()
            left = self.connection is None and bool(self.channels or self.patterns)
            if left:
                await self._settle(timeout)
            if self.connection is not None or not (left or self.subscribed):
                message = await super().get_message(ignore_subscribe_messages, timeout)
        return self.gaps.told(ignore) if message is None else message

    async def listen(self) -> AsyncIterator[Any]:
        """Yields messages as long as there are subscriptions."""
        while self.subscribed:
            message = await self.get_message(timeout=None)
            if message is not None:
                yield message

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """redis-py's; over a new connection, what was subscribed to before comes first."""
        if self.connection is None and not self._renewing:
            self._forget_pending()
            try:
                await self._subscribe_anew()
            except BaseException:
                await self._leave()
                raise
        return await super().execute_command(*args, **options)

    async def _subscribe_anew(self) -> None:
        self._expect_gaps()
        self._renewing = True
        try:
            await self._resubscribe(self.channels, self.subscribe)
            await self._resubscribe(self.patterns, self.psubscribe)
        finally:
            self._renewing = False

    async def _lost(self, error: Exception) -> None:
        if isinstance(error, AskError):
            raise error
        if self._cut_off and self.node is not None:
            self.cluster.nodes_manager.refresher.want(Address(self.node.host, int(self.node.port)))
            await self._leave()

    async def _leave(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.deregister_connect_callback(self.on_connect)
            await connection.disconnect(nowait=True)
            await self.connection_pool.release(connection)

    async def _settle(self, timeout: float | None) -> None:
        """Subscribes at another node, any of which relays all messages; at the user's, if there is one.

        Tries one at least, and no further one after ``timeout`` seconds.
        """
        assert self.node is not None
        self._forget_pending()
        if not (self.channels or self.patterns):
            return
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        nodes = [self.node] if self._pinned else self.cluster.get_primaries()
        random.shuffle(nodes)
        for node in nodes:
            self.node, self.connection_pool = node, self._waiting(node)
            try:
                await self._subscribe_anew()
            except (ConnectionError, TimeoutError) as error:
                await self._leave()
                if isinstance(error, FINAL):
                    raise
            except BaseException:
                # With half of the subscriptions it would be taken for whole.
                await self._leave()
                raise
            else:
                if not self._has_left():
                    return
                await self._leave()
            if time.monotonic() > deadline:
                break
        await asyncio.sleep(max(0, min(deadline - time.monotonic(), _PAUSE)))

    async def aclose(self) -> None:
        """Ends all subscriptions, without waiting for the nodes to confirm it."""
        await super().aclose()
        self.gaps.clear()
        self.shard_gaps.clear()

    # -- shard channels ----------------------------------------------------------------------------------------------

    async def get_sharded_message(
        self,
        ignore_subscribe_messages: bool = False,
        timeout: float = 0.0,
        target_node: ClusterNode | None = None,
    ) -> Message | None:
        """The next message of shard channels, or None; see `ClusterPubSub` for those of type ``gap``."""
        ignore = ignore_subscribe_messages or self.ignore_subscribe_messages
        message = self.shard_gaps.told(ignore)
        if message is None:
            await self._house()
            began = time.monotonic()
            message = await super().get_sharded_message(ignore_subscribe_messages, timeout, target_node)
            if message is None and self.shard_channels and time.monotonic() - began < timeout:
                # Of a node that refuses connections, or of none: who waits is not to spin.
                await asyncio.sleep(min(timeout, _PAUSE))
        return self.shard_gaps.told(ignore) if message is None else message

    async def _sharded_message_generator(self, timeout: float = 0.0) -> tuple[Any, Any]:
        pubsubs = list(self.node_pubsub_mapping.values())
        self._turn += 1
        for place in range(len(pubsubs)):
            pubsub = pubsubs[(self._turn + place) % len(pubsubs)]
            message = await pubsub.get_message(ignore_subscribe_messages=False, timeout=timeout)
            if message is not None:
                return pubsub, message
        return None, None

    def _get_node_pubsub(self, node: ClusterNode) -> PubSub:
        pubsub = self.node_pubsub_mapping.get(node.name)
        if pubsub is None:
            pubsub = self.node_pubsub_mapping[node.name] = _NodePubSub(
                self,
                node,
                encoder=self.encoder,
                push_handler_func=self.push_handler_func,
                event_dispatcher=self._event_dispatcher,
            )
        return pubsub

    async def ssubscribe(self, *args: Any, **kwargs: Any) -> None:
        """redis-py's; takes back an unsubscribe that is under way."""
        async with self._shard_state_lock:
            self.pending_unsubscribe_shard_channels -= self._names(args, kwargs)
        await super().ssubscribe(*args, **kwargs)

    async def sunsubscribe(self, *args: Any) -> None:  # type: ignore[override]  # as in redis-py
        """redis-py's; also from what has no node for the moment."""
        async with self._shard_state_lock:
            names = self._names(args or tuple(self.shard_channels), {})
            names -= self._forget_at("", names)
        if names:
            await super().sunsubscribe(*names)

    async def on_slots_changed(self) -> None:
        """redis-py's; also ends the connection to a node that has left, where a task may wait for ever."""
        if self.connection is not None and self._has_left():
            await self.connection.disconnect(nowait=True)
        await super().on_slots_changed()

    async def _part_from(self, pubsub: _NodePubSub) -> None:
        """Gives its connection back, unless something was subscribed to meanwhile."""
        async with self._shard_state_lock:
            if not pubsub.shard_channels:
                self.node_pubsub_mapping.pop(pubsub._address.name, None)
                await pubsub.aclose()

    async def _homeless(self, channel: Any, address: Address) -> None:
        """The node at ``address`` has ended the subscription: the slot has moved."""
        if self._shard_channel_to_node.get(channel) == address.name:
            self._shard_channel_to_node[channel] = ""
            # If the table does not know yet, the old node says MOVED.
            await self.on_slots_changed()

    async def _house(self) -> None:
        """Tries once more to subscribe where that has failed."""
        now = time.monotonic()
        if now > self._next_try and "" in self._shard_channel_to_node.values():
            self._next_try = now + _PAUSE
            await self.on_slots_changed()

    async def _migrate_shard_channel(
        self, channel: Any, handler: Any, old_name: str | None, new_node: ClusterNode
    ) -> None:
        if channel in self.pending_unsubscribe_shard_channels:
            # The old node confirms that, or is lost.
            return
        self._shard_channel_to_node[channel] = ""
        old = self.node_pubsub_mapping.get(old_name or "")
        try:
            if old is not None and old_name != new_node.name:
                await old.sunsubscribe(channel)
        except (ConnectionError, TimeoutError, OSError):
            assert old is not None
            old.shard_channels.pop(channel, None)
            if not old.shard_channels:
                # Nobody looks whether it comes back.
                self.node_pubsub_mapping.pop(old_name or "", None)
                with suppress(ConnectionError, TimeoutError, OSError):
                    await old.aclose()
        self.shard_gaps.expect("ssubscribe", [channel])
        await super()._migrate_shard_channel(channel, handler, "", new_node)
