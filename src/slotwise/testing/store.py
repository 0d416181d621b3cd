"""A small real key store, for the commands that nobody scripted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from slotwise.commands import COMMANDS
from slotwise.testing.dialogue import Words
from slotwise.testing.resp import ErrorReply


class Refusal(Exception):
    """An error reply."""


class Store:
    """Strings with expiry, one store for the whole cluster; every command is atomic.

    Replicas therefore have what their primary has at once, and a failover loses nothing. Which node may serve a key is
    decided in `slotwise.testing.session`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._values: dict[bytes, bytes] = {}
        #: When a key expires, in seconds of time.monotonic().
        self._expires: dict[bytes, float] = {}
        #: How often a key was changed, for WATCH.
        self._changes: Counter[bytes] = Counter()

    def __getitem__(self, key: str | bytes) -> bytes | None:
        """The value of a key, past all nodes; None when there is none."""
        with self._lock:
            return self._get(key if isinstance(key, bytes) else key.encode())

    def clear(self) -> None:
        """Forget all keys."""
        with self._lock:
            for key in list(self._values):
                self._drop(key)

    def knows(self, name: str) -> bool:
        """Whether `execute` can run a command."""
        return name in _RUN

    def execute(self, command: Words) -> Any:
        """The reply to a command whose node and slot are right."""
        name = command[0].upper().decode("latin-1")
        least, run = _RUN[name]
        if len(command) <= least:
            return ErrorReply(f"ERR wrong number of arguments for '{name.lower()}' command")
        with self._lock:
            try:
                return run(self, command[1:])
            except Refusal as refusal:
                return ErrorReply(str(refusal))

    def execute_together(self, commands: Sequence[Words], watched: dict[bytes, int]) -> list[Any] | None:
        """The replies to the commands of a transaction; None when a watched key was changed."""
        with self._lock:
            if any(self.changes(key) != count for key, count in watched.items()):
                return None
            return [self.execute(command) for command in commands]

    def changes(self, key: bytes) -> int:
        """How often a key was changed, its expiry counted."""
        with self._lock:
            self._get(key)
            return self._changes[key]

    # -- the data --------------------------------------------------------------------------

    def _get(self, key: bytes) -> bytes | None:
        if key in self._expires and self._expires[key] <= time.monotonic():
            self._drop(key)
        return self._values.get(key)

    def _put(self, key: bytes, value: bytes) -> None:
        self._values[key] = value
        self._changes[key] += 1

    def _drop(self, key: bytes) -> bool:
        self._expires.pop(key, None)
        self._changes[key] += 1
        return self._values.pop(key, None) is not None

    # -- the commands ----------------------------------------------------------------------

    def _set(self, args: Words) -> Any:
        key, value, *options = args
        before = self._get(key)
        expires, flags = None, set()
        words = iter(options)
        for option in map(bytes.upper, words):
            if option in (b"EX", b"PX"):
                number = next(words, None)
                if number is None:
                    raise Refusal("ERR syntax error")
                expires = time.monotonic() + _integer(number) / (1 if option == b"EX" else 1000)
            elif option in (b"NX", b"XX", b"GET", b"KEEPTTL"):
                flags.add(option)
            else:
                raise Refusal("ERR syntax error")
        refused = (b"NX" in flags and before is not None) or (b"XX" in flags and before is None)
        if not refused:
            self._put(key, value)
            if b"KEEPTTL" not in flags:
                self._expires.pop(key, None)
            if expires is not None:
                self._expires[key] = expires
        if b"GET" in flags:
            return before
        return None if refused else "OK"

    def _delete(self, args: Words) -> Any:
        return sum(self._get(key) is not None and self._drop(key) for key in args)

    def _exists(self, args: Words) -> Any:
        return sum(self._get(key) is not None for key in args)

    def _add(self, key: bytes, change: int) -> int:
        number = _integer(self._get(key) or b"0") + change
        self._put(key, b"%d" % number)
        return number

    def _mget(self, args: Words) -> Any:
        return [self._get(key) for key in args]

    def _mset(self, args: Words) -> Any:
        if len(args) % 2:
            raise Refusal("ERR wrong number of arguments for 'mset' command")
        for key, value in zip(args[::2], args[1::2], strict=True):
            self._put(key, value)
            self._expires.pop(key, None)
        return "OK"

    def _expire(self, key: bytes, seconds: float) -> int:
        if self._get(key) is None:
            return 0
        self._expires[key] = time.monotonic() + seconds
        self._changes[key] += 1
        return 1

    def _remaining(self, key: bytes, unit: float) -> int:
        """The time to live in `unit` seconds; -1 without one, -2 without the key."""
        if self._get(key) is None:
            return -2
        expires = self._expires.get(key)
        return -1 if expires is None else max(0, round((expires - time.monotonic()) / unit))


#: Name -> (least number of arguments, how to run it).
_RUN: dict[str, tuple[int, Callable[[Store, Words], Any]]] = {
    "PING": (0, lambda store, args: args[0] if args else "PONG"),
    "ECHO": (1, lambda store, args: args[0]),
    "GET": (1, lambda store, args: store._get(args[0])),
    "SET": (2, Store._set),
    "DEL": (1, Store._delete),
    "UNLINK": (1, Store._delete),
    "EXISTS": (1, Store._exists),
    "INCR": (1, lambda store, args: store._add(args[0], 1)),
    "DECR": (1, lambda store, args: store._add(args[0], -1)),
    "INCRBY": (2, lambda store, args: store._add(args[0], _integer(args[1]))),
    "DECRBY": (2, lambda store, args: store._add(args[0], -_integer(args[1]))),
    "MGET": (1, Store._mget),
    "MSET": (2, Store._mset),
    "EXPIRE": (2, lambda store, args: store._expire(args[0], _integer(args[1]))),
    "PEXPIRE": (2, lambda store, args: store._expire(args[0], _integer(args[1]) / 1000)),
    "TTL": (1, lambda store, args: store._remaining(args[0], 1)),
    "PTTL": (1, lambda store, args: store._remaining(args[0], 0.001)),
}


def _integer(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refusal("ERR value is not an integer or out of range") from None


def command_table() -> list[Any]:
    """The reply to COMMAND, by which redis-py finds the keys of commands."""
    return [
        [fact.name.lower().encode(), -1, [], fact.first_key, fact.last_key, fact.key_step, *([], [], [], [])]
        for fact in COMMANDS.values()
        if " " not in fact.name
    ]
