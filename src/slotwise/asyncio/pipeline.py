"""Pipelines under asyncio: commands encoded as they are called, one future for the whole batch.

The commands of a batch go over the nodes' shared links, in one write per node and turn with what other tasks send; a
large batch is encoded piece by piece as there is room, so other callers get their turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import redis.asyncio.cluster
from redis._parsers.commands import CommandPolicies
from redis.asyncio.cluster import PipelineCommand
from redis.asyncio.observability import recorder
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.himport import himport_discard_command, himport_prepare_command, parse_himport_set_args

from slotwise._aiobatch import Exchange, Part
from slotwise._aioengine import AsyncEndpoint
from slotwise._aiolink import AsyncLink
from slotwise._batch import Queue, split
from slotwise._calls import PipelineCalls, ShortWay
from slotwise._encoder import Indices
from slotwise._link import LinkFailure
from slotwise.asyncio.connection import NAMELESS
from slotwise.asyncio.nodes import record
from slotwise.asyncio.transactions import TransactionStrategy
from slotwise.commands import Own, find, own_of, shown
from slotwise.errors import (
    CommandRefusedError,
    ConnectionError,
    DataError,
    RedisClusterException,
    TimeoutError,
)
from slotwise.routing.batches import asked_of, choose_reads, judge, parts_of
from slotwise.routing.conversation import TRYAGAIN_PAUSE
from slotwise.routing.errors_inside import annotate, exceptions_in
from slotwise.routing.plan import Plan, only_key
from slotwise.routing.redirects import REDIRECTS_MAX
from slotwise.routing.topology import Address

if TYPE_CHECKING:
    from slotwise.asyncio.cluster import RedisCluster

_UNANSWERED = object()


class ClusterPipeline(  # type: ignore[misc]  # redis-py's own bases contradict each other
    PipelineCalls, redis.asyncio.cluster.ClusterPipeline
):
    """redis-py's ClusterPipeline by its surface: tracers replace ``execute`` there and read ``command_stack`` here."""

    cluster_client: RedisCluster
    _event_dispatcher: Any
    # Ours, or redis-py's for transactions.
    _execution_strategy: Any

    def __init__(self, client: RedisCluster, transaction: bool | None = None) -> None:
        # redis-py's __init__ would make a strategy of its own.
        self.cluster_client = client
        self._transaction = transaction
        self._way = ShortWay()
        self._way._short_plans = (
            None if transaction or client.nodes_manager.readers else client._short_plans()
        )
        self._execution_strategy = TransactionStrategy(self) if transaction else PipelineStrategy(self)

    @property
    def command_stack(self) -> list[PipelineCommand]:
        """The commands so far, as redis-py's PipelineCommand objects."""
        commands: list[PipelineCommand] = self._execution_strategy._command_queue
        return commands

    def _split_command_across_slots(self, command: str, *keys: Any) -> Any:
        # DEL, EXISTS, TOUCH and UNLINK: redis-py sorts by slot what is mostly one key.
        if len(keys) == 1:
            return self.execute_command(command, keys[0])
        return super()._split_command_across_slots(command, *keys)

    def by_slot(
        self, name: str, keys: list[Any], width: int = 1
    ) -> Coroutine[Any, Any, tuple[Indices, list[Any]]]:
        """Runs command ``name`` once per slot of ``keys``: the positions and the value of each command."""
        strategy: PipelineStrategy = self._execution_strategy
        return strategy.by_slot(name, keys, width)


