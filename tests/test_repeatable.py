"""Which commands may be executed twice, tried out on running servers: docs/retries.md has the rule.

Servers asked: those of `tests.test_commands`.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.connection import Connection

from slotwise.commands import COMMANDS, Command, find
from slotwise.local import LocalCluster
from tests.test_commands import CONTAINERS, server_commands

SCRIPT = "return redis.call('GET', KEYS[1])"
LIBRARY = (
    r"#!lua name=library\n redis.register_function{function_name='reader', flags={'no-writes'}, "
    "callback=function(keys) return redis.call('GET', keys[1]) end}"
)

#: Lines of arguments: `@name` is a key, all keys being in one slot.
DATA = f"""
SET @text hello
SET @text2 yellow
SETEX @fading 1000 soon
RPUSH @list a b c
SADD @set a b c
SADD @set2 b c d
ZADD @zset 1 a 2 b 3 c
ZADD @zset2 1 a 5 d
HSET @hash f 1 g 2
HEXPIRE @hash 1000 FIELDS 1 g
PFADD @hll a b c
PFADD @hll2 b c d
GEOADD @geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
XADD @stream 1-1 f v
XADD @stream 2-1 f v
XGROUP CREATE @stream group 0
XREADGROUP GROUP group me COUNT 1 STREAMS @stream >
VADD @vectors VALUES 2 1 0 a
VADD @vectors VALUES 2 0 1 b
VSETATTR @vectors a '{{"year": 1969}}'
SCRIPT LOAD "{SCRIPT}"
FUNCTION LOAD "{LIBRARY}"
"""

#: A call of every command that is called repeatable, where the servers at hand have it.
EXAMPLES = f"""
BITCOUNT @text
BITFIELD_RO @text GET u8 0
BITPOS @text 1
DUMP @text
EXISTS @text @none
EXPIRETIME @fading
GET @text
GETBIT @text 1
GETRANGE @text 1 2
LCS @text @text2
STRALGO LCS KEYS @text @text2
MGET @text @none
PEXPIRETIME @fading
PFCOUNT @hll @hll2
PFCOUNT @hll
PTTL @fading
SORT_RO @set ALPHA
STRLEN @text
SUBSTR @text 1 2
TOUCH @text @none
TTL @fading
TYPE @text
DIGEST @text
KEYS *
DBSIZE
RANDOMKEY
SCAN 0
CLUSTERSCAN 0
MEMORY USAGE @text
OBJECT ENCODING @text
OBJECT FREQ @text
OBJECT IDLETIME @text
OBJECT REFCOUNT @text
GEODIST @geo Palermo Catania
GEOHASH @geo Palermo
GEOPOS @geo Palermo
GEORADIUSBYMEMBER_RO @geo Palermo 200 km
GEORADIUS_RO @geo 15 37 200 km
GEOSEARCH @geo FROMMEMBER Palermo BYRADIUS 200 km
HEXISTS @hash f
HEXPIRETIME @hash FIELDS 1 g
HGET @hash f
HGETALL @hash
HKEYS @hash
HLEN @hash
HMGET @hash f none
HPEXPIRETIME @hash FIELDS 1 g
HPTTL @hash FIELDS 1 g
HRANDFIELD @hash
HSCAN @hash 0
HSTRLEN @hash f
HTTL @hash FIELDS 1 g
HVALS @hash
LINDEX @list 0
LLEN @list
LPOS @list b
LRANGE @list 0 -1
SCARD @set
SDIFF @set @set2
SINTER @set @set2
SINTERCARD 2 @set @set2
SISMEMBER @set a
SMEMBERS @set
SMISMEMBER @set a none
SRANDMEMBER @set
SSCAN @set 0
SUNION @set @set2
VCARD @vectors
VDIM @vectors
VEMB @vectors a
VGETATTR @vectors a
VINFO @vectors
VISMEMBER @vectors a
VLINKS @vectors a
VRANDMEMBER @vectors
VRANGE @vectors - +
VSIM @vectors ELE a
XINFO CONSUMERS @stream group
XINFO GROUPS @stream
XINFO STREAM @stream
XLEN @stream
XPENDING @stream group
XRANGE @stream - +
XREAD STREAMS @stream 0
XREVRANGE @stream + -
ZCARD @zset
ZCOUNT @zset 1 2
ZDIFF 2 @zset @zset2
ZINTER 2 @zset @zset2
ZINTERCARD 2 @zset @zset2
ZLEXCOUNT @zset - +
ZMSCORE @zset a none
ZRANDMEMBER @zset
ZRANGE @zset 0 -1
ZRANGEBYLEX @zset - +
ZRANGEBYSCORE @zset 1 2
ZRANK @zset a
ZREVRANGE @zset 0 -1
ZREVRANGEBYLEX @zset + -
ZREVRANGEBYSCORE @zset 2 1
ZREVRANK @zset a
ZSCAN @zset 0
ZSCORE @zset a
ZUNION 2 @zset @zset2
EVAL_RO "{SCRIPT}" 1 @text
EVALSHA_RO {hashlib.sha1(SCRIPT.encode()).hexdigest()} 1 @text
FCALL_RO reader 1 @text
ACL CAT
ACL DRYRUN default GET @text
ACL GENPASS
ACL GETUSER default
ACL HELP
ACL LIST
ACL USERS
ACL WHOAMI
CLIENT GETNAME
CLIENT GETREDIR
CLIENT HELP
CLIENT ID
CLIENT INFO
CLIENT LIST
CLIENT NO-EVICT off
CLIENT NO-TOUCH off
CLIENT SETINFO lib-name slotwise
CLIENT SETNAME somebody
CLIENT TRACKINGINFO
CLUSTER COUNT-FAILURE-REPORTS $ID
CLUSTER COUNTKEYSINSLOT 0
CLUSTER GETKEYSINSLOT 0 10
CLUSTER GETSLOTMIGRATIONS
CLUSTER HELP
CLUSTER INFO
CLUSTER KEYSLOT @text
CLUSTER LINKS
CLUSTER MYID
CLUSTER MYSHARDID
CLUSTER NODES
CLUSTER REPLICAS $ID
CLUSTER SHARDS
CLUSTER SLAVES $ID
CLUSTER SLOT-STATS SLOTSRANGE 0 1
CLUSTER SLOTS
COMMAND COUNT
COMMAND DOCS GET
COMMAND GETKEYS GET @text
COMMAND GETKEYSANDFLAGS GET @text
COMMAND HELP
COMMAND INFO GET
COMMAND LIST
COMMANDLOG GET 1 slow
COMMANDLOG HELP
COMMANDLOG LEN slow
CONFIG GET maxmemory
CONFIG HELP
ECHO hello
FUNCTION DUMP
FUNCTION HELP
FUNCTION LIST
FUNCTION STATS
INFO
LASTSAVE
LATENCY DOCTOR
LATENCY GRAPH command
LATENCY HELP
LATENCY HISTOGRAM get
LATENCY HISTORY command
LATENCY LATEST
LOLWUT
MEMORY DOCTOR
MEMORY HELP
MEMORY MALLOC-STATS
MEMORY STATS
MODULE HELP
MODULE LIST
OBJECT HELP
PING
PUBSUB CHANNELS
PUBSUB HELP
PUBSUB NUMPAT
PUBSUB NUMSUB channel
PUBSUB SHARDCHANNELS
PUBSUB SHARDNUMSUB channel
READONLY
ROLE
SCRIPT EXISTS 0000000000000000000000000000000000000000
SCRIPT HELP
SCRIPT LOAD "return 1"
SCRIPT SHOW {hashlib.sha1(SCRIPT.encode()).hexdigest()}
SLOWLOG GET
SLOWLOG HELP
SLOWLOG LEN
TIME
XGROUP HELP
XINFO HELP
"""

#: Their replies tell of the moment, or are drawn by lot: two of them differ and both are right.
OF_THE_MOMENT = {
    *("ACL GENPASS", "CLIENT INFO", "CLIENT LIST", "CLUSTER INFO", "CLUSTER LINKS", "CLUSTER NODES"),
    *(
        "CLUSTER SLOT-STATS",
        "COMMANDLOG GET",
        "COMMANDLOG LEN",
        "FUNCTION STATS",
        "HPTTL",
        "HRANDFIELD",
        "HTTL",
    ),
    *("INFO", "LATENCY DOCTOR", "LATENCY GRAPH", "LATENCY HISTOGRAM", "LATENCY HISTORY", "LATENCY LATEST"),
    *(
        "LOLWUT",
        "MEMORY DOCTOR",
        "MEMORY MALLOC-STATS",
        "MEMORY STATS",
        "OBJECT FREQ",
        "OBJECT IDLETIME",
        "PTTL",
    ),
    *("RANDOMKEY", "SLOWLOG GET", "SLOWLOG LEN", "SRANDMEMBER", "TIME", "TTL", "VRANDMEMBER"),
    *("XINFO CONSUMERS", "XPENDING", "ZRANDMEMBER"),
}

#: They keep something for later that was known before: the estimate inside the value, a script by its digest.
REMEMBERING = {"PFCOUNT", "SCRIPT LOAD"}


class Server:
    """A cluster of one node with a key of every type in it."""

    def __init__(self, cluster: LocalCluster) -> None:
        node = cluster.primaries[0]
        self._connection = Connection(host=node.host, port=node.port, protocol=2)
        self._connection.connect()
        self.id = node.call("CLUSTER", "MYID")
        self.names = set(self._listed(self.ask("COMMAND")))

    def close(self) -> None:
        self._connection.disconnect()

    def _listed(self, entries: Any) -> Iterator[str]:
        for entry in entries:
            yield entry[0].decode().upper().replace("|", " ")
            yield from self._listed(entry[9] if len(entry) > 9 else ())

    def ask(self, *args: object) -> Any:
        self._connection.send_command(*args)
        return self._connection.read_response()

    def args(self, line: str) -> list[str]:
        words = [word.replace(r"\n", "\n") for word in shlex.split(line)]
        return [
            self.id if word == "$ID" else f"{{k}}{word[1:]}" if word[0] == "@" else word for word in words
        ]

    def knows(self, line: str) -> bool:
        """Whether this server has the command. Redis 6.2 lists first words only, OBJECT and not OBJECT ENCODING."""
        first, second = shlex.split(line)[:2] if " " in line else (line, "")
        if first not in CONTAINERS or f"{first} {second}" in self.names:
            return first in self.names
        if first not in self.names or any(name.startswith(f"{first} ") for name in self.names):
            return False
        try:
            self.ask(*self.args(line))
        except redis.ResponseError as error:
            return "nknown subcommand" not in str(error)
        return True

    def fill(self) -> None:
        self.ask("FLUSHALL")
        if "FUNCTION FLUSH" in self.names:
            self.ask("FUNCTION", "FLUSH")
        # An event for LATENCY to tell of.
        self.ask("CONFIG", "SET", "latency-monitor-threshold", 1)
        self.ask("DEBUG", "SLEEP", "0.005")
        for line in DATA.strip().splitlines():
            if line.split()[0] in self.names:
                self.ask(*self.args(line))

    def state(self) -> dict[str, Any]:
        """All that another client could see changing."""
        keys = sorted(self.ask("KEYS", "*"))
        seen = {
            "digest": self.ask("DEBUG", "DIGEST"),
            "values": [(key, self.ask("DUMP", key)) for key in keys],
            "config": self.ask("CONFIG", "GET", "*"),
            "acl": self.ask("ACL", "LIST"),
            "slots": self.ask("CLUSTER", "SLOTS"),
        }
        if "PEXPIRETIME" in self.names:
            seen["times"] = [self.ask("PEXPIRETIME", key) for key in keys]
        if "FUNCTION DUMP" in self.names:
            seen["functions"] = self.ask("FUNCTION", "DUMP")
        return seen


@pytest.fixture(scope="module", params=server_commands(), ids=shlex.join)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with LocalCluster(1, 0, server=request.param) as cluster:
        server = Server(cluster)
        yield server
        server.close()


def test_every_repeatable_command_has_an_example(server: Server) -> None:
    tried = {command.name for line in EXAMPLES.strip().splitlines() if (command := _command(line)).repeatable}
    repeatable = {name for name, command in COMMANDS.items() if command.repeatable and name not in CONTAINERS}
    assert repeatable & server.names - tried == set()


def test_a_second_execution_changes_nothing(server: Server) -> None:
    """Nor does the first, for whom it would make the second one different."""
    server.fill()
    before = server.state()
    assert len(before["values"]) > 10
    tried = 0
    for line in EXAMPLES.strip().splitlines():
        if not server.knows(line):
            continue
        tried += 1
        name, args = _command(line).name, server.args(line)
        frequency = "allkeys-lfu" if name == "OBJECT FREQ" else "noeviction"
        server.ask("CONFIG", "SET", "maxmemory-policy", frequency)
        before["config"] = server.ask("CONFIG", "GET", "*")
        first = server.ask(*args)
        once = server.state()
        second = server.ask(*args)
        twice = server.state()
        assert once == twice, f"{line} changed something the second time"
        assert once == before or name in REMEMBERING, f"{line} changed something the first time"
        assert first == second or name in OF_THE_MOMENT, f"{line} answered differently the second time"
        before = twice
    assert tried > 120


def _command(line: str) -> Command:
    found = find(shlex.split(line))
    assert found is not None, line
    return found[0]


#: Writes of which it is often said that they may be repeated, because twice in a row they do the same as once: what
#: another client does in between, how to look at it, and what that client then finds in place of its own work.
UNDONE = [
    ("SET @text mine", "SET @text theirs", "GET @text", b"mine"),
    ("SETEX @text 100 mine", "SET @text theirs", "GET @text", b"mine"),
    ("MSET @text mine", "SET @text theirs", "GET @text", b"mine"),
    ("SETRANGE @text 0 m", "SETRANGE @text 0 t", "GETRANGE @text 0 0", b"m"),
    ("SETBIT @text 7 1", "SETBIT @text 7 0", "GETBIT @text 7", 1),
    ("DEL @text", "SET @text theirs", "GET @text", None),
    ("UNLINK @text", "SET @text theirs", "GET @text", None),
    ("EXPIRE @text 100", "PERSIST @text", "TTL @text", 100),
    ("PERSIST @fading", "EXPIRE @fading 5", "TTL @fading", -1),
    ("HSET @hash f mine", "HSET @hash f theirs", "HGET @hash f", b"mine"),
    ("HDEL @hash f", "HSET @hash f theirs", "HGET @hash f", None),
    ("SADD @set mine", "SREM @set mine", "SISMEMBER @set mine", 1),
    ("SREM @set a", "SADD @set a", "SISMEMBER @set a", 0),
    ("ZADD @zset 1 mine", "ZADD @zset 2 mine", "ZSCORE @zset mine", b"1"),
    ("ZREM @zset a", "ZADD @zset 9 a", "ZSCORE @zset a", None),
    ("LSET @list 0 mine", "LSET @list 0 theirs", "LINDEX @list 0", b"mine"),
    ("LTRIM @list 0 0", "RPUSH @list theirs", "LINDEX @list -1", b"a"),
    ("PFADD @hll new", "DEL @hll", "EXISTS @hll", 1),
]


@pytest.mark.parametrize(("write", "theirs", "look", "found"), UNDONE, ids=[row[0] for row in UNDONE])
def test_a_repeated_write_undoes_the_work_of_others(
    server: Server, write: str, theirs: str, look: str, found: object
) -> None:
    """Why no write is called repeatable: the other client had its acknowledgement, and had seen the first execution."""
    server.fill()
    server.ask(*server.args(write))
    server.ask(*server.args(theirs))
    acknowledged = server.ask(*server.args(look))
    server.ask(*server.args(write))
    assert server.ask(*server.args(look)) == found != acknowledged
    assert not _command(write).repeatable


@pytest.mark.parametrize(
    ("write", "first", "second"),
    [
        ("DEL @text", 1, 0),
        ("SADD @set new", 1, 0),
        ("HSET @hash new 1", 1, 0),
        ("SET @none 1 NX", b"OK", None),
        ("SETNX @none 1", 1, 0),
        ("GETDEL @text", b"hello", None),
        ("GETSET @text 1", b"hello", b"1"),
        ("SMOVE @set @set2 a", 1, 0),
        ("ZADD @zset 1 new", 1, 0),
        ("INCR @none", 1, 2),
        ("RPUSH @list d", 4, 5),
        ("LPOP @list", b"a", b"b"),
        ("APPEND @text !", 6, 7),
    ],
)
def test_the_second_reply_of_a_write_misleads(
    server: Server, write: str, first: object, second: object
) -> None:
    """A caller that is told 0 believes that somebody else did it, or that there was nothing."""
    server.fill()
    assert server.ask(*server.args(write)) == first
    assert server.ask(*server.args(write)) == second
    assert not _command(write).repeatable


@pytest.mark.parametrize("call", ["'SET', KEYS[1], 1", "'PUBLISH', 'channel', 1", "'DEL', KEYS[1]"])
def test_a_script_for_reading_only_cannot_do_more(server: Server, call: str) -> None:
    """EVAL_RO is repeated, so it must not even publish."""
    if "EVAL_RO" not in server.names:
        pytest.skip("EVAL_RO came with Redis 7.0")
    with pytest.raises(redis.ResponseError, match=r"(?i)write commands are not allowed"):
        server.ask("EVAL_RO", f"return redis.call({call})", 1, "{k}text")
