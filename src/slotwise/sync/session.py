"""What `RedisCluster.session` returns, for threads and asyncio: a view of a client, which remembers what it has written.

It is of the client's class and has all that the client has, so that frameworks, pipelines and scripts take it for one.
Its own are only the few attributes that lead to its memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from slotwise.routing.replicas import Session

C = TypeVar("C")


class View:
    """Mixed into the class of a client: attributes are the client's, and to end it is not for the view."""

    def __getattr__(self, name: str) -> Any:
        # Asked for what neither the class nor the view itself has.
        return getattr(vars(self)["_client"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_client"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(vars(self)["_client"], name)

    def __del__(self) -> None:
        """Ends nothing, where the client's would close it."""

    def session(self, bound: float | None = None) -> Any:
        """Another session of the same client."""
        return vars(self)["_client"].session(bound)

    def close(self) -> Any:
        """Does nothing: the connections are the client's."""


# The classes of views, by kind and by the client's class.
_classes: dict[tuple[type, type], Any] = {}


def view_of(client: C, kind: type[View] = View, **own: Any) -> C:
    """A view of ``client``, with attributes of its ``own``."""
    bases = kind, client.__class__
    if bases not in _classes:
        name = f"{bases[1].__name__}Session"
        _classes[bases] = type(name, bases, {"__module__": bases[1].__module__})
    made: C = _classes[bases].__new__(_classes[bases])
    vars(made).update(own, _client=client)
    return made


def listener(memory: Session) -> Callable[[tuple[Any, ...]], None]:
    """What tells ``memory`` of a call that has its reply."""
    return lambda args: memory.called(args, time.monotonic())
