"""One connection's dealings with the store behind a scripted cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slotwise._slots import key_slot
from slotwise.commands import find, keys_of
from slotwise.testing.dialogue import Words
from slotwise.testing.resp import ErrorReply
from slotwise.testing.store import Store, command_table

if TYPE_CHECKING:
    from slotwise.testing.node import ScriptedNode


class Session:
    """Serves the keys whose slots are the node's, answers MOVED for others, and keeps what MULTI queues."""

    def __init__(self, node: ScriptedNode, store: Store) -> None:
        self._node = node
        self._store = store
        self._readonly = False
        self._asking = False
        #: The commands of the transaction that MULTI has begun.
        self._queue: list[Words] | None = None
        self._spoilt = False
        self._watched: dict[bytes, int] = {}

    def answer(self, command: Words) -> Any:
        """The reply; NotImplemented when the store does not know the command."""
        name = command[0].upper().decode("latin-1")
        if name in _OF_THE_CONNECTION:
            return _OF_THE_CONNECTION[name](self, command)
        if not self._store.knows(name):
            return NotImplemented
        refusal = self._refusal(command)
        if self._queue is None:
            return refusal or self._store.execute(command)
        if refusal is not None:
            self._spoilt = True
            return refusal
        self._queue.append(command)
        return "QUEUED"

    def _refusal(self, command: Words) -> ErrorReply | None:
        """Why this node does not serve these keys; None when it does."""
        asking, self._asking = self._asking, False
        slots = {key_slot(key) for key in keys_of(command)}  # type: ignore[arg-type]
        if not slots:
            return None
        if len(slots) > 1:
            return ErrorReply("CROSSSLOT Keys in request don't hash to the same slot")
        slot = slots.pop()
        serving = self._node.view.serving(slot)
        if not serving:
            return ErrorReply("CLUSTERDOWN Hash slot not served")
        found = find(command)
        reads = found is not None and found[0].readonly
        if asking or self._node is serving[0] or (self._readonly and reads and self._node in serving):
            return None
        return ErrorReply(f"MOVED {slot} {serving[0].address}")

    def _command(self, _: Words) -> Any:
        return command_table()

    def _mode(self, command: Words) -> Any:
        self._readonly = command[0].upper() == b"READONLY"
        return "OK"

    def _ask(self, _: Words) -> Any:
        self._asking = True
        return "OK"

    def _multi(self, _: Words) -> Any:
        if self._queue is not None:
            return ErrorReply("ERR MULTI calls can not be nested")
        self._queue = []
        return "OK"

    def _discard(self, _: Words) -> Any:
        if self._queue is None:
            return ErrorReply("ERR DISCARD without MULTI")
        self._end_transaction()
        return "OK"

    def _exec(self, _: Words) -> Any:
        if self._queue is None:
            return ErrorReply("ERR EXEC without MULTI")
        queue, spoilt, watched = self._queue, self._spoilt, self._watched
        self._end_transaction()
        if spoilt:
            return ErrorReply("EXECABORT Transaction discarded because of previous errors.")
        return self._store.execute_together(queue, watched)

    def _watch(self, command: Words) -> Any:
        refusal = self._refusal(command)
        if refusal is None:
            self._watched.update((key, self._store.changes(key)) for key in command[1:])
        return refusal or "OK"

    def _unwatch(self, _: Words) -> Any:
        self._watched = {}
        return "OK"

    def _end_transaction(self) -> None:
        self._queue, self._spoilt, self._watched = None, False, {}


_OF_THE_CONNECTION: dict[str, Callable[[Session, Words], Any]] = {
    "COMMAND": Session._command,
    "READONLY": Session._mode,
    "READWRITE": Session._mode,
    "ASKING": Session._ask,
    "MULTI": Session._multi,
    "DISCARD": Session._discard,
    "EXEC": Session._exec,
    "WATCH": Session._watch,
    "UNWATCH": Session._unwatch,
}
