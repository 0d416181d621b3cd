"""Transactions under asyncio: redis-py's MULTI/EXEC and WATCH, on a connection of a pool that waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis.asyncio.cluster

from slotwise.commands import find
from slotwise.errors import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    MaxConnectionsError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
    UnknownOutcomeError,
    UnknownOutcomeTimeoutError,
    WatchError,
)
from slotwise.routing.conversation import is_mere_loss
from slotwise.routing.errors_inside import annotate
from slotwise.routing.redirects import Step, after_exception
from slotwise.routing.watches import ENDED, REBALANCED, Refusals

if TYPE_CHECKING:
    from slotwise.asyncio.connection import AsyncNodePool
    from slotwise.asyncio.pipeline import ClusterPipeline

# Failures that another try would only meet again, or must not follow.
_FINAL = (AuthenticationError, MaxConnectionsError, UnknownOutcomeError)


class TransactionStrategy(redis.asyncio.cluster.TransactionStrategy):
    """MULTI/EXEC on one slot, with WATCH, over a connection of its own."""

    _pipe: ClusterPipeline
    # The server watches keys for this transaction.
    _watched = False
    # Which has given the transaction's connection; the node may have another by now.
    _pool: AsyncNodePool | None = None

    def __init__(self, pipe: ClusterPipeline) -> None:
        super().__init__(pipe)
        self._refusals = Refusals()
        self._retry.update_supported_errors([TryAgainError])

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

    def _annotate_exception(self, exception: Exception, number: int, command: Any) -> None:
        annotate(exception, number, command)

    async def _get_connection_and_send_command(self, *args: Any, **options: Any) -> Any:
        immediate = args[0] in self.IMMEDIATE_EXECUTE_COMMANDS
        found = find(args)
        try:
            with self._loss_told(immediate or (found is not None and found[0].repeatable)):
                await self._connect()
                value = await super()._get_connection_and_send_command(*args, **options)
        finally:
            self._pipe.cluster_client._wrote([args])
        if immediate:
            self._watched = args[0] == "WATCH"
        return value

    async def _execute_transaction(self, stack: list[Any], raise_on_error: bool) -> Any:
        try:
            with self._loss_told(False):
                # With a command of two slots there is no node to connect to, and redis-py says so.
                if len(self._pipeline_slots) == 1:
                    await self._connect()
                return await super()._execute_transaction(stack, raise_on_error)
        finally:
            if not self._executing:
                self._refusals.answered()
            self._pipe.cluster_client._wrote(command.args for command in stack)

    async def _connect(self) -> None:
        """Takes a connection of the pool, unless the transaction has one."""
        manager = self._pipe.cluster_client.nodes_manager
        if not self._pipeline_slots:
            raise RedisClusterException("At least a command with a key is needed to identify a node")
        pool = manager.endpoint_for(next(iter(self._pipeline_slots))).pool
        moved = self._transaction_connection is not None and self._transaction_node is not pool.node
        if moved:
            # Another call met the MOVED.
            self._let_go()
        if self._transaction_connection is None:
            if self._watched:
                # Nobody watches over a new connection.
                self._watched = False
                raise WatchError(REBALANCED if moved else ENDED)
            self._transaction_connection = await pool.connection()
            self._transaction_node, self._pool = pool.node, pool

    def _get_client_and_connection_for_transaction(self) -> Any:
        return self._transaction_node, self._transaction_connection

    async def _reinitialize_on_error(self, error: Exception, failure_count: int) -> None:
        # In place of redis-py's own step, which asks for the topology and lets the caller wait.
        client = self._pipe.cluster_client
        manager, node = client.nodes_manager, self._transaction_node
        step = after_exception(error, node.host if node is not None else "", manager.address_remap)
        if step.step is Step.GO:
            assert step.address is not None
            # redis-py leaves the slot where it was until a whole refresh.
            await client._moved(step.slot, step.address)
        elif isinstance(error, _FINAL) or (isinstance(error, AskError) and step.step is Step.GIVE_UP):
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
            told, pause = self._refusals.after(error, step.step, client._retry_policy(), time.monotonic)
        if isinstance(error, self.CONNECTION_ERRORS) and not (failure_count == 1 and is_mere_loss(error)):
            await client._refresh(None, pause)
        else:
            await asyncio.sleep(pause)
        self._executing = False
        if told is not None:
            raise told

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
            # Perhaps in the middle of the replies, as by a cancellation: nobody may read the rest as his own.
            self._let_go()
            raise

    def _let_go(self) -> None:
        if self._transaction_connection is not None:
            self._transaction_connection._close()
            self._release()

    def _release(self) -> None:
        connection, self._transaction_connection = self._transaction_connection, None
        if connection is not None:
            assert self._pool is not None, "which has given it"
            self._pool.release(connection)

    async def reset(self) -> None:
        """Ends the transaction; the connection goes back to its pool."""
        try:
            await self._unwatch()
        finally:
            self._release()
            self._watching = self._watched = False
            await super().reset()

    async def _unwatch(self) -> None:
        """Where the connection watches keys. redis-py's own step would open a closed one, which watches nothing."""
        connection = self._transaction_connection
        if connection is not None and self._watching:
            try:
                if connection.is_connected:
                    await connection.send_command("UNWATCH")
                    await connection.read_response()
            except (*self.CONNECTION_ERRORS, TimeoutError):
                self._let_go()
            except BaseException:
                self._let_go()
                raise
