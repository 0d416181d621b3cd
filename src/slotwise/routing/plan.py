"""How a call by this name is routed: decided once per spelling, looked up for every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.commands import READ_COMMANDS

from slotwise._slots import SLOTS
from slotwise.commands import Command, Own, find, own_of
from slotwise.commands.movable import after_second_count
from slotwise.errors import SlotNotCoveredError

Callback = Callable[..., Any]

# Change what they do not name.
_FLUSHES = frozenset({"FLUSHALL", "FLUSHDB"})
# No keys at the server, but redis-py sends them where their first argument would be a key.
_BY_CHANNEL = frozenset({"PUBLISH"})
# The number of keys that is one, by its type; of no other type is it compared.
_ONE: dict[type, Any] = {int: 1, str: "1", bytes: b"1"}
# Needs the connection to know its fieldset.
_BY_FIELDSET = frozenset({"HIMPORT SET"})


class Plan(NamedTuple):
    """What is known of all calls whose first argument is spelt alike."""

    first_key: int
    """Index of the only key, when the call can go straight to its node; else 0."""

    callback: Callback | None
    """Turns the parser's reply into redis-py's value."""

    command: Command | None
    """Facts; None for a command that the table does not know."""

    read: bool
    """May be answered by a replica, when the client reads from replicas."""

    counted: bool = False
    """Its keys come behind their number, as a script's do: with a single one it can go straight as well."""


def plan_of(name: str, callback: Callback | None, *, flagged: bool) -> Plan:
    """The plan for calls that spell their command ``name``.

    ``flagged``: redis-py routes the command by a node flag or a policy and not by its keys.
    """
    found = find((name,))
    if found is None:
        return Plan(0, callback, None, False)
    command, words = found
    shared = (
        not flagged
        and words == 1
        and command.name not in _BY_FIELDSET
        and command.own is Own.SHARED
        and own_of(command, (name, "key")) is Own.SHARED
    )
    straight = (
        shared
        and command.find_keys is None
        and command.first_key > 0
        and command.last_key == command.first_key
    )
    return Plan(
        command.first_key if straight else 0,
        callback,
        command,
        name.upper() in READ_COMMANDS,
        shared and command.find_keys is after_second_count,
    )


def only_key(plan: Plan, args: Sequence[Any]) -> int:
    """Where the only key of a call stands, when the call can go straight to its node; else 0."""
    at = plan.first_key
    if not at and plan.counted and len(args) > 3:
        count = args[2]
        at = 3 if type(count) in _ONE and count == _ONE[type(count)] else 0
    return at if at < len(args) else 0


def keys_in(args: Sequence[Any]) -> list[Any] | None:
    """The keys of a call; None when the table does not know the command."""
    found = find(args)
    if found is None:
        return None
    command, words = found
    if command.name in _BY_CHANNEL:
        return list(args[words : words + 1])
    joined = args if words == 1 else (command.name, *args[words:])
    return [joined[i] for i in command.key_indices(joined)]


def named_slot(number: Any) -> int:
    """The slot that a call names by its number. One that no cluster has is refused at once: no refresh will bring it."""
    slot = int(number)
    if not 0 <= slot < SLOTS:
        raise SlotNotCoveredError(
            f'Slot "{slot}" not covered by the cluster: slots go from 0 to {SLOTS - 1}.'
        )
    return slot


def changed_by(args: Sequence[Any]) -> Sequence[Any] | None:
    """The keys whose values a call may change; None: any."""
    found = find(args)
    if found is None or found[0].readonly:
        return ()
    return None if found[0].name in _FLUSHES else keys_in(args)
