"""What the steps of a store ask of its shells."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Command: TypeAlias = tuple[Any, ...]

#: Keys in one batch, so that a call for millions holds no more than that twice.
AT_ONCE = 5_000


@dataclass(slots=True)
class Gets:
    """A GET of each key."""

    keys: Sequence[Any]


@dataclass(slots=True)
class OnNodes:
    """Commands to each primary of the keys, over a connection that is nobody else's meanwhile.

    ``commands(keys)`` makes those for the node of these keys. The reply is a list, for each node its keys and its
    replies.
    """

    keys: Sequence[Any]
    commands: Callable[[Sequence[Any]], list[Command]]


Request: TypeAlias = list[Command] | Gets | OnNodes
Steps: TypeAlias = Generator[Request, Any, T]


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of so many of the items, the last one of those that are left."""
    going = iter(items)
    while some := list(islice(going, size)):
        yield some
