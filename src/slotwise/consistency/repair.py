"""Mends keys by last write wins: what is to be everywhere is written on the primary, and replication carries it on.

Every write is one script that looks again before it writes, so that no write of somebody else is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slotwise._slots import key_slot
from slotwise._versions import MAGIC
from slotwise.consistency import large
from slotwise.consistency.digests import DAMAGED, DETAILS, LARGE, UNKNOWN, VERSIONED, Look, Script, looks
from slotwise.consistency.nodes import Wire

_EXPIRY = r"""
local call = redis.call
local function expiry(key)
  if ARGV[1] == '1' then return call('PEXPIRETIME', key) end
  local left, time = call('PTTL', key), call('TIME')
  if left < 0 then return left end
  return time[1] * 1000 + math.floor(time[2] / 1000) + left
end
"""

#: exact -> 1; 0 if there is no such key. Writes the value and the expiry that are there once more, for the replicas.
_RESEND = Script.of(
    _EXPIRY
    + """
local dump = call('DUMP', KEYS[1])
if not dump then return 0 end
local at = expiry(KEYS[1])
call('RESTORE', KEYS[1], at > 0 and at or 0, dump, 'REPLACE', 'ABSTTL')
return 1
"""
)

#: exact -> 1; 0 if there is no such key. Sets the expiry once more.
_RESEND_EXPIRY = Script.of(
    _EXPIRY
    + """
local at = expiry(KEYS[1])
if at == -2 then return 0 end
if at > 0 then
  call('PEXPIREAT', KEYS[1], at)
else
  -- PERSIST of a key without an expiry would not be told to replicas. Time stands still in a script.
  call('PEXPIRE', KEYS[1], 3600000)
  call('PERSIST', KEYS[1])
end
return 1
"""
)

#: -> 1; 0 if there is such a key now. A deletion of what is not there would not be told to replicas.
_DROP = Script.of(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], '')
redis.call('DEL', KEYS[1])
return 1
"""
)

#: value, expiry -> 1 written; 0 what is there is as new; -1 what is there is no versioned value.
#: Numbers are compared, not texts: those follow the server's locale.
_PUT_IF_NEWER = Script.of(
    r"""
local value = ARGV[1]
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' then
  if kind ~= 'string' then return -1 end
  local now = redis.call('GET', KEYS[1])
  if string.sub(now, 1, 3) ~= '\193SW' or string.byte(now, 4) ~= 1 or #now < 25 then return -1 end
  local sum = string.format('%02x%02x%02x%02x', string.byte(now, 5, 8))
  if string.sub(redis.sha1hex(string.sub(now, 9)), 1, 8) == sum then
    local newer = false
    for i = 9, 24 do
      local ours, theirs = string.byte(now, i), string.byte(value, i)
      if ours ~= theirs then
        newer = theirs > ours
        break
      end
    end
    if not newer then return 0 end
  end
end
redis.call('SET', KEYS[1], value)
local at = tonumber(ARGV[2])
if at > 0 then redis.call('PEXPIREAT', KEYS[1], ARGV[2]) end
return 1
"""
)

