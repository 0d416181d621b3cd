"""What a server tells of its values without sending them: kind, digest, expiry, checksum.

The digest is of the value and not of its encoding. DUMP would not do: it compresses, keeps small numbers as numbers, and
lists a hash table in the order of buckets, which differs between two processes with the same value. So strings, lists
and streams are hashed in their order, sets, hashes and sorted sets as the sum of the hashes of their elements.

Scripts take no keys in KEYS: they look at keys of many slots, which a server lets them do as long as it serves those
slots itself. Nothing here blocks a server for long: a script looks at no more keys than it is given, stops when it has
read `BUDGET` bytes, and leaves values that are `LARGE` to the client, who compares them piece by piece (`large`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

#: Elements, and bytes, above which a value is large.
LARGE_ELEMENTS, LARGE_BYTES = 1_000, 262_144
#: Bytes that one script reads before it leaves the rest of its keys to the next.
BUDGET = 2_097_152

#: Hexadecimal digits of a digest in the reply about a batch; accidents have a chance of 2 ** -64 each.
DIGITS = 16

# One letter per key, as the scripts tell it.
ABSENT, ELSEWHERE, LATER, LARGE = "-", "?", ".", "B"
VERSIONED, DAMAGED, UNKNOWN, STRING = "v", "d", "u", "s"
#: Letter -> what TYPE calls it; "m" is of a module, which has its own names.
TYPES = {"s": "string", "l": "list", "S": "set", "h": "hash", "z": "zset", "x": "stream"}

_LOOK = r"""
local call, pcall, sha = redis.call, redis.pcall, redis.sha1hex
local sub, byte, format, concat = string.sub, string.byte, string.format, table.concat
local LARGE, LARGE_BYTES, BUDGET, MODULUS = %ELEMENTS%, %BYTES%, %BUDGET%, 4503599627370496
local exact = ARGV[1] == '1'
local spent = 0

-- Numbers below 2^52 and their sums are exact in a double. In two parts, as tonumber stops at 32 bits on small machines.
local function add(sum, piece)
  local hash = sha(piece)
  sum = sum + tonumber(sub(hash, 1, 8), 16) * 1048576 + tonumber(sub(hash, 9, 13), 16)
  if sum >= MODULUS then sum = sum - MODULUS end
  spent = spent + #piece
  return sum
end

local function expiry(key)
  -- Since Redis 7.0. Before, it is reckoned from the clock, right after that which PTTL went by: a millisecond may be between.
  if exact then return call('PEXPIRETIME', key) end
  local left = call('PTTL', key)
  if left < 0 then return left end
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) + left
end

local lengths = {list = 'LLEN', set = 'SCARD', hash = 'HLEN', zset = 'ZCARD', stream = 'XLEN'}
local letters = {list = 'l', set = 'S', hash = 'h', zset = 'z', stream = 'x'}

local digest_of = {}

function digest_of.list(key)
  local parts = call('LRANGE', key, 0, -1)
  for i = 1, #parts do
    spent = spent + #parts[i]
    parts[i] = #parts[i] .. ':' .. parts[i]
  end
  return sha(concat(parts))
end

