"""Pipelines: commands encoded as they are called, all nodes written and read at once.

Way of a batch: every call is encoded into one `Batch` and its slot noted. ``execute`` groups the commands by the node
that serves their slot *then*, takes a lane per node, and exchanges all of them together. What the cluster redirected
goes again, per node in one batch; what was answered never does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import redis
import redis.cluster
from redis._parsers.commands import CommandPolicies
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.cluster import AbstractStrategy, ClusterNode, PipelineCommand
from redis.cluster import TransactionStrategy as RedisTransactionStrategy
from redis.observability import recorder

from slotwise._calls import PipelineCalls, Queue, split
from slotwise._link import Endpoint, Flawed, ServerError
from slotwise.commands import Own, find, own_of
from slotwise.errors import (
    BusyLoadingError,
    ClusterError,
    CommandRefusedError,
    ConnectionError,
    DataError,
    MovedError,
    RedisClusterException,
    SlotNotCoveredError,
    TimeoutError,
    UnknownOutcomeError,
    UnknownOutcomeTimeoutError,
    WatchError,
    parse_error,
)
from slotwise.routing.plan import Plan
from slotwise.routing.redirects import REDIRECTS_MAX, Step, after_error
from slotwise.routing.topology import Address, resolve
from slotwise.sync.dispatch import (
    FINAL,
    NAMELESS,
    TRYAGAIN_PAUSE,
    UNANSWERED,
    exceptions_in,
)
from slotwise.sync.keys import Routing
from slotwise.sync.nodes import NodesManager

if TYPE_CHECKING:
    from slotwise.sync.cluster import RedisCluster


class OfClient:
    """An attribute that a pipeline has from its client, as long as nobody sets it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pipe: ClusterPipeline | None, owner: type) -> Any:
        return self if pipe is None else getattr(pipe.cluster_client, self._name)


class ClusterPipeline(PipelineCalls, Routing, redis.cluster.ClusterPipeline):
    """redis-py's ClusterPipeline by its surface: tracers replace ``execute`` there and read ``command_stack`` here."""

    commands_parser = OfClient()
    nodes_manager = OfClient()
    result_callbacks = OfClient()
    cluster_response_callbacks = OfClient()
    startup_nodes = OfClient()
    read_from_replicas = OfClient()
    load_balancing_strategy = OfClient()
    command_flags = OfClient()
    node_flags = OfClient()
    reinitialize_steps = OfClient()
    retry = OfClient()
    encoder = OfClient()
    parent_execute_command = OfClient()
    _himport_registry = OfClient()
    _lock = OfClient()
    _event_dispatcher = OfClient()
    _policy_resolver = OfClient()
    _command_flags_mapping = OfClient()
    _policies_callback_mapping = OfClient()

    def __init__(self, cluster: RedisCluster, transaction: bool | None = None) -> None:
        self.cluster_client = cluster
        self.reinitialize_counter = 0
        dispatcher = cluster._dispatcher
        self._short_plans = None if transaction or dispatcher.strategy else dispatcher.short_plans()
        self._execution_strategy: AbstractStrategy = (
            TransactionStrategy(self) if transaction else PipelineStrategy(self)
        )

    def delete(self, *names: Any) -> Any:
        """Queues DEL of one key (of several on one slot with ``transaction=True``); the pipeline again."""
        return self._execution_strategy.delete(*names)

    def touch(self, *names: Any) -> Any:
        """Queues TOUCH of keys on one slot; the pipeline again."""
        return self.execute_command("TOUCH", *names)

    def unlink(self, *names: Any) -> Any:
        """Queues UNLINK of one key (of several on one slot with ``transaction=True``); the pipeline again."""
        return self._execution_strategy.unlink(*names)

    @property
    def command_stack(  # type: ignore[override]  # a plain attribute in redis-py
        self,
    ) -> list[PipelineCommand]:
        """The commands so far, as redis-py's PipelineCommand objects."""
        commands: list[PipelineCommand] = self._execution_strategy.command_queue
        return commands