#: dump, expiry -> 1; 0 if there is such a key.
_RESTORE_IF_NONE = Script.of(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('RESTORE', KEYS[1], ARGV[2], ARGV[1], 'ABSTTL')
return 1
"""
)

_NOT_MENDED = {"busy", "lagging", "unknown_format"}


def newest(copies: Sequence[Look | None]) -> int | None:
    """Which of some copies wins: the highest version of those in good order, and of equal ones the first.

    None if no copy is versioned and in good order.
    """
    best: int | None = None
    for i, look in enumerate(copies):
        version = look.version if look is not None else None
        if version is None:
            continue
        if best is None or version > (copies[best].version or b""):  # type: ignore[union-attr]
            best = i
    return best


class Mender:
    """Of one primary and those of its replicas that answer."""

    def __init__(self, primary: Wire, replicas: Sequence[Wire]) -> None:
        self._primary = primary
        self._replicas = replicas

    def mend(self, key: bytes, kinds: Sequence[str]) -> bool:
        """Whether all that was found about a key could be mended."""
        if set(kinds) & _NOT_MENDED:
            return False
        wires = [self._primary, *self._replicas]
        copies = [look_at(wire, key) for wire in wires]
        if any(look.letter == UNKNOWN for look in copies):
            return False
        best = newest(copies)
        mine = copies[0]
        own_is_unversioned = mine.exists and not mine.header.startswith(MAGIC)
        if best is not None and best > 0 and not own_is_unversioned:
            value = wires[best].on_key("GET", key)
            if value is not None:
                # As new as that, or newer: others may still have less.
                return put(self._primary, key, value, copies[best].expires) >= 0 and self._resend(key)
        if not mine.exists:
            return bool(self._primary.run(_DROP, key=key))
        if best is None and mine.header.startswith(MAGIC):
            # Damaged everywhere.
            return False
        if set(kinds) == {"wrong_ttl"}:
            return bool(self._primary.run(_RESEND_EXPIRY, self._primary.exact, key=key))
        return self._resend(key)

    def _resend(self, key: bytes) -> bool:
        return bool(self._primary.run(_RESEND, self._primary.exact, key=key))

    def take_over(self, holder: Wire, key: bytes, owner_id: str) -> bool:
        """Moves a key here, to the owner of its slot, from a node that is not; what is here and newer stays.

        A node answers no command for a key of a slot that it does not own, unless it is importing the slot and the
        command comes after ASKING. So it imports the slot for these few commands.
        """
        slot = key_slot(key)
        holder.call("CLUSTER", "SETSLOT", slot, "IMPORTING", owner_id)
        try:
            look = _asked(holder, key)
            if not look.exists:
                # Only a replica has it.
                return bool(holder.asking("EVAL", _DROP.source, 1, key))
            if not self._receives(holder, key, look):
                return False
            holder.asking("DEL", key)
        finally:
            holder.call("CLUSTER", "SETSLOT", slot, "STABLE")
        return True

    def _receives(self, holder: Wire, key: bytes, look: Look) -> bool:
        """Whether what is here by now is as new as the holder's copy for certain, so that nothing is lost with that."""
        if look.letter == UNKNOWN:
            return False
        here = look_at(self._primary, key)
        if not here.exists:
            dump = holder.asking("DUMP", key)
            if dump is None:
                # It has expired.
                return True
            if self._primary.run(_RESTORE_IF_NONE, dump, max(0, look.expires), key=key):
                return True
            here = look_at(self._primary, key)
        if look.version is None:
            # No version says which is newer. What is damaged loses to what is not.
            same = here.value == look.value and look.letter != LARGE
            return same or (look.letter == DAMAGED and here.version is not None)
        if here.version is not None and here.version >= look.version:
            return True
        value = holder.asking("GET", key)
        return value is None or put(self._primary, key, value, look.expires) >= 0


def look_at(wire: Wire, key: bytes) -> Look:
    """One copy; a large versioned value, whose checksum servers leave to us, is told as a small one would be."""
    return _judged(wire.details([key])[key], wire.on_key, key)


def _asked(wire: Wire, key: bytes) -> Look:
    """As `look_at`, of a key in a slot that the node is importing."""
    # The source: NOSCRIPT would use up the ASKING.
    look = next(looks(wire.asking("EVAL", DETAILS.source, 0, wire.exact, key)))
    return _judged(look, wire.asking, key)


def _judged(look: Look, ask: Callable[..., Any], key: bytes) -> Look:
    if look.letter == LARGE and look.header.startswith(MAGIC):
        letter = {"damaged": DAMAGED, "unknown_format": UNKNOWN, None: VERSIONED}[large.fault(ask, key)]
        look = look._replace(letter=letter)
    return look


def put(primary: Wire, key: bytes, value: bytes, expires: int) -> int:
    """Writes a versioned value if it is newer: 1 written, 0 what is there is as new, -1 that is not versioned."""
    return int(primary.run(_PUT_IF_NEWER, value, expires, key=key))
