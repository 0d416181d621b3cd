"""From a call to its value: plan, node, redirects and retries, reply shape. Shared by the client and its pipelines."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.cache import CacheEntry
from redis.client import EMPTY_RESPONSE, NEVER_DECODE, CaseInsensitiveDict
from redis.cluster import ClusterNode
from redis.observability import recorder

from slotwise._batch import Queue, run
from slotwise._calls import ShortPlans
from slotwise._encoder import Batch, Indices
from slotwise._engine import Endpoint, Engine
from slotwise._link import LinkFailure, Reentered
from slotwise._reply import Flawed, ServerError
from slotwise.commands import Own, find, own_of, shown
from slotwise.errors import (
    ClosedClientError,
    CommandRefusedError,
    ConnectionError,
    DataError,
    RedisError,
    SlotNotCoveredError,
    TimeoutError,
    parse_error,
)
from slotwise.routing import tables
from slotwise.routing.batches import asked_of, choose_reads, judge, parts_of, short_way_asked
from slotwise.routing.conversation import (
    CLOSED,
    FINAL,
    TRYAGAIN_PAUSE,
    Moved,
    Outcome,
    Pause,
    Reconnect,
    Refresh,
    Send,
    converse,
)
from slotwise.routing.errors_inside import exceptions_in
from slotwise.routing.plan import Plan, plan_of
from slotwise.routing.redirects import REDIRECTS_MAX
from slotwise.routing.replicas import Session
from slotwise.routing.retry import RetryBudget, RetryPolicy
from slotwise.routing.topology import Address
from slotwise.sync.nodes import NodesManager

NAMELESS = "A command needs a name in text or bytes: pass it as the first argument, e.g. 'GET'."


class Unanswered:
    """Stands in a batch's results where no reply has come."""

    def __repr__(self) -> str:
        return "UNANSWERED"


_UNANSWERED: Any = Unanswered()


