"""What a versioned store does, step by step, written once for threads and for asyncio.

Each operation is a generator: it yields a request, and is sent its replies. A request is a list of commands, `Gets` or
`OnNodes`; a reply that is an error comes as the exception, in its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeAlias

import redis
import redis.asyncio
from redis.client import NEVER_DECODE

from slotwise._versions import HEADER_SIZE, TOMBSTONE, NotSealed, Version, header, unseal
from slotwise.consistency import values
from slotwise.consistency.clock import HybridClock
from slotwise.consistency.errors import (
    BatchError,
    ConsistencyError,
    ForeignValueError,
    NotAValueError,
    VersionDriftError,
)
from slotwise.consistency.lost import LostWrite, Memory, find_lost
from slotwise.consistency.requests import AT_ONCE, Command, Gets, OnNodes, Steps, chunks
from slotwise.consistency.results import HistoryEntry, StoreStats, Versioned, WriteResult, history_entry
from slotwise.consistency.scripts import ADOPT, BARRIER, DONE, REFUSALS, WRITE, Script
from slotwise.consistency.unrepeated import unrepeated
from slotwise.consistency.values import Values
from slotwise.errors import (
    ConnectionError,
    DataError,
    NoScriptError,
    ResponseError,
    SlotNotCoveredError,
    TimeoutError,
    UnknownOutcomeError,
)
from slotwise.routing.slot_tags import beside
from slotwise.sync import forks

Seconds: TypeAlias = float | timedelta

HISTORY = "slotwise:history:"
BARRIERS = "slotwise:barrier:"

# In one batch, so that a call for millions of keys holds no more than that twice.
_BYTES = 16 << 20


class Core:
    """The decisions of a store: no I/O, which its shells do."""

    # Whether the client is one for asyncio.
    _awaited = False

    def __init__(
        self,
        client: Any,
        *,
        clock: HybridClock | None = None,
        codec: values.Codec = "raw",
        compress_above: int | None = None,
        tombstone_ttl: Seconds = 7 * 86400,
        foreign: Literal["refuse", "adopt"] = "refuse",
        history: int = 0,
        history_ttl: Seconds = 7 * 86400,
        wait_replicas: int = 0,
        wait_timeout: Seconds = 1.0,
        remember: int = 0,
        remember_bytes: int = 64 << 20,
    ) -> None:
        if foreign not in ("refuse", "adopt"):
            raise ValueError(f"foreign is {foreign!r} and can be 'refuse' or 'adopt'")
        for name, number in (
            ("history", history),
            ("wait_replicas", wait_replicas),
            ("remember", remember),
            ("remember_bytes", remember_bytes),
        ):
            if type(number) is not int or number < 0:
                raise ValueError(f"{name} is {number!r} and has to be an integer of at least 0")
        values.check_client(client, awaited=self._awaited, taker=type(self).__name__)
        self.client = client
        self.clock = HybridClock() if clock is None else clock
        self._observe = self.clock.observe
        self.stats = StoreStats()
        encoder = client.get_encoder()
        decode = encoder.decode if encoder.decode_responses else None
        self._encode: Callable[[Any], bytes] = encoder.encode
        self._values = Values(codec, compress_above, self._encode, decode)
        self._plain = decode is None
        # The stored form is no text: a client that decodes is asked for bytes.
        self._options = {} if self._plain else {NEVER_DECODE: True}
        # Under asyncio it is to be awaited. No method of ours around it: it is the hot path.
        self._fetch: Callable[[Any], Any] = (
            client.get if self._plain else partial(client.execute_command, "GET", **self._options)
        )
        self._clustered = hasattr(client, "group_by_node")
        if isinstance(client, (redis.RedisCluster, redis.asyncio.RedisCluster)) and not self._clustered:
            module = "slotwise.asyncio" if self._awaited else "slotwise"
            raise TypeError(
                f"{type(self).__name__} takes {module}.RedisCluster and not redis-py's, which sends a write again "
                "when its reply was lost and does not tell; it can be put in its place"
            )
        self._sender = unrepeated(client)
        # What a command may have been executed with. redis-py's clients do not tell it from what was never sent.
        self._lost = (UnknownOutcomeError,) if self._clustered else (ConnectionError, TimeoutError)
        self._adopt = foreign == "adopt"
        self._tombstone_ttl = _milliseconds("tombstone_ttl", tombstone_ttl)
        self._history = history
        self._history_ttl = _milliseconds("history_ttl", history_ttl)
        self._replicas = wait_replicas
        self._patience = _milliseconds("wait_timeout", wait_timeout)
        timeout = client.get_connection_kwargs().get("socket_timeout")
        if wait_replicas and timeout is not None and self._patience >= timeout * 1000:
            raise ValueError(
                f"wait_timeout is {self._patience / 1000:g} s and has to be less than the client's socket_timeout, {timeout:g} s"
            )
        self._memory = Memory(remember, remember_bytes) if remember else None
        forks.remember(self)
        self.forget()

    def forget(self) -> None:
        """In a child process: what another thread held when it was forked, nobody gives back."""
        self._counting = threading.RLock()
        if self._memory is not None:
            self._memory.renew()

    # -- reading -----------------------------------------------------------------------------------------------------

    def _value(self, stored: bytes, default: Any) -> Any:
        """The value of what GET found; ``default`` for a tombstone."""
        try:
            version, flags, payload = unseal(stored)
        except NotSealed as error:
            return self._foreign(stored, error)
        try:
            self._observe(version)
        except VersionDriftError:
            self._count("drifted")
        if not flags and self._plain:
            return payload
        return default if flags & TOMBSTONE else self._values.open(flags, payload)

    def _foreign(self, stored: bytes, error: NotSealed) -> Any:
        """The value of a string that is none of ours, where such are adopted."""
        told = values.named(error)
        if self._adopt and type(told) is ForeignValueError:
            return stored if self._values.decode is None else self._values.decode(stored)
        raise told from None

    def _versioned(self, stored: bytes | None) -> Versioned | None:
        if stored is None:
            return None
        try:
            version, flags = header(stored)
        except NotSealed as error:
            return Versioned(self._foreign(stored, error), None)
        return Versioned(self._value(stored, None), version, bool(flags & TOMBSTONE))

    def _get_many(self, keys: Iterable[Any]) -> Steps[dict[Any, Any]]:
        found: dict[Any, Any] = {}
        errors: dict[Any, Exception] = {}
        for some in chunks(dict.fromkeys(keys), AT_ONCE):
            for key, reply in zip(some, (yield Gets(some)), strict=True):
                if reply is None:
                    continue
                try:
                    if isinstance(reply, Exception):
                        raise not_a_value(reply)
                    value = self._value(reply, _DELETED)
                except Exception as error:
                    errors[key] = error
                else:
                    if value is not _DELETED:
                        found[key] = value
        if errors:
            raise BatchError(found, errors)
        return found

    def _sync_history(self, key: Any) -> Steps[list[HistoryEntry]]:
        (reply,) = yield [("LRANGE", beside(HISTORY, self._encode(key)), 0, -1)]
        if isinstance(reply, Exception):
            raise reply
        now = self.clock.clock() // 1_000_000
        return [
            entry
            for entry in map(history_entry, reply)
            if entry is not None and now - entry.at * 1000 <= self._history_ttl
        ]

    # -- writing -----------------------------------------------------------------------------------------------------

    def _set(self, key: Any, value: Any, ttl: Seconds | None) -> Steps[WriteResult]:
        version = self.clock.now()
        px = b"" if ttl is None else _milliseconds("ttl", ttl)
        return self._one(key, version, self._values.seal(version, value), px)

    def _delete(self, key: Any) -> Steps[WriteResult]:
        version = self.clock.now()
        return self._one(key, version, values.tombstone(version), self._tombstone_ttl, action=b"d")

    def _set_if_newer(
        self, key: Any, value: Any, version: Version, ttl: Seconds | None
    ) -> Steps[WriteResult]:
        px = b"" if ttl is None else _milliseconds("ttl", ttl)
        self._take(version)
        return self._one(key, version, self._values.seal(version, value), px)

    def _set_if_version(
        self, key: Any, value: Any, expected: Version | None, ttl: Seconds | None
    ) -> Steps[WriteResult]:
        px = b"" if ttl is None else _milliseconds("ttl", ttl)
        if expected is not None:
            # What replaces it has to be newer.
            self._take(expected)
        version = self.clock.now()
        want = b"0" if expected is None else bytes(expected)
        return self._one(key, version, self._values.seal(version, value), px, want)

    def _set_many(self, mapping: Mapping[Any, Any], ttl: Seconds | None) -> Steps[dict[Any, WriteResult]]:
        px = b"" if ttl is None else _milliseconds("ttl", ttl)
        return self._many(mapping.items(), self._values.seal, px, b"s")

    def _delete_many(self, keys: Iterable[Any]) -> Steps[dict[Any, WriteResult]]:
        pairs = dict.fromkeys(keys).items()
        return self._many(pairs, lambda version, _: values.tombstone(version), self._tombstone_ttl, b"d")

    def _one(
        self,
        key: Any,
        version: Version,
        sealed: bytes,
        px: bytes | int,
        want: bytes = b"",
        action: bytes = b"s",
    ) -> Steps[WriteResult]:
        results: dict[Any, WriteResult] = {}
        errors: dict[Any, Exception] = {}
        tail = self._tail(px, want, action)
        key = self._key(key)
        yield from self._write([(key, version, self._command(key, sealed, tail))], px, results, errors)
        if errors:
            raise errors[key]
        return results[key]

    def _many(
        self,
        pairs: Iterable[tuple[Any, Any]],
        seal: Callable[[Version, Any], bytes],
        px: bytes | int,
        action: bytes,
    ) -> Steps[dict[Any, WriteResult]]:
        results: dict[Any, WriteResult] = {}
        errors: dict[Any, Exception] = {}
        for writes in self._batches(pairs, seal, self._tail(px, b"", action), errors):
            yield from self._write(writes, px, results, errors)
        if errors:
            raise BatchError(results, errors)
        return results

    def _batches(
        self,
        pairs: Iterable[tuple[Any, Any]],
        seal: Callable[[Version, Any], bytes],
        tail: Command,
        errors: dict[Any, Exception],
    ) -> Iterator[list[tuple[Any, Version, Command]]]:
        """Sealed as they are sent. What cannot be sealed goes to ``errors``: others may have been sent already."""
        now, command = self.clock.now, self._command
        batch: list[tuple[Any, Version, Command]] = []
        size = 0
        for key, value in pairs:
            version = now()
            try:
                sealed = seal(version, value)
                batch.append((key, version, command(key, sealed, tail)))
            except Exception as error:
                errors[key] = error
                continue
            size += len(sealed)
            if len(batch) == AT_ONCE or size >= _BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _tail(self, px: bytes | int, want: bytes, action: bytes) -> Command:
        """What stands behind the value in a call of the script; no more than is needed."""
        if self._history:
            head = (self.clock.clock() // 1_000_000).to_bytes(6, "big") + action
            return (px, ADOPT if self._adopt else b"", want, self._history, self._history_ttl, head)
        if want:
            return (px, ADOPT if self._adopt else b"", want)
        if self._adopt:
            return (px, ADOPT)
        return () if px == b"" else (px,)

    def _command(self, key: Any, sealed: bytes, tail: Command) -> Command:
        key = self._key(key)
        if self._history:
            return ("EVALSHA", WRITE.sha, 2, key, beside(HISTORY, self._encode(key)), sealed, *tail)
        return ("EVALSHA", WRITE.sha, 1, key, sealed, *tail)

    def _key(self, key: Any) -> str | bytes:
        return key if type(key) is str or type(key) is bytes else bytes(self._encode(key))

    def _write(
        self,
        writes: list[tuple[Any, Version, Command]],
        px: bytes | int,
        results: dict[Any, WriteResult],
        errors: dict[Any, Exception],
    ) -> Steps[None]:
        """Sends writes, and sorts what became of them into ``results`` and ``errors`` by their keys."""
        expires = None if px == b"" or self._memory is None else time.monotonic() + int(px) / 1000
        commands = [command for _, _, command in writes]
        replies, twice = yield from self._send(commands, WRITE, again=(b"1",) if self._history else ())
        applied = 0
        for i, (reply, (key, version, command)) in enumerate(zip(replies, writes, strict=True)):
            if type(reply) is int and reply in DONE:
                applied += 1
                results[key] = WriteResult("applied", version, version)
                if self._memory is not None:
                    self._memory.note(self._encode(key), key, version, command[3 + command[2]], expires)
                continue
            try:
                results[key] = result = self._result(reply, version, i in twice)
                if self._memory is not None and result.current is not None:
                    self._memory.meet(self._encode(key), result.current)
            except ConsistencyError as error:
                self._count("refused")
                errors[key] = error
            except Exception as error:
                self._count("failed")
                errors[key] = error
        if applied:
            self._count("applied", applied)
        if self._replicas and applied:
            yield from self._confirm([(key, results[key]) for key, _, _ in writes if results.get(key)])

    def _result(self, reply: Any, version: Version, twice: bool) -> WriteResult:
        """Of a write that was not applied. Raises what says why."""
        if isinstance(reply, Exception):
            if not twice:
                raise reply
            # The first of the two may have been executed, whatever kept the second from it.
            self._count("unknown")
            return WriteResult("unknown", version, None)
        if type(reply) is int and reply < 0:
            raise REFUSALS[reply]()
        current = Version.from_bytes(reply) if reply else None
        if current is not None:
            self.clock.observe(current)
        # Sent twice: the first may have been there for a moment, until somebody wrote something newer.
        self._count("unknown" if twice else "discarded")
        return WriteResult("unknown" if twice else "discarded", version, current)

    def _send(
        self, commands: list[Command], script: Script, again: Command = ()
    ) -> Steps[tuple[list[Any], set[int]]]:
        """The reply to each call of a script, and which were sent twice because the first reply was lost.

        NOSCRIPT means that nothing was done, and the node gets the source. ``again`` are more arguments for what is sent
        twice.
        """
        replies: list[Any] = yield commands
        twice: set[int] = set()
        left = [i for i, reply in enumerate(replies) if isinstance(reply, Exception)]
        while left:
            once_more: dict[int, Command] = {}
            for i in left:
                command = commands[i]
                if isinstance(replies[i], NoScriptError) and command[0] == "EVALSHA":
                    once_more[i] = ("EVAL", script.source, *command[2:])
                elif isinstance(replies[i], self._lost) and i not in twice:
                    twice.add(i)
                    once_more[i] = (*command, *again)
            if not once_more:
                break
            commands = list(commands)
            for i, command in once_more.items():
                commands[i] = command
            fresh = yield list(once_more.values())
            for i, reply in zip(once_more, fresh, strict=True):
                replies[i] = reply
            left = [i for i in once_more if isinstance(replies[i], Exception)]
        if twice:
            self._count("repeated", len(twice))
        return replies, twice

    def _confirm(self, written: list[tuple[Any, WriteResult]]) -> Steps[None]:
        """Waits for replicas to have what was written, and notes how many do."""
        results = {self._encode(key): result for key, result in written}

        def commands(keys: Sequence[Any]) -> list[Command]:
            return [
                # What a failover has lost in the meantime, no replica can confirm.
                *(("GETRANGE", key, 0, HEADER_SIZE - 1) for key in keys),
                ("EVAL", BARRIER.source, 1, beside(BARRIERS, keys[0])),
                ("WAIT", self._replicas, self._patience),
            ]

        for result in results.values():
            result.replicas = 0
        for keys, replies in (yield OnNodes(list(results), commands)):
            count = replies[-1]
            if isinstance(replies[-2], Exception) or type(count) is not int:
                continue
            for key, head in zip(keys, replies, strict=False):
                try:
                    there, _ = header(head)
                except (NotSealed, TypeError):
                    continue
                if there >= results[key].version:
                    results[key].replicas = count
        self._count("unconfirmed", sum((r.replicas or 0) < self._replicas for r in results.values()))

    # -- lost writes -------------------------------------------------------------------------------------------------

    def _lost_writes(self, rewrite: bool) -> Steps[list[LostWrite]]:
        if self._memory is None:
            raise ValueError("the store remembers no writes: make it with remember=10_000, for instance")

        def write(key: Any, sealed: bytes, px: bytes | int, action: bytes) -> Command:
            return self._command(key, sealed, self._tail(px, b"", action))

        return find_lost(self._memory, rewrite, self._send, write)

    # -- small things ------------------------------------------------------------------------------------------------

    def _take(self, version: Version) -> None:
        """Whatever is written from now on is newer. A version from the far future is refused."""
        try:
            self.clock.observe(version)
        except VersionDriftError:
            self._count("refused")
            raise

    def _through(self, request: list[Command] | Gets) -> Any:
        """The client to send a request with. Reads may be repeated."""
        scripts = isinstance(request, list) and request[0][0] in ("EVALSHA", "EVAL")
        return self._sender if scripts else self.client

    def _queue(self, pipe: Any, request: list[Command] | Gets) -> int:
        """Puts a request into a pipeline, and says how many commands it is."""
        if isinstance(request, Gets):
            for key in request.keys:
                if self._plain:
                    pipe.get(key)
                else:
                    pipe.execute_command("GET", key, **self._options)
            return len(request.keys)
        for command in request:
            pipe.execute_command(*command, **self._options)
        return len(request)

    def _by_node(self, keys: Sequence[Any]) -> list[tuple[Any, Sequence[Any]]]:
        """The keys by their primaries; a standalone server is None."""
        if not self._clustered:
            return [(None, keys)]
        try:
            return list(self.client.group_by_node(keys).items())
        except SlotNotCoveredError:
            return []

    def _count(self, name: str, by: int = 1) -> None:
        with self._counting:
            setattr(self.stats, name, getattr(self.stats, name) + by)


_DELETED: Any = object()


def not_a_value(error: Exception) -> Exception:
    """What to raise of a failed read."""
    if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
        return NotAValueError()
    return error


def _milliseconds(name: str, seconds: Seconds) -> int:
    """Of a time that is asked for, at least 1."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e12:
        raise DataError(f"{name} is {seconds!r} and has to be a number of seconds above 0")
    return max(1, round(seconds * 1000))
