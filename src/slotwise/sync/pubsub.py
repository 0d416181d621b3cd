"""Pub/sub for threads: redis-py's, whose subscriptions outlive the nodes that they were made at."""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis.cluster
from redis.client import PubSub
from redis.cluster import ClusterNode

from slotwise._locks import holding
from slotwise.errors import AskError, ConnectionError, TimeoutError
from slotwise.routing.conversation import FINAL
from slotwise.routing.gaps import Gaps, Message, OnGap
from slotwise.routing.redirects import Step, after_exception
from slotwise.routing.subscriptions import PlainChannels, PubSubEvents, ShardChannels, forget
from slotwise.routing.topology import Address

if TYPE_CHECKING:
    from slotwise.sync.cluster import RedisCluster

# Seconds between two attempts to subscribe anew, where a caller waits for a message at least so long.
_PAUSE = 0.1


class _Watched(PubSub):
    """Pub/sub over one connection, whose end is no end of the subscriptions."""

    gaps: Gaps
    # When the PING that is under way counts as lost.
    _answer_due = math.inf

    def check_health(self) -> None:
        """Sends PING after ``health_check_interval`` seconds of silence, and misses the answer after ``socket_timeout``."""
        connection, now = self.connection, time.monotonic()
        if connection is None or not connection.health_check_interval or now <= connection.next_health_check:
            self._answer_due = math.inf
        elif self._answer_due is math.inf:
            super().check_health()
            self._answer_due = now + (connection.socket_timeout or math.inf)
        elif now > self._answer_due and not connection.can_read(0):
            # Who was busy for so long has the answer waiting.
            self._answer_due = math.inf
            connection.disconnect()
            raise TimeoutError(f"{connection.host}:{connection.port} did not answer a PING")

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """The next message; who blocks looks to the connection's health in between."""
        if not (block and self.connection is not None and self.connection.health_check_interval):
            return super().parse_response(block, timeout)
        response = None
        while response is None:
            response = super().parse_response(False, _PAUSE)
        return response

    def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """redis-py's, but None where the connection is lost: the subscriptions are made anew."""
        if self.subscribed and self._cut_off:
            self._forget_pending()
            if not self.subscribed:
                return None
        try:
            return super().get_message(ignore_subscribe_messages, timeout)  # type: ignore[arg-type]
        except FINAL:
            raise
        except (ConnectionError, TimeoutError, AskError) as error:
            self._lost(error)
            return None

    def on_connect(self, connection: Any) -> None:
        """Subscribes anew, over a connection that was opened again."""
        self.health_check_response_counter = 0
        self._forget_pending()
        try:
            self._subscribe_anew()
        except BaseException:
            # With half of the subscriptions it would be taken for whole.
            connection.disconnect()
            raise

    @property
    def _cut_off(self) -> bool:
        """Whether the connection was lost, and not opened again yet."""
        return self.connection is not None and self.connection._sock is None

    def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """redis-py's, which also shows where there are gaps."""
        self.gaps.received(response)
        return super().handle_message(response, ignore_subscribe_messages)

    def _lost(self, error: Exception) -> None:
        raise NotImplementedError

    def _subscribe_anew(self) -> None:
        raise NotImplementedError

    def _forget_pending(self) -> None:
        """The connection took the confirmations with it that were on their way."""
        raise NotImplementedError

    def _note_end(self) -> None:
        """Nobody waits for messages when there are no subscriptions."""
        if not (self.channels or self.patterns or self.shard_channels):
            self.subscribed_event.clear()


class _NodePubSub(_Watched):
    """The shard channels at one node."""

    def __init__(self, owner: ClusterPubSub, node: ClusterNode, **options: Any) -> None:
        self._owner = owner
        self.gaps = owner.shard_gaps
        self._address = Address(node.host, int(node.port))
        super().__init__(owner.cluster.nodes_manager.pool_of(self._address), **options)

    def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """None while the node is connected to, elsewhere in this process."""
        if self.connection is None:
            return None
        message = super().get_message(ignore_subscribe_messages, timeout)
        if message is None and not self.shard_channels:
            self._owner._part_from(self)
        return message

    def _subscribe_anew(self) -> None:
        self.gaps.expect("ssubscribe", self.shard_channels)
        # More than one slot of a node: a SSUBSCRIBE each.
        redis.cluster.ClusterPubSub._resubscribe_shard_channels(self)  # type: ignore[arg-type]

    def _forget_pending(self) -> None:
        self._owner._forget_at(self._address.name, self.pending_unsubscribe_shard_channels)
        forget(self.shard_channels, self.pending_unsubscribe_shard_channels)
        self._note_end()

    def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """redis-py's. A node ends subscriptions by itself when their slot has moved."""
        if response and response[0] in (b"sunsubscribe", "sunsubscribe"):
            channel = response[1]
            if channel in self.shard_channels and channel not in self.pending_unsubscribe_shard_channels:
                self.pending_unsubscribe_shard_channels.add(channel)
                self._owner._homeless(channel, self._address)
        return super().handle_message(response, ignore_subscribe_messages)

    def _lost(self, error: Exception) -> None:
        nodes, dispatcher = self._owner.cluster.nodes_manager, self._owner.cluster._dispatcher
        step = after_exception(error, self._address.host, nodes.address_remap)
        if step.step is Step.GO:
            assert step.address is not None
            with self._owner._shard_state_lock:
                self._give_up(step.slot)
            dispatcher.moved(step.slot, step.address)
            self._owner.on_slots_changed()
        elif isinstance(error, AskError):
            raise error
        else:
            nodes.refresher.want(self._address)

    def _give_up(self, slot: int) -> None:
        """The node does not serve the slot, and has none of these subscriptions."""
        refused = {channel for channel in self.shard_channels if self._owner.cluster.keyslot(channel) == slot}
        self._owner._forget_at(self._address.name, refused & self.pending_unsubscribe_shard_channels)
        self._owner._homeless_at(self._address.name, refused)
        self.pending_unsubscribe_shard_channels -= refused
        for channel in refused:
            self.shard_channels.pop(channel, None)
        self._note_end()


