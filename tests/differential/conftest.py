"""Pairs of clients, equal but for their class, and what the server holds around each call."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster as Oracle

from slotwise import RedisCluster as Subject
from slotwise.local import LocalCluster, LocalNode
from tests.differential.case import SPREAD, TAGGED, Case, Command
from tests.differential.compare import Outcome

# What a key holds, without what differs between two runs (clocks, encodings).
_CONTENTS = """
local found = {}
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  local content = ''
  if kind == 'string' then content = redis.call('GET', key)
  elseif kind == 'list' then content = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then content = redis.call('SMEMBERS', key); table.sort(content)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'hash' then content = redis.call('HGETALL', key)
  elseif kind == 'stream' then content = redis.call('XRANGE', key, '-', '+')
  elseif kind == 'vectorset' then content = {redis.call('VCARD', key), redis.call('VDIM', key)}
  elseif kind ~= 'none' then content = redis.call('DUMP', key)
  end
  table.insert(found, {kind, content, redis.call('PTTL', key)})
end
return found
"""
_TTL_TOLERANCE_MS = 5000

RESTRICTED = "may-not-harm"
_HARMFUL = ("shutdown", "sync", "psync", "debug", "failover", "module", "cluster")
_NEEDED = ("slots", "shards", "nodes", "info", "myid")
_RULES = [
    *("on", "nopass", "~*", "&*", "+@all"),
    *(f"-{command}" for command in _HARMFUL),
    *(f"+cluster|{subcommand}" for subcommand in _NEEDED),
]


class Pair:
    """The oracle and the subject under one set of options."""

    def __init__(self, options: dict[str, Any], servers: "Servers") -> None:
        self.options = options
        self.servers = servers
        self.shared = self.connect()
        self.restricted = self.connect(username=RESTRICTED, password="any")

    def connect(self, **more: Any) -> tuple[Any, Any]:
        oracle, subject = (
            kind(
                startup_nodes=self.servers.cluster.startup_nodes,
                **{**self.servers.cluster.client_options, **self.options, **more},
            )
            for kind in (Oracle, Subject)
        )
        oracle.commands_parser = self.servers.commands_parser  # spares it a list of all commands
        return oracle, subject

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.options.items())

    def close(self) -> None:
        for client in self.shared + self.restricted:
            client.close()

    def answers(self, case: Case) -> bool:
        """Make the call through both clients, each on the same contents of the server.

        False if the server has no such command. Fails where the answers, or the contents
        afterwards, differ.
        """
        oracle, subject = {"shared": self.shared, "restricted": self.restricted}.get(
            case.on
        ) or self.connect()
        expected, left = None, None
        if case.outcome != "error":
            expected = self.servers.missing.get(case.command)
        if expected is None:
            expected, left = self._outcome(case, oracle, case)
        got, left_by_subject = self._outcome(case, subject, case)
        if case.on == "own":
            oracle.close()
            subject.close()
        what = f"{self}: {case}\n  redis-py {expected}\n  slotwise {got}"
        if expected.unknown_command:
            if not isinstance(expected.error, redis.ResponseError):
                self.servers.missing[case.command] = expected
            assert got.unknown_command or got.undispatchable, what
            return False
        if case.outcome == "either" and expected.undispatchable and got.error is not None:
            return True  # redis-py asked the server for the keys, which does not know the option either
        if case.outcome != "either":
            raised = expected.error is not None
            assert raised == (case.outcome == "error"), f"the case is wrong\n{what}"
        assert got.seen_as(case.view) == expected.seen_as(case.view), what
        _assert_same_contents(left, left_by_subject, what)
        return True

    def answers_in_a_pipeline(self, case: Case) -> None:
        """The same call as the only one of a pipeline."""

        def queued(client: Any) -> Any:
            with client.pipeline() as pipe:
                case(pipe)
                return len(pipe), pipe.execute(raise_on_error=False)

        def view(value: Any) -> Any:
            length, replies = value
            return length, [reply if isinstance(reply, Exception) else case.view(reply) for reply in replies]

        expected, left = self._outcome(case, self.shared[0], queued)
        got, left_by_subject = self._outcome(case, self.shared[1], queued)

        what = f"{self}: {case} in a pipeline\n  redis-py {expected}\n  slotwise {got}"
        if expected.unknown_command:
            # redis-py raises before it sends anything, the server would answer in the command's place
            replies = got.value[1] if got.error is None else [got.error]
            assert Outcome(error=replies[-1]).unknown_command, what
            return
        assert got.seen_as(view) == expected.seen_as(view), what
        _assert_same_contents(left, left_by_subject, what)

    def _outcome(self, case: Case, client: Any, call: Callable[[Any], Any]) -> tuple[Outcome, list[Any]]:
        self.servers.prepare(case)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = Outcome.of(lambda: call(client))
        return outcome, self.servers.contents(case)


def _assert_same_contents(expected: list[Any], got: list[Any], what: str) -> None:
    keys = TAGGED + SPREAD
    for key, (kind, content, ttl), (other_kind, other_content, other_ttl) in zip(
        keys, expected, got, strict=False
    ):
        assert (kind, content) == (other_kind, other_content), (
            f"another value in {key}: {content} {other_content}; {what}"
        )
        same_ttl = (ttl < 0) == (other_ttl < 0) and abs(ttl - other_ttl) < _TTL_TOLERANCE_MS
        assert same_ttl, f"another expiry on {key}: {ttl} ms, {other_ttl} ms; {what}"


class Node:
    """A plain connection to one node; errors are values among the replies."""

    def __init__(self, node: LocalNode) -> None:
        client = redis.Redis(node.host, node.port, protocol=2, **node.client_options)
        self._connection = client.connection_pool.get_connection()

    def run(self, *commands: Command) -> list[Any]:
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        return [self._reply() for _ in commands]

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return error

    def close(self) -> None:
        self._connection.disconnect()


class Servers:
    """The nodes, seen beside the clients under test."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self._router = Oracle(startup_nodes=cluster.startup_nodes, protocol=2, **cluster.client_options)
        self.commands_parser = self._router.commands_parser
        self._nodes = {(node.host, node.port): Node(node) for node in cluster.nodes}
        for node in self._nodes.values():
            node.run(("ACL", "SETUSER", RESTRICTED, *_RULES))
        self._home = self._owner(TAGGED[0])
        self._owners = {key: self._owner(key) for key in SPREAD}
        [self._contents] = self._home.run(("SCRIPT", "LOAD", _CONTENTS))
        # Calls that redis-py, and not the server, answered with "no such command": it asks for the list
        # of all commands each time, so that one answer has to do for all options.
        self.missing: dict[str, Outcome] = {}

    def _owner(self, key: str) -> Node:
        node = self._router.get_node_from_key(key)
        return self._nodes[node.host, node.port]

    def prepare(self, case: Case) -> None:
        """Empty all keys, then the case's own commands."""
        if case.quiet:
            self._wait_until_quiet()
        replies = self._home.run(
            ("UNLINK", *TAGGED), *(command for command in case.setup if _is_tagged(command))
        )
        if case.spread:
            for key, owner in self._owners.items():
                replies += owner.run(
                    ("UNLINK", key), *(command for command in case.setup if command[1] == key)
                )
        for command in case.setup:
            if not _is_tagged(command) and command[1] not in SPREAD:
                replies += [reply for node in self._primaries() for reply in node.run(command)]
        for reply in replies:
            if isinstance(reply, Exception) and "unknown" not in str(reply).lower():
                raise AssertionError(f"the setup of {case} is wrong: {reply}")

    def _primaries(self) -> list[Node]:
        return [self._nodes[node.host, node.port] for node in self._router.get_primaries()]

    def contents(self, case: Case) -> list[Any]:
        """Kind, content and time to live of all keys."""
        [found] = self._home.run(("EVALSHA", self._contents, len(TAGGED), *TAGGED))
        if isinstance(found, Exception):  # the call has emptied the script cache
            [found] = self._home.run(("EVAL", _CONTENTS, len(TAGGED), *TAGGED))
        if case.spread:
            found += [
                [b"any", *owner.run(("GET", key), ("PTTL", key))] for key, owner in self._owners.items()
            ]
        return found

    def _wait_until_quiet(self) -> None:
        deadline = time.monotonic() + 10
        while any(_is_saving(*node.run(("INFO", "persistence"))) for node in self._nodes.values()):
            assert time.monotonic() < deadline, "a server saves for ever"
            time.sleep(0.002)

    def close(self) -> None:
        for node in self._nodes.values():
            node.run(("ACL", "DELUSER", RESTRICTED))
            node.close()
        self._router.close()


