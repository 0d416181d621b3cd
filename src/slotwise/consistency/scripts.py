"""The Lua of the store: short, and right on every server from Redis 6.2 on.

Replies of `WRITE`: `APPLIED`; `THERE`, the same write had been applied before; `MISSING`, there is nothing of which the
version expected could be; a negative number, nothing was written because of what the key holds; or 16 bytes, the version
that is there and won.
"""

from __future__ import annotations

from hashlib import sha1

from slotwise.consistency.errors import (
    ConsistencyError,
    DamagedValueError,
    ForeignValueError,
    NotAValueError,
    UnknownFormatError,
)

APPLIED = 1
THERE = 2
MISSING = 0

DONE = (APPLIED, THERE)
"""The replies of a write that stands there."""

REFUSALS: dict[int, type[ConsistencyError]] = {
    -1: ForeignValueError,
    -2: UnknownFormatError,
    -3: NotAValueError,
    -4: DamagedValueError,
}
"""What the negative replies of `WRITE` mean."""

ADOPT = b"adopt"
"""The argument that makes a string of another form older than every version."""


class Script:
    """A script's source and the name that servers give it: the SHA-1 in hexadecimal digits."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = sha1(self.source).hexdigest().encode()


# Versions are compared by numbers: `<` on strings follows the locale that the server was started in (LC_COLLATE). Four
# of 32 bits each, since Lua's numbers are doubles. Arguments that are not needed are left out, which parses faster.
WRITE = Script("""\
-- KEYS: the value, its history (when one is kept)
-- ARGV: 1 the new value in its stored form    2 TTL in ms, or ''      3 'adopt', or ''
--       4 '' for no condition, '0' when nothing may be there, or the version that has to be there
--       5 entries of history    6 their TTL in ms    7 the new entry's time and action    8 '1': sent before
local new, now = ARGV[1], redis.pcall('GETRANGE', KEYS[1], 0, 24)
if type(now) == 'table' then
  return string.find(now.err, 'WRONGTYPE', 1, true) and -3 or now
end
local there = nil
if string.sub(now, 1, 3) == '\\193SW' then
  if #now > 3 and string.byte(now, 4) ~= 1 then return -2 end
  if #now < 25 then return -4 end
  there = string.sub(now, 9, 24)
elseif ARGV[3] ~= 'adopt' and (now ~= '' or redis.call('EXISTS', KEYS[1]) == 1) then
  return -1
end
local version = string.sub(new, 9, 24)
if there == version then return 2 end
local wins, want = true, ARGV[4] or ''
if want ~= '' and (there or '0') ~= want then
  wins = false
elseif there then
  local a1, a2, a3, a4 = struct.unpack('>I4I4I4I4', version)
  local b1, b2, b3, b4 = struct.unpack('>I4I4I4I4', there)
  if a1 ~= b1 then wins = a1 > b1
  elseif a2 ~= b2 then wins = a2 > b2
  elseif a3 ~= b3 then wins = a3 > b3
  else wins = a4 > b4 end
end
if wins then
  local ttl, done = ARGV[2] or ''
  if ttl == '' then done = redis.pcall('SET', KEYS[1], new)
  else done = redis.pcall('SET', KEYS[1], new, 'PX', ttl) end
  -- No memory, for one. Before Redis 7.0 an error that the script does not catch loses its name.
  if done.err then return done end
end
local reply = wins and 1 or there or 0
if KEYS[2] then
  -- Sent before, the write may stand there already. What becomes of the history is no matter of the value.
  if ARGV[8] then
    local past = redis.pcall('LRANGE', KEYS[2], 0, -1)
    for i = 1, #past do
      if string.sub(past[i], 9) == version then
        return string.sub(past[i], 8, 8) == 'A' and 2 or reply
      end
    end
  end
  redis.pcall('LPUSH', KEYS[2], ARGV[7] .. (wins and 'A' or 'D') .. version)
  redis.pcall('LTRIM', KEYS[2], 0, ARGV[5] - 1)
  redis.pcall('PEXPIRE', KEYS[2], ARGV[6])
end
return reply
""")

# The first bytes of a value; none of what is no string. Not GETRANGE itself, which a client that reads from replicas would
# ask one of them.
HEAD = Script("""\
local head = redis.pcall('GETRANGE', KEYS[1], 0, 24)
if type(head) == 'table' and string.find(head.err, 'WRONGTYPE', 1, true) then return '' end
return head
""")

# A write that leaves nothing behind: WAIT counts the replicas that have what its own connection wrote, and with it
# all that was written before. (Since Redis 7.2 a mere read before WAIT will not do.)
BARRIER = Script("redis.call('SET', KEYS[1], '') return redis.call('DEL', KEYS[1])")