function digest_of.set(key)
  local sum, members = 0, call('SMEMBERS', key)
  for i = 1, #members do sum = add(sum, members[i]) end
  return sha(format('%d:%.0f', #members, sum))
end

function digest_of.hash(key)
  local sum, flat = 0, call('HGETALL', key)
  for i = 1, #flat, 2 do sum = add(sum, #flat[i] .. ':' .. flat[i] .. flat[i + 1]) end
  return sha(format('%d:%.0f', #flat, sum))
end

function digest_of.zset(key)
  local sum, flat = 0, call('ZRANGE', key, 0, -1, 'WITHSCORES')
  -- Servers write the same score in different ways, and zero with or without a sign.
  for i = 1, #flat, 2 do sum = add(sum, format('%.17g:', tonumber(flat[i + 1]) + 0) .. flat[i]) end
  return sha(format('%d:%.0f', #flat, sum))
end

local function field_of(flat, name)
  for i = 1, #flat, 2 do
    if flat[i] == name then return flat[i + 1] end
  end
end

-- What replication keeps of a stream besides its entries; not consumers, who come and go by reading.
local function stream_state(key)
  local parts = {tostring(field_of(call('XINFO', 'STREAM', key), 'last-generated-id'))}
  local groups = call('XINFO', 'GROUPS', key)
  for i = 1, #groups do
    local group = groups[i]
    local name = field_of(group, 'name')
    parts[i + 1] = concat({#name, name, field_of(group, 'last-delivered-id'), field_of(group, 'pending')}, ':')
  end
  table.sort(parts)
  return concat(parts, '|')
end

function digest_of.stream(key)
  local parts, entries = {stream_state(key)}, call('XRANGE', key, '-', '+')
  for i = 1, #entries do
    local fields = entries[i][2]
    parts[#parts + 1] = entries[i][1]
    for j = 1, #fields do
      spent = spent + #fields[j]
      parts[#parts + 1] = #fields[j] .. ':' .. fields[j]
    end
  end
  return sha(concat(parts, ','))
end

-- Letter, digest, expiry, bytes, header, type of a key.
local function look(key)
  local kind = pcall('TYPE', key)
  -- Not a key of this node, or one that has just moved on.
  if kind.err then return '?' end
  kind = kind.ok
  if kind == 'none' then return '-' end
  local at, before = expiry(key), spent
  if kind == 'string' then
    local value = call('GETRANGE', key, 0, LARGE_BYTES)
    local size = #value
    if size > LARGE_BYTES then
      size = call('STRLEN', key)
      local header = sub(value, 1, 25)
      return 'B', sha('string:' .. size .. ':' .. header), at, size, header, kind
    end
    spent = spent + size + 32
    if sub(value, 1, 3) == '\193SW' then
      local header = sub(value, 1, 25)
      if byte(value, 4) ~= 1 or size < 25 then return 'u', sha(value), at, size, header, kind end
      local hash = sha(sub(value, 9))
      if sub(hash, 1, 8) == format('%02x%02x%02x%02x', byte(value, 5, 8)) then
        return 'v', sub(hash, 9), at, size, header, kind
      end
      return 'd', sha(value), at, size, header, kind
    end
    return 's', sha(value), at, size, '', kind
  end
  local digest = digest_of[kind]
  if not digest then
    return 'm', sha(tostring(call('DUMP', key))), at, 0, '', kind
  end
  local length = call(lengths[kind], key)
  local memory = pcall('MEMORY', 'USAGE', key)
  if length > LARGE or (type(memory) == 'number' and memory > 4 * LARGE_BYTES) then
    return 'B', sha(kind .. ':' .. length), at, 0, '', kind
  end
  digest = digest(key)
  spent = spent + 32
  return letters[kind], digest, at, spent - before, '', kind
end

local NOTHING = '0000000000000000'

local function look_at_all(keys, first)
  local letters, digests, times, n = {}, {}, {}, 0
  for i = first, #keys do
    n = n + 1
    if spent > BUDGET then
      letters[n], digests[n], times[n] = '.', NOTHING, 0
    else
      local letter, digest, at = look(keys[i])
      letters[n], digests[n], times[n] = letter, digest and sub(digest, 1, 16) or NOTHING, at or 0
    end
  end
  return concat(letters), concat(digests), concat(times, ',')
end
"""
for _name, _number in (("ELEMENTS", LARGE_ELEMENTS), ("BYTES", LARGE_BYTES), ("BUDGET", BUDGET)):
    _LOOK = _LOOK.replace(f"%{_name}%", str(_number))


class Script(NamedTuple):
    """A script and the name that servers know it by."""

    source: bytes
    sha: bytes

    @classmethod
    def of(cls, source: str) -> Script:
        encoded = source.encode()
        return cls(encoded, hashlib.sha1(encoded).hexdigest().encode())


#: exact, keys... -> letters, digests, times, bytes
LOOK = Script.of(
    _LOOK
    + """
local letters, digests, times = look_at_all(ARGV, 2)
return {letters, digests, times, spent}
"""
)

#: exact, cursor, count, pattern or "" -> cursor, keys, letters, digests, times, bytes
SCAN = Script.of(
    _LOOK
    + """
local found
if ARGV[4] == '' then found = call('SCAN', ARGV[2], 'COUNT', ARGV[3])
else found = call('SCAN', ARGV[2], 'MATCH', ARGV[4], 'COUNT', ARGV[3]) end
local letters, digests, times = look_at_all(found[2], 1)
return {found[1], found[2], letters, digests, times, spent}
"""
)

#: exact, keys... -> per key letter, digest, expiry, bytes, header, type
DETAILS = Script.of(
    _LOOK
    + """
local all = {}
for i = 2, #ARGV do
  if spent > BUDGET then
    all[i - 1] = {'.', '', 0, 0, '', ''}
  else
    local letter, digest, at, size, header, kind = look(ARGV[i])
    all[i - 1] = {letter, digest or '', at or -2, size or 0, header or '', kind or ''}
  end
end
return all
"""
)

#: keys... -> a letter for each: 1 there, 0 not there, ? not for this node
EXISTS = Script.of(
    """
local letters = {}
for i = 1, #ARGV do
  local there = redis.pcall('EXISTS', ARGV[i])
  letters[i] = type(there) == 'number' and there or '?'
end
return table.concat(letters)
"""
)

#: slots... -> how many keys each has, as numbers with commas
COUNTS = Script.of(
    """
local counts = {}
for i = 1, #ARGV do counts[i] = redis.call('CLUSTER', 'COUNTKEYSINSLOT', ARGV[i]) end
return table.concat(counts, ',')
"""
)

#: exact, slots... -> how many keys they have, the sum of their digests, how many expire, the sum of their expiries, and
#: how many are large or not for this node. The first is -1 if it was too much to read at once.
SLOTS = Script.of(
    _LOOK
    + """
local sum, keys, times, expiring, odd = 0, 0, 0, 0, 0
for i = 2, #ARGV do
  local names = call('CLUSTER', 'GETKEYSINSLOT', ARGV[i], LARGE)
  for j = 1, #names do
    if spent > 2 * BUDGET then return '-1 0 0 0 0' end
    local letter, digest, at = look(names[j])
    if letter ~= '-' then
      keys = keys + 1
      sum = add(sum, #names[j] .. ':' .. names[j] .. letter .. (digest or ''))
      if letter == 'B' or letter == '?' then odd = odd + 1 end
      if (at or 0) > 0 then
        times = times + at
        expiring = expiring + 1
      end
    end
  end
end
return format('%d %.0f %d %.0f %d', keys, sum, expiring, times, odd)
"""
)

#: exact -> type, expiry, value: a string itself, of any other type what DUMP makes of it. Nothing if there is no such key.
FETCH = Script.of(
    _LOOK
    + """
local kind = call('TYPE', KEYS[1]).ok
if kind == 'none' then return {} end
return {kind, expiry(KEYS[1]), call(kind == 'string' and 'GET' or 'DUMP', KEYS[1])}
"""
)

#: exact, letter and digest that were seen, expiry, type or "" for an expiry alone, value -> 1 written; 0 what is there is
#: something else by now
WRITE_IF_SAME = Script.of(
    _LOOK
    + """
local letter, digest = look(KEYS[1])
if letter .. (digest or '') ~= ARGV[2] then return 0 end
local at, kind = tonumber(ARGV[3]), ARGV[4]
if kind ~= '' and kind ~= 'string' then
  call('RESTORE', KEYS[1], at > 0 and ARGV[3] or 0, ARGV[5], 'REPLACE', 'ABSTTL')
  return 1
end
if kind == 'string' then call('SET', KEYS[1], ARGV[5]) end
if at > 0 then call('PEXPIREAT', KEYS[1], ARGV[3]) else call('PERSIST', KEYS[1]) end
return 1
"""
)

#: key -> the stream's last id and groups, as one text
STREAM_STATE = Script.of(_LOOK.replace("ARGV[1] == '1'", "true") + "return stream_state(ARGV[1])\n")


class Look(NamedTuple):
    """One copy of a key, as its server describes it."""

    #: See `TYPES` and the letters above.
    letter: str
    digest: bytes
    #: Unix time in milliseconds; -1 for never, -2 for no key.
    expires: int
    size: int
    header: bytes
    type: str

    @property
    def version(self) -> bytes | None:
        """16 bytes whose order is the order of versions; None unless it is a versioned value in good order."""
        return self.header[8:24] if self.letter == VERSIONED else None

    @property
    def exists(self) -> bool:
        return self.letter not in (ABSENT, ELSEWHERE)

    @property
    def value(self) -> tuple[str, bytes]:
        """What two copies of the same value have alike."""
        return self.letter, self.digest


NOTHING = Look(ABSENT, b"", -2, 0, b"", "")


def looks(reply: Sequence[Sequence[bytes | int]]) -> Iterator[Look]:
    """The keys of a reply to `DETAILS`."""
    for letter, digest, expires, size, header, kind in reply:
        assert isinstance(letter, bytes)
        assert isinstance(digest, bytes)
        assert isinstance(header, bytes)
        assert isinstance(kind, bytes)
        yield Look(letter.decode(), digest, int(expires), int(size), header, kind.decode())
