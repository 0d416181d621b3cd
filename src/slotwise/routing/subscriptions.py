"""What pub/sub is in both shells, without the I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.commands.helpers import parse_pubsub_subscriptions
from redis.event import AfterPubSubConnectionInstantiationEvent, EventDispatcher

from slotwise.routing.gaps import Gaps


class PubSubEvents(EventDispatcher):
    """redis-py's, which tells no streaming credential provider of a subscriber's connection.

    A provider has one listener, and that is the client's, which takes new tokens to the pools.
    """

    def dispatch(self, event: object) -> None:
        """Calls the listeners."""
        if not isinstance(event, AfterPubSubConnectionInstantiationEvent):
            super().dispatch(event)


class PlainChannels:
    """What redis-py's pub/sub classes keep of plain channels and patterns."""

    gaps: Gaps
    channels: dict[Any, Any]
    patterns: dict[Any, Any]
    pending_unsubscribe_channels: set[Any]
    pending_unsubscribe_patterns: set[Any]
    cluster: Any
    # Where they are subscribed to; and whether the user has chosen it.
    node: Any
    _pinned: bool
    # The published topology in which the node was looked for last.
    _looked = 0

    def _expect_gaps(self) -> None:
        """They are being subscribed to anew."""
        self.gaps.expect("subscribe", self.channels)
        self.gaps.expect("psubscribe", self.patterns)

    def _forget_pending(self) -> None:
        """The connection took the confirmations with it that were on their way."""
        for kind, subscribed, pending in (
            ("subscribe", self.channels, self.pending_unsubscribe_channels),
            ("psubscribe", self.patterns, self.pending_unsubscribe_patterns),
        ):
            self.gaps.forget(kind, pending)
            forget(subscribed, pending)

    def _is_astray(self) -> bool:
        """Whether the node has left the cluster, and relays no messages although it lives on. Looks after news only."""
        published = self.cluster.nodes_manager.knowledge.published
        if published == self._looked:
            return False
        if self._has_left():
            return True
        self._looked = published
        return False

    def _has_left(self) -> bool:
        """Whether the client knows the node no more. The user's own is left only when it is lost."""
        node = self.node
        return (
            node is not None and not self._pinned and node.name not in self.cluster.nodes_manager.nodes_cache
        )


class ShardChannels:
    """What redis-py's pub/sub classes keep of shard channels at all nodes."""

    shard_gaps: Gaps
    shard_channels: dict[Any, Any]
    pending_unsubscribe_shard_channels: set[Any]
    # The names of nodes; "" while there is none.
    _shard_channel_to_node: dict[Any, str]
    _normalize_keys: Any

    def _names(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[Any]:
        """The channels in the arguments of a call, as messages have them."""
        return set(self._normalize_keys(parse_pubsub_subscriptions(args, kwargs)))

    def _forget_at(self, node: str, channels: Iterable[Any]) -> set[Any]:
        """Those of ``channels`` that this node has; it is not going to confirm that the user has unsubscribed."""
        gone = {channel for channel in list(channels) if self._shard_channel_to_node.get(channel) == node}
        for channel in gone:
            self._shard_channel_to_node.pop(channel, None)
            self.shard_channels.pop(channel, None)
            self.pending_unsubscribe_shard_channels.discard(channel)
        self.shard_gaps.forget("ssubscribe", gone)
        return gone

    def _homeless_at(self, node: str, channels: Iterable[Any]) -> None:
        """Those of ``channels`` that this node had have none now."""
        for channel in channels:
            if self._shard_channel_to_node.get(channel) == node:
                self._shard_channel_to_node[channel] = ""


def forget(subscribed: dict[Any, Any], pending: set[Any]) -> None:
    """Ends what was about to end."""
    while pending:
        subscribed.pop(pending.pop(), None)