class Dispatcher:
    """Sends calls to nodes and follows what the cluster answers, until there is a value or nothing left to try."""

    def __init__(
        self,
        nodes: NodesManager,
        callbacks: CaseInsensitiveDict,
        cluster_callbacks: CaseInsensitiveDict,
        *,
        policy: RetryPolicy,
        reinitialize_steps: int,
        flagged: Callable[[str], bool],
    ) -> None:
        self.nodes = nodes
        self.engine: Engine = nodes.engine
        self.policy = policy
        self._budget = RetryBudget(time.monotonic())
        # Where reads go to replicas, whose writes they have to find.
        self.session: Session | None = None
        self.reinitialize_steps = reinitialize_steps
        # Who is told of each call that may have changed something, when it has its reply: a cache, a session.
        self.on_written: tuple[Callable[[tuple[Any, ...]], None], ...] = ()
        self._callbacks = callbacks
        self._cluster_callbacks = cluster_callbacks
        self._flagged = flagged
        # One plan per spelling of a command's name that was used.
        self.plans: dict[Any, Plan] = {}
        self._short_plans: ShortPlans | None = None

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

    def short_plans(self) -> ShortPlans:
        """Plans of the commands that a pipeline has a short way for."""
        if self._short_plans is None:
            self._short_plans = ShortPlans(self.plan)
        return self._short_plans

    def forget_plans(self) -> None:
        """After a callback was replaced."""
        self.plans.clear()
        self._short_plans = None

    def _callback(self, name: Any) -> Callable[..., Any] | None:
        name = name.decode() if isinstance(name, bytes) else str(name)
        first: Callable[..., Any] | None = self._callbacks.get(name)
        second: Callable[..., Any] | None = self._cluster_callbacks.get(name)
        if first is not None and second is not None:
            return lambda reply, **options: second(first(reply, **options), **options)
        return first or second

    def record(
        self, name: Any, started: float, address: Address | None, error: Exception | None = None
    ) -> None:
        """Tells redis-py's metrics of one command to one node, where the user turned them on."""
        if recorder._metrics_collector is not None:
            recorder.record_operation_duration(
                command_name=shown(name),
                duration_seconds=time.monotonic() - started,
                server_address=address.host if address is not None else "unknown",
                server_port=address.port if address is not None else 0,
                db_namespace="0",
                error=error,
            )

    # -- one call ----------------------------------------------------------------------------------------------------

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
        reply: Any = None,
        failure: Exception | None = None,
        entry: CacheEntry | None = None,
    ) -> Any:
        """One call to one node, with redirects and retries: the node of ``slot``, or ``endpoint`` and no other.

        ``reply`` or ``failure`` is what the first try got, when a short way made it. ``entry`` of the cache is told over
        which shared link the reply came.
        """
        command = plan.command
        if command is None or not plan.first_key:
            found = find(args)
            command = found[0] if found is not None else None
        own = Own.SHARED if command is None else own_of(command, args)
        if command is not None and own is Own.REFUSED:
            raise CommandRefusedError(command.refusal)
        read = plan.read and self.nodes.readers is not None
        first = done = None
        if reply is not None or failure is not None:
            first = Outcome(reply, failure, self._asked(slot, failure) if endpoint is None else endpoint.node)
        else:
            self.engine.calls += 1
        steps = converse(
            pinned=endpoint.node if endpoint is not None else None,
            repeatable=command is not None and command.repeatable,
            retries=self.policy.retries,
            pause_after=self.policy.pauses(time.monotonic),
            remap=self.nodes.address_remap,
            closed=lambda: self.nodes.closed,
            retry_writes=self.policy.retry_writes,
            may_repeat=self._may_repeat,
            waits=own is Own.EXCLUSIVE,
            outcome=first,
        )
        started = time.monotonic()
        failed = first if failure is not None else None
        asked: Address | None = None
        hurried = False
        try:
            if first is not None:
                self._record_outcome(args[0], started, first)
            while True:
                step = steps.send(done)
                done = None
                if isinstance(step, Send):
                    began = time.monotonic()
                    done = self._send(
                        step, args, options, own, slot, read, asked if step.primary else None, entry
                    )
                    if read and own is Own.SHARED:
                        self.nodes.answered(done, began)
                    asked = done.address
                    failed = done if done.failure is not None else None
                    self._record_outcome(args[0], started, done)
                elif isinstance(step, Moved):
                    self.moved(step.slot, step.address)
                elif isinstance(step, Reconnect):
                    self.nodes.reconnect(step.address)
                elif read and not hurried and self.nodes.others_answer([(slot, asked)], self.session):
                    # Once: when they fail as well, it is more than one node's trouble.
                    hurried = True
                    self.nodes.refresher.want(asked)
                elif isinstance(step, Refresh):
                    self.refresh(step.failed, step.pause, slot)
                elif isinstance(step, Pause):
                    time.sleep(max(0.0, step.seconds))
        except StopIteration as end:
            value = end.value
        except RedisError:
            if failed is not None and not self.nodes.closed and not isinstance(failed.failure, FINAL):
                # For the sake of later calls.
                self.nodes.refresher.want(failed.address)
            elif EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        finally:
            self.wrote((args,))
        return exceptions_in(value.reply) if type(value) is Flawed else value

    def wrote(self, calls: Iterable[tuple[Any, ...]]) -> None:
        """Calls that may have changed something have their replies, or never will."""
        if self.on_written:
            for args in calls:
                for tell in self.on_written:
                    tell(args)

    def _asked(self, slot: int | None, failure: Exception | None) -> Address | None:
        shard = self.engine.table[slot] if slot is not None else None
        links = [shard[0].link] if shard else []
        return short_way_asked(shard, failure, links, time.monotonic() - self.nodes.changed)

    def _record_outcome(self, name: Any, started: float, outcome: Outcome) -> None:
        if recorder._metrics_collector is not None:
            error = outcome.failure
            if type(outcome.reply) is ServerError:
                error = parse_error(outcome.reply.text)
            self.record(name, started, outcome.address, error)

    def _send(
        self,
        step: Send,
        args: tuple[Any, ...],
        options: dict[str, Any],
        own: Own,
        slot: int | None,
        read: bool,
        failed: Address | None,
        entry: CacheEntry | None,
    ) -> Outcome:
        """One try at one node."""
        decode = NEVER_DECODE not in options
        address = step.address
        if entry is not None:
            # Unless it came over a shared link, nobody tells when the reply changes.
            entry.connection_ref = None
        try:
            if address is not None:
                endpoint = self.nodes.endpoint_of(address)
            else:
                slot = self._any_slot() if slot is None else slot
                shard = self.nodes.shard_of(slot)
                endpoint = shard[0]
                if read:
                    endpoint = self.nodes.reader_for(shard, slot, self.session, failed=failed)
                address = endpoint.node
            if step.asking:
                return Outcome(self._ask_on(endpoint, args, decode), None, address)
            return Outcome(self._call_on(endpoint, args, decode, own, entry), None, address)
        except (LinkFailure, ConnectionError, TimeoutError, SlotNotCoveredError) as error:
            return Outcome(None, error, address)

    def _any_slot(self) -> int:
        return random.choice(self.engine.table.ranges() or [(0, 0, 0)])[0]

    def _call_on(
        self, endpoint: Endpoint, args: tuple[Any, ...], decode: bool, own: Own, entry: CacheEntry | None
    ) -> Any:
        if own is Own.SHARED:
            link = self.nodes.shared_link(endpoint) if entry is not None else None
            try:
                reply = self.engine.on_endpoint(endpoint, args, decode)
                if entry is not None and endpoint.link is link:
                    entry.connection_ref = link
                return reply
            except Reentered:
                # A signal handler or a finalizer of the very thread that is waiting on the shared link.
                pass
        pool = endpoint.pool
        link = pool.take()
        try:
            return link.execute(args, decode, self.engine.encoding)
        finally:
            pool.give_back(link, own is Own.DISCARD)

    def _ask_on(self, endpoint: Endpoint, args: tuple[Any, ...], decode: bool) -> Any:
        """ASKING and the command in one write, over one connection."""
        batch = Batch(self.engine.encoding)
        batch.add(args, 0)
        results: list[Any] = [_UNANSWERED]
        _, failures = run(batch, [(endpoint, Indices([0]))], results, [decode], asking=True)
        if failures:
            raise failures[0]
        return results[0]

    def _may_repeat(self) -> bool:
        self._budget.calls = self.engine.calls
        return self._budget.allow(time.monotonic())

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def refresh(self, failed: Address | None, pause: float, slot: int | None = None) -> None:
        """Waits for a refresh, and for ``pause`` at least. The next try tells what came of it.

        When ``failed`` no longer serves ``slot``, the refresh was while the last try was under way.
        """
        until = time.monotonic() + pause
        if failed is None or tables.serves(self.engine.table, slot, failed):
            self.nodes.refresher.want_and_wait(failed, self.policy.patience)
        time.sleep(max(0.0, until - time.monotonic()))

    def moved(self, slot: int, address: Address) -> None:
        """Patches the table; after news the whole topology is wished for, unless ``reinitialize_steps`` is 0."""
        if self.nodes.moved(slot, address) and self.reinitialize_steps:
            self.nodes.refresher.want(told=address)

    # -- several nodes at once ---------------------------------------------------------------------------------------

    def on_nodes(
        self, nodes: Sequence[ClusterNode], args: tuple[Any, ...], options: dict[str, Any], plan: Plan
    ) -> dict[str, Any]:
        """The same call on every node, all at once; node name to value, or the first exception raised."""
        decode = NEVER_DECODE not in options
        started = time.monotonic()
        self.engine.calls += 1
        batch = Batch(self.engine.encoding)
        endpoints = [self.nodes.endpoint_of(Address(node.host, int(node.port))) for node in nodes]
        for _ in nodes:
            batch.add(args, 0)
        results: list[Any] = [_UNANSWERED] * len(nodes)
        parts = [(endpoint, Indices([i])) for i, endpoint in enumerate(endpoints)]
        values: dict[str, Any] = {}
        try:
            _, failures = run(batch, parts, results, [decode] * len(nodes))
            for index, node in enumerate(nodes):
                reply = results[index]
                if index in failures or type(reply) is ServerError:
                    reply = self.call(
                        args,
                        options,
                        plan,
                        endpoint=endpoints[index],
                        reply=None if index in failures else reply,
                        failure=failures.get(index),
                    )
                else:
                    self.record(args[0], started, endpoints[index].node)
                    if type(reply) is Flawed:
                        reply = exceptions_in(reply.reply)
                values[node.name] = self.value(plan, reply, dict(options))
        finally:
            self.wrote((args,))
        return values

    def run(
        self,
        queue: Queue,
        pinned: dict[int, Endpoint],
        *,
        reads: Sequence[int] = (),
        discard: bool = False,
        redirections: bool = True,
    ) -> tuple[list[Any], dict[int, Exception]]:
        """The commands of ``queue``, all nodes at once; their values, and the exceptions of those that have none.

        ``pinned`` has the endpoints of the commands that are not routed by a slot, ``reads`` those that a replica may
        answer; ``discard``: nobody may use the connections afterwards.
        """
        count = len(queue)
        self.engine.calls += 1
        decode = None
        if queue.options and any(NEVER_DECODE in options for options in queue.options.values()):
            decode = [NEVER_DECODE not in queue.options.get(i, ()) for i in range(count)]
        results: list[Any] = [_UNANSWERED] * count
        started = time.monotonic()
        if reads:
            pinned = {**pinned, **self._choose_reads(queue, dict.fromkeys(reads))}
        parts, failures = parts_of(queue.batch, self.engine.table, pinned)
        errors: dict[int, Exception] = {}
        try:
            troubled, more = run(queue.batch, parts, results, decode, discard=discard)
            troubled += failures
            failures.update(more)
            if recorder._metrics_collector is not None:
                for endpoint, members in parts:
                    wrong = next((results[i] for i in members if type(results[i]) is ServerError), None)
                    failure = next((more[i] for i in members if i in more), None)
                    error = failure or (parse_error(wrong.text) if wrong is not None else None)
                    self.record("PIPELINE", started, endpoint.node, error)
            if troubled:
                where = asked_of(parts, troubled)
                errors = self._settle(
                    queue, troubled, where, results, failures, decode, pinned, reads, discard, redirections
                )
        finally:
            # Also when a signal handler raises: what was sent is executed all the same.
            if self.on_written:
                self.wrote(queue.calls)
        for index, plan in queue.shaped:
            if index not in errors:
                results[index] = self.value(plan, results[index], queue.options.get(index, {}))
        for index, error in errors.items():
            results[index] = error
        return results, errors

    def _choose_reads(self, queue: Queue, reads: Mapping[int, Address | None]) -> dict[int, Endpoint]:
        def choose(shard: Sequence[Endpoint], slot: int, failed: Address | None) -> Endpoint:
            return self.nodes.reader_for(shard, slot, self.session, failed=failed)

        own_writes = self.session is not None
        return choose_reads(queue.batch, self.engine.table, reads, choose, own_writes=own_writes)

    def _settle(
        self,
        queue: Queue,
        troubled: list[int],
        where: dict[int, Address],
        results: list[Any],
        failures: dict[int, Exception],
        decode: list[bool] | None,
        pinned: dict[int, Endpoint],
        reads: Sequence[int],
        discard: bool,
        redirections: bool,
    ) -> dict[int, Exception]:
        """Sends again what was redirected or surely not executed; the exceptions of the rest, by index. ``where``: who was
        asked each of the ``troubled``."""
        batch, nodes = queue.batch, self.nodes
        errors: dict[int, Exception] = {}
        pause_after = self.policy.pauses(time.monotonic)
        failed_times = redirects = 0

        def repeatable(index: int) -> bool:
            found = find(queue.call(index))
            return found is not None and found[0].repeatable

        def waits(index: int) -> bool:
            found = find(queue.call(index))
            return found is not None and own_of(found[0], queue.call(index)) is Own.EXCLUSIVE

        def next_pause() -> float | None:
            left = redirections and failed_times < self.policy.retries
            return pause_after(failed_times + 1) if left else None

        while troubled:
            verdict = judge(
                troubled,
                results,
                failures,
                asked=where.get,
                repeatable=repeatable,
                remap=nodes.address_remap,
                redirects_left=redirections and redirects < REDIRECTS_MAX,
                next_pause=next_pause,
                first_failure=not failed_times,
                closed=nodes.closed,
                retry_writes=self.policy.retry_writes,
                may_repeat=self._may_repeat,
                waits=waits,
            )
            for index, error in verdict.errors.items():
                options = queue.options.get(index, {})
                if EMPTY_RESPONSE in options and index not in failures:
                    results[index] = options[EMPTY_RESPONSE]
                else:
                    errors[index] = error
            for index in verdict.nested:
                results[index] = exceptions_in(results[index].reply)
            for address in verdict.reconnect:
                nodes.reconnect(address)
            for slot, address in verdict.moved.items():
                self.moved(slot, address)
            if not verdict.again and not verdict.ask:
                if failures and not nodes.closed:
                    # For the sake of later calls.
                    nodes.refresher.want()
                break
            redirects += 1
            if verdict.pause is not None:
                failed_times += 1
                redirects = 0
                if (
                    failed_times == 1
                    and set(verdict.again) <= set(reads)
                    and nodes.others_answer(
                        [(batch.slot(i), where.get(i)) for i in verdict.again], self.session
                    )
                ):
                    nodes.refresher.want()
                elif verdict.refresh:
                    self.refresh(
                        next((where.get(i) for i in verdict.again if i in failures), None), verdict.pause
                    )
                else:
                    time.sleep(verdict.pause)
                if nodes.closed:
                    errors.update({index: ClosedClientError(CLOSED) for index in verdict.again})
                    break
            elif verdict.wait:
                time.sleep(TRYAGAIN_PAUSE * redirects)
            unread = {i: where.get(i) for i in sorted(set(reads).intersection(verdict.again))}
            for index in (*verdict.again, *(i for members in verdict.ask.values() for i in members)):
                results[index] = _UNANSWERED
                if batch.slot(index) >= 0:
                    # A read goes to its replica once; a command for a node that the caller named goes nowhere else.
                    pinned.pop(index, None)
            if unread:
                pinned.update(self._choose_reads(queue, unread))
            parts, failures = parts_of(batch, self.engine.table, pinned, verdict.again)
            troubled, more = run(batch, parts, results, decode, discard=discard)
            troubled += failures
            failures.update(more)
            if verdict.ask:
                ask = [(nodes.endpoint_of(node), Indices(some)) for node, some in verdict.ask.items()]
                asked_again, more = run(batch, ask, results, decode, asking=True)
                troubled += asked_again
                failures.update(more)
                parts += ask
            where = asked_of(parts, troubled)
        return errors
