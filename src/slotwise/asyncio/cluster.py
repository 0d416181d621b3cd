"""`RedisCluster` for asyncio: redis-py's surface, one shared connection per node that batches by itself."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import redis.asyncio
from redis._parsers.commands import RequestPolicy
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.observability import recorder
from redis.cache import CacheConfig, CacheFactory, CacheInterface
from redis.client import NEVER_DECODE
from redis.commands import READ_COMMANDS
from redis.commands.helpers import list_or_args
from redis.commands.policies import AsyncStaticPolicyResolver
from redis.himport import parse_himport_set_args
from redis.utils import check_protocol_version

from slotwise._aiolink import AsyncLink, Turns, Unusual
from slotwise._batch import scatter
from slotwise._calls import AsyncCalls, ShortPlans
from slotwise._reply import MAX_REPLY_SIZE
from slotwise.asyncio.caching import ReplyCache
from slotwise.asyncio.connection import NAMELESS, drain
from slotwise.asyncio.dispatch import REDIS_FUNNEL, Dispatch
from slotwise.asyncio.distribution import measure
from slotwise.asyncio.nodes import NodesManager
from slotwise.asyncio.pipeline import ClusterPipeline
from slotwise.asyncio.pubsub import ClusterPubSub
from slotwise.asyncio.session import AsyncView
from slotwise.asyncio.tls import TLSConnection
from slotwise.errors import (
    DataError,
    NotSentError,
    RedisClusterException,
    RedisError,
)
from slotwise.routing import refresh
from slotwise.routing.options import reply_size, seconds, seconds_or_none
from slotwise.routing.plan import Plan, only_key
from slotwise.routing.redirects import RetryWrites
from slotwise.routing.replicas import ReadFrom, Session
from slotwise.routing.retry import RetryBudget, RetryPolicy
from slotwise.sync.distribution import Distribution
from slotwise.sync.session import listener, view_of
from slotwise.tls import SharedContext

_REDIS = redis.asyncio.RedisCluster
_OWN_STEP = Dispatch.__dict__["_execute_command"]


class _Funnel:
    """``execute_command``: slotwise's own, or redis-py's as soon as somebody replaced that on redis-py's class.

    Tracers replace it there. What they wrapped is redis-py's function, which asks ``_execute_command`` for every node,
    and that is ours.
    """

    def __get__(self, client: RedisCluster | None, owner: type[RedisCluster]) -> Any:
        function = _REDIS.__dict__["execute_command"]
        if function is REDIS_FUNNEL:
            function = owner._execute if client is None else type(client)._execute
        return function.__get__(client, owner)


def _with_options_of(original: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Shows the options of redis-py's ``__init__`` before our own: frameworks read them from the signature."""

    def shown(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        theirs = inspect.signature(original)
        wrapped = functools.wraps(original)(function)
        wrapped.__signature__ = theirs.replace(  # type: ignore[attr-defined]
            parameters=[*theirs.parameters.values(), *own]
        )
        return wrapped

    return shown


class RedisCluster(Dispatch):
    """A cluster client for asyncio, imported in place of redis-py's ``redis.asyncio.RedisCluster``.

    Takes every keyword of redis-py 8.1's class, gives the same values and raises the same exceptions. What differs:

    - All tasks share one connection per node; commands of one event-loop turn leave in one write. ``max_connections``
      (default 100 per node) bounds the others, which blocking commands, transactions and pub/sub take; callers wait
      up to 20 seconds for one.
    - ``connections_per_node`` (default 1, at least 1, or ``DataError``) opens several shared connections per node, which
      take turns: a large value then holds up fewer others, and a server with I/O threads reads them side by side.
      Commands that one task does not await one after the other may be executed in any order.
    - ``cache_config=CacheConfig()`` (or ``cache``, an object that several clients may share) keeps replies in the
      process until the server tells that their key changed, as redis-py's client for threads does. It needs RESP3,
      and raises ``RedisError`` for ``protocol=2``.
    - A write whose reply was lost is not sent a second time: ``UnknownOutcomeError`` says so, unless
      ``retry_writes="always"`` asks for redis-py's behaviour (default "safe"). Reads, and what surely never left the
      process, are tried again as ``retry`` says, no longer than ``retry_timeout`` seconds after the first failure
      (default None: no limit), and only as long as repetitions are a small share of all calls.
    - ``load_balancing_strategy`` takes a `ReadFrom` as well: zones, latency, limits to how far behind a replica may be.
    - The topology is asked for in the background: every ``topology_refresh_interval`` seconds (default 60, None for
      never), and soon after a MOVED or a failure, at least ``topology_refresh_min_interval`` seconds (default 1) after
      the last time. A node has ``topology_refresh_timeout`` seconds (default 2) to answer. MOVED patches the table at
      once; ``reinitialize_steps=0`` makes it do no more than that, other numbers say nothing.
    - A reply of more than ``max_reply_size`` bytes (default 4 GiB) is refused and its connection closed, as is one that
      is malformed: what was under way there raises a ``ConnectionError``. It holds for calls and pipelines; the
      handshake, transactions, pub/sub, ``monitor()`` and the topology go over redis-py's connections, which have no limit.
    - A client belongs to the event loop of its first call. It opens its connections anew when that loop was closed.
    """

    execute_command = _Funnel()
    # redis-py's funnel tries again what is of exactly one of these classes.
    ERRORS_ALLOW_RETRY: Any = (*_REDIS.ERRORS_ALLOW_RETRY, NotSentError)

    @_with_options_of(_REDIS.__init__)
    def __init__(
        self,
        *args: Any,
        cache: CacheInterface | None = None,
        cache_config: CacheConfig | None = None,
        connections_per_node: int = 1,
        topology_refresh_interval: float | None = refresh.INTERVAL,
        topology_refresh_min_interval: float = refresh.MIN_INTERVAL,
        topology_refresh_timeout: float = refresh.TIMEOUT,
        retry_writes: RetryWrites = "safe",
        retry_timeout: float | None = None,
        max_reply_size: int = MAX_REPLY_SIZE,
        **kwargs: Any,
    ) -> None:
        links = _count("connections_per_node", connections_per_node)
        caching = cache is not None or cache_config is not None
        if caching and not check_protocol_version(kwargs.get("protocol"), 3):
            raise RedisError("Client caching is only supported with RESP version 3")
        super().__init__(*args, **kwargs)
        made = self.nodes_manager
        connection_kwargs = dict(made.connection_kwargs)
        if connection_kwargs["connection_class"] is SSLConnection:
            connection_kwargs["connection_class"] = TLSConnection
            connection_kwargs["ssl_shared"] = SharedContext()
        self.nodes_manager = NodesManager(
            list(made.startup_nodes.values()),
            made.require_full_coverage,
            connection_kwargs,
            dynamic_startup_nodes=made._dynamic_startup_nodes,
            address_remap=made.address_remap,
            event_dispatcher=made._event_dispatcher,
        )
        if cache is None and cache_config is not None:
            cache = CacheFactory(cache_config).get_cache()
        self._reply_cache = None if cache is None else ReplyCache(cache, self.encoder)
        self._on_written = () if self._reply_cache is None else (self._reply_cache.wrote,)
        encoding = (self.encoder.encoding, self.encoder.encoding_errors)
        plain_utf8 = encoding[0].lower().replace("_", "-") in ("utf-8", "utf8") and encoding[1] == "strict"
        self.nodes_manager.attach(
            engine_encoding=None if plain_utf8 else encoding,
            reply_encoding=encoding if self.encoder.decode_responses else None,
            on_push=None if self._reply_cache is None else self._reply_cache.pushed,
            shared_links=links,
            read_from=ReadFrom.of(self.load_balancing_strategy, self.read_from_replicas),
            refresh_interval=seconds_or_none("topology_refresh_interval", topology_refresh_interval),
            refresh_min_interval=seconds("topology_refresh_min_interval", topology_refresh_min_interval),
            refresh_timeout=seconds("topology_refresh_timeout", topology_refresh_timeout),
            max_reply_size=reply_size("max_reply_size", max_reply_size),
        )
        self._engine = self.nodes_manager.engine
        self._lock: asyncio.Lock = asyncio.Lock()
        self._loop_of_locks: asyncio.AbstractEventLoop | None = None
        self._policy = RetryPolicy(self.retry, retry_writes, seconds_or_none("retry_timeout", retry_timeout))
        self._budget = RetryBudget(time.monotonic())
        self._plans: dict[Any, Plan] = {}
        self._pipeline_plans: ShortPlans | None = None
        self._by_keys = type(self)._execute_command is _OWN_STEP and isinstance(
            self._policy_resolver, AsyncStaticPolicyResolver
        )
        straight = self._by_keys and self.nodes_manager.readers is None and self._reply_cache is None
        self._calls = AsyncCalls(self._engine, type(self), RedisCluster.__dict__["execute_command"], straight)
        self._submit = self._calls.submit

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "execute_command":
            self._calls.replaced = True
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name == "execute_command":
            self._calls.replaced = False
        super().__delattr__(name)

    # -- life --------------------------------------------------------------------------------------------------------

    async def initialize(
        self,
        additional_startup_nodes_info: list[tuple[str, int]] | None = None,
        last_failed_node_name: str | None = None,
    ) -> RedisCluster:
        """Finds the cluster, unless that was done; every command does it by itself."""
        if self._initialize or self._engine.loop is not asyncio.get_running_loop():
            self._adopt_loop()
            async with self._lock:
                if self._initialize:
                    try:
                        await self.nodes_manager.initialize(
                            additional_startup_nodes_info, last_failed_node_name
                        )
                        self._initialize = False
                    except BaseException:
                        await self.nodes_manager.aclose()
                        await self.nodes_manager.aclose("startup_nodes")
                        raise
        return self

    def _adopt_loop(self) -> None:
        """Binds the client to the running loop; refuses while the loop that it belongs to still lives."""
        running = asyncio.get_running_loop()
        mine = self._engine.loop
        if mine is running:
            return
        if mine is not None and not mine.is_closed() and not self._initialize:
            raise RuntimeError(
                "This client belongs to another event loop: make one client per event loop, "
                "or close it there with `await client.aclose()` first"
            )
        if mine is not None:
            # Its loop is gone and every connection with it, or the last `async with` there has ended.
            self.nodes_manager.forget_links()
            if self._reply_cache is not None:
                self._reply_cache.forget()
            self._initialize = True
        if self._loop_of_locks not in (None, running):
            self._lock = asyncio.Lock()
            self._usage_lock = asyncio.Lock()
            self.nodes_manager.renew_lock()
        self._loop_of_locks = self._engine.loop = running
        self._engine.turns = Turns(running)

    async def aclose(self) -> None:
        """Closes every connection, and what is under way fails; a later command opens them again."""
        if self._engine.loop is not None and self._engine.loop.is_closed():
            self._adopt_loop()
        self._engine.loop = None
        self.nodes_manager.close_links()
        async with self._lock:
            await self._end()
        # The transports end in the loop's next turn, and the loop may be closed right after this.
        await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        """The end of the last ``async with``: closes, but answers what tasks outside of it have under way."""
        await asyncio.shield(self._leave())

    async def _leave(self) -> None:
        links: list[AsyncLink] = []
        async with self._usage_lock:
            # Who enters now waits for this, and begins anew.
            self._usage_counter -= 1
            if not self._usage_counter:
                async with self._lock:
                    links = self.nodes_manager.retire_links()
                    await self._end()
        await drain(links)

    async def _end(self) -> None:
        """Ends what asks for the topology, and redis-py's own connections; nobody finds the cluster meanwhile."""
        if self._initialize:
            return
        # Before anything waits: a task that comes meanwhile begins anew, as soon as this is done.
        self._initialize = True
        await self.nodes_manager.refresher.end()
        await self.nodes_manager.end_watch()
        if self.nodes_manager.offsets is not None:
            await self.nodes_manager.offsets.end()
        handler = self._oss_cluster_maint_notifications_handler
        notified = [] if handler is None else list(handler._background_tasks)
        for task in notified:
            task.cancel()
        await asyncio.gather(*notified, return_exceptions=True)
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")

    def __repr__(self) -> str:
        nodes = ", ".join(sorted(node.name for node in self.get_primaries()))
        return f"<slotwise.asyncio.RedisCluster of {nodes or 'no known primary'}>"

    # -- the way of a command ----------------------------------------------------------------------------------------

    async def get(self, name: Any) -> Any:
        """The value of ``name``, or None (GET)."""
        future = self._submit(("GET", name))
        if future is None:
            return await super().get(name)
        reply = await future
        return reply if type(reply) is not Unusual else await self._rescue(("GET", name), reply)

    async def set(self, name: Any, value: Any, *args: Any, **options: Any) -> Any:
        """Sets ``name`` to ``value`` (SET); options as in redis-py."""
        future = self._submit(("SET", name, value)) if not args and not options else None
        if future is None:
            return await super().set(name, value, *args, **options)
        reply = await future
        if type(reply) is Unusual:
            reply = await self._rescue(("SET", name, value), reply)
        return reply == b"OK" or reply == "OK"

    async def hget(self, name: Any, key: Any) -> Any:
        """The value of field ``key`` in the hash ``name``, or None (HGET)."""
        future = self._submit(("HGET", name, key))
        if future is None:
            return await super().hget(name, key)
        reply = await future
        return reply if type(reply) is not Unusual else await self._rescue(("HGET", name, key), reply)

    async def incrby(self, name: Any, amount: int = 1) -> Any:
        """Adds ``amount`` to the integer at ``name`` and returns the sum (INCRBY)."""
        future = self._submit(("INCRBY", name, amount))
        if future is None:
            return await super().incrby(name, amount)
        reply = await future
        return reply if type(reply) is not Unusual else await self._rescue(("INCRBY", name, amount), reply)

    incr = incrby

    async def _execute(self, *args: Any, **options: Any) -> Any:
        """slotwise's ``execute_command``: straight to the node of the keys; redis-py's way for everything else."""
        if self._initialize or self._engine.loop is not asyncio.get_running_loop():
            await self._open()
        if not args:
            raise DataError(NAMELESS)
        plan = self._plan(args[0])
        if "target_nodes" not in options:
            key = only_key(plan, args)
            if key and self._calls.straight and recorder._async_metrics_collector is None:
                future = self._engine.keyed(args, key, NEVER_DECODE not in options)
                if future is not None:
                    reply = await future
                    if type(reply) is Unusual:
                        reply = await self._converse(
                            args, options, plan, slot=self.keyslot(args[key]), got=reply
                        )
                    return self._value(plan, reply, options)
            if key and self._by_keys:
                slot: int | None = self.keyslot(args[key])
            else:
                slot = None if parse_himport_set_args(args) else await self._slot_by_keys(args, plan)
            if slot is not None:
                return await self._value_of(args, options, plan, slot=slot)
        flag = options.get("target_nodes")
        if self._is_node_flag(flag) or (not flag and self._is_flagged(str(args[0]))):
            return await self._by_flag(args, options)
        return await REDIS_FUNNEL(self, *args, **options)

    # What tracers wrap and print.
    _execute.__name__ = "execute_command"

    def set_response_callback(self, command: str, callback: Any) -> None:
        """Replaces what makes a value of the replies to ``command``."""
        super().set_response_callback(command, callback)
        self._calls.straight = False
        self._plans.clear()
        self._pipeline_plans = None

    def pubsub(
        self,
        node: ClusterNode | None = None,
        host: str | None = None,
        port: int | None = None,
        **options: Any,
    ) -> ClusterPubSub:
        """Pub/sub, on connections of its own: to the node given, or to those of its channels."""
        return ClusterPubSub(self, node=node, host=host, port=port, **options)

    # -- the cluster as data -----------------------------------------------------------------------------------------

    def group_by_node(self, keys: Iterable[Any]) -> dict[ClusterNode, list[Any]]:
        """Keys by the primary that owns them, in their order; raises SlotNotCoveredError for a slot nobody serves.

        Looks into the client's own table and asks nobody: the client must have been initialized.
        """
        groups: dict[ClusterNode, list[Any]] = {}
        for key in keys:
            groups.setdefault(self.nodes_manager.get_node_from_slot(self.keyslot(key)), []).append(key)
        return groups

    async def distribution(self) -> Distribution:
        """Live keys, bytes and operations per second of every primary, and how far the busiest is above the mean."""
        return await measure(self)

    # -- several keys and pipelines --------------------------------------------------------------------------------------

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> ClusterPipeline:
        """A pipeline over all nodes; ``transaction=True`` makes it MULTI/EXEC on one slot, with WATCH."""
        if shard_hint:
            raise RedisClusterException("shard_hint is deprecated in cluster mode")
        return ClusterPipeline(self, transaction)

    def session(self, bound: float | None = None) -> RedisCluster:
        """A view of this client, whose reads find what was written by it: they go to the primary of a slot that it has
        written to until a replica is known to have caught up.

        After ``bound`` seconds (default None: never) they go to replicas though nobody knows. For ``async with`` or
        without; to close it ends nothing. While primaries answer all reads it is no different from the client.
        """
        own: dict[str, Any] = {}
        if self.nodes_manager.readers is not None:
            memory = own["_session"] = Session(self.keyslot, bound)
            own["_on_written"] = (*self._on_written, listener(memory))
        view = view_of(self, AsyncView, **own)
        vars(view)["_policies_callback_mapping"] = {
            **self._policies_callback_mapping,
            RequestPolicy.DEFAULT_KEYED: view.get_nodes_from_slot,
        }
        return view

    async def mget_nonatomic(  # type: ignore[override]  # redis-py's base says what awaiting it gives
        self, keys: Any, *args: Any
    ) -> list[Any]:
        """Values of keys in any slots, in their order: one MGET per slot, all nodes at once; not atomic."""
        keys = list_or_args(keys, args)
        if not (keys and self._calls.may_batch()):
            return await super().mget_nonatomic(keys)
        positions, found = await self.pipeline().by_slot("MGET", keys)
        return scatter(positions, found)

    async def mset_nonatomic(  # type: ignore[override]  # redis-py's base says what awaiting it gives
        self, mapping: Mapping[Any, Any]
    ) -> list[bool]:
        """Sets keys in any slots: one MSET per slot, all nodes at once; not atomic."""
        if not (mapping and self._calls.may_batch()):
            return await super().mset_nonatomic(mapping)
        pairs = [part for pair in mapping.items() for part in pair]
        return (await self.pipeline().by_slot("MSET", pairs, 2))[1]

    async def _split_command_across_slots(  # type: ignore[override]  # as above
        self, command: str, *keys: Any
    ) -> int:
        if not (keys and self._calls.may_batch()):
            return await super()._split_command_across_slots(command, *keys)
        return sum((await self.pipeline().by_slot(command, list(keys)))[1])

    async def _execute_pipeline_by_slot(  # type: ignore[override]  # as above
        self, command: str, slots_to_args: Mapping[int, Any]
    ) -> list[Any]:
        # redis-py pins each to a node here and so forgets load_balancing_strategy.
        pipe = self.pipeline()
        for args in slots_to_args.values():
            pipe.execute_command(command, *args)
        return await pipe.execute()


def _count(name: str, value: Any) -> int:
    """A number of things, at least one; a URL's query gives it as text."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if type(number) is not int or number < 1:
        raise DataError(f"{name} must be an integer of at least 1, not {value!r}")
    return number


__all__ = ["READ_COMMANDS", "RedisCluster"]
