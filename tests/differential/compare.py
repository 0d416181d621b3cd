"""Deep comparison of values with their types, and views of values that differ by nature.

A view maps a reply to what must be equal. It checks as much as can be known of the value:
its type, its shape, its range, the set it is drawn from.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.cluster import ClusterNode
from redis.exceptions import DataError, SlotNotCoveredError


def exactly(value: Any) -> Any:
    return value


def kinds(value: Any) -> Any:
    """Types in place of values, within lists and dictionaries as they are."""
    if isinstance(value, Mapping):
        return type(value), {name: kinds(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value), [kinds(inner) for inner in value]
    return type(value)


def some_kinds(value: Any) -> Any:
    """As `kinds`, for collections whose lengths and names differ too."""
    if isinstance(value, Mapping):
        names = {type(name).__name__ for name in value}
        return type(value), names, {repr(some_kinds(inner)) for inner in value.values()}
    if isinstance(value, list | tuple | set):
        return type(value), {repr(some_kinds(inner)) for inner in value}
    return type(value)


def kind(value: Any) -> Any:
    """The type alone; it must hold something."""
    assert value not in (None, b"", "", [], {}), value
    return type(value)


def between(low: float, high: float) -> Callable[[Any], Any]:
    """Numbers, alone or in a collection, that lie in a range."""

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value), [check(inner) for inner in value]
        number = float(value)
        assert low <= number <= high, f"{value!r} is not within {low} and {high}"
        return type(value)

    return check


def drawn_from(*members: Any) -> Callable[[Any], Any]:
    """Random members, alone or in a collection; numbers count as they are written."""
    allowed = {str(member) for member in members}

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple | set):
            return type(value), [check(inner) for inner in sorted(value, key=repr)]
        text = value.decode() if isinstance(value, bytes) else str(value)
        assert text in allowed, f"{value!r} is none of {sorted(allowed)}"
        return type(value)

    return check


def unordered(value: Any) -> Any:
    """A list whose order is the server's secret."""
    return type(value), sorted((canonical(inner) for inner in value), key=repr)


def only(*names: str) -> Callable[[Any], Any]:
    """The given entries of a dictionary as they are, of all others the types."""

    def check(value: Any) -> Any:
        assert isinstance(value, Mapping), value
        plain = {name.decode() if isinstance(name, bytes) else name: name for name in value}
        assert set(names) <= set(plain), f"{sorted(set(names) - set(plain))} missing in {value!r}"
        return type(value), {
            raw: value[raw] if name in names else some_kinds(value[raw]) for name, raw in plain.items()
        }

    return check


def canonical(value: Any) -> Any:
    """A value and all its types as something hashable; the order of dictionaries does not count."""
    if isinstance(value, Mapping):
        return type(value), frozenset((canonical(name), canonical(inner)) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(canonical(inner) for inner in value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(canonical(inner) for inner in value)
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else value.hex()
    if isinstance(value, BaseException):
        return type(value), canonical(value.args)
    return type(value), value


def _in_words_of_redis_py(error: Exception) -> Exception:
    """The error, without what deliberately differs.

    Of a value that cannot be sent, the words of the library that packs commands: with hiredis redis-py says "A tuple
    item must be ...", without it which type to convert. Of a command that no node can be chosen for, its arguments:
    redis-py shows them, slotwise the command's name alone. Of a slot that nobody serves, what follows.
    """
    if type(error) is DataError and (
        "A tuple item must be" in str(error) or "Invalid input of type" in str(error)
    ):
        return DataError("a value that cannot be sent")
    if "No way to dispatch this command" in str(error):
        return type(error)(str(error).split("\nCommand: ")[0])
    if type(error) is SlotNotCoveredError:
        return SlotNotCoveredError(str(error).split(" not covered")[0])
    return error


def nodes(value: Any) -> Any:
    """Cluster nodes by what they stand for."""
    if isinstance(value, list):
        return list, sorted(map(nodes, value))
    assert isinstance(value, ClusterNode), value
    return value.host, value.port, value.name, value.server_type


@dataclass(frozen=True)
class Outcome:
    """What a call came to: the value that it returned, or the error that it raised."""

    value: Any = None
    error: Exception | None = None

    @classmethod
    def of(cls, call: Callable[[], Any]) -> "Outcome":
        try:
            return cls(value=call())
        except Exception as error:
            return cls(error=error)

    def seen_as(self, view: Callable[[Any], Any]) -> Any:
        if self.error is not None:
            return "raised", canonical(_in_words_of_redis_py(self.error))
        return "returned", canonical(view(self.value))

    @property
    def unknown_command(self) -> bool:
        """Whether the server, or redis-py in its name, has no such command."""
        text = str(self.error).lower()
        return ("unknown" in text and "command" in text) or "doesn't exist in redis commands" in text

    @property
    def undispatchable(self) -> bool:
        """Whether the client refuses to choose a node for a command without a key.

        redis-py asks the server first whether it knows the command, at the cost of the list of all
        commands; slotwise need not, so of a command that the server does not have it says this.
        """
        return "No way to dispatch this command" in str(self.error)

    def __str__(self) -> str:
        if self.error is not None:
            return f"raised {type(self.error).__module__}.{type(self.error).__qualname__}{self.error.args!r}"
        return f"returned {self.value!r}"
