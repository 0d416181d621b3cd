"""From a call to its value: plan, node, redirects and retries, reply shape. Shared by the client and its pipelines."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.client import EMPTY_RESPONSE, NEVER_DECODE, CaseInsensitiveDict
from redis.cluster import ClusterNode, LoadBalancingStrategy
from redis.observability import recorder
from redis.retry import Retry

from slotwise._encoder import Batch
from slotwise._link import Endpoint, Engine, Flawed, Job, Link, LinkFailure, Reentered, ServerError, exchange
from slotwise.commands import Command, Own, find, own_of
from slotwise.errors import (
    AuthenticationError,
    ClosedClientError,
    ClusterError,
    CommandRefusedError,
    ConnectionError,
    DataError,
    MaxConnectionsError,
    NotSentError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TimeoutError,
    UnknownOutcomeError,
    UnknownOutcomeTimeoutError,
    parse_error,
)
from slotwise.routing.plan import Plan, plan_of
from slotwise.routing.redirects import REDIRECTS_MAX, Step, after_error, after_failure
from slotwise.routing.topology import Address
from slotwise.sync.nodes import NodesManager

# Seconds between two tries after TRYAGAIN: a slot's keys move in about this time.
TRYAGAIN_PAUSE = 0.01


class Unanswered:
    """Stands in a batch's results where no reply has come."""

    def __repr__(self) -> str:
        return "UNANSWERED"


UNANSWERED: Any = Unanswered()


def exceptions_in(reply: Any) -> Any:
    """The reply with every error inside it made an exception, as redis-py delivers them."""
    if type(reply) is ServerError:
        return parse_error(reply.text)
    if type(reply) is list:
        return [exceptions_in(item) for item in reply]
    if type(reply) is dict:
        return {exceptions_in(key): exceptions_in(value) for key, value in reply.items()}
    return reply