class PipelineStrategy(redis.asyncio.cluster.PipelineStrategy):
    """Commands of any slots, not atomic."""

    _pipe: ClusterPipeline

    def __init__(self, pipe: ClusterPipeline) -> None:
        self._pipe = pipe
        self._client = pipe.cluster_client
        self._empty()

    def _empty(self) -> None:
        # A new one: parts of the last may still wait to be encoded.
        self._queue = self._pipe._way._queue = Queue(self._client._engine.encoding)
        # What the caller said of the node, by index: target_nodes, or None for a routing by flag.
        self._targets: dict[int, Any] = {}
        # Commands that a replica may answer.
        self._reads: list[int] = []
        # Names of the fieldsets that HIMPORT SET takes, by index.
        self._fieldsets: dict[int, str] = {}

    @property  # redis-py's can be set; here the commands are encoded by now
    def _command_queue(self) -> list[PipelineCommand]:  # type: ignore[override]
        options = self._queue.options
        return [PipelineCommand(i, *args, **options.get(i, {})) for i, args in enumerate(self._queue.calls)]

    def __len__(self) -> int:
        return len(self._queue)

    async def initialize(self) -> ClusterPipeline:
        """Finds the cluster, unless that was done."""
        await self._client.initialize()
        return self._pipe

    async def reset(self) -> None:
        """Empties the pipeline."""
        if len(self._queue):
            self._empty()

    def execute_command(self, *args: Any, **options: Any) -> ClusterPipeline:
        """Encodes one command; the pipeline again, for chaining."""
        if not args:
            raise DataError(NAMELESS)
        plan = self._client._plans.get(args[0]) or self._client._plan(args[0])
        key = only_key(plan, args)
        if key and "target_nodes" not in options:
            self._queue.add(args, options, plan, key)
            if plan.read and self._client.nodes_manager.readers is not None:
                self._reads.append(len(self._queue) - 1)
        else:
            self._add_routed(args, options, plan)
        return self._pipe

    def _add_routed(self, args: tuple[Any, ...], options: dict[str, Any], plan: Plan) -> None:
        """A command that is not simply for the node of its one key."""
        found = find(args)
        if found is not None and own_of(found[0], args) is Own.REFUSED:
            raise CommandRefusedError(found[0].refusal)
        index = len(self._queue)
        targets = options.pop("target_nodes", None)
        self._queue.add(args, options, plan)
        self._targets[index] = targets
        if targets is None and plan.read and self._client.nodes_manager.readers is not None:
            self._reads.append(index)
        himport = parse_himport_set_args(args)
        if himport is not None:
            self._fieldsets[index] = himport[1]

    def mset_nonatomic(self, mapping: Mapping[Any, Any]) -> ClusterPipeline:
        """Queues MSET once per slot; the pipeline again."""
        pairs = [part for pair in mapping.items() for part in pair]
        split(self._queue, "MSET", pairs, self._client._plan("MSET"), 2)
        return self._pipe

    async def by_slot(self, name: str, keys: list[Any], width: int = 1) -> tuple[Indices, list[Any]]:
        positions = split(self._queue, name, keys, self._client._plan(name), width)
        return positions, await self.execute()

    # -- execution ---------------------------------------------------------------------------------------------------

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Sends everything; values in the order of the calls."""
        queue, client = self._queue, self._client
        count = len(queue)
        if not count:
            return []
        await client._open()
        decode = None
        if queue.options and any(NEVER_DECODE in options for options in queue.options.values()):
            decode = [NEVER_DECODE not in queue.options.get(i, ()) for i in range(count)]
        results: list[Any] = [_UNANSWERED] * count
        pinned = await self._pin(self._targets) if self._targets else {}
        if self._reads:
            pinned.update(self._choose(dict.fromkeys(self._reads)))
        parts, failures = parts_of(queue.batch, client._engine.table, pinned)
        exchange = Exchange(queue.batch, results, decode, failures)
        client._engine.calls += 1
        started = time.monotonic()
        errors: dict[int, Exception] = {}
        try:
            await self._run(exchange, parts)
            if recorder._async_metrics_collector is not None:
                await self._record(exchange, parts, started)
            if exchange.troubled:
                errors = await self._settle(exchange, parts, pinned, allow_redirections)
        finally:
            # Also of a caller that was cancelled: what was sent is executed all the same.
            if client._on_written:
                client._wrote(queue.calls)
        for index, plan in queue.shaped:
            if index not in errors:
                results[index] = client._value(plan, results[index], queue.options.get(index, {}))
        if errors:
            for index, error in errors.items():
                options = queue.options.get(index, {})
                results[index] = options.get(EMPTY_RESPONSE, error)
            if raise_on_error:
                first = min(errors)
                annotate(errors[first], first + 1, queue.call(first))
                raise errors[first]
        return results

    async def _pin(self, indices: Iterable[int]) -> dict[int, AsyncEndpoint]:
        """Nodes of the commands that are not simply for the primary of their key."""
        client, pinned = self._client, {}
        for index in indices:
            if index not in self._targets:
                continue
            targets = self._targets[index]
            args = self._queue.call(index)
            if targets is not None and not client._is_node_flag(targets):
                nodes = client._parse_target_nodes(targets)
            else:
                slot = None
                if targets is None and not client._is_flagged(str(args[0])):
                    slot = await client._determine_slot(*args)
                if slot is not None:
                    self._queue.batch.set_slot(index, slot)
                    continue
                policies = await client._policy_resolver.resolve(str(args[0]).lower()) or CommandPolicies()
                nodes = await client._determine_nodes(
                    *args, request_policy=policies.request_policy, node_flag=targets
                )
            if len(nodes) > 1:
                raise RedisClusterException(f"Too many targets for command {shown(args[0])}")
            if not nodes:
                raise RedisClusterException(f"No targets were found to execute {shown(args[0])} command on")
            pinned[index] = client.nodes_manager.endpoint_of(Address(nodes[0].host, int(nodes[0].port)))
        return pinned

    def _choose(self, reads: Mapping[int, Address | None]) -> dict[int, AsyncEndpoint]:
        client, manager = self._client, self._client.nodes_manager

        def choose(shard: Sequence[AsyncEndpoint], slot: int, failed: Address | None) -> AsyncEndpoint:
            return manager.reader_for(shard, slot, client._session, failed=failed)

        own_writes = client._session is not None
        return choose_reads(self._queue.batch, client._engine.table, reads, choose, own_writes=own_writes)

    async def _run(
        self,
        exchange: Exchange,
        parts: Iterable[tuple[AsyncEndpoint, Indices]],
        asking: Iterable[tuple[AsyncEndpoint, Indices]] = (),
    ) -> None:
        """All parts at once; replies go to their places. Those of ``asking`` are sent behind ASKING."""
        try:
            for endpoint, indices in parts:
                self._put(endpoint.next()[1], Part(exchange, endpoint, indices, whole=bool(self._fieldsets)))
            for endpoint, indices in asking:
                self._put(endpoint.next()[1], Part(exchange, endpoint, indices, True, bool(self._fieldsets)))
            loop = asyncio.get_running_loop()
            while exchange.left:
                unsent = exchange.unsent()
                if unsent:
                    await asyncio.gather(*map(self._open_for, unsent))
                else:
                    exchange.future = loop.create_future()
                    await exchange.future
        except BaseException:
            exchange.given_up = True
            raise

    def _put(self, link: AsyncLink | None, part: Part) -> None:
        if link is None or link.retired:
            part.hand_back()
        elif not self._fieldsets:
            link.put_part(part)
        else:
            self._put_with_fieldsets(link, part)

    def _put_with_fieldsets(self, link: AsyncLink, part: Part) -> None:
        """Fieldsets are there for the part's commands and no longer: they are state of a connection, and this one is
        shared."""
        registry = self._client.himport_registry
        names = {self._fieldsets[index] for index in part.indices if index in self._fieldsets}
        fieldsets = [fieldset for fieldset in map(registry.get, names) if fieldset is not None]
        for fieldset in fieldsets:
            link.execute(himport_prepare_command(fieldset.name, fieldset.fields))
        link.put_part(part)
        for fieldset in fieldsets:
            link.execute(himport_discard_command(fieldset.name))

    async def _open_for(self, part: Part) -> None:
        """Opens the node's shared link and gives it the part."""
        assert part.endpoint is not None, "it has not begun on another link"
        try:
            link = await self._client._shared(part.endpoint)
        except (ConnectionError, TimeoutError) as error:
            part.lost(error)
            return
        if link.retired:
            part.lost(LinkFailure("the link is closed", sent=False))
        else:
            self._put(link, part)

    async def _record(
        self, exchange: Exchange, parts: Iterable[tuple[AsyncEndpoint, Indices]], started: float
    ) -> None:
        """Tells redis-py's metrics of every part, with the first of its commands that has no plain reply."""
        bad = set(exchange.troubled)
        for endpoint, indices in parts:
            first = next(filter(bad.__contains__, indices), None)
            outcome = exchange.failures.get(first, exchange.results[first]) if first is not None else None
            await record("PIPELINE", started, endpoint.node, outcome)

    async def _settle(
        self,
        exchange: Exchange,
        parts: list[tuple[AsyncEndpoint, Indices]],
        pinned: dict[int, AsyncEndpoint],
        redirections: bool,
    ) -> dict[int, Exception]:
        """Sends again what was redirected or surely not executed; the exceptions of the rest, by index. ``parts`` were
        sent."""
        client, manager = self._client, self._client.nodes_manager
        batch, results = exchange.batch, exchange.results
        errors: dict[int, Exception] = {}
        failed_times = redirects = 0

        def repeatable(index: int) -> bool:
            found = find(self._queue.call(index))
            return found is not None and found[0].repeatable

        def waits(index: int) -> bool:
            found = find(self._queue.call(index))
            return found is not None and own_of(found[0], self._queue.call(index)) is Own.EXCLUSIVE

        policy = client._retry_policy()
        pause_after = policy.pauses(time.monotonic)

        def next_pause() -> float | None:
            return pause_after(failed_times + 1) if failed_times < policy.retries else None

        while exchange.troubled:
            failures = exchange.failures
            where = asked_of(parts, exchange.troubled)
            verdict = judge(
                exchange.troubled,
                results,
                failures,
                asked=where.get,
                repeatable=repeatable,
                remap=manager.address_remap,
                redirects_left=redirections and redirects < REDIRECTS_MAX,
                next_pause=next_pause,
                first_failure=not failed_times,
                retry_writes=policy.retry_writes,
                may_repeat=client._may_repeat,
                waits=waits,
            )
            errors.update(verdict.errors)
            for index in verdict.nested:
                results[index] = exceptions_in(results[index].reply)
            for address in verdict.reconnect:
                manager.reconnect(address)
            for slot, address in verdict.moved.items():
                await client._moved(slot, address)
            if not verdict.again and not verdict.ask:
                break
            if verdict.pause is not None:
                failed_times += 1
                failed = next((where.get(i) for i in verdict.again if i in failures), None)
                if (
                    failed_times == 1
                    and set(verdict.again) <= set(self._reads)
                    and manager.others_answer(
                        [(batch.slot(i), where.get(i)) for i in verdict.again], client._session
                    )
                ):
                    client._want(failed)
                elif verdict.refresh:
                    await client._refresh(failed, verdict.pause)
                else:
                    await asyncio.sleep(verdict.pause)
            else:
                redirects += 1
                if verdict.wait:
                    await asyncio.sleep(TRYAGAIN_PAUSE * redirects)
            await client._stay_open()
            if verdict.pause is not None:
                pinned.update(await self._pin(verdict.again))
            unread = {i: where.get(i) for i in sorted(set(self._reads).intersection(verdict.again))}
            for index in (*verdict.again, *(i for members in verdict.ask.values() for i in members)):
                results[index] = _UNANSWERED
                if batch.slot(index) >= 0:
                    # A read goes to its replica once.
                    pinned.pop(index, None)
            if unread:
                pinned.update(self._choose(unread))
            parts, failures = parts_of(batch, client._engine.table, pinned, verdict.again)
            ask = [(manager.endpoint_of(node), Indices(some)) for node, some in verdict.ask.items()]
            exchange = Exchange(batch, results, exchange.decode, failures)
            await self._run(exchange, parts, ask)
            parts += ask
        return errors