class ClusterPubSub(PlainChannels, ShardChannels, _Watched, redis.cluster.ClusterPubSub):
    """redis-py's, whose subscriptions are made again at another node when theirs is lost, or their slot has moved.

    Messages in between are lost, as pub/sub has it. Of each channel and pattern that was subscribed to again the user is
    told by a message of type ``gap``, in the place where some may be missing: ``{"type": "gap", "channel": ...,
    "pattern": ..., "data": None}``. As other messages about subscriptions it is kept back from who ignores these;
    ``on_gap``, a function that is called with it in place of the delivery, hears of every one.
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
        # Makes the subscriptions of moved slots anew; and whether that has been asked for and has not begun.
        self._worker: ThreadPoolExecutor | None = None
        self._wanted = False
        self._worker_lock = threading.RLock()
        options["event_dispatcher"] = options.get("event_dispatcher") or PubSubEvents()
        super().__init__(redis_cluster, node, host, port, **options)
        # The user has chosen the node.
        self._pinned = self.node is not None

    # -- plain channels ----------------------------------------------------------------------------------------------

    def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """The next message, or None; see `ClusterPubSub` for those of type ``gap``."""
        ignore = ignore_subscribe_messages or self.ignore_subscribe_messages
        message = self.gaps.told(ignore)
        if message is None:
            if self._is_astray():
                self._leave()
            left = self.connection is None and bool(self.channels or self.patterns)
            if left:
                self._settle(timeout)
            if self.connection is not None or not (left or self.subscribed):
                message = super().get_message(ignore_subscribe_messages, timeout)
        return self.gaps.told(ignore) if message is None else message

    def listen(self) -> Any:
        """Yields messages as long as there are subscriptions."""
        while self.subscribed:
            message = self.get_message(timeout=None)
            if message is not None:
                yield message

    def execute_command(self, *args: Any) -> Any:
        """redis-py's; over a new connection, what was subscribed to before comes first."""
        if self.connection is None and not self._renewing:
            self._forget_pending()
            try:
                self._subscribe_anew()
            except BaseException:
                self._leave()
                raise
        return super().execute_command(*args)

    def _subscribe_anew(self) -> None:
        self._expect_gaps()
        self._renewing = True
        try:
            self._resubscribe(self.channels, self.subscribe)
            self._resubscribe(self.patterns, self.psubscribe)
        finally:
            self._renewing = False

    def _forget_pending(self) -> None:
        super()._forget_pending()
        self._note_end()

    def _lost(self, error: Exception) -> None:
        if isinstance(error, AskError):
            raise error
        if self.connection is not None and self._cut_off:
            self.cluster.nodes_manager.refresher.want(
                Address(self.connection.host, int(self.connection.port))
            )
            self._leave()

    def _leave(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.deregister_connect_callback(self.on_connect)
            connection.disconnect()
            self.connection_pool.release(connection)

    def _settle(self, timeout: float | None) -> None:
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
            self.node = node
            self.connection_pool = self.cluster.nodes_manager.pool_of(Address(node.host, int(node.port)))
            try:
                self._subscribe_anew()
            except (ConnectionError, TimeoutError) as error:
                self._leave()
                if isinstance(error, FINAL):
                    raise
            except BaseException:
                # With half of the subscriptions it would be taken for whole.
                self._leave()
                raise
            else:
                if not self._has_left():
                    return
                self._leave()
            if time.monotonic() > deadline:
                break
        time.sleep(max(0, min(deadline - time.monotonic(), _PAUSE)))

    def reset(self) -> None:
        """Ends all subscriptions, without waiting for the nodes to confirm it."""
        super().reset()
        self._end_worker()
        self.gaps.clear()
        self.shard_gaps.clear()

    # -- shard channels ----------------------------------------------------------------------------------------------

    def get_sharded_message(
        self,
        ignore_subscribe_messages: bool = False,
        timeout: float = 0.0,
        target_node: ClusterNode | None = None,
    ) -> Message | None:
        """The next message of shard channels, or None; see `ClusterPubSub` for those of type ``gap``."""
        ignore = ignore_subscribe_messages or self.ignore_subscribe_messages
        message = self.shard_gaps.told(ignore)
        if message is None:
            self._house()
            began = time.monotonic()
            message = super().get_sharded_message(ignore_subscribe_messages, timeout, target_node)
            if message is None and self.shard_channels and time.monotonic() - began < timeout:
                # Of a node that refuses connections, or of none: who waits is not to spin.
                time.sleep(min(timeout, _PAUSE))
        return self.shard_gaps.told(ignore) if message is None else message

    def _sharded_message_generator(self, timeout: float = 0.0) -> tuple[Any, Any]:
        pubsubs = list(self.node_pubsub_mapping.values())
        self._turn += 1
        for place in range(len(pubsubs)):
            pubsub = pubsubs[(self._turn + place) % len(pubsubs)]
            message = pubsub.get_message(ignore_subscribe_messages=False, timeout=timeout)
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

    def ssubscribe(self, *args: Any, **kwargs: Any) -> None:
        """redis-py's; takes back an unsubscribe that is under way."""
        with self._shard_state_lock:
            self.pending_unsubscribe_shard_channels -= self._names(args, kwargs)
            super().ssubscribe(*args, **kwargs)

    def sunsubscribe(self, *args: Any) -> None:  # type: ignore[override]  # as in redis-py
        """redis-py's; also from what has no node for the moment."""
        with self._shard_state_lock:
            names = self._names(args or tuple(self.shard_channels), {})
            names -= self._forget_at("", names)
            if names:
                super().sunsubscribe(*names)

    def on_slots_changed(self) -> None:
        """redis-py's, which never waits for one who subscribes: calls that meet MOVED come here, and the refresher."""
        sock = getattr(self.connection, "_sock", None)
        if sock is not None and self._has_left():
            # Somebody may wait there for ever: ends the stream, and whoever reads does the rest.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        if self.shard_channels:
            self._want_worker()

    @holding("_worker_lock")
    def _want_worker(self) -> None:
        if self._wanted:
            return
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="slotwise-pubsub")
        # First: a signal handler that comes here meanwhile must not submit as well.
        self._wanted = True
        try:
            future = self._worker.submit(self._work)
        except BaseException:
            self._wanted = False
            raise
        future.add_done_callback(self._log_reconcile_future_exception)

    def _work(self) -> None:
        """The worker's part: what changes from now on is worth another time."""
        with self._shard_state_lock:
            self._begin_work()
            self.reinitialize_shard_subscriptions()

    @holding("_worker_lock")
    def _begin_work(self) -> None:
        self._wanted = False

    @holding("_worker_lock")
    def _end_worker(self) -> None:
        worker, self._worker, self._wanted = self._worker, None, False
        if worker is not None:
            worker.shutdown(wait=False, cancel_futures=True)

    def _part_from(self, pubsub: _NodePubSub) -> None:
        """Gives its connection back, unless something was subscribed to meanwhile."""
        with self._shard_state_lock:
            if not pubsub.shard_channels:
                self.node_pubsub_mapping.pop(pubsub._address.name, None)
                pubsub.reset()

    def _forget_at(self, node: str, channels: Iterable[Any]) -> set[Any]:
        forgotten = super()._forget_at(node, channels)
        self._note_end()
        return forgotten

    def _homeless(self, channel: Any, address: Address) -> None:
        """The node at ``address`` has ended the subscription: the slot has moved."""
        if self._shard_channel_to_node.get(channel) == address.name:
            self._shard_channel_to_node[channel] = ""
            # If the table does not know yet, the old node says MOVED.
            self.on_slots_changed()

    def _house(self) -> None:
        """Tries once more to subscribe where that has failed."""
        now = time.monotonic()
        if now > self._next_try and "" in self._shard_channel_to_node.values():
            self._next_try = now + _PAUSE
            self.on_slots_changed()

    def _migrate_shard_channel(
        self, channel: Any, handler: Any, old_name: str, new_node: ClusterNode
    ) -> None:
        if channel in self.pending_unsubscribe_shard_channels:
            # The old node confirms that, or is lost.
            return
        self._shard_channel_to_node[channel] = ""
        old = self.node_pubsub_mapping.get(old_name)
        try:
            if old is not None and old_name != new_node.name:
                old.sunsubscribe(channel)
        except (ConnectionError, TimeoutError, OSError):
            assert old is not None
            old.shard_channels.pop(channel, None)
            if not old.shard_channels:
                # Nobody looks whether it comes back.
                self.node_pubsub_mapping.pop(old_name, None)
                with suppress(ConnectionError, TimeoutError, OSError):
                    old.reset()
        self.shard_gaps.expect("ssubscribe", [channel])
        super()._migrate_shard_channel(channel, handler, "", new_node)
