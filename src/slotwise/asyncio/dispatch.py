"""The way of a call under asyncio that is not the short one: by keys, by flag, to one node; out of the cache, or sent."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import redis.asyncio
from redis._parsers.commands import CommandPolicies
from redis.asyncio.cluster import ClusterNode
from redis.cache import CacheEntry
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.cluster import SLOT_ID
from redis.commands import READ_COMMANDS
from redis.commands.policies import StaticPolicyResolver
from redis.himport import parse_himport_set_args

from slotwise._aioengine import AsyncEndpoint, AsyncEngine
from slotwise._aiolink import AsyncLink, Unusual
from slotwise._calls import ShortPlans
from slotwise._link import LinkFailure
from slotwise._reply import Flawed
from slotwise._slots import SLOTS, key_slot
from slotwise.asyncio.caching import ReplyCache
from slotwise.asyncio.connection import CLOSED
from slotwise.asyncio.nodes import NodesManager, record
from slotwise.commands import Own, find, own_of, shown
from slotwise.errors import (
    AuthenticationError,
    ClosedClientError,
    CommandRefusedError,
    ConnectionError,
    MaxConnectionsError,
    NotSentError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
    TimeoutError,
)
from slotwise.routing import tables
from slotwise.routing.batches import short_way_asked
from slotwise.routing.conversation import Moved, Outcome, Pause, Reconnect, Refresh, Send, converse
from slotwise.routing.errors_inside import exceptions_in
from slotwise.routing.plan import Plan, keys_in, named_slot, plan_of
from slotwise.routing.replicas import Session
from slotwise.routing.retry import RetryBudget, RetryPolicy
from slotwise.routing.topology import Address

# What tracers wrap; it asks ``_execute_command`` for every node.
REDIS_FUNNEL = redis.asyncio.RedisCluster.__dict__["execute_command"]
_KNOWN_POLICIES = StaticPolicyResolver()

# Failures that another try would only meet again.
_FINAL = (AuthenticationError, ClosedClientError, MaxConnectionsError)


class Dispatch(redis.asyncio.RedisCluster):
    """What `RedisCluster` does with a call that has no short way."""

    nodes_manager: NodesManager
    _engine: AsyncEngine
    _reply_cache: ReplyCache | None
    # Who is told of each call that may have changed something, when it has its reply: a cache, a session.
    _on_written: tuple[Callable[[tuple[Any, ...]], None], ...]
    # Where reads go to replicas, whose writes they have to find.
    _session: Session | None = None
    # Plans by the spelling of the command.
    _plans: dict[Any, Plan]
    _pipeline_plans: ShortPlans | None
    _policy: RetryPolicy
    _budget: RetryBudget
    # Keys alone say where a command goes that no flag routes: nobody wants to see the calls to single nodes.
    _by_keys: bool

    async def _open(self) -> None:
        """Finds the cluster for a call that begins; next to nothing when it is known."""
        # Another task may close the client between the end of `initialize` and this task's turn.
        while self._initialize or self._engine.loop is not asyncio.get_running_loop():
            await self.initialize()

    async def _stay_open(self) -> None:
        """Finds the cluster again for a call under way, which outlives another task's ``async with`` but no ``aclose``."""
        while self._initialize:
            if self._engine.loop is None:
                raise ClosedClientError(CLOSED)
            await self.initialize()

    async def _value_of(
        self,
        args: tuple[Any, ...],
        options: dict[str, Any],
        plan: Plan,
        *,
        slot: int | None = None,
        endpoint: AsyncEndpoint | None = None,
    ) -> Any:
        """redis-py's value of one call to one node; out of the cache, if there is one and the reply may be kept."""
        cache = self._reply_cache
        key = None if cache is None else cache.key_of(args, options)
        if cache is None or key is None:
            reply = await self._converse(args, options, plan, slot=slot, endpoint=endpoint)
            return self._value(plan, reply, options)
        keepers: Sequence[AsyncEndpoint] = ()
        if endpoint is not None:
            keepers = (endpoint,)
        elif slot is not None and self._engine.table[slot] is not None:
            manager = self.nodes_manager
            keepers = manager.keepers_of(slot, self._session) if plan.read else (manager.endpoint_for(slot),)
        reply = await cache.get(
            key,
            keepers,
            # The task that asks already may have asked a replica.
            self._session is None,
            lambda entry: self._converse(args, options, plan, slot=slot, endpoint=endpoint, entry=entry),
        )
        return cache.value(plan, reply, options)

    async def _by_flag(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A call whose nodes redis-py chooses; they are chosen anew when one is gone and nothing is done twice."""
        flag = options.pop("target_nodes", None)
        policies = await self._policy_resolver.resolve(str(args[0]).lower()) or CommandPolicies()
        found = find(args)
        repeatable = found is not None and found[0].repeatable
        policy = self._retry_policy()
        pause_after = policy.pauses(time.monotonic)
        failures = 0
        while True:
            await self._stay_open()
            # Not redis-py's own choice: it would look for keys, which the command need not have.
            nodes = await self._determine_nodes(*args, request_policy=policies.request_policy, node_flag=flag)
            if not nodes or None in nodes:
                raise RedisClusterException(f"No targets were found to execute {shown(args[0])} command on")
            try:
                return await REDIS_FUNNEL(self, *args, **options, target_nodes=nodes)
            except (ConnectionError, TimeoutError) as error:
                failures += 1
                unsent = isinstance(error, NotSentError) or not getattr(error, "sent", True)
                again = repeatable or (unsent and len(nodes) == 1)
                pause = pause_after(failures)
                if not again or isinstance(error, _FINAL) or failures > policy.retries or pause is None:
                    raise
            await self._refresh(None, pause)

    async def _slot_by_keys(self, args: tuple[Any, ...], plan: Plan) -> int | None:
        """The slot of a call that is routed by its keys; None for one that is routed by flag or policy."""
        if not self._by_keys or self._is_flagged(str(args[0])):
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
        return await self._value_of(args, options, plan, endpoint=endpoint)

    async def _converse(
        self,
        args: tuple[Any, ...],
        options: dict[str, Any],
        plan: Plan,
        *,
        slot: int | None = None,
        endpoint: AsyncEndpoint | None = None,
        got: Unusual | None = None,
        entry: CacheEntry | None = None,
    ) -> Any:
        """Follows one call until there is a reply: `slotwise.routing.conversation` decides, this does.

        ``entry`` of the cache is told over which shared link the reply came.
        """
        command = plan.command
        if command is None or not plan.first_key:
            found = find(args)
            command = found[0] if found is not None else None
        own = Own.SHARED if command is None else own_of(command, args)
        if command is not None and own is Own.REFUSED:
            raise CommandRefusedError(command.refusal)
        decode = NEVER_DECODE not in options
        read = plan.read and self.nodes_manager.readers is not None
        outcome = None
        if got is not None and got.what is not None:
            assert slot is not None
            shard = self._engine.table[slot]
            failure = got.what if isinstance(got.what, Exception) else None
            since = time.monotonic() - self.nodes_manager.changed
            outcome = _outcome(got, short_way_asked(shard, failure, shard[0].links if shard else (), since))
        else:
            self._engine.calls += 1
        policy = self._retry_policy()
        steps = converse(
            pinned=endpoint.node if endpoint is not None else None,
            repeatable=command is not None and command.repeatable,
            retries=policy.retries,
            pause_after=policy.pauses(time.monotonic),
            remap=self.nodes_manager.address_remap,
            retry_writes=policy.retry_writes,
            may_repeat=self._may_repeat,
            waits=own is Own.EXCLUSIVE,
            outcome=outcome,
        )
        done: Outcome | None = None
        asked: Address | None = None
        hurried = False
        try:
            while True:
                step = steps.send(done)
                done = None
                if isinstance(step, Send):
                    started = time.monotonic()
                    done = await self._send(
                        step, args, decode, own, slot, read, asked if step.primary else None, entry
                    )
                    asked = done.address
                    if read and own is Own.SHARED:
                        self.nodes_manager.answered(done, started)
                    await record(str(args[0]), started, done.address, done.failure or done.reply)
                elif isinstance(step, Moved):
                    await self._moved(step.slot, step.address)
                elif isinstance(step, Reconnect):
                    self.nodes_manager.reconnect(step.address)
                elif (
                    read and not hurried and self.nodes_manager.others_answer([(slot, asked)], self._session)
                ):
                    # Once: when they fail as well, it is more than one node's trouble.
                    hurried = True
                    self._want(asked)
                elif isinstance(step, Refresh):
                    await self._refresh(step.failed, step.pause, slot)
                elif isinstance(step, Pause):
                    await asyncio.sleep(max(0.0, step.seconds))
        except StopIteration as end:
            reply = end.value
        except RedisError as error:
            if isinstance(error, (ConnectionError, TimeoutError)) and not isinstance(error, _FINAL):
                # The next call, and redis-py's funnel where it tries again, choose among the nodes anew.
                last = done or outcome
                self._want(last.address if last is not None else None)
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        finally:
            self._wrote((args,))
        return exceptions_in(reply.reply) if type(reply) is Flawed else reply

    async def _send(
        self,
        step: Send,
        args: tuple[Any, ...],
        decode: bool,
        own: Own,
        slot: int | None,
        read: bool,
        failed: Address | None,
        entry: CacheEntry | None,
    ) -> Outcome:
        address: Address | None = step.address
        try:
            while True:
                if self._initialize:
                    await self._stay_open()
                if step.address is not None:
                    endpoint = self.nodes_manager.endpoint_of(step.address)
                else:
                    slot = random.randrange(SLOTS) if slot is None else slot
                    shard = self.nodes_manager.shard_of(slot)
                    endpoint = shard[0]
                    if read:
                        endpoint = self.nodes_manager.reader_for(shard, slot, self._session, failed=failed)
                address = endpoint.node
                if own is Own.SHARED and not step.asking:
                    link = await self._shared(endpoint)
                    if entry is not None:
                        entry.connection_ref = link
                    reply = await link.execute(args, decode, self._engine.encoding)
                    if type(reply) is Unusual and reply.what is None:
                        # Handed back by a link that was retired.
                        continue
                else:
                    if entry is not None:
                        # Nobody tells of changes there.
                        entry.connection_ref = None
                    link = await endpoint.pool.take()
                    try:
                        if step.asking:
                            # Both in one write: nothing is sent before the end of this turn.
                            link.execute(("ASKING",))
                        reply = await link.execute(args, decode, self._engine.encoding)
                    finally:
                        endpoint.pool.give_back(link, discard=own is Own.DISCARD)
                break
        except (ConnectionError, TimeoutError, SlotNotCoveredError) as error:
            return Outcome(None, error, address)
        return _outcome(reply, address)

    async def _shared(self, endpoint: AsyncEndpoint) -> AsyncLink:
        """The endpoint's shared link; retired only where it was closed as soon as it was open."""
        if self._engine.loop is None:
            raise ClosedClientError(CLOSED)
        if endpoint.pool.retired:
            # The node left the cluster meanwhile: it is only asked as long as somebody names it.
            endpoint = self.nodes_manager.endpoint_of(endpoint.node)
        place, link = endpoint.next()
        if link is None or link.retired:
            link = await endpoint.pool.shared(endpoint, place)
        return link

    def _wrote(self, calls: Iterable[tuple[Any, ...]]) -> None:
        """To be told of calls that may have changed something, when they have their replies."""
        if self._on_written:
            for args in calls:
                for tell in self._on_written:
                    tell(args)

    def _retry_policy(self) -> RetryPolicy:
        # redis-py's users replace `retry` as they like.
        if self._policy.retry is not self.retry:
            self._policy = replace(self._policy, retry=self.retry)
        return self._policy

    def _may_repeat(self) -> bool:
        self._budget.calls = self._engine.calls
        return self._budget.allow(time.monotonic())

    def _want(self, failed: Address | None) -> None:
        """Has the topology asked for; ``failed`` did not answer."""
        if self._engine.loop is None:
            raise ClosedClientError(CLOSED)
        if failed is not None:
            self.nodes_manager.put_last(failed)
        self.nodes_manager.refresher.want(failed)

    async def _refresh(self, failed: Address | None, pause: float, slot: int | None = None) -> None:
        """Waits for a refresh, and for ``pause`` at least. The next try tells what came of it.

        When ``failed`` no longer serves ``slot``, the refresh was while the last try was under way.
        """
        until = time.monotonic() + pause
        if failed is None or tables.serves(self._engine.table, slot, failed):
            self._want(failed)
            await self.nodes_manager.refresher.want_and_wait(failed, self._policy.patience)
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _moved(self, slot: int, address: Address) -> None:
        """Patches the table; after news the whole topology is wished for, unless ``reinitialize_steps`` is 0."""
        if await self.nodes_manager.moved(slot, address) and self.reinitialize_steps:
            self.nodes_manager.refresher.want(told=address)

    # -- plans and slots ------------------------------------------------------------------------------------------------

    def _plan(self, name: Any) -> Plan:
        plan = self._plans.get(name)
        if plan is None:
            text = name.decode() if isinstance(name, bytes) else str(name)
            callback = self.response_callbacks.get(name) if isinstance(name, str) else None
            plan = plan_of(text, callback, flagged=self._is_flagged(text))
            if plan.command is not None:
                self._plans[name] = plan
        return plan

    def _short_plans(self) -> ShortPlans:
        """Plans of the commands that a pipeline has a short way for."""
        if self._pipeline_plans is None:
            self._pipeline_plans = ShortPlans(self._plan)
        return self._pipeline_plans

    def _value(self, plan: Plan, reply: Any, options: dict[str, Any]) -> Any:
        if plan.callback is None:
            return reply
        if options:
            for name in (NEVER_DECODE, EMPTY_RESPONSE, "keys"):
                options.pop(name, None)
        return plan.callback(reply, **options)

    def _is_flagged(self, name: str) -> bool:
        return name in self.command_flags or _KNOWN_POLICIES.resolve(name.lower()) is not None

    def keyslot(self, key: Any) -> int:
        """The slot of ``key``, 0 to 16383 (CLUSTER KEYSLOT)."""
        return key_slot(self.encoder.encode(key))

    async def get_nodes_from_slot(self, command: str, *args: Any) -> list[ClusterNode]:
        """The node that answers a call, in a list."""
        slot = await self._determine_slot(command, *args)
        shard = self.nodes_manager.shard_of(slot)
        endpoint = shard[0]
        if command in READ_COMMANDS:
            endpoint = self.nodes_manager.reader_for(shard, slot, self._session)
        return [endpoint.pool.node]

    async def _determine_slot(self, command: str, *args: Any) -> int:
        if self.command_flags.get(command) == SLOT_ID:
            return named_slot(args[0])
        name = str(command).upper()
        if name in ("EVAL", "EVALSHA") and len(args) < 2:
            raise RedisClusterException(f"Invalid args in command: {shown(command)}")
        keys = keys_in((command, *args))
        if not keys:
            if name in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"):
                return random.randrange(SLOTS)
            raise RedisClusterException(
                "No way to dispatch this command to Redis Cluster. Missing key.\n"
                f"You can execute the command by specifying target nodes.\nCommand: {shown(command)}"
            )
        slot = self.keyslot(keys[0])
        if any(self.keyslot(key) != slot for key in keys[1:]):
            raise RedisClusterException(f"{shown(command)} - all keys must map to the same key slot")
        return slot


def _outcome(reply: Any, address: Address | None) -> Outcome:
    if type(reply) is not Unusual:
        return Outcome(reply, None, address)
    what = reply.what
    if isinstance(what, LinkFailure):
        return Outcome(None, what, address)
    if isinstance(what, Exception):
        raise what
    return Outcome(what, None, address)
