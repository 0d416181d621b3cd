"""Facts per command: where its keys are, whether it only reads, how it may share a connection.

Everything here is a plain value or a pure function; nothing asks a server. `table.py` holds the facts,
`movable.py` the rules for keys that move with the arguments.

    >>> command, words = find(["object", b"encoding", "user:1"])
    >>> command.name, words, keys_of(["object", b"encoding", "user:1"])
    ('OBJECT ENCODING', 2, ['user:1'])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from slotwise.commands import movable, table

__all__ = ["COMMANDS", "Command", "Own", "find", "keys_of", "own_of", "shown"]

FindKeys = Callable[[Sequence[object]], Sequence[int]]


class Own(Enum):
    """How a command may share a connection with other commands."""

    SHARED = "shared"
    """An ordinary command: goes on the node's shared connection."""

    EXCLUSIVE = "exclusive"
    """Waits at the server, or must overtake what waits there: needs a connection of its own for the call."""

    DISCARD = "discard"
    """Changes the connection's state: runs on a connection that is closed afterwards."""

    REFUSED = "refused"
    """Cannot work as a single command; `Command.refusal` names the way that does."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is known about one command. Key positions count the joined name as argument 0."""

    name: str
    """Upper case, words joined by one space: "CONFIG SET"."""

    first_key: int
    """Position of the first key; 0: no key at a fixed place."""

    last_key: int
    """Position of the last key, inclusive; negative counts from the end, -1 being the last argument."""

    key_step: int
    """Distance between keys."""

    find_keys: FindKeys | None
    """For keys that move with the arguments: takes these with a joined name, returns the keys' positions."""

    readonly: bool
    """The server's own readonly flag."""

    own: Own
    """How it shares a connection; `own_of` knows the cases that depend on the arguments."""

    repeatable: bool
    """Safe to execute twice: it changes nothing that others could miss or find, so nobody can tell that it happened
    twice, and the second reply is as right as the first. No write of a key is, not even one that does the same twice."""

    refusal: str
    """Why the command is refused and what to use instead; "" when it is not."""

    def key_indices(self, args: Sequence[object]) -> Sequence[int]:
        """Positions of the keys in `args`, whose element 0 is the joined name.

        Raises `slotwise.errors.CommandRefusedError` when the arguments do not tell (a malformed numkeys).
        """
        if self.find_keys is not None:
            return self.find_keys(args)
        if not self.first_key:
            return range(0)
        size = len(args)
        last = self.last_key if self.last_key > 0 else size + self.last_key
        return range(self.first_key, min(last + 1, size), self.key_step)


def find(args: Sequence[object]) -> tuple[Command, int] | None:
    """The command that `args` call, and how many elements of `args` its name takes (1 or 2).

    `args` are those of redis-py's `execute_command`: the name may be str or bytes in any case, and the words
    of a container command joined in one element ("CONFIG SET") or in two. None: the command is not known, or
    its first element holds more than a name ("GET key"), so that positions in `args` would mean nothing.
    """
    if not args:
        return None
    name = args[0]
    command = COMMANDS.get(name) if isinstance(name, str) else None
    if command is None:
        words = movable.word(name).split()
        command = COMMANDS.get(" ".join(words))
        if command is None:
            return _keyless_prefix(words)
    if command.name in _CONTAINERS and len(args) > 1:
        subcommand = COMMANDS.get(f"{command.name} {movable.word(args[1])}")
        if subcommand is not None:
            return subcommand, 2
    return command, 1


def _keyless_prefix(words: list[str]) -> tuple[Command, int] | None:
    """The command of a joined element that holds arguments as well ("CLIENT KILL TYPE"), if it has no keys."""
    for size in (2, 1):
        command = COMMANDS.get(" ".join(words[:size]))
        if command is not None:
            return None if command.first_key or command.find_keys else (command, 1)
    return None


def shown(name: object) -> str:
    """What messages and metrics say of a call whose first element is ``name``: of a whole command in one string
    ("AUTH password") the words of the name only.
    """
    text = (
        bytes(name).decode(errors="replace")
        if isinstance(name, (bytes, bytearray, memoryview))
        else str(name)
    )
    words = text.split(maxsplit=2)
    known = " ".join(words[:2])
    return known if known.upper() in COMMANDS else "".join(words[:1])


def own_of(command: Command, args: Sequence[object]) -> Own:
    """How this call of `command` may share a connection; the words of its name in `args` joined or not."""
    decide = _OWN_BY_ARGUMENTS.get(command.name)
    return command.own if decide is None else decide(args)


def keys_of(args: Sequence[object]) -> list[object]:
    """The keys among the arguments of `execute_command`; empty for a command without keys.

    Raises `slotwise.errors.CommandRefusedError` when the command is not known or its arguments do not tell.
    """
    found = find(args)
    if found is None:
        raise movable.refused(args or [""], "the command is not known, so neither are its keys")
    command, words = found
    joined = [command.name, *args[words:]]
    return [joined[index] for index in command.key_indices(joined)]


def _own_of_stream_read(args: Sequence[object]) -> Own:
    return Own.EXCLUSIVE if movable.stream_options(args)[1] else Own.SHARED


def _own_of_series_read(args: Sequence[object]) -> Own:
    # TS.READ key timestamp [BLOCK milliseconds ...]
    return Own.EXCLUSIVE if any(movable.word(arg) == "BLOCK" for arg in args[3:]) else Own.SHARED


def _own_of_client_reply(args: Sequence[object]) -> Own:
    return Own.DISCARD if movable.word(args[-1]) == "ON" else Own.REFUSED


_OWN_BY_ARGUMENTS: Mapping[str, Callable[[Sequence[object]], Own]] = {
    "XREAD": _own_of_stream_read,
    "XREADGROUP": _own_of_stream_read,
    "TS.READ": _own_of_series_read,
    "CLIENT REPLY": _own_of_client_reply,
}


def _build() -> dict[str, Command]:
    own = dict.fromkeys(table.EXCLUSIVE.split(), Own.EXCLUSIVE)
    own.update(dict.fromkeys(table.DISCARD.split(), Own.DISCARD))
    refusals = {entry: why for why, block in table.REFUSED for entry in block.split()}
    repeatable = frozenset(table.REPEATABLE.split())
    not_repeatable = frozenset(table.NOT_REPEATABLE.split())

    rows: list[tuple[tuple[int, int, int], FindKeys | None, bool, str]] = [
        *((keys, None, readonly, block) for keys, readonly, block in table.FIXED),
        *(((0, 0, 0), getattr(movable, rule), readonly, block) for rule, readonly, block in table.MOVABLE),
    ]
    commands = {}
    for keys, rule, readonly, block in rows:
        for entry in block.split():
            name = entry.replace("|", " ")
            if entry in refusals:
                refusal = f"{name} was not sent: {refusals[entry]}"
                commands[name] = Command(name, *keys, rule, readonly, Own.REFUSED, False, refusal)
            else:
                twice = entry not in not_repeatable if readonly else entry in repeatable
                commands[name] = Command(name, *keys, rule, readonly, own.get(entry, Own.SHARED), twice, "")
    return commands


COMMANDS: Mapping[str, Command] = MappingProxyType(_build())
"""Every known command by its name."""

_CONTAINERS = frozenset(name.split()[0] for name in COMMANDS if " " in name)