class Dispatcher:
    """Sends calls to nodes and follows what the cluster answers, until there is a value or nothing left to try."""

    def __init__(
        self,
        nodes: NodesManager,
        callbacks: CaseInsensitiveDict,
        cluster_callbacks: CaseInsensitiveDict,
        *,
        retry: Retry,
        strategy: LoadBalancingStrategy | None,
        reinitialize_steps: int,
        flagged: Callable[[str], bool],
    ) -> None:
        self.nodes = nodes
        self.engine: Engine = nodes.engine
        self.retry = retry
        self.strategy = strategy
        self.reinitialize_steps = reinitialize_steps
        self.moves = 0
        self._callbacks = callbacks
        self._cluster_callbacks = cluster_callbacks
        self._flagged = flagged
        # One plan per spelling of a command's name that was used.
        self.plans: dict[Any, Plan] = {}
        self._short_plans: dict[str, Plan] = {}

    # -- plans -------------------------------------------------------------------------------------------------------

    def plan(self, name: Any) -> Plan:
        """The plan for calls that spell their command ``name``, made on first use."""
        try:
            plan = self.plans.get(name)
        except TypeError:
            raise DataError(NAMELESS) from None
        if plan is None:
            if not isinstance(name, (str, bytes)) or not name.strip():
                raise DataError(NAMELESS)
            text = name.decode() if isinstance(name, bytes) else str(name)
            plan = plan_of(text, self._callback(name), flagged=self._flagged(text))
            # Only what is a command is remembered: user text must not grow the table forever.
            if plan.command is not None:
                self.plans[name] = plan
        return plan

    def short_plans(self) -> dict[str, Plan]:
        """Plans of the commands that a pipeline has a short way for."""
        if not self._short_plans:
            self._short_plans = {name: self.plan(name) for name in ("GET", "SET", "HGET", "INCRBY")}
        return self._short_plans

    def forget_plans(self) -> None:
        """After a callback was replaced."""
        self.plans.clear()
        self._short_plans = {}

    def _callback(self, name: Any) -> Callable[..., Any] | None:
        name = name.decode() if isinstance(name, bytes) else str(name)
        first: Callable[..., Any] | None = self._callbacks.get(name)
        second: Callable[..., Any] | None = self._cluster_callbacks.get(name)
        if first is not None and second is not None:
            return lambda reply, **options: second(first(reply, **options), **options)
        return first or second

    def record(
        self, name: Any, started: float, endpoint: Endpoint | None, error: Exception | None = None
    ) -> None:
        """Tells redis-py's metrics of one command to one node, where the user turned them on."""
        if recorder._metrics_collector is not None:
            recorder.record_operation_duration(
                command_name=str(name),
                duration_seconds=time.monotonic() - started,
                server_address=endpoint.node.host if endpoint is not None else "unknown",
                server_port=endpoint.node.port if endpoint is not None else 0,
                db_namespace="0",
                error=error,
            )

    # -- one call on the shared link of one node ---------------------------------------------------------------------

    def value(self, plan: Plan, reply: Any, options: dict[str, Any]) -> Any:
        """redis-py's value of a reply without errors."""
        options.pop(NEVER_DECODE, None)
        options.pop(EMPTY_RESPONSE, None)
        options.pop("keys", None)
        return reply if plan.callback is None else plan.callback(reply, **options)

    def call(
        self,
        args: tuple[Any, ...],
        options: dict[str, Any],
        plan: Plan,
        *,
        slot: int | None = None,
        endpoint: Endpoint | None = None,
        reply: Any = UNANSWERED,
        failure: Exception | None = None,
    ) -> Any:
        """One call to one node, with redirects and retries: the node of ``slot``, or ``endpoint`` and no other.

        ``reply`` or ``failure`` is what the first try got, when the fast path made it.
        """
        started = time.monotonic()
        decode = NEVER_DECODE not in options
        command = plan.command
        if command is None or not plan.first_key:
            found = find(args)
            command = found[0] if found is not None else None
        own = Own.SHARED if command is None else own_of(command, args)
        if own is Own.REFUSED:
            raise CommandRefusedError(command.refusal)  # type: ignore[union-attr]
        repeatable = command is not None and command.repeatable
        strategy = self.strategy if plan.read else None
        pinned = endpoint is not None
        failures = redirects = 0
        asking = False
        target = endpoint
        while True:
            if reply is UNANSWERED and failure is None:
                try:
                    if target is None:
                        target = self._endpoint_for(slot, strategy)
                    if asking:
                        asking = False
                        reply = self._ask_on(target, args, decode)
                    else:
                        reply = self._call_on(target, args, decode, own)
                except (LinkFailure, ConnectionError, TimeoutError, SlotNotCoveredError) as error:
                    failure = error
            if failure is not None:
                failures += 1
                self.record(args[0], started, target, failure)
                self._after_failure(failure, target, repeatable, failures, pinned)
                failure = None
                if not pinned:
                    target = None
                    # Not to the same replica once more: the primary knows.
                    strategy = None
                continue
            if type(reply) is not ServerError:
                self.record(args[0], started, target)
                return exceptions_in(reply.reply) if type(reply) is Flawed else reply
            self.record(args[0], started, target, parse_error(reply.text))
            host = target.node.host if target is not None else self._host_of(slot)
            step = after_error(reply.text, host, self.nodes.address_remap)
            if step.step is Step.GIVE_UP or redirects >= REDIRECTS_MAX:
                if redirects >= REDIRECTS_MAX:
                    raise ClusterError("TTL exhausted.")
                if EMPTY_RESPONSE in options:
                    return options[EMPTY_RESPONSE]
                raise parse_error(reply.text)
            if step.step is Step.GO:
                redirects += 1
                self.moved(step.slot, step.address)  # type: ignore[arg-type]
                target = None if slot is not None else self.nodes.endpoint_of(step.address)  # type: ignore[arg-type]
                # A replica that was asked for a read names its primary: that one it is now.
                strategy = None
            elif step.step is Step.ASK:
                redirects += 1
                target = self.nodes.endpoint_of(step.address)  # type: ignore[arg-type]
                asking = True
            elif step.step is Step.WAIT:
                redirects += 1
                time.sleep(TRYAGAIN_PAUSE * redirects)
                if slot is not None:
                    # After an ASK: the node that was asked takes nothing without ASKING.
                    target = None
            else:
                failures += 1
                if failures > self._retries(pinned):
                    raise parse_error(reply.text)
                self._refresh(target, failures)
                if not pinned:
                    target = None
            reply = UNANSWERED

    def _host_of(self, slot: int | None) -> str:
        shard = self.engine.table[slot] if slot is not None else None
        return shard[0].node.host if shard else ""

    def _endpoint_for(self, slot: int | None, strategy: LoadBalancingStrategy | None) -> Endpoint:
        if slot is None:
            return self.nodes.endpoint_for(random.choice(self.engine.table.ranges() or [(0, 0, 0)])[0])
        return self.nodes.endpoint_for(slot, strategy)

    def _call_on(self, endpoint: Endpoint, args: tuple[Any, ...], decode: bool, own: Own) -> Any:
        if own is Own.SHARED:
            try:
                return self.engine.on_endpoint(endpoint, args, decode)
            except Reentered:
                # A signal handler or a finalizer of the very thread that is waiting on the shared link.
                pass
        pool = endpoint.pool
        link = pool.take()
        try:
            return link.execute(args, decode, self.engine.encoding)
        finally:
            pool.give_back(link, discard=own is Own.DISCARD)

    def _ask_on(self, endpoint: Endpoint, args: tuple[Any, ...], decode: bool) -> Any:
        """ASKING and the command in one write, over one connection."""
        batch = Batch(self.engine.encoding)
        batch.add(args, 0)
        pool = endpoint.pool
        link = pool.take()
        try:
            job = Job(link, batch, [0], True)
            results: list[Any] = [UNANSWERED]
            exchange([job], results, [decode])
        finally:
            pool.give_back(link)
        if job.failure is not None:
            raise job.failure
        return results[0]

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def _retries(self, pinned: bool) -> int:
        return 0 if pinned else self.retry.get_retries()

    def _after_failure(
        self, failure: Exception, target: Endpoint | None, repeatable: bool, failures: int, pinned: bool
    ) -> None:
        """Refreshes and pauses when the call may be tried again, raises otherwise."""
        error = self.verdict(failure, repeatable, failures <= self._retries(pinned))
        if error is None:
            self._refresh(target, failures)
            return
        if target is not None and not self.nodes.closed and not isinstance(failure, FINAL):
            self._refresh(target, 0)
        raise error

    def verdict(self, failure: Exception, repeatable: bool, tries_left: bool) -> Exception | None:
        """The exception that ends a call which failed so; None when it may be sent once more."""
        sent = getattr(failure, "sent", not isinstance(failure, SlotNotCoveredError))
        again = after_failure(sent=sent, repeatable=repeatable).step is not Step.GIVE_UP
        if again and self.nodes.closed:
            closed = ClosedClientError(CLOSED)
            closed.__cause__ = failure
            return closed
        return None if again and tries_left and not isinstance(failure, FINAL) else failed(failure)

    def _refresh(self, target: Endpoint | None, failures: int) -> None:
        """Asks for the topology; pauses before the try after ``failures`` failures."""
        if failures:
            backoff = self.retry._backoff.compute(failures)
            if backoff > 0:
                time.sleep(backoff)
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.nodes.initialize(last_failed_node_name=target.node.name if target is not None else None)

    def moved(self, slot: int, address: Address) -> None:
        """Patches the table; every ``reinitialize_steps`` moves the whole topology is asked for."""
        self.nodes.moved(slot, address)
        self.moves += 1
        if self.reinitialize_steps and self.moves % self.reinitialize_steps == 0:
            # For the sake of later calls; this one knows where to go.
            with contextlib.suppress(RedisError, RedisClusterException):
                self.nodes.initialize(additional_startup_nodes_info=[address])

    # -- several nodes at once ---------------------------------------------------------------------------------------

    def on_nodes(
        self, nodes: Sequence[ClusterNode], args: tuple[Any, ...], options: dict[str, Any], plan: Plan
    ) -> dict[str, Any]:
        """The same call on every node, all at once; node name to value, or the first exception raised."""
        decode = NEVER_DECODE not in options
        started = time.monotonic()
        batch = Batch(self.engine.encoding)
        endpoints = [self.nodes.endpoint_of(Address(node.host, int(node.port))) for node in nodes]
        for _ in nodes:
            batch.add(args, 0)
        results: list[Any] = [UNANSWERED] * len(nodes)
        parts = [(endpoint, [i]) for i, endpoint in enumerate(endpoints)]
        _, failures = self.run(batch, parts, results, [decode] * len(nodes))
        values: dict[str, Any] = {}
        for index, node in enumerate(nodes):
            failure = failures.get(index)
            reply = results[index]
            if failure is not None or type(reply) is ServerError:
                first = {"failure": failure} if failure is not None else {"reply": reply}
                reply = self.call(args, options, plan, endpoint=endpoints[index], **first)
            else:
                self.record(args[0], started, endpoints[index])
                if type(reply) is Flawed:
                    reply = exceptions_in(reply.reply)
            values[node.name] = self.value(plan, reply, dict(options))
        return values

    def run(
        self,
        batch: Batch,
        parts: Iterable[tuple[Endpoint, list[int]]],
        results: list[Any],
        decode: list[bool] | None = None,
        *,
        asking: bool = False,
        discard: bool = False,
    ) -> tuple[list[int], dict[int, Exception]]:
        """Commands of ``batch`` over a lane per part, all parts at once; replies go to their places in ``results``.

        ``discard``: nobody may use these lanes afterwards.
        Returns the indices whose reply is missing or has an error in it, and why it is missing, by index.
        """
        failures: dict[int, Exception] = {}
        taken: list[tuple[Any, Link]] = []
        jobs: list[Job] = []
        try:
            # In one order for all threads: with few connections two of them could wait for each other's.
            for endpoint, indices in sorted(parts, key=_by_address):
                pool = endpoint.pool
                try:
                    link = pool.take()
                except (ConnectionError, TimeoutError) as error:
                    failures.update(dict.fromkeys(indices, error))
                    continue
                taken.append((pool, link))
                jobs.append(Job(link, batch, indices, asking))
            troubled = exchange(jobs, results, decode)
        finally:
            for pool, link in taken:
                pool.give_back(link, discard=discard)
        troubled += failures
        for job in jobs:
            if job.failure is not None:
                for position, index in enumerate(job.indices[job.answered :], job.answered):
                    failures[index] = LinkFailure(
                        str(job.failure), sent=position < job.written, timed_out=job.failure.timed_out
                    )
        return troubled, failures

    def command_of(self, args: tuple[Any, ...]) -> Command | None:
        """The facts of the command that ``args`` call."""
        found = find(args)
        return None if found is None else found[0]


NAMELESS = "A command needs a name in text or bytes: pass it as the first argument, e.g. 'GET'."
CLOSED = "This client was closed. Enter it again with `with client:` or make a new one."


# Failures that another try would only meet again.
FINAL = (AuthenticationError, MaxConnectionsError)


def _by_address(part: tuple[Endpoint, list[int]]) -> Address:
    return part[0].node


def failed(failure: Exception) -> Exception:
    """The exception of redis-py's tree for a call that got no reply."""
    if not isinstance(failure, LinkFailure):
        return failure
    if not failure.sent:
        made: Exception = NotSentError(f"{failure}: the command was not sent")
    elif failure.timed_out:
        made = UnknownOutcomeTimeoutError(f"{failure}: the command may or may not have been executed")
    else:
        made = UnknownOutcomeError(f"{failure}: the command may or may not have been executed")
    made.__cause__ = failure
    return made


__all__ = [
    "CLOSED",
    "NAMELESS",
    "UNANSWERED",
    "Dispatcher",
    "ResponseError",
    "exceptions_in",
    "failed",
]
