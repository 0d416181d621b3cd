"""`RedisCluster`: redis-py's cluster client by its surface, slotwise's compiled hot path by its engine."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import redis
import redis.cluster
from redis._defaults import DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT
from redis._parsers import CommandsParser, Encoder
from redis._parsers.commands import CommandPolicies, RequestPolicy, ResponsePolicy
from redis._parsers.response_callbacks import get_response_callbacks
from redis.backoff import ExponentialWithJitterBackoff
from redis.cache import CacheConfig, CacheInterface
from redis.client import CaseInsensitiveDict, Monitor
from redis.cluster import SLOT_ID, ClusterNode, LoadBalancingStrategy
from redis.commands import READ_COMMANDS
from redis.commands.helpers import list_or_args
from redis.commands.policies import PolicyResolver, StaticPolicyResolver
from redis.connection import parse_url
from redis.event import EventDispatcher
from redis.himport import HImportRegistry
from redis.maint_notifications import MaintNotificationsConfig
from redis.observability import recorder
from redis.retry import Retry
from redis.utils import check_protocol_version

from slotwise._batch import Queue, scatter, split
from slotwise._calls import ClientCalls
from slotwise._encoder import Indices
from slotwise._engine import Uncovered
from slotwise._link import LinkFailure, Reentered
from slotwise._reply import MAX_REPLY_SIZE, Flawed, ServerError
from slotwise.commands import shown
from slotwise.errors import (
    ClosedClientError,
    DataError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
)
from slotwise.routing import refresh
from slotwise.routing.conversation import CLOSED
from slotwise.routing.errors_inside import annotate, exceptions_in
from slotwise.routing.options import reply_size, seconds_or_none
from slotwise.routing.plan import only_key
from slotwise.routing.redirects import RetryWrites
from slotwise.routing.replicas import ReadFrom, Session
from slotwise.routing.retry import RetryPolicy
from slotwise.routing.topology import Address
from slotwise.sync.caching import ReplyCache
from slotwise.sync.dispatch import NAMELESS, Dispatcher
from slotwise.sync.distribution import Distribution, measure
from slotwise.sync.keys import Routing
from slotwise.sync.nodes import NodesManager
from slotwise.sync.pipeline import ClusterPipeline
from slotwise.sync.pubsub import ClusterPubSub
from slotwise.sync.session import listener, view_of

_NEVER_DECODE = "NEVER_DECODE"


class RedisCluster(ClientCalls, Routing, redis.RedisCluster):
    """A cluster client for threads, imported in place of redis-py's ``RedisCluster``.

    Takes every keyword of redis-py 8.1's class, gives the same values and raises the same exceptions. What differs:

    - Threads share one connection per node. ``max_connections`` (default 100 per node) bounds the others, which
      blocking commands, pipelines, transactions, pub/sub and MONITOR take; callers wait up to ``timeout`` seconds
      (default 20) for one.
    - A write whose reply was lost is not sent a second time: ``UnknownOutcomeError`` (a redis-py ``ConnectionError``)
      says so, unless ``retry_writes="always"`` asks for redis-py's behaviour (default "safe"). Reads, and what surely never
      left the process, are tried again as ``retry`` says, no longer than ``retry_timeout`` seconds after the first
      failure (default None: no limit), and only as long as repetitions are a small share of all calls.
    - Keys are found by a table, not by asking the server.
    - ``load_balancing_strategy`` takes a `ReadFrom` as well: zones, latency, limits to how far behind a replica may be.
    - The topology is asked for by a thread of the client's own: every ``topology_refresh_interval`` seconds (default 60,
      None for never), and soon after a MOVED or a failure, at least ``topology_refresh_min_interval`` seconds (default 1)
      after the last time. A node has ``topology_refresh_timeout`` seconds (default 2) to answer. MOVED patches the table
      at once; ``reinitialize_steps=0`` makes it do no more than that, other numbers say nothing.
    - A reply of more than ``max_reply_size`` bytes (default 4 GiB) is refused and its connection closed, as is one that
      is malformed: what was under way there raises a ``ConnectionError``. It holds for calls and pipelines; the
      handshake, transactions, pub/sub, ``monitor()`` and the topology go over redis-py's connections, which have no limit.
    """

    nodes_manager: NodesManager

    def __init__(
        self,
        host: str | None = None,
        port: int = 6379,
        startup_nodes: list[ClusterNode] | None = None,
        cluster_error_retry_attempts: int = DEFAULT_RETRY_COUNT,
        retry: Retry | None = None,
        require_full_coverage: bool = True,
        reinitialize_steps: int = 5,
        read_from_replicas: bool = False,
        load_balancing_strategy: ReadFrom | LoadBalancingStrategy | None = None,
        dynamic_startup_nodes: bool = True,
        url: str | None = None,
        address_remap: Callable[[tuple[str, int]], tuple[str, int]] | None = None,
        cache: CacheInterface | None = None,
        cache_config: CacheConfig | None = None,
        event_dispatcher: EventDispatcher | None = None,
        policy_resolver: PolicyResolver = StaticPolicyResolver(),  # noqa: B008  (redis-py's signature)
        maint_notifications_config: MaintNotificationsConfig | None = None,
        topology_refresh_interval: float | None = refresh.INTERVAL,
        topology_refresh_min_interval: float = refresh.MIN_INTERVAL,
        topology_refresh_timeout: float = refresh.TIMEOUT,
        retry_writes: RetryWrites = "safe",
        retry_timeout: float | None = None,
        max_reply_size: int = MAX_REPLY_SIZE,
        **kwargs: Any,
    ) -> None:
        if "db" in kwargs:
            raise RedisClusterException("Argument 'db' is not possible to use in cluster mode")
        if "retry" in kwargs:
            raise RedisClusterException(
                "The 'retry' argument cannot be used in kwargs when running in cluster mode."
            )
        startup_nodes = list(startup_nodes or ())
        if url is not None:
            options = parse_url(url)
            if "path" in options:
                raise RedisClusterException(
                    "RedisCluster does not currently support Unix Domain Socket connections"
                )
            if options.get("db", 0) != 0:
                raise RedisClusterException("A ``db`` querystring option can only be 0 in cluster mode")
            kwargs.update(options)
            startup_nodes.append(_seed(kwargs.get("host"), kwargs.get("port", port)))
        elif host is not None and port is not None:
            startup_nodes.append(_seed(host, port))
        elif not startup_nodes:
            raise RedisClusterException(
                "RedisCluster requires at least one node to discover the cluster. "
                "Please provide one of the followings:\n"
                "1. host and port, for example:\n RedisCluster(host='localhost', port=6379)\n"
                "2. list of startup nodes, for example:\n"
                " RedisCluster(startup_nodes=[ClusterNode('localhost', 6379),"
                " ClusterNode('localhost', 6378)])"
            )
        kwargs = {name: value for name, value in kwargs.items() if name not in _OLD_KEYWORDS}
        known = set(redis.cluster.REDIS_ALLOWED_KEYS) | _MORE_KEYWORDS
        unknown = sorted(kwargs.keys() - known)
        if unknown:
            raise TypeError(
                f"RedisCluster takes no keyword {', '.join(unknown)}; "
                "see help(slotwise.RedisCluster) for those that it takes"
            )
        protocol = kwargs.get("protocol")
        resp3 = check_protocol_version(protocol, 3)
        if (cache_config or cache) and not resp3:
            raise RedisError("Client caching is only supported with RESP version 3")
        if maint_notifications_config and maint_notifications_config.enabled and not resp3:
            raise RedisError("Maintenance notifications are only supported with RESP version 3")
        if resp3 and maint_notifications_config is None:
            maint_notifications_config = MaintNotificationsConfig()

        self.user_on_connect_func = kwargs.pop("redis_connect_func", None)
        kwargs["redis_connect_func"] = self.on_connect
        kwargs = {k: v for k, v in kwargs.items() if k not in ("host", "port")}
        self.retry = retry or Retry(
            backoff=ExponentialWithJitterBackoff(base=DEFAULT_RETRY_BASE, cap=DEFAULT_RETRY_CAP),
            retries=cluster_error_retry_attempts,
        )
        self.encoder = Encoder(
            kwargs.get("encoding", "utf-8"),
            kwargs.get("encoding_errors", "strict"),
            kwargs.get("decode_responses", False),
        )
        self._himport_registry = HImportRegistry()
        self.command_flags = self.__class__.COMMAND_FLAGS.copy()
        self.node_flags = self.__class__.NODE_FLAGS.copy()
        self.read_from_replicas = read_from_replicas
        self.load_balancing_strategy = load_balancing_strategy  # type: ignore[assignment]  # or a ReadFrom
        self.reinitialize_counter = 0
        self.reinitialize_steps = reinitialize_steps
        self._event_dispatcher = event_dispatcher or EventDispatcher()
        self.startup_nodes = startup_nodes
        self._policy_resolver = policy_resolver
        self._aggregate_nodes = None
        self._lock = threading.RLock()
        self._commands_parser: CommandsParser | None = None
        self.maint_notifications_config = maint_notifications_config
        self._oss_cluster_maint_notifications_handler = None  # type: ignore[assignment]  # as in redis-py

        legacy = kwargs.get("legacy_responses", True)
        cluster_callbacks: dict[str, Any] = dict(self.__class__.CLUSTER_COMMANDS_RESPONSE_CALLBACKS)
        if not legacy:
            cluster_callbacks["CLUSTER SHARDS"] = redis.cluster.parse_cluster_shards_unified
        elif protocol is None:
            cluster_callbacks["CLUSTER SHARDS"] = redis.cluster.parse_cluster_shards_with_str_keys
        self.cluster_response_callbacks = CaseInsensitiveDict(cluster_callbacks)
        self.result_callbacks = CaseInsensitiveDict(self.__class__.RESULT_CALLBACKS)
        callbacks: dict[str, Any] = get_response_callbacks(protocol, legacy)
        self.response_callbacks = CaseInsensitiveDict(callbacks)
        self._command_flags_mapping = {
            self.RANDOM: RequestPolicy.DEFAULT_KEYLESS,
            self.PRIMARIES: RequestPolicy.ALL_SHARDS,
            self.ALL_NODES: RequestPolicy.ALL_NODES,
            self.REPLICAS: RequestPolicy.ALL_REPLICAS,
            self.DEFAULT_NODE: RequestPolicy.DEFAULT_NODE,
            SLOT_ID: RequestPolicy.DEFAULT_KEYED,
        }
        self._policies_callback_mapping = {
            RequestPolicy.DEFAULT_KEYLESS: lambda name: [self.get_random_primary_or_all_nodes(name)],
            RequestPolicy.DEFAULT_KEYED: lambda name, *args: self.get_nodes_from_slot(name, *args),
            RequestPolicy.DEFAULT_NODE: lambda: [self.get_default_node()],
            RequestPolicy.ALL_SHARDS: self.get_primaries,
            RequestPolicy.ALL_NODES: self.get_nodes,
            RequestPolicy.ALL_REPLICAS: self.get_replicas,
            RequestPolicy.MULTI_SHARD: lambda *args, **kw: self._split_multi_shard_command(*args, **kw),
            RequestPolicy.SPECIAL: self.get_special_nodes,
            ResponsePolicy.DEFAULT_KEYLESS: lambda reply: reply,
            ResponsePolicy.DEFAULT_KEYED: lambda reply: reply,
        }
        encoding = (self.encoder.encoding, self.encoder.encoding_errors)
        plain_utf8 = encoding[0].lower().replace("_", "-") in ("utf-8", "utf8") and encoding[1] == "strict"
        self.nodes_manager = NodesManager(
            startup_nodes,
            engine_encoding=None if plain_utf8 else encoding,
            reply_encoding=encoding if self.encoder.decode_responses else None,
            from_url=url is not None,
            require_full_coverage=require_full_coverage,
            dynamic_startup_nodes=dynamic_startup_nodes,
            address_remap=address_remap,
            cache=cache,
            cache_config=cache_config,
            event_dispatcher=self._event_dispatcher,
            maint_notifications_config=maint_notifications_config,
            himport_registry=self._himport_registry,
            read_from=ReadFrom.of(load_balancing_strategy, read_from_replicas),
            topology_refresh_interval=topology_refresh_interval,
            topology_refresh_min_interval=topology_refresh_min_interval,
            topology_refresh_timeout=topology_refresh_timeout,
            max_reply_size=reply_size("max_reply_size", max_reply_size),
            **kwargs,
        )
        self._dispatcher = Dispatcher(
            self.nodes_manager,
            self.response_callbacks,
            self.cluster_response_callbacks,
            policy=RetryPolicy(self.retry, retry_writes, seconds_or_none("retry_timeout", retry_timeout)),
            reinitialize_steps=reinitialize_steps,
            flagged=self._is_flagged,
        )
        self._reply_cache = None
        if self.nodes_manager._cache is not None:
            self._reply_cache = ReplyCache(self.nodes_manager, self.encoder)
            self.nodes_manager.on_push = self._reply_cache.pushed
            self._dispatcher.on_written = (self._reply_cache.wrote,)
        self._engine = self.nodes_manager.engine
        self._plans = self._dispatcher.plans
        # What can go by the short way: nobody wants to see the calls to single nodes, every reply comes from the
        # primary, and nothing is remembered.
        straight = (
            type(self)._execute_command is RedisCluster._execute_command
            and self.nodes_manager.readers is None
            and self._reply_cache is None
        )
        self._open_calls(self._engine, straight)

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> RedisCluster:
        """A client for the cluster behind ``url``, e.g. ``redis://user:secret@host:6379`` (``rediss://`` for TLS)."""
        return cls(url=url, **kwargs)

    @property
    def commands_parser(self) -> CommandsParser:  # type: ignore[override]  # a plain attribute in redis-py
        """redis-py's reader of COMMAND, made when somebody wants it: keys are found without it."""
        if self._commands_parser is None:
            self._commands_parser = CommandsParser(self)
        return self._commands_parser

    # -- the way of a command ----------------------------------------------------------------------------------------

    def _internal_execute_command(self, *args: Any, **options: Any) -> Any:
        # redis-py's execute_command, the funnel that tracers replace, calls this.
        try:
            plan = self._plans.get(args[0])
        except (IndexError, TypeError):
            raise DataError(NAMELESS) from None
        if (
            plan is None
            or not (key := only_key(plan, args))
            or not self._straight
            or "target_nodes" in options
            or recorder._metrics_collector is not None
        ):
            return self._execute_routed(args, options)
        try:
            reply = self._engine.keyed(args, key, _NEVER_DECODE not in options)
        except (LinkFailure, Reentered, Uncovered, redis.RedisError) as error:
            reply = self._recover(args, options, plan, error)
        if type(reply) is ServerError:
            reply = self._dispatcher.call(args, options, plan, slot=self.keyslot(args[key]), reply=reply)
        elif type(reply) is Flawed:
            reply = exceptions_in(reply.reply)
        if plan.callback is None:
            return reply
        options.pop("keys", None)
        options.pop(_NEVER_DECODE, None)
        return plan.callback(reply, **options)

    def _recover(self, args: tuple[Any, ...], options: dict[str, Any], plan: Any, error: Exception) -> Any:
        """The fast path got no reply: goes on where it stopped, with redirects and retries."""
        if isinstance(error, DataError):
            raise error
        slot = self.keyslot(args[only_key(plan, args)])
        if isinstance(error, Reentered):
            return self._dispatcher.call(args, options, plan, slot=slot)
        if isinstance(error, Uncovered):
            error = SlotNotCoveredError(f'Slot "{slot}" not covered by the cluster.')
        return self._dispatcher.call(args, options, plan, slot=slot, failure=error)

    def _rescue(self, call: tuple[Any, ...], outcome: Any) -> Any:
        """What a short way got in place of a value: goes on where it stopped. A key is the call's first argument."""
        plan = self._dispatcher.plan(call[0])
        if isinstance(outcome, Exception):
            return self._recover(call, {}, plan, outcome)
        if type(outcome) is Flawed:
            return exceptions_in(outcome.reply)
        return self._dispatcher.call(call, {}, plan, slot=self.keyslot(call[1]), reply=outcome)

    def _execute_routed(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A call that is not for the primary of one key: other nodes, several, several keys, or a cached reply."""
        targets = options.pop("target_nodes", None)
        plan = self._dispatcher.plan(args[0])
        key = only_key(plan, args)
        if key and targets is None:
            return self._execute_keyed(args, options, plan, self.keyslot(args[key]))
        name = args[0].decode() if isinstance(args[0], bytes) else args[0]
        policies: CommandPolicies | None = self._policy_resolver.resolve(name.lower())
        flag = targets if self._is_nodes_flag(targets) else None
        if targets is not None and flag is None:
            nodes = list(self._parse_target_nodes(targets))
        else:
            if policies is None and flag is not None:
                policies = CommandPolicies()
            elif policies is None:
                policies, slot = self._policies_by_flag(args, name)
                if slot is not None:
                    return self._execute_keyed(args, options, plan, slot)
            nodes = self._determine_nodes(
                name, *args[1:], request_policy=policies.request_policy, nodes_flag=flag
            )
        if nodes == [None]:
            raise ClosedClientError(CLOSED)
        if not nodes:
            raise RedisClusterException(f"No targets were found to execute {shown(name)} command on")
        response = policies.response_policy if policies is not None else CommandPolicies().response_policy
        values = self._on_nodes(nodes, args, options, plan, pinned=targets is not None and flag is None)
        return self._process_result(name, values, response_policy=response, **options)

    def _policies_by_flag(self, args: tuple[Any, ...], name: str) -> tuple[CommandPolicies, int | None]:
        """redis-py's policies by its table of flags; for a command without a flag the slot of its keys."""
        command = name.upper()
        if len(args) >= 2 and f"{name} {args[1]}".upper() in self.command_flags:
            command = f"{name} {args[1]}".upper()
        flag = self.command_flags.get(command)
        if flag is None or flag == SLOT_ID:
            slot = self.determine_slot(*args)
            return CommandPolicies(), slot
        policy = cast(RequestPolicy, self._command_flags_mapping[flag])
        return CommandPolicies(request_policy=policy), None

    def _execute_keyed(self, args: tuple[Any, ...], options: dict[str, Any], plan: Any, slot: int) -> Any:
        if type(self)._execute_command is not RedisCluster._execute_command:
            return self._execute_command(self._node_for(slot, plan.read), *args, **options)
        key = self._reply_cache.key_of(args, options) if self._reply_cache is not None else None
        if self._reply_cache is not None and key is not None:
            manager, session = self.nodes_manager, self._dispatcher.session
            return self._reply_cache.get(
                key,
                options,
                manager.keepers_of(slot, session) if plan.read else manager.shard_of(slot)[:1],
                lambda entry: self._dispatcher.call(args, options, plan, slot=slot, entry=entry),
                plan,
            )
        reply = self._dispatcher.call(args, options, plan, slot=slot)
        return self._dispatcher.value(plan, reply, options)

    def _node_for(self, slot: int, read: bool) -> ClusterNode:
        manager = self.nodes_manager
        shard = manager.shard_of(slot)
        endpoint = manager.reader_for(shard, slot, self._dispatcher.session) if read else shard[0]
        return manager.node_of(slot, endpoint)

    def get_nodes_from_slot(self, command: str, *args: Any) -> list[ClusterNode]:
        """The node that answers a call, in a list."""
        slot = self.determine_slot(*args)
        return [] if slot is None else [self._node_for(slot, command in READ_COMMANDS)]

    def _on_nodes(
        self,
        nodes: list[ClusterNode],
        args: tuple[Any, ...],
        options: dict[str, Any],
        plan: Any,
        *,
        pinned: bool,
    ) -> dict[str, Any]:
        if type(self)._execute_command is not RedisCluster._execute_command or len(nodes) == 1:
            one = {}
            for node in nodes:
                attempt = self.retry.get_retries() if not pinned else 0
                one[node.name] = self._with_default(node, args, options, attempt)
            return one
        return self._dispatcher.on_nodes(nodes, args, options, plan)

    def _with_default(
        self, node: ClusterNode, args: tuple[Any, ...], options: dict[str, Any], tries: int
    ) -> Any:
        """A call to one node; when that was the default node and it failed, another becomes the default."""
        while True:
            try:
                return self._execute_command(node, *args, **options)
            except self.ERRORS_ALLOW_RETRY as error:
                if node != self.get_default_node() or tries <= 0 or getattr(error, "sent", True):
                    raise
                tries -= 1
                self.replace_default_node()
                node = self.get_default_node()

    def _execute_command(self, target_node: ClusterNode, *args: Any, **options: Any) -> Any:
        """One call to one node, redirects followed; redis-py's hook for those who want to see each."""
        plan = self._dispatcher.plan(args[0])
        endpoint = self.nodes_manager.endpoint_of(Address(target_node.host, int(target_node.port)))
        reply = self._dispatcher.call(args, options, plan, endpoint=endpoint)
        return self._dispatcher.value(plan, reply, options)

    def _is_flagged(self, name: str) -> bool:
        """True for a command that redis-py routes by flag or policy."""
        return name.upper() in self.command_flags or self._policy_resolver.resolve(name.lower()) is not None

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Replaces what makes a value of the replies to ``command``."""
        super().set_response_callback(command, callback)
        self._straight = False
        self._dispatcher.forget_plans()

    @property
    def parent_execute_command(self) -> Callable[..., Any]:
        """redis-py's name for the client's funnel, as its pipelines know it."""
        return self.execute_command

    def set_retry(self, retry: Retry) -> None:
        """How often, and with which pauses, a call is tried again."""
        self.retry = retry
        # Its sessions share it.
        self._dispatcher.policy.retry = retry

    # -- many keys ---------------------------------------------------------------------------------------------------

    def mget_nonatomic(self, keys: Any, *args: Any) -> list[Any]:
        """Values of keys in any slots, in their order: one MGET per slot, all nodes at once; not atomic."""
        keys = list_or_args(keys, args)
        if not (keys and self._may_batch()):
            return super().mget_nonatomic(keys)
        return scatter(*self._by_slot("MGET", keys))

    def mset_nonatomic(self, mapping: Mapping[Any, Any]) -> list[bool]:
        """Sets keys in any slots: one MSET per slot, all nodes at once; not atomic."""
        if not (mapping and self._may_batch()):
            return super().mset_nonatomic(mapping)
        pairs = [part for pair in mapping.items() for part in pair]
        return self._by_slot("MSET", pairs, 2)[1]

    def _split_command_across_slots(self, command: str, *keys: Any) -> int:
        if not (keys and self._may_batch()):
            return super()._split_command_across_slots(command, *keys)
        return sum(self._by_slot(command, list(keys))[1])

    def _execute_pipeline_by_slot(
        self, command: str, slots_to_args: Mapping[int, Iterable[Any]]
    ) -> list[Any]:
        # redis-py pins each to a node here and so forgets load_balancing_strategy.
        pipe = self.pipeline()
        for args in slots_to_args.values():
            pipe.execute_command(command, *args)
        return list(pipe.execute())

    def _by_slot(self, name: str, keys: list[Any], width: int = 1) -> tuple[Indices, list[Any]]:
        """Runs command ``name`` once per slot of ``keys``: their positions in its order, and the commands' values."""
        queue = Queue(self._engine.encoding)
        positions = split(queue, name, keys, self._dispatcher.plan(name), width)
        values, errors = self._dispatcher.run(queue, {})
        if errors:
            first = min(errors)
            annotate(errors[first], first + 1, queue.call(first))
            raise errors[first]
        return positions, values

    # -- what shares no connection -----------------------------------------------------------------------------------

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> ClusterPipeline:
        """A pipeline over all nodes; ``transaction=True`` makes it MULTI/EXEC on one slot, with WATCH."""
        if shard_hint:
            raise RedisClusterException("shard_hint is deprecated in cluster mode")
        return ClusterPipeline(self, transaction=transaction)

    def session(self, bound: float | None = None) -> RedisCluster:
        """A view of this client, whose reads find what was written by it: they go to the primary of a slot that it has
        written to until a replica is known to have caught up.

        After ``bound`` seconds (default None: never) they go to replicas though nobody knows. For ``with`` or without;
        to close it ends nothing. While primaries answer all reads it is no different from the client.
        """
        own: dict[str, Any] = {}
        if self.nodes_manager.readers is not None:
            dispatcher = own["_dispatcher"] = copy.copy(self._dispatcher)
            dispatcher.session = Session(self.keyslot, bound)
            dispatcher.on_written += (listener(dispatcher.session),)
        view = view_of(self, **own)
        vars(view)["_policies_callback_mapping"] = {
            **self._policies_callback_mapping,
            RequestPolicy.DEFAULT_KEYED: view.get_nodes_from_slot,
        }
        view._open_calls(self._engine, self._straight)
        return view

    def pubsub(
        self, node: ClusterNode | None = None, host: str | None = None, port: int | None = None, **kwargs: Any
    ) -> ClusterPubSub:
        """Pub/sub, on connections of its own: to the node given, or to those of its channels; see `ClusterPubSub`."""
        return ClusterPubSub(self, node=node, host=host, port=port, **kwargs)

    def monitor(self, target_node: ClusterNode | None = None) -> Monitor:
        """A Monitor of ``target_node``, by default of the default node, on a connection of its own."""
        monitor: Monitor = self.get_redis_connection(target_node or self.get_default_node()).monitor()
        return monitor

    # -- the cluster as data -----------------------------------------------------------------------------------------

    def group_by_node(self, keys: Iterable[Any]) -> dict[ClusterNode, list[Any]]:
        """Keys by the primary that owns them, in their order; raises SlotNotCoveredError for a slot nobody serves."""
        groups: dict[ClusterNode, list[Any]] = {}
        for key in keys:
            groups.setdefault(self.nodes_manager.get_node_from_slot(self.keyslot(key)), []).append(key)
        return groups

    def distribution(self) -> Distribution:
        """Live keys, bytes and operations per second of every primary, and how far the busiest is above the mean."""
        return measure(self)

    # -- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> RedisCluster:
        self.nodes_manager.closed = False
        if self.get_default_node() is None:
            self.nodes_manager.initialize()
        return self

    def close(self) -> None:
        """Closes every connection; calls under way on other threads end with ClosedClientError.

        As in redis-py, a later command to a key or a named node opens a connection again, and one for the default node
        is refused until the client is entered again.
        """
        manager = getattr(self, "nodes_manager", None)
        if manager is not None:
            manager.close()

    def __repr__(self) -> str:
        nodes = ", ".join(sorted(node.name for node in self.get_primaries()))
        return f"<slotwise.RedisCluster of {nodes or 'no known primary'}>"


# Keywords of redis-py's connections that its cluster client drops or that its list leaves out.
_MORE_KEYWORDS = frozenset({"socket_read_size", "health_check_interval", "ssl_min_version", "ssl_ciphers"})
# Keywords of earlier cluster clients that redis-py drops without a word and that libraries still pass.
_OLD_KEYWORDS = frozenset(
    {
        "cluster_down_retry_attempts",
        "init_slot_cache",
        "max_connections_per_node",
        "readonly_mode",
        "skip_full_coverage_check",
    }
)


def _seed(host: Any, port: Any) -> ClusterNode:
    if not isinstance(host, str) or not host or "\0" in host:
        raise RedisClusterException(
            f"{host!r} is no host name: pass host='localhost', or a URL that names one"
        )
    return ClusterNode(host, port)
