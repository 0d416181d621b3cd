"""Pipelines under asyncio: commands encoded as they are called, one future for the whole batch.

The commands of a batch go over the nodes' shared links, in one write per node and turn with what other tasks send; a
large batch is encoded piece by piece as there is room, so other callers get their turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import redis.asyncio.cluster
from redis._parsers.commands import CommandPolicies
from redis.asyncio.cluster import PipelineCommand
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from slotwise._aiolink import AsyncEndpoint, AsyncLink, Part
from slotwise._calls import Queue, split
from slotwise._link import LinkFailure
from slotwise.asyncio.nodes import record
from slotwise.commands import Own, find, own_of
from slotwise.errors import (
    CommandRefusedError,
    ConnectionError,
    RedisClusterException,
    SlotNotCoveredError,
    TimeoutError,
)
from slotwise.routing.batches import judge
from slotwise.routing.conversation import TRYAGAIN_PAUSE
from slotwise.routing.errors_inside import exceptions_in
from slotwise.routing.redirects import REDIRECTS_MAX
from slotwise.routing.topology import Address

if TYPE_CHECKING:
    from slotwise.asyncio.cluster import RedisCluster

_UNANSWERED = object()


class ClusterPipeline(redis.asyncio.cluster.ClusterPipeline):
    """redis-py's ClusterPipeline by its surface: tracers replace ``execute`` there and read ``command_stack`` here."""

    cluster_client: RedisCluster
    _event_dispatcher: Any
    # Ours, or redis-py's for transactions.
    _execution_strategy: Any

    def __init__(self, client: RedisCluster, transaction: bool | None = None) -> None:
        super().__init__(client, transaction)
        self._execution_strategy = TransactionStrategy(self) if transaction else PipelineStrategy(self)

    def get(self, name: Any) -> Any:
        """Queues GET; the pipeline again."""
        return self.execute_command("GET", name)

    @property
    def command_stack(self) -> list[PipelineCommand]:
        """The commands so far, as redis-py's PipelineCommand objects."""
        commands: list[PipelineCommand] = self._execution_strategy._command_queue
        return commands

    def by_slot(
        self, name: str, keys: list[Any], width: int = 1
    ) -> Coroutine[Any, Any, tuple[list[list[int] | int], list[Any]]]:
        """Runs command ``name`` once per slot of ``keys``: the positions and the value of each command."""
        strategy: PipelineStrategy = self._execution_strategy
        return strategy.by_slot(name, keys, width)


