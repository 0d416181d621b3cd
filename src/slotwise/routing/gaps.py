"""Gaps of pub/sub: what a subscriber is told when a subscription was made anew and messages may have been lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

# As redis-py has messages: with "type", "pattern", "channel" and "data".
Message: TypeAlias = dict[str, Any]
OnGap: TypeAlias = Callable[[Message], object]


# The message that confirms a subscription, and the field of a gap that names what was subscribed to.
_NAMED = {"subscribe": "channel", "psubscribe": "pattern", "ssubscribe": "channel"}


class Gaps:
    """The gaps that a subscriber has not been told of yet: one message for each channel and pattern."""

    def __init__(self, on_gap: OnGap | None) -> None:
        self._on_gap = on_gap
        self._expected: set[tuple[str, Any]] = set()
        self._untold: deque[Message] = deque()

    def expect(self, kind: str, names: Iterable[Any]) -> None:
        """What was subscribed to is being subscribed to anew, by the command ``kind`` in small letters."""
        self._expected.update((kind, name) for name in list(names))

    def forget(self, kind: str, names: Iterable[Any]) -> None:
        """What was subscribed to by the command ``kind`` is no longer wanted."""
        self._expected.difference_update((kind, name) for name in list(names))

    def clear(self) -> None:
        """All is given up."""
        self._expected.clear()
        self._untold.clear()

    def received(self, response: Any) -> None:
        """Every message as it comes: behind a confirmation that is expected there is a gap."""
        if not self._expected or not isinstance(response, list):
            return
        kind = response[0].decode() if isinstance(response[0], bytes) else response[0]
        if (kind, response[1]) in self._expected:
            self._expected.discard((kind, response[1]))
            gap = {"type": "gap", "pattern": None, "channel": None, "data": None}
            self._untold.append({**gap, _NAMED[kind]: response[1]})

    def told(self, ignore: bool) -> Message | None:
        """The next one, unless the callback has it or the caller ignores what is about subscriptions."""
        while self._untold:
            message = self._untold.popleft()
            if self._on_gap is not None:
                self._on_gap(message)
            elif not ignore:
                return message
        return None
