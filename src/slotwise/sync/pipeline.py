"""Pipelines: commands encoded as they are called, all nodes written and read at once.

Way of a batch: every call is encoded into one `Batch` and its slot noted. ``execute`` groups the commands by the node
that serves their slot *then*, takes a lane per node, and exchanges all of them together. What the cluster redirected
goes again, per node in one batch; what was answered never does.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
import redis.cluster
from redis._parsers.commands import CommandPolicies
from redis.cluster import AbstractStrategy, ClusterNode, PipelineCommand
from redis.cluster import TransactionStrategy as RedisTransactionStrategy

from slotwise._batch import Queue
from slotwise._calls import PipelineCalls, ShortWay
from slotwise._engine import Endpoint
from slotwise.commands import Own, find, own_of, shown
from slotwise.errors import (
    AskError,
    BusyLoadingError,
    CommandRefusedError,
    ConnectionError,
    DataError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
    UnknownOutcomeError,
    UnknownOutcomeTimeoutError,
    WatchError,
)
from slotwise.routing.conversation import FINAL, is_mere_loss
from slotwise.routing.errors_inside import annotate
from slotwise.routing.plan import Plan, only_key
from slotwise.routing.redirects import Step, after_exception
from slotwise.routing.topology import Address
from slotwise.routing.watches import ENDED, REBALANCED, Refusals
from slotwise.sync.dispatch import NAMELESS
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


class ClusterPipeline(PipelineCalls, ShortWay, Routing, redis.cluster.ClusterPipeline):
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
        self._short_plans = None if transaction or cluster.nodes_manager.readers else dispatcher.short_plans()
        self._execution_strategy: AbstractStrategy = (
            TransactionStrategy(self) if transaction else PipelineStrategy(self)
        )

    def __len__(self) -> int:
        strategy = self._execution_strategy
        return len(self._queue if isinstance(strategy, PipelineStrategy) else strategy.command_queue)

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

    def __init__(self, pipe: ClusterPipeline) -> None:
        self._cluster = pipe.cluster_client
        self._dispatcher = self._cluster._dispatcher
        self._engine = self._dispatcher.engine
        # What redis-py's __init__ would set, at a third of the price of a small pipeline.
        self._pipe_reference = weakref.ref(pipe)
        self._nodes_manager = self._cluster.nodes_manager
        self._spread_reads = self._cluster.nodes_manager.readers is not None
        self.command_flags = self._cluster.command_flags
        self._queue = pipe._queue = Queue(self._engine.encoding)
        # Nodes of the commands that are not routed by a slot.
        self._pinned: dict[int, Endpoint] = {}
        # Commands that a replica may answer.
        self._reads: list[int] = []
        # A command leaves its connection in a state that the next user must not meet.
        self._discard = False

    @property
    def _pipe(self) -> ClusterPipeline:  # type: ignore[override]  # a plain attribute in redis-py
        # Each would keep the other until the garbage collector comes, with all that the pipeline holds.
        pipe = self._pipe_reference()
        assert pipe is not None, "a strategy is its pipeline's alone"
        return pipe

    def reset(self) -> None:
        """Empties the pipeline."""
        if len(self._queue):
            self._queue.clear()
            self._pinned.clear()
            self._reads.clear()
            self._discard = False

    @property  # type: ignore[misc]  # redis-py's can be set; here the commands are encoded by now
    def command_queue(self) -> list[PipelineCommand]:
        options = self._queue.options
        return [PipelineCommand(args, options.get(i, {}), i) for i, args in enumerate(self._queue.calls)]

    @property
    def _command_queue(self) -> list[PipelineCommand]:  # type: ignore[override]
        return self.command_queue

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Encodes one command; the pipeline again, for chaining."""
        if not args:
            raise DataError(NAMELESS)
        plan = self._dispatcher.plan(args[0])
        key = only_key(plan, args)
        if key and not self._spread_reads and "target_nodes" not in options:
            self._queue.add(args, options, plan, key)
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
                raise RedisClusterException(f"Too many targets for command {shown(args[0])}")
            if not nodes:
                raise RedisClusterException(f"No targets were found to execute {shown(args[0])} command on")
            endpoint = self._endpoint_of(nodes[0])
        else:
            slot, endpoint = self._route(args, plan, targets)
        index = len(self._queue)
        self._queue.add(args, options, plan, 0, slot)
        self._discard |= own is Own.DISCARD
        if endpoint is not None:
            self._pinned[index] = endpoint
        elif self._spread_reads and plan.read:
            self._reads.append(index)

    def _route(self, args: tuple[Any, ...], plan: Plan, flag: Any) -> tuple[int | None, Endpoint | None]:
        """The slot of a command, or the node where it is not routed by a slot."""
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
                    return found, None
            nodes = cluster._determine_nodes(
                name, *args[1:], request_policy=policies.request_policy, nodes_flag=flag
            )
            if not nodes:
                raise RedisClusterException(f"No targets were found to execute {shown(args[0])} command on")
            if len(nodes) > 1:
                raise RedisClusterException(f"Too many targets for command {shown(args[0])}")
            return None, self._endpoint_of(nodes[0])
        return slot, None

    def _endpoint_of(self, node: ClusterNode) -> Endpoint:
        return self._cluster.nodes_manager.endpoint_of(Address(node.host, int(node.port)))

    # -- execution ---------------------------------------------------------------------------------------------------

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends everything; values in the order of the calls."""
        # ClusterPipeline.execute empties the pipeline afterwards.
        return self._execute(raise_on_error) if len(self._queue) else []

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
        results, errors = self._dispatcher.run(
            queue, self._pinned, reads=self._reads, discard=self._discard, redirections=redirections
        )
        if errors and raise_on_error:
            first = min(errors)
            annotate(errors[first], first + 1, queue.call(first))
            raise errors[first]
        return results


class TransactionStrategy(RedisTransactionStrategy):
    """MULTI/EXEC on one slot, on a connection of its own, with WATCH."""

    _nodes_manager: NodesManager
    # The server watches keys for this transaction.
    _watched = False

    def __init__(self, pipe: ClusterPipeline) -> None:
        super().__init__(pipe)
        self._dispatcher = pipe.cluster_client._dispatcher
        self._refusals = Refusals()
        self._retry.update_supported_errors([TryAgainError])

    def annotate_exception(self, exception: Exception, number: int, command: Any) -> None:
        annotate(exception, number, command)

    def _reinitialize_on_error(self, error: Exception, failure_count: int) -> None:
        connection = self._transaction_connection
        host = connection.host if connection is not None else ""
        step = after_exception(error, host, self._nodes_manager.address_remap)
        if step.step is Step.GO:
            assert step.address is not None
            # redis-py leaves the slot where it was until a whole refresh.
            self._dispatcher.moved(step.slot, step.address)
        elif isinstance(error, (UnknownOutcomeError, *FINAL)) or (
            isinstance(error, AskError) and step.step is Step.GIVE_UP
        ):
            raise error
        if step.step in (Step.GO, Step.GIVE_UP) or self._watched:
            # After ASK and TRYAGAIN the same node is asked until the slot's keys have moved: ASKING would be queued in
            # a transaction, so that no other node can answer EXEC.
            self._let_go()
        told: Exception | None = None
        pause = 0.0
        if self._watched:
            # What refuses a transaction ends its WATCH as well, and another node knows nothing of it.
            self._watched = False
            told, pause = self._refusals.after(error, step.step, self._dispatcher.policy, time.monotonic)
        if isinstance(error, self.CONNECTION_ERRORS) and not (failure_count == 1 and is_mere_loss(error)):
            self._dispatcher.refresh(None, pause)
        else:
            time.sleep(pause)
        self._executing = False
        if told is not None:
            raise told

    def _get_connection_and_send_command(self, *args: Any, **options: Any) -> Any:
        found = find(args)
        repeatable = args[0] in self.IMMEDIATE_EXECUTE_COMMANDS or (found is not None and found[0].repeatable)
        try:
            with self._loss_told(repeatable):
                value = super()._get_connection_and_send_command(*args, **options)
        finally:
            self._dispatcher.wrote((args,))
        if args[0] in self.IMMEDIATE_EXECUTE_COMMANDS:
            self._watched = args[0] == "WATCH"
        return value

    def _execute_transaction(self, stack: list[PipelineCommand], raise_on_error: bool) -> list[Any]:
        try:
            with self._loss_told(False):
                values: list[Any] = super()._execute_transaction(stack, raise_on_error)
            return values
        finally:
            if not self._executing:
                self._refusals.answered()
            self._dispatcher.wrote(command.args for command in stack)

    def _get_client_and_connection_for_transaction(self) -> Any:
        connection, moved = self._transaction_connection, False
        if connection is not None and self._pipeline_slots:
            node = self._nodes_manager.get_node_from_slot(next(iter(self._pipeline_slots)))
            moved = node.name != f"{connection.host}:{connection.port}"
            if moved:
                # Another call met the MOVED.
                self._let_go()
        if self._transaction_connection is None and self._watched:
            # Nobody watches over a new connection.
            self._watched = False
            raise WatchError(REBALANCED if moved else ENDED)
        return super()._get_client_and_connection_for_transaction()

    @contextmanager
    def _loss_told(self, repeatable: bool) -> Iterator[None]:
        """A lost connection ends the transaction where redis-py would execute it once more over another one."""
        try:
            yield
        except (ConnectionError, TimeoutError) as error:
            sent = self._transaction_connection is not None and not isinstance(error, BusyLoadingError)
            self._let_go()
            if sent and not repeatable:
                kind = UnknownOutcomeTimeoutError if isinstance(error, TimeoutError) else UnknownOutcomeError
                raise kind(f"{error}: the transaction may or may not have been executed") from error
            raise
        except RedisError:
            # The server's answer: every reply was read.
            raise
        except BaseException:
            # Perhaps in the middle of the replies, as by a signal handler: nobody may read the rest as his own.
            self._let_go()
            raise

    def _let_go(self) -> None:
        connection, self._transaction_connection = self._transaction_connection, None
        if connection is not None:
            connection.disconnect()
            self._nodes_manager.pool_of(Address(connection.host, connection.port)).release(connection)

    def reset(self) -> None:
        """Ends the transaction; the connection goes back to its pool."""
        # redis-py gives it back and then forgets it. Interrupted in between, it would give back once more what somebody
        # else has by then.
        connection, self._transaction_connection = self._transaction_connection, None
        if connection is not None:
            try:
                if self._watching:
                    connection.send_command("UNWATCH")
                    connection.read_response()
            except (*self.CONNECTION_ERRORS, TimeoutError):
                connection.disconnect()
            except BaseException:
                connection.disconnect()
                raise
            finally:
                self._nodes_manager.pool_of(Address(connection.host, connection.port)).release(connection)
        super().reset()
        self._watched = False