def _is_tagged(command: Command) -> bool:
    return any(isinstance(word, str) and word.startswith("{d}") for word in command)


def _is_saving(persistence: bytes) -> bool:
    return any(
        mark in persistence
        for mark in (b"rdb_bgsave_in_progress:1", b"aof_rewrite_in_progress:1", b"aof_rewrite_scheduled:1")
    )


@pytest.fixture(scope="package")
def servers(cluster: LocalCluster) -> Iterator[Servers]:
    servers = Servers(cluster)
    yield servers
    servers.close()


# Protocol, redis-py's old shapes of replies, text: the first two differ in all, the first six hold every
# shape under every protocol. A case is made with as many as its weight allows.
OPTIONS = (
    (None, True, False),
    (3, False, True),
    (2, True, True),
    (2, False, False),
    (3, True, False),
    (None, False, True),
    (None, True, True),
    (None, False, False),
    (2, True, False),
    (2, False, True),
    (3, True, True),
    (3, False, False),
)
UNLIKE, EVERY_SHAPE = 2, 6


@pytest.fixture(scope="package")
def pairs(servers: Servers) -> Iterator[list[Pair]]:
    """One pair for each of `OPTIONS`."""
    pairs = [
        Pair({"protocol": protocol, "legacy_responses": legacy, "decode_responses": decode}, servers)
        for protocol, legacy, decode in OPTIONS
    ]
    yield pairs
    for pair in pairs:
        pair.close()


def differences(attempts: Iterable[Callable[[], object]]) -> str:
    """Make all attempts; the messages of those that fail."""
    found = []
    for attempt in attempts:
        try:
            attempt()
        except AssertionError as error:
            found.append(str(error))
    return "\n".join(found)
