"""`RedisCluster` for asyncio: redis-py's surface, one shared connection per node that batches by itself."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Mapping
from typing import Any

import redis.asyncio
from redis._parsers.commands import RequestPolicy
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.observability import recorder
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.cluster import SLOT_ID, LoadBalancingStrategy
from redis.commands import READ_COMMANDS
from redis.commands.helpers import list_or_args
from redis.commands.policies import AsyncStaticPolicyResolver, StaticPolicyResolver
from redis.himport import parse_himport_set_args

from slotwise._aiolink import AsyncEndpoint, Unusual
from slotwise._calls import AsyncCalls, scatter
from slotwise._link import Flawed, LinkFailure
from slotwise._slots import SLOTS, key_slot
from slotwise.asyncio.connection import CLOSED
from slotwise.asyncio.nodes import NodesManager, record
from slotwise.asyncio.pipeline import ClusterPipeline
from slotwise.commands import Own, find, own_of
from slotwise.errors import (
    ClosedClientError,
    CommandRefusedError,
    ConnectionError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
    TimeoutError,
)
from slotwise.routing.conversation import Moved, Outcome, Pause, Refresh, Send, converse
from slotwise.routing.errors_inside import exceptions_in
from slotwise.routing.plan import Plan, keys_in, plan_of
from slotwise.routing.topology import Address

_REDIS = redis.asyncio.RedisCluster
_REDIS_FUNNEL = _REDIS.__dict__["execute_command"]
_KNOWN_POLICIES = StaticPolicyResolver()


class _Funnel:
    """``execute_command``: slotwise's own, or redis-py's as soon as somebody replaced that on redis-py's class.

    Tracers replace it there. What they wrapped is redis-py's function, which asks ``_execute_command`` for every node,
    and that is ours.
    """

    def __get__(self, client: RedisCluster | None, owner: type[RedisCluster]) -> Any:
        function = _REDIS.__dict__["execute_command"]
        if function is _REDIS_FUNNEL:
            function = owner._execute if client is None else type(client)._execute
        return function.__get__(client, owner)


class RedisCluster(_REDIS):
    """A cluster client for asyncio, imported in place of redis-py's ``redis.asyncio.RedisCluster``.

    Takes every keyword of redis-py 8.1's class, gives the same values and raises the same exceptions. What differs:

    - All tasks share one connection per node; commands of one event-loop turn leave in one write. ``max_connections``
      bounds the others, which blocking commands take; callers wait up to 20 seconds for one.
    - A write whose reply was lost is not sent a second time: ``UnknownOutcomeError`` says so.
    - A client belongs to the event loop of its first call. It opens its connections anew when that loop was closed.
    """

    nodes_manager: NodesManager
    execute_command = _Funnel()

    @functools.wraps(_REDIS.__init__)  # type: ignore[misc]  # frameworks read the options from it
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        made = self.nodes_manager
        self.nodes_manager = NodesManager(
            list(made.startup_nodes.values()),
            made.require_full_coverage,
            made.connection_kwargs,
            dynamic_startup_nodes=made._dynamic_startup_nodes,
            address_remap=made.address_remap,
            event_dispatcher=made._event_dispatcher,
        )
        encoding = (self.encoder.encoding, self.encoder.encoding_errors)
        plain_utf8 = encoding[0].lower().replace("_", "-") in ("utf-8", "utf8") and encoding[1] == "strict"
        self.nodes_manager.attach(
            engine_encoding=None if plain_utf8 else encoding,
            reply_encoding=encoding if self.encoder.decode_responses else None,
            on_push=None,
            tracking=False,
        )
        self._engine = self.nodes_manager.engine
        self._strategy = self.load_balancing_strategy
        if self._strategy is None and self.read_from_replicas:
            self._strategy = LoadBalancingStrategy.ROUND_ROBIN
        self._plans: dict[Any, Plan] = {}
        straight = (
            type(self)._execute_command is RedisCluster._execute_command
            and self._strategy is None
            and isinstance(self._policy_resolver, AsyncStaticPolicyResolver)
        )
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
            if self._lock is None:
                self._lock = asyncio.Lock()
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
        if mine is not None and not mine.is_closed():
            raise RuntimeError(
                "This client belongs to another event loop: make one client per event loop, "
                "or close it there with `await client.aclose()` first"
            )
        if mine is not None:
            # Its loop is gone, and with it every connection.
            self.nodes_manager.forget_links()
            self._initialize = True
            self._lock = None
            self._usage_lock = asyncio.Lock()
        self._engine.loop = running

    async def aclose(self) -> None:
        """Closes every connection; a later command opens them again."""
        self._engine.loop = None
        await super().aclose()
        self._lock = None
        # The transports end in the loop's next turn, and the loop may be closed right after this.
        await asyncio.sleep(0)

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
            await self.initialize()
        if not args:
            raise RedisClusterException("A command needs a name: pass it as the first argument, e.g. 'GET'.")
        plan = self._plan(args[0])
        if "target_nodes" not in options:
            if plan.first_key and self._calls.straight and recorder._async_metrics_collector is None:
                future = self._engine.keyed(args, plan.first_key, NEVER_DECODE not in options)
                if future is not None:
                    reply = await future
                    if type(reply) is Unusual:
                        reply = await self._converse(
                            args, options, plan, slot=self.keyslot(args[plan.first_key]), got=reply
                        )
                    return self._value(plan, reply, options)
            slot = None if parse_himport_set_args(args) else await self._slot_by_keys(args, plan)
            if slot is not None:
                return self._value(plan, await self._converse(args, options, plan, slot=slot), options)
        targets = options.get("target_nodes")
        if targets and self._is_node_flag(targets) and not self._is_flagged(str(args[0])):
            # redis-py would look for keys, which this command need not have.
            options["target_nodes"] = await self._determine_nodes(
                *args, request_policy=RequestPolicy.DEFAULT_KEYLESS, node_flag=targets
            )
        return await _REDIS_FUNNEL(self, *args, **options)

    # What tracers wrap and print.
    _execute.__name__ = "execute_command"

    async def _slot_by_keys(self, args: tuple[Any, ...], plan: Plan) -> int | None:
        """The slot of a call that is routed by its keys; None for one that is routed by flag or policy."""
        if type(self)._execute_command is not RedisCluster._execute_command or self._is_flagged(str(args[0])):
            return None
        if not isinstance(self._policy_resolver, AsyncStaticPolicyResolver):
            return None
        if plan.command is None and find(args) is None:
            return None
        return await self._determine_slot(*args)

    async def _rescue(self, call: tuple[Any, ...], got: Unusual) -> Any:
        """What a short way got in place of a reply: goes on where it stopped. A key is the call's first argument."""
        return await self._converse(call, {}, self._plan(call[0]), slot=self.keyslot(call[1]), got=got)

    async def _execute_command(self, target_node: ClusterNode, *args: Any, **options: Any) -> Any:
        """One call to one node, redirects followed; redis-py's hook for those who want to see each."""
        if parse_himport_set_args(args):
            # Its fieldset is state of a connection, which redis-py's own connections keep.
            return await super()._execute_command(target_node, *args, **options)
        plan = self._plan(args[0])
        endpoint = self.nodes_manager.endpoint_of(Address(target_node.host, int(target_node.port)))
        return self._value(plan, await self._converse(args, options, plan, endpoint=endpoint), options)

    async def _converse(
        self,
        args: tuple[Any, ...],
        options: dict[str, Any],
        plan: Plan,
        *,
        slot: int | None = None,
        endpoint: AsyncEndpoint | None = None,
        got: Unusual | None = None,
    ) -> Any:
        """Follows one call until there is a reply: `slotwise.routing.conversation` decides, this does."""
        command = plan.command
        if command is None or not plan.first_key:
            found = find(args)
            command = found[0] if found is not None else None
        own = Own.SHARED if command is None else own_of(command, args)
        if command is not None and own is Own.REFUSED:
            raise CommandRefusedError(command.refusal)
        decode = NEVER_DECODE not in options
        outcome = None
        if got is not None:
            assert slot is not None
            shard = self._engine.table[slot]
            outcome = _outcome(got, shard[0].node if shard else None)
        steps = converse(
            pinned=endpoint.node if endpoint is not None else None,
            repeatable=command is not None and command.repeatable,
            retries=self.retry.get_retries(),
            pause_after=self.retry._backoff.compute,
            remap=self.nodes_manager.address_remap,
            outcome=outcome,
        )
        done: Outcome | None = None
        try:
            while True:
                step = steps.send(done)
                done = None
                if isinstance(step, Send):
                    strategy = self._strategy if plan.read and not step.primary else None
                    started = time.monotonic()
                    done = await self._send(step, args, decode, own, slot, strategy)
                    await record(str(args[0]), started, done.address, done.failure or done.reply)
                elif isinstance(step, Moved):
                    await self.nodes_manager.moved(step.slot, step.address)
                elif isinstance(step, Refresh):
                    await asyncio.sleep(step.pause)
                    await self._refresh(step.failed)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
        except StopIteration as end:
            reply = end.value
        except RedisError:
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        return exceptions_in(reply.reply) if type(reply) is Flawed else reply

    async def _send(
        self,
        step: Send,
        args: tuple[Any, ...],
        decode: bool,
        own: Own,
        slot: int | None,
        strategy: LoadBalancingStrategy | None,
    ) -> Outcome:
        address: Address | None = step.address
        try:
            if address is not None:
                endpoint = self.nodes_manager.endpoint_of(address)
            else:
                endpoint = self.nodes_manager.endpoint_for(
                    random.randrange(SLOTS) if slot is None else slot, strategy
                )
            address = endpoint.node
            if own is Own.SHARED and not step.asking:
                link = await self._roomy(endpoint)
                reply = await link.execute(args, decode, self._engine.encoding)
            else:
                link = await endpoint.pool.take()
                try:
                    if step.asking:
                        # Both in one write: nothing is sent before the end of this turn.
                        link.execute(("ASKING",))
                    reply = await link.execute(args, decode, self._engine.encoding)
                finally:
                    endpoint.pool.give_back(link, discard=own is Own.DISCARD)
        except (ConnectionError, TimeoutError, SlotNotCoveredError) as error:
            return Outcome(None, error, address)
        return _outcome(reply, address)

    async def _roomy(self, endpoint: AsyncEndpoint) -> Any:
        """The endpoint's shared link when there is room for the caller's command, which it must put in at once."""
        while True:
            if self._engine.loop is None:
                raise ClosedClientError(CLOSED)
            link = endpoint.link
            if link is None or link.retired:
                link = await endpoint.pool.shared(endpoint)
                if link.retired:
                    # Closed as soon as it was open: the caller counts its failures, here that would go on for ever.
                    return link
            turn = False
            while not link.retired:
                if link.roomy if turn else not link.full:
                    return link
                await link.room(turn)
                turn = True

    async def _refresh(self, failed: Address | None) -> None:
        if self._engine.loop is None:
            raise ClosedClientError(CLOSED)
        # The next try tells, with an exception of its own.
        with contextlib.suppress(ConnectionError, TimeoutError, RedisClusterException):
            await self.nodes_manager.initialize(
                last_failed_node_name=failed.name if failed is not None else None
            )

    # -- plans -------------------------------------------------------------------------------------------------------

    def _plan(self, name: Any) -> Plan:
        plan = self._plans.get(name)
        if plan is None:
            text = name.decode() if isinstance(name, bytes) else str(name)
            callback = self.response_callbacks.get(name) if isinstance(name, str) else None
            plan = plan_of(text, callback, flagged=self._is_flagged(text))
            if plan.command is not None:
                self._plans[name] = plan
        return plan

    def _value(self, plan: Plan, reply: Any, options: dict[str, Any]) -> Any:
        if plan.callback is None:
            return reply
        for name in (NEVER_DECODE, EMPTY_RESPONSE, "keys"):
            options.pop(name, None)
        return plan.callback(reply, **options)

    def _is_flagged(self, name: str) -> bool:
        return name in self.command_flags or _KNOWN_POLICIES.resolve(name.lower()) is not None

    def set_response_callback(self, command: str, callback: Any) -> None:
        """Replaces what makes a value of the replies to ``command``."""
        super().set_response_callback(command, callback)
        self._calls.straight = False
        self._plans.clear()

    def keyslot(self, key: Any) -> int:
        """The slot of ``key``, 0 to 16383 (CLUSTER KEYSLOT)."""
        return key_slot(self.encoder.encode(key))

    async def _determine_slot(self, command: str, *args: Any) -> int:
        if self.command_flags.get(command) == SLOT_ID:
            return int(args[0])
        name = str(command).upper()
        if name in ("EVAL", "EVALSHA") and len(args) < 2:
            raise RedisClusterException(f"Invalid args in command: {command, *args}")
        keys = keys_in((command, *args))
        if not keys:
            if name in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"):
                return random.randrange(SLOTS)
            raise RedisClusterException(
                "No way to dispatch this command to Redis Cluster. Missing key.\n"
                f"You can execute the command by specifying target nodes.\nCommand: {args}"
            )
        slot = self.keyslot(keys[0])
        if any(self.keyslot(key) != slot for key in keys[1:]):
            raise RedisClusterException(f"{command} - all keys must map to the same key slot")
        return slot

    # -- several keys and pipelines --------------------------------------------------------------------------------------

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> ClusterPipeline:
        """A pipeline over all nodes; ``transaction=True`` makes it MULTI/EXEC on one slot, with WATCH."""
        if shard_hint:
            raise RedisClusterException("shard_hint is deprecated in cluster mode")
        return ClusterPipeline(self, transaction)

    async def mget_nonatomic(  # type: ignore[override]  # redis-py's base says what awaiting it gives
        self, keys: Any, *args: Any
    ) -> list[Any]:
        """Values of keys in any slots, in their order: one MGET per slot, all nodes at once; not atomic."""
        keys = list_or_args(keys, args)
        if not (keys and self._calls.may_batch()):
            return await super().mget_nonatomic(keys)
        positions, found = await self.pipeline().by_slot("MGET", keys)
        return scatter(positions, found, len(keys))

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


def _outcome(reply: Any, address: Address | None) -> Outcome:
    if type(reply) is not Unusual:
        return Outcome(reply, None, address)
    what = reply.what
    if isinstance(what, LinkFailure):
        return Outcome(None, what, address)
    if isinstance(what, Exception):
        raise what
    return Outcome(what, None, address)


__all__ = ["READ_COMMANDS", "RedisCluster"]
