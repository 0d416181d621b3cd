"""Connections of an audit to single nodes, and what a node knows of itself.

They are made from those of the client (credentials, TLS, address remapping) and belong to the audit: nobody's replies
wait behind a digest.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis
from redis.cluster import ClusterNode
from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError

from slotwise._slots import key_slot
from slotwise.consistency.digests import COUNTS, DETAILS, LATER, Look, Script, looks

SLOTS = 16_384
#: What a node that is down, silent or restarting raises.
FAILURES = (RedisError, OSError)
#: Keys in one call of a script, where the client decides.
AT_ONCE = 250
# Slots whose keys one script counts.
_COUNTED = 2_048
#: Seconds between two questions of a replica that is waited for.
_POLL = 0.005

Argument = str | bytes | int


def _pack(*command: Argument) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # any number of them
    return packed


def _fields(info: bytes) -> dict[str, str]:
    lines = info.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and line[0] != "#")


def _has_tables(server: dict[str, str]) -> bool:
    """Since Redis 7.4 and Valkey 8.0, which still calls itself Redis 7.2.4 as well."""
    name, first = ("valkey_version", (8, 0)) if "valkey_version" in server else ("redis_version", (7, 4))
    major, minor = server[name].split(".")[:2]
    return (int(major), int(minor)) >= first


_INFO_SERVER, _READONLY, _ASKING = _pack("INFO", "server"), _pack("READONLY"), _pack("ASKING")


@dataclass
class View:
    """What a node says of its place in the cluster (its own line of CLUSTER NODES)."""

    id: str
    #: The id of its primary; empty for a primary.
    primary_id: str
    owned: bytearray = field(repr=False)
    #: Slots on their way from or to this node.
    moving: frozenset[int]
    #: Other nodes by id: address, and whether they are replicas of this one.
    others: dict[str, tuple[str, bool]] = field(repr=False)


class Wire:
    """One connection to one node. Not for two threads at a time.

    A connection that turns out to be closed is made anew, as whole as the first, and what may be repeated is sent again:
    servers close those that were idle for their ``timeout``.
    """

    def __init__(self, client: Any, node: ClusterNode, timeout: float) -> None:
        self.name: str = node.name
        pool = client.get_redis_connection(node).connection_pool
        options = {
            **pool.connection_kwargs,
            "decode_responses": False,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            # No connection is made anew without READONLY.
            "health_check_interval": 0,
        }
        self._connection = pool.connection_class(**options)
        self.run_id = ""
        # The script under way, as it was sent, for when the server has forgotten it; and whether it may be repeated.
        self._sent: tuple[Script, bytes, bool] | None = None
        # Whether reads leave keys untouched now, and whether the server cannot do that.
        self._untouched = self._always_touches = False

    def open(self) -> None:
        """Connects. Replicas then answer reads."""
        try:
            self._connection.connect()
            self._untouched = False
            server = _fields(self._talk(_INFO_SERVER))
            if self.run_id not in ("", server["run_id"]):
                # Cursors and offsets are of the process that was there.
                raise ConnectionError("the node was restarted meanwhile")
            self.run_id = server["run_id"]
            #: Whether the server tells expiry as a point of time; the scripts' first argument.
            self.exact = 1 if int(server["redis_version"].partition(".")[0]) >= 7 else 0
            #: Whether each slot has a table of its own there, and a SCAN cursor's low 14 bits are the slot.
            self.tables = _has_tables(server)
            with contextlib.suppress(ResponseError):
                self._talk(_READONLY)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.disconnect()

    def _talk(self, *packed: bytes) -> Any:
        """Sends commands over the connection that is there, one after the other; the reply to the last."""
        for command in packed:
            self._connection.send_packed_command([command])
            reply = self._connection.read_response(disable_decoding=True)
        return reply

    def _talk_twice(self, talk: Callable[[], Any]) -> Any:
        """Over a new connection if that which is there turns out to be closed."""
        if self._connection.is_connected:
            try:
                return talk()
            except ConnectionError:
                pass
        self.open()
        return talk()

    def call(self, *command: Argument) -> Any:
        """The reply to a command that names no key and may be sent twice, texts as bytes."""
        packed = _pack(*command)
        return self._talk_twice(lambda: self._talk(packed))

    def on_key(self, *command: Argument) -> Any:
        """The reply to a command that reads a key."""
        self._leave_untouched(False)
        return self.call(*command)

    def asking(self, *command: Argument) -> Any:
        """The reply to a command that may be sent twice, for a key in a slot that the node is importing."""
        self._leave_untouched(False)
        packed = _pack(*command)
        return self._talk_twice(lambda: self._talk(_ASKING, packed))

    def _leave_untouched(self, untouched: bool) -> None:
        """Whether the server is to count what follows as use of the keys (Redis 7.2 and later can leave that).

        Only scripts that name no key and write nothing are not counted: Redis 8.0 crashes when a client that said NO-TOUCH
        names a key of a slot on its way, or wakes up somebody who waits for a list (redis/redis#14415).
        """
        if untouched == self._untouched or self._always_touches:
            return
        try:
            self.call("CLIENT", "NO-TOUCH", "ON" if untouched else "OFF")
        except ResponseError:
            self._always_touches = True
        else:
            self._untouched = untouched

    def send(self, script: Script, *arguments: Argument, key: bytes | None = None) -> None:
        """Begins a script; `receive` gets its reply. With ``key`` it is KEYS[1]; scripts that write have to be given it."""
        self._leave_untouched(key is None)
        keys = (0,) if key is None else (1, key)
        packed = _pack(b"EVALSHA", script.sha, *keys, *arguments)
        self._talk_twice(lambda: self._connection.send_packed_command([packed]))
        self._sent = script, packed, key is None

    def receive(self) -> Any:
        assert self._sent is not None
        (script, packed, reads), self._sent = self._sent, None
        try:
            return self._reply(script, packed)
        except ConnectionError:
            if not reads:
                raise
        self.open()
        self._leave_untouched(True)
        self._connection.send_packed_command([packed])
        return self._reply(script, packed)

    def _reply(self, script: Script, packed: bytes) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except NoScriptError:
            return self._talk(_pack("SCRIPT", "LOAD", script.source), packed)

    def run(self, script: Script, *arguments: Argument, key: bytes | None = None) -> Any:
        self.send(script, *arguments, key=key)
        return self.receive()

    def details(self, keys: Sequence[bytes]) -> dict[bytes, Look]:
        """Looks at keys, as many scripts as it takes."""
        found: dict[bytes, Look] = {}
        waiting = list(keys)
        while waiting:
            asked, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            later = []
            for key, look in zip(asked, looks(self.run(DETAILS, self.exact, *asked)), strict=True):
                if look.letter == LATER:
                    later.append(key)
                else:
                    found[key] = look
            waiting = later + waiting
        return found

    def info(self, section: str) -> dict[str, str]:
        return _fields(self.call("INFO", section))

    def offset(self) -> int:
        """How far the replication stream has come here: written by a primary, applied by a replica."""
        told = self.info("replication")
        return int(told.get("slave_repl_offset" if told["role"] == "slave" else "master_repl_offset", 0))

    def wait_for(self, offset: int, timeout: float) -> bool:
        """Whether this replica applies its stream up to ``offset`` within so many seconds."""
        deadline = time.monotonic() + timeout
        while self.offset() < offset:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def check_up(self) -> None:
        """Raises RedisError if the node answers for no key, because slots are not served or it sees no majority."""
        if b"cluster_state:ok" not in self.call("CLUSTER", "INFO"):
            raise RedisError("it answers for no key: by its CLUSTER INFO the cluster is down")

    def counts(self) -> list[int]:
        """How many keys each slot has here, whoever owns it."""
        counts: list[int] = []
        for start in range(0, SLOTS, _COUNTED):
            counts += map(int, self.run(COUNTS, *range(start, start + _COUNTED)).split(b","))
        return counts

    def view(self) -> View:
        text = self.call("CLUSTER", "NODES").decode("utf-8", "replace")
        lines = [line.split() for line in text.splitlines() if line]
        me = next(words for words in lines if "myself" in words[2].split(","))
        owned, moving = bytearray(SLOTS), set()
        for word in me[8:]:
            if word[0] == "[":
                # "[93->-id]" is on its way to that node, "[93-<-id]" comes from there.
                moving.add(int(word[1:].partition("-")[0]))
            else:
                first, _, last = word.partition("-")
                begin, end = int(first), int(last or first) + 1
                owned[begin:end] = b"\1" * (end - begin)
        others = {
            words[0]: (words[1].partition("@")[0], words[3] == me[0]) for words in lines if words is not me
        }
        return View(me[0], me[3].strip("-"), owned, frozenset(moving), others)

    def holds(self, key: bytes) -> bool:
        """Whether the key is among the node's, even if the node does not own the slot and answers no command for it."""
        slot = key_slot(key)
        count = self.call("CLUSTER", "COUNTKEYSINSLOT", slot)
        return count > 0 and key in self.call("CLUSTER", "GETKEYSINSLOT", slot, count)