class PipelineStrategy(redis.cluster.PipelineStrategy):
    """Commands of any slots, not atomic."""

    _pipe: ClusterPipeline

    def __init__(self, pipe: ClusterPipeline) -> None:
        self._cluster = pipe.cluster_client
        self._dispatcher = self._cluster._dispatcher
        self._engine = self._dispatcher.engine
        self._spread_reads = self._dispatcher.strategy is not None
        super().__init__(pipe)
        self._empty()

    def reset(self) -> None:
        """Empties the pipeline."""
        if self._queue.calls:
            self._empty()

    def _empty(self) -> None:
        self._queue = self._pipe._queue = Queue(self._engine.encoding)
        # Nodes of the commands that are not routed by a slot, and of reads for replicas.
        self._pinned: dict[int, Endpoint] = {}
        # A command leaves its connection in a state that the next user must not meet.
        self._discard = False

    @property  # type: ignore[misc]  # redis-py's can be set; here the commands are encoded by now
    def command_queue(self) -> list[PipelineCommand]:
        options = self._queue.options
        return [PipelineCommand(args, options.get(i, {}), i) for i, args in enumerate(self._queue.calls)]

    @property
    def _command_queue(self) -> list[PipelineCommand]:
        return self.command_queue

    @_command_queue.setter
    def _command_queue(self, queue: list[PipelineCommand]) -> None:
        # redis-py's __init__ sets an empty list.
        pass

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Encodes one command; the pipeline again, for chaining."""
        if not args:
            raise DataError(NAMELESS)
        plan = self._dispatcher.plan(args[0])
        if (
            plan.first_key
            and len(args) > plan.first_key
            and not self._spread_reads
            and "target_nodes" not in options
        ):
            self._queue.add(args, options, plan, plan.first_key)
        else:
            self._add_routed(args, options, plan)
        return self._pipe

    pipeline_execute_command = execute_command

    def _add_routed(self, args: tuple[Any, ...], options: dict[str, Any], plan: Plan) -> None:
        """A command that is not simply for the primary of its one key."""
        found = find(args)
        own = Own.SHARED if found is None else own_of(found[0], args)
        if found is not None and own is Own.REFUSED:
            raise CommandRefusedError(found[0].refusal)
        targets = options.pop("target_nodes", None)
        slot: int | None = None
        endpoint: Endpoint | None
        if targets is not None and not self._is_nodes_flag(targets):
            nodes = list(self._parse_target_nodes(targets))
            if len(nodes) > 1:
                raise RedisClusterException(f"Too many targets for command {args}")
            if not nodes:
                raise RedisClusterException(f"No targets were found to execute {args} command on")
            endpoint = self._endpoint_of(nodes[0])
        else:
            slot, endpoint = self._route(args, plan, targets)
        index = len(self._queue)
        self._queue.add(args, options, plan, 0, slot)
        self._discard |= own is Own.DISCARD
        if endpoint is not None:
            self._pinned[index] = endpoint

    def by_slot(self, name: str, keys: list[Any], width: int = 1) -> tuple[list[list[int] | int], list[Any]]:
        """Runs command ``name`` once per slot of ``keys``: the positions and the value of each command."""
        plan = self._dispatcher.plan(name)
        keyslot = None if self._engine.encoding is None else self._cluster.keyslot
        positions = split(self._queue, name, keys, plan, keyslot, width)
        return positions, self.execute()

    def _route(self, args: tuple[Any, ...], plan: Plan, flag: Any) -> tuple[int | None, Endpoint | None]:
        """The slot of a command, or the node where it is not routed by a slot or a replica may answer it."""
        cluster = self._cluster
        if flag is None and plan.first_key and len(args) > plan.first_key:
            slot = cluster.keyslot(args[plan.first_key])
        else:
            name = args[0].decode() if isinstance(args[0], bytes) else args[0]
            policies = cluster._policy_resolver.resolve(name.lower())
            if policies is None and flag is not None:
                policies = CommandPolicies()
            elif policies is None:
                policies, found = cluster._policies_by_flag(args, name)
                if found is not None:
                    return self._slot_or_replica(found, plan)
            nodes = cluster._determine_nodes(
                name, *args[1:], request_policy=policies.request_policy, nodes_flag=flag
            )
            if not nodes:
                raise RedisClusterException(f"No targets were found to execute {args} command on")
            if len(nodes) > 1:
                raise RedisClusterException(f"Too many targets for command {args}")
            return None, self._endpoint_of(nodes[0])
        return self._slot_or_replica(slot, plan)

    def _slot_or_replica(self, slot: int, plan: Plan) -> tuple[int, Endpoint | None]:
        if self._spread_reads and plan.read:
            return slot, self._cluster.nodes_manager.endpoint_for(slot, self._dispatcher.strategy)
        return slot, None

    def _endpoint_of(self, node: ClusterNode) -> Endpoint:
        return self._cluster.nodes_manager.endpoint_of(Address(node.host, int(node.port)))

    # -- execution ---------------------------------------------------------------------------------------------------

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends everything; values in the order of the calls."""
        # ClusterPipeline.execute empties the pipeline afterwards.
        return self._execute(raise_on_error) if self._queue.calls else []

    def send_cluster_commands(
        self, stack: Any, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        """Sends the commands of ``stack``, redis-py's PipelineCommand objects."""
        if stack:
            self.reset()
            for command in stack:
                self.execute_command(*command.args, **command.options)
        return self._execute(raise_on_error, redirections=allow_redirections)

    def _execute(self, raise_on_error: bool, redirections: bool = True) -> list[Any]:
        queue = self._queue
        count = len(queue)
        decode = None
        if any(NEVER_DECODE in options for options in queue.options.values()):
            decode = [NEVER_DECODE not in queue.options.get(i, ()) for i in range(count)]
        results: list[Any] = [UNANSWERED] * count
        started = time.monotonic()
        parts, failures = self._parts(range(count), first=True)
        troubled, more = self._dispatcher.run(queue.batch, parts, results, decode, discard=self._discard)
        troubled += failures
        failures.update(more)
        if recorder._metrics_collector is not None:
            for endpoint, members in parts:
                wrong = next((results[i] for i in members if type(results[i]) is ServerError), None)
                failure = next((more[i] for i in members if i in more), None)
                error = failure or (parse_error(wrong.text) if wrong is not None else None)
                self._dispatcher.record("PIPELINE", started, endpoint, error)
        errors = self._settle(troubled, results, failures, decode, redirections) if troubled else {}
        value = self._dispatcher.value
        for index, plan in queue.shaped:
            if index not in errors:
                results[index] = value(plan, results[index], queue.options.get(index, {}))
        if errors:
            for index, error in errors.items():
                results[index] = error
            if raise_on_error:
                first = min(errors)
                self.annotate_exception(errors[first], first + 1, queue.calls[first])
                raise errors[first]
        return results

    def _parts(
        self, indices: Any, *, first: bool
    ) -> tuple[list[tuple[Endpoint, list[int]]], dict[int, Exception]]:
        """Commands by endpoint, and those whose slot nobody serves."""
        failures: dict[int, Exception] = {}
        table = self._engine.table
        parts: dict[Endpoint, list[int]] = {}
        if first and not self._pinned:
            # The whole batch: grouped without leaving compiled code.
            groups = self._queue.batch.by_shard(table)
            for shard, members in groups.items():
                if shard >= 0:
                    parts[table.shards[shard][0]] = members
            indices = groups.get(-1, ())
        for index in indices:
            slot = self._queue.batch.slot(index)
            # A read goes to its replica once; a command for a node that the caller named goes nowhere else.
            endpoint = self._pinned.get(index) if first or slot < 0 else None
            if endpoint is None:
                shard_nodes = table[slot] if slot >= 0 else None
                if shard_nodes is None:
                    failures[index] = SlotNotCoveredError(f'Slot "{slot}" not covered by the cluster.')
                    continue
                endpoint = shard_nodes[0]
            parts.setdefault(endpoint, []).append(index)
        return list(parts.items()), failures

    def _settle(
        self,
        troubled: list[int],
        results: list[Any],
        failures: dict[int, Exception],
        decode: list[bool] | None,
        redirections: bool,
    ) -> dict[int, Exception]:
        """Sends again what was redirected or surely not executed; the exceptions of the rest, by index."""
        errors: dict[int, Exception] = {}
        nodes = self._cluster.nodes_manager
        retries = self._dispatcher.retry.get_retries()
        failed_times = redirected = 0
        while troubled:
            again: list[int] = []
            ask: dict[Endpoint, list[int]] = {}
            refresh = wait = moved = False
            for index in troubled:
                reply = results[index]
                if type(reply) is Flawed:
                    results[index] = exceptions_in(reply.reply)
                elif isinstance(reply, Exception):
                    errors[index] = reply
                elif type(reply) is ServerError:
                    host = self._host_of(index)
                    step = after_error(reply.text, host, nodes.address_remap)
                    if step.step is Step.GIVE_UP or not redirections or redirected >= REDIRECTS_MAX:
                        gone = redirections and step.step is not Step.GIVE_UP
                        errors[index] = ClusterError("TTL exhausted.") if gone else parse_error(reply.text)
                        options = self._queue.options.get(index, {})
                        if EMPTY_RESPONSE in options:
                            del errors[index]
                            results[index] = options[EMPTY_RESPONSE]
                        continue
                    if step.step is Step.GO:
                        nodes.moved(step.slot, step.address)  # type: ignore[arg-type]
                        moved = True
                        again.append(index)
                    elif step.step is Step.ASK:
                        ask.setdefault(nodes.endpoint_of(step.address), []).append(index)  # type: ignore[arg-type]
                    elif step.step is Step.WAIT:
                        wait = True
                        again.append(index)
                    elif failed_times >= retries:
                        errors[index] = parse_error(reply.text)
                    else:
                        refresh = True
                        again.append(index)
                else:
                    failure = failures[index]
                    command = self._dispatcher.command_of(self._queue.calls[index])
                    repeatable = command is not None and command.repeatable
                    error = self._dispatcher.verdict(failure, repeatable, failed_times < retries)
                    if error is not None:
                        errors[index] = error
                    else:
                        refresh = True
                        again.append(index)
            if not again and not ask:
                if failures and not refresh and not nodes.closed:
                    self._refresh(0)
                break
            redirected += 1
            if refresh:
                failed_times += 1
                redirected = 0
                self._refresh(failed_times)
            elif wait:
                time.sleep(TRYAGAIN_PAUSE * redirected)
            elif moved:
                self._dispatcher.moves += 1
            for index in (*again, *(i for members in ask.values() for i in members)):
                results[index] = UNANSWERED
            parts, failures = self._parts(again, first=False)
            troubled, more = self._dispatcher.run(
                self._queue.batch, parts, results, decode, discard=self._discard
            )
            troubled += failures
            failures.update(more)
            if ask:
                asked, more = self._dispatcher.run(
                    self._queue.batch, list(ask.items()), results, decode, asking=True
                )
                troubled += asked
                failures.update(more)
        return errors

    def _host_of(self, index: int) -> str:
        endpoint = self._pinned.get(index)
        if endpoint is None:
            shard = self._engine.table[self._queue.batch.slot(index)]
            endpoint = shard[0] if shard else None
        return endpoint.node.host if endpoint is not None else ""

    def _refresh(self, failures: int) -> None:
        if failures:
            time.sleep(max(0.0, self._dispatcher.retry._backoff.compute(failures)))
        # The next try tells, with an exception of its own.
        with suppress(ConnectionError, RedisClusterException):
            self._cluster.nodes_manager.initialize()


class TransactionStrategy(RedisTransactionStrategy):
    """MULTI/EXEC on one slot, on a connection of its own, with WATCH."""

    _nodes_manager: NodesManager
    # The server watches keys for this transaction.
    _watched = False

    def __init__(self, pipe: ClusterPipeline) -> None:
        super().__init__(pipe)
        self._dispatcher = pipe.cluster_client._dispatcher

    def _reinitialize_on_error(self, error: Exception, failure_count: int) -> None:
        if isinstance(error, MovedError):
            # redis-py leaves the slot where it was until a whole refresh.
            self._nodes_manager.moved(
                error.slot_id, resolve(error.host, error.port, "", self._nodes_manager.address_remap)
            )
        elif isinstance(error, (UnknownOutcomeError, *FINAL)):
            raise error
        super()._reinitialize_on_error(error, failure_count)

    def _get_connection_and_send_command(self, *args: Any, **options: Any) -> Any:
        command = self._dispatcher.command_of(args)
        repeatable = args[0] in self.IMMEDIATE_EXECUTE_COMMANDS or (
            command is not None and command.repeatable
        )
        with self._loss_told(repeatable):
            value = super()._get_connection_and_send_command(*args, **options)
        if args[0] in self.IMMEDIATE_EXECUTE_COMMANDS:
            self._watched = args[0] == "WATCH"
        return value

    def _execute_transaction(self, stack: list[PipelineCommand], raise_on_error: bool) -> list[Any]:
        with self._loss_told(False):
            values: list[Any] = super()._execute_transaction(stack, raise_on_error)
        return values

    def _get_client_and_connection_for_transaction(self) -> Any:
        connection = self._transaction_connection
        if connection is not None and self._pipeline_slots:
            node = self._nodes_manager.get_node_from_slot(next(iter(self._pipeline_slots)))
            if node.name != f"{connection.host}:{connection.port}":
                # Another call met the MOVED.
                self._let_go()
                if self._watched:
                    raise WatchError("Slot rebalancing occurred while watching keys")
        return super()._get_client_and_connection_for_transaction()

    @contextmanager
    def _loss_told(self, repeatable: bool) -> Iterator[None]:
        """A lost connection ends the transaction where redis-py would go on over another one: once more, or without
        the WATCH."""
        try:
            yield
        except (ConnectionError, TimeoutError) as error:
            sent = self._transaction_connection is not None and not isinstance(error, BusyLoadingError)
            self._let_go()
            if sent and not repeatable:
                kind = UnknownOutcomeTimeoutError if isinstance(error, TimeoutError) else UnknownOutcomeError
                raise kind(f"{error}: the transaction may or may not have been executed") from error
            if self._watched:
                raise WatchError("The connection was lost, and the WATCH with it: begin again") from error
            raise

    def _let_go(self) -> None:
        connection, self._transaction_connection = self._transaction_connection, None
        if connection is not None:
            connection.disconnect()
            self._nodes_manager.pool_of(Address(connection.host, connection.port)).release(connection)

    def reset(self) -> None:
        """Ends the transaction; the connection goes back to its pool."""
        super().reset()
        self._watched = False
