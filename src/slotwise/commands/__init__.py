"""Facts per command: where its keys are, whether it only reads, how it may share a connection.

Everything here is a plain value or a pure function; nothing asks a server. `table.py` holds the facts,
`movable.py` the rules for keys that move with the arguments.

    >>> command, words = find(["object", b"encoding", "user:1"])
    >>> command.name, words, keys_of(["object", b"encoding", "user:1"])
    ('OBJECT ENCODING', 2, ['user:1'])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from slotwise.commands import movable, table

__all__ = ["COMMANDS", "Command", "Own", "find", "keys_of", "own_of"]


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

    find_keys: Callable[[Sequence[object]], Sequence[int]] | None
    """For keys that move with the arguments: takes these with a joined name, returns the keys' positions."""

    readonly: bool
    """The server's own readonly flag."""

    own: Own
    """How it shares a connection; `own_of` knows the cases that depend on the arguments."""

    repeatable: bool
    """Safe to execute twice: neither data nor reply differ in meaning from executing it once."""

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


def _names(block: str) -> Iterator[str]:
    return (name.replace("|", " ") for name in block.split())


def _commands() -> Iterator[Command]:
    own = dict.fromkeys(_names(table.EXCLUSIVE), Own.EXCLUSIVE)
    own.update(dict.fromkeys(_names(table.DISCARD), Own.DISCARD))
    refusals = {name: why for why, block in table.REFUSED for name in _names(block)}
    repeatable = frozenset(_names(table.REPEATABLE))
    not_repeatable = frozenset(_names(table.NOT_REPEATABLE))

    def command(
        name: str,
        keys: tuple[int, int, int],
        rule: Callable[[Sequence[object]], Sequence[int]] | None,
        readonly: bool,
    ) -> Command:
        why = refusals.get(name)
        return Command(
            name,
            *keys,
            rule,
            readonly,
            own=Own.REFUSED if why else own.get(name, Own.SHARED),
            repeatable=not why and (name in repeatable or (readonly and name not in not_repeatable)),
            refusal=f"{name} was not sent: {why}" if why else "",
        )

    for keys, readonly, block in table.FIXED:
        for name in _names(block):
            yield command(name, keys, None, readonly)
    for rule, readonly, block in table.MOVABLE:
        for name in _names(block):
            yield command(name, (0, 0, 0), getattr(movable, rule), readonly)


COMMANDS: Mapping[str, Command] = MappingProxyType({command.name: command for command in _commands()})
"""Every known command by its name."""

_CONTAINERS = frozenset(name.split()[0] for name in COMMANDS if " " in name)
