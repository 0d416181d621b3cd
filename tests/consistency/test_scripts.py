"""The script that writes: its order is the versions' order, on every server and in every locale."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from slotwise._versions import Version, seal
from slotwise.consistency.scripts import APPLIED, BARRIER, HEAD, MISSING, THERE, WRITE, Script
from slotwise.local import StandaloneServer

KEY = "test:scripts"

# Neighbours in every byte, where a comparison of signed bytes, of text or of doubles would go wrong.
NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1]
    ),
    st.integers(0, 2**64 - 1),
)
VERSIONS = st.builds(
    lambda high, low: Version.from_bytes(high.to_bytes(8, "big") + low.to_bytes(8, "big")), NUMBERS, NUMBERS
)


@pytest.fixture(scope="module")
def server_client(standalone: StandaloneServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(standalone.url) as client:
        yield client


def in_order(client: redis.Redis, there: Version, new: Version) -> object:
    client.set(KEY, seal(there, 0, b"there"))
    return client.eval(WRITE.source, 1, KEY, seal(new, 0, b"new"))


@given(there=VERSIONS, new=VERSIONS)
# A locale that sorts by letters puts a before B, and ä before b; bytes do not.
@example(there=Version.from_bytes(b"a" * 16), new=Version.from_bytes(b"B" * 16))
@example(there=Version.from_bytes(b"\xe4" * 16), new=Version.from_bytes(b"b" * 16))
@example(there=Version.from_bytes(b"\0" * 15 + b"\1"), new=Version.from_bytes(b"\0" * 16))
# One that differs in what a double cannot hold.
@example(there=Version.from_bytes(b"\xff" * 16), new=Version.from_bytes(b"\xff" * 15 + b"\xfe"))
def test_the_order_of_lua_is_the_order_of_versions(
    server_client: redis.Redis, there: Version, new: Version
) -> None:
    reply = in_order(server_client, there, new)
    if new == there:
        assert reply == THERE
    else:
        assert reply == (APPLIED if new > there else bytes(there))
    assert server_client.get(KEY) == (seal(new, 0, b"new") if new > there else seal(there, 0, b"there"))


def test_no_strings_are_compared_by_order() -> None:
    """Where no other locale is installed, the test above would not see it: `<` on strings is strcoll."""
    code = re.sub(rb"--[^\n]*|'[^']*'", b"", WRITE.source)
    compared = re.findall(rb"([\w#.]+) *[<>]=? *([\w#.]+)", code)
    assert compared, "or the script compares in another way"
    for left, right in compared:
        assert re.fullmatch(rb"[ab]\d|#\w+|\d+", left)
        assert re.fullmatch(rb"[ab]\d|#\w+|\d+", right)


def test_conditions(server_client: redis.Redis) -> None:
    old, new = Version(1), Version(2)
    server_client.delete(KEY)
    assert server_client.eval(WRITE.source, 1, KEY, seal(new, 0, b""), "", "", bytes(old)) == MISSING
    assert server_client.exists(KEY) == 0
    assert server_client.eval(WRITE.source, 1, KEY, seal(old, 0, b""), "", "", "0") == APPLIED
    assert server_client.eval(WRITE.source, 1, KEY, seal(new, 0, b""), "", "", "0") == bytes(old)
    # Expected, but the newer one all the same.
    assert server_client.eval(WRITE.source, 1, KEY, seal(Version(0), 0, b""), "", "", bytes(old)) == bytes(
        old
    )
    assert server_client.eval(WRITE.source, 1, KEY, seal(new, 0, b""), "", "", bytes(old)) == APPLIED


def test_the_barrier_leaves_nothing_behind(server_client: redis.Redis) -> None:
    before = server_client.info("replication")["master_repl_offset"]
    server_client.eval(BARRIER.source, 1, KEY)
    assert server_client.exists(KEY) == 0
    assert server_client.info("replication")["master_repl_offset"] >= before


def test_servers_know_the_scripts_by_our_names(server_client: redis.Redis) -> None:
    for script in (WRITE, HEAD, BARRIER):
        assert isinstance(script, Script)
        loaded = server_client.script_load(script.source.decode())
        assert (loaded if isinstance(loaded, bytes) else loaded.encode()) == script.sha