class PipelineStrategy(redis.asyncio.cluster.PipelineStrategy):
    """Commands of any slots, not atomic."""

    _pipe: ClusterPipeline

    def __init__(self, pipe: ClusterPipeline) -> None:
        self._client = pipe.cluster_client
        super().__init__(pipe)
        self._empty()

    def _empty(self) -> None:
        self._queue = Queue(self._client._engine.encoding)
        # What the caller said of the node, by index: target_nodes, or None for a routing by flag.
        self._targets: dict[int, Any] = {}

    @property
    def _command_queue(self) -> list[PipelineCommand]:
        options = self._queue.options
        return [PipelineCommand(i, *args, **options.get(i, {})) for i, args in enumerate(self._queue.calls)]

    @_command_queue.setter
    def _command_queue(self, queue: list[PipelineCommand]) -> None:
        # redis-py's __init__ and initialize set an empty list.
        pass

    def __len__(self) -> int:
        return len(self._queue)

    async def initialize(self) -> ClusterPipeline:
        """Finds the cluster, unless that was done."""
        await self._client.initialize()
        return self._pipe

    async def reset(self) -> None:
        """Empties the pipeline."""
        if self._queue.calls:
            self._empty()

    def execute_command(self, *args: Any, **options: Any) -> ClusterPipeline:
        """Encodes one command; the pipeline again, for chaining."""
        client = self._client
        plan = client._plan(args[0])
        found = find(args) if plan.command is None or not plan.first_key else None
        if found is not None and own_of(found[0], args) is Own.REFUSED:
            raise CommandRefusedError(found[0].refusal)
        index = len(self._queue)
        if plan.first_key and len(args) > plan.first_key and "target_nodes" not in options:
            self._queue.add(args, options, plan, plan.first_key)
            if client._strategy is not None and plan.read:
                self._targets[index] = None
        else:
            self._targets[index] = options.pop("target_nodes", None)
            self._queue.add(args, options, plan)
        return self._pipe

    def mset_nonatomic(self, mapping: Mapping[Any, Any]) -> ClusterPipeline:
        """Queues MSET once per slot; the pipeline again."""
        pairs = [part for pair in mapping.items() for part in pair]
        split(self._queue, "MSET", pairs, self._client._plan("MSET"), self._client.keyslot, 2)
        return self._pipe

    async def by_slot(
        self, name: str, keys: list[Any], width: int = 1
    ) -> tuple[list[list[int] | int], list[Any]]:
        client = self._client
        keyslot = None if client._engine.encoding is None else client.keyslot
        positions = split(self._queue, name, keys, client._plan(name), keyslot, width)
        return positions, await self.execute()

    # -- execution ---------------------------------------------------------------------------------------------------

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Sends everything; values in the order of the calls."""
        queue = self._queue
        count = len(queue)
        if not count:
            return []
        await self._client.initialize()
        decode = None
        if any(NEVER_DECODE in options for options in queue.options.values()):
            decode = [NEVER_DECODE not in queue.options.get(i, ()) for i in range(count)]
        results: list[Any] = [_UNANSWERED] * count
        pinned = await self._pin()
        parts, failures = self._parts(range(count), pinned)
        started = time.monotonic()
        troubled = await self._run(parts, results, decode, failures)
        bad = set(troubled)
        for endpoint, indices in parts.items():
            first = next(filter(bad.__contains__, indices), None)
            outcome = failures.get(first, results[first]) if first is not None else None
            await record("PIPELINE", started, endpoint.node, outcome)
        troubled += [i for i in failures if i not in set(troubled)]
        errors: dict[int, Exception] = {}
        if troubled:
            errors = await self._settle(troubled, results, failures, decode, pinned, allow_redirections)
        for index, plan in queue.shaped:
            if index not in errors:
                results[index] = self._client._value(plan, results[index], queue.options.get(index, {}))
        if errors:
            for index, error in errors.items():
                options = queue.options.get(index, {})
                results[index] = options.get(EMPTY_RESPONSE, error)
            if raise_on_error:
                first = min(errors)
                self._annotate_exception(errors[first], first + 1, queue.calls[first])
                raise errors[first]
        return results

    async def _pin(self) -> dict[int, AsyncEndpoint]:
        """Nodes of the commands that are not simply for the primary of their key."""
        client, pinned = self._client, {}
        for index, targets in self._targets.items():
            args = self._queue.calls[index]
            plan = client._plan(args[0])
            if targets is not None and not client._is_node_flag(targets):
                nodes = client._parse_target_nodes(targets)
            else:
                slot = None
                if targets is None and not client._is_flagged(str(args[0])):
                    slot = await client._determine_slot(*args)
                if slot is not None:
                    self._queue.batch.set_slot(index, slot)
                    if client._strategy is not None and plan.read:
                        pinned[index] = client.nodes_manager.endpoint_for(slot, client._strategy)
                    continue
                policies = await client._policy_resolver.resolve(str(args[0]).lower()) or CommandPolicies()
                nodes = await client._determine_nodes(
                    *args, request_policy=policies.request_policy, node_flag=targets
                )
            if len(nodes) > 1:
                raise RedisClusterException(f"Too many targets for command {args}")
            if not nodes:
                raise RedisClusterException(f"No targets were found to execute {args} command on")
            pinned[index] = client.nodes_manager.endpoint_of(Address(nodes[0].host, int(nodes[0].port)))
        return pinned

    def _parts(
        self, indices: Any, pinned: dict[int, AsyncEndpoint]
    ) -> tuple[dict[AsyncEndpoint, list[int]], dict[int, Exception]]:
        """Commands by endpoint, and those whose slot nobody serves."""
        table, batch = self._client._engine.table, self._queue.batch
        parts: dict[AsyncEndpoint, list[int]] = {}
        failures: dict[int, Exception] = {}
        if isinstance(indices, range) and not pinned:
            groups = batch.by_shard(table)
            for shard, members in groups.items():
                if shard >= 0:
                    parts[table.shards[shard][0]] = members
            indices = groups.get(-1, ())
        for index in indices:
            endpoint = pinned.get(index)
            if endpoint is None:
                slot = batch.slot(index)
                shard_nodes = table[slot] if slot >= 0 else None
                if shard_nodes is None:
                    failures[index] = SlotNotCoveredError(f'Slot "{slot}" not covered by the cluster.')
                    continue
                endpoint = shard_nodes[0]
            parts.setdefault(endpoint, []).append(index)
        return parts, failures

    async def _run(
        self,
        parts: Mapping[AsyncEndpoint, list[int]],
        results: list[Any],
        decode: list[bool] | None,
        failures: dict[int, Exception],
        *,
        asking: bool = False,
    ) -> list[int]:
        """All parts at once; replies go to their places. The indices without a plain reply."""
        loop = asyncio.get_running_loop()
        running: list[Part] = []
        waiting: list[tuple[AsyncEndpoint, AsyncLink | None, Part]] = []
        for endpoint, indices in parts.items():
            part = Part(self._queue.batch, indices, results, decode, asking, loop.create_future())
            running.append(part)
            link = endpoint.link
            if link is None or link.full or link.retired:
                waiting.append((endpoint, None, part))
            elif not link.put_part(part):
                waiting.append((endpoint, link, part))
        if waiting:
            await asyncio.gather(*(self._feed(*wait, failures) for wait in waiting))
        troubled: list[int] = []
        for part in running:
            await part.future
            troubled += part.troubled
            if part.failure is not None:
                for position, index in enumerate(part.indices[part.answered :], part.answered):
                    failures.setdefault(
                        index,
                        LinkFailure(
                            str(part.failure),
                            sent=part.failure.sent and position < part.written,
                            timed_out=part.failure.timed_out,
                        ),
                    )
        return troubled

    async def _feed(
        self, endpoint: AsyncEndpoint, link: AsyncLink | None, part: Part, failures: dict[int, Exception]
    ) -> None:
        """Encodes what did not fit at once, as there is room; a part never changes its link."""
        try:
            if link is None:
                link = await self._client._roomy(endpoint)
            while not part.future.done() and not link.closed and not link.put_part(part):
                await link.room()
        except (ConnectionError, TimeoutError) as error:
            failures.update(dict.fromkeys(part.indices, error))
            part.lost(error)
            return
        if link.closed and not part.future.done():
            part.lost(LinkFailure("the link is closed", sent=False))

    async def _settle(
        self,
        troubled: list[int],
        results: list[Any],
        failures: dict[int, Exception],
        decode: list[bool] | None,
        pinned: dict[int, AsyncEndpoint],
        redirections: bool,
    ) -> dict[int, Exception]:
        """Sends again what was redirected or surely not executed; the exceptions of the rest, by index."""
        client, manager, batch = self._client, self._client.nodes_manager, self._queue.batch
        errors: dict[int, Exception] = {}
        failed_times = redirects = 0

        def asked(index: int) -> Address | None:
            endpoint = pinned.get(index)
            if endpoint is None and batch.slot(index) >= 0:
                shard = client._engine.table[batch.slot(index)]
                endpoint = shard[0] if shard else None
            return endpoint.node if endpoint is not None else None

        def repeatable(index: int) -> bool:
            found = find(self._queue.calls[index])
            return found is not None and found[0].repeatable

        while troubled:
            verdict = judge(
                troubled,
                results,
                failures,
                asked=asked,
                repeatable=repeatable,
                remap=manager.address_remap,
                redirects_left=redirections and redirects < REDIRECTS_MAX,
                failures_left=failed_times < client.retry.get_retries(),
            )
            errors.update(verdict.errors)
            for index in verdict.nested:
                results[index] = exceptions_in(results[index].reply)
            for slot, address in verdict.moved.items():
                await manager.moved(slot, address)
            if not verdict.again and not verdict.ask:
                break
            if verdict.refresh:
                failed_times += 1
                await asyncio.sleep(max(0.0, client.retry._backoff.compute(failed_times)))
                await client._refresh(None)
            else:
                redirects += 1
                if verdict.wait:
                    await asyncio.sleep(TRYAGAIN_PAUSE * redirects)
            for index in (*verdict.again, *(i for members in verdict.ask.values() for i in members)):
                results[index] = _UNANSWERED
                if batch.slot(index) >= 0:
                    # A read goes to its replica once.
                    pinned.pop(index, None)
            parts, failures = self._parts(verdict.again, pinned)
            troubled = await self._run(parts, results, decode, failures)
            if verdict.ask:
                ask = {manager.endpoint_of(address): members for address, members in verdict.ask.items()}
                troubled += await self._run(ask, results, decode, failures, asking=True)
            troubled += [i for i in failures if i not in set(troubled)]
        return errors


class TransactionStrategy(redis.asyncio.cluster.TransactionStrategy):
    """MULTI/EXEC on one slot, by redis-py, over a connection of its own."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queues one command; behind WATCH and before MULTI, what to await for its value."""
        if self._pipe.cluster_client._initialize:
            return super().execute_command(*args, **options)
        # redis-py starts a thread with an event loop for every command. Once the cluster is known there is nothing
        # that it would wait for there.
        step = self._execute_command(*args, **options)
        try:
            step.send(None)
        except StopIteration as end:
            return end.value
        step.close()
        raise RuntimeError("a transaction waited where it only queues")
