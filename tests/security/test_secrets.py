"""Passwords, keys and values stay out of whatever is written down: logs, exceptions, representations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.asyncio.observability import recorder as async_recorder
from redis.observability import recorder

import slotwise
import slotwise.asyncio
from slotwise.local import LocalCluster
from slotwise.testing.scripted import ScriptedCluster

PASSWORD, WRONG, KEY, VALUE = "pass-Zq1", "wrong-Zq2", "key-Zq3", "value-Zq4"
SECRETS = (PASSWORD, WRONG, KEY, VALUE)
# redis-py's own classes annotate a queued command with all its words.
BAD_CALLS: list[Any] = [
    lambda c: c.incr(KEY),
    lambda c: c.set(KEY, {VALUE: VALUE}),
    lambda c: c.mget(KEY, f"{KEY}2"),
    lambda c: c.execute_command("SET", KEY),
    lambda c: c.execute_command("OBJECT", "HELP", KEY),
    lambda c: c.execute_command("NO-SUCH-COMMAND"),
    lambda c: c.execute_command("SUBSCRIBE", KEY),
    lambda c: c.eval("return redis.call('INCR', KEYS[1])", 1, KEY),
    lambda c: c.execute_command("EVAL", VALUE),
    lambda c: c.execute_command("LCS", target_nodes=VALUE),
    lambda c: c.pipeline().set(KEY, VALUE).incr(KEY).execute(),
    lambda c: c.pipeline().execute_command("PING", VALUE, target_nodes=c.get_nodes()).execute(),
    lambda c: c.pipeline(transaction=True).set(KEY, VALUE).incr(KEY).execute(),
    lambda c: c.pipeline(transaction=True).set(KEY, VALUE).hset(KEY, KEY, VALUE, KEY).execute(),
    lambda c: c.mset_nonatomic({KEY: VALUE, f"{KEY}2": [VALUE]}),
    lambda c: c.auth(WRONG, "operator"),
    # A whole command in one string.
    lambda c: c.execute_command(f"AUTH {WRONG}"),
    lambda c: c.execute_command(f"AUTH {WRONG}".encode()),
    lambda c: c.execute_command(f"ACL SETUSER operator >{WRONG}"),
    lambda c: c.execute_command(f"AUTH {WRONG}", target_nodes=[]),
    lambda c: c.execute_command(f"GET {KEY}"),
    lambda c: c.execute_command(f"MGET {KEY} {VALUE}", VALUE),
    lambda c: c.execute_command(f"EVAL {VALUE}"),
    lambda c: c.execute_command(f"SUBSCRIBE {KEY}"),
    lambda c: c.pipeline().execute_command(f"AUTH {WRONG}").execute(),
    lambda c: c.pipeline().execute_command(f"AUTH {WRONG}", target_nodes=[]).execute(),
    lambda c: c.pipeline().execute_command(f"AUTH {WRONG}", target_nodes=c.get_nodes()).execute(),
    lambda c: c.pipeline().execute_command(f"AUTH {WRONG}", target_nodes=c.get_nodes()[0]).execute(),
    lambda c: c.pipeline(transaction=True).execute_command(f"SET {KEY}", VALUE).execute(),
]


class Written:
    """Texts that may end in a file."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """An exception with all that led to it, without the lines of source that a traceback quotes."""
        try:
            yield
        except Exception as error:
            chain: BaseException | None = error
            while chain is not None:
                self.texts += [str(chain), repr(chain), *traceback.format_exception_only(chain)]
                chain = chain.__cause__ or chain.__context__
        else:
            raise AssertionError("nothing was raised")

    def show(self, *things: object) -> None:
        self.texts += [text for thing in things for text in (str(thing), repr(thing))]

    def check(self, *more: str) -> None:
        for text in (*self.texts, *more):
            assert not [secret for secret in SECRETS if secret in text], text


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Iterator[Written]:
    """What the test wrote down, logs at every level included, is checked at its end."""
    caplog.set_level(logging.DEBUG)
    written = Written()
    yield written
    assert written.texts
    written.check(caplog.text)


@pytest.fixture(scope="module")
def options(secure: LocalCluster) -> dict[str, Any]:
    for node in secure.nodes:
        node.call("ACL", "SETUSER", "private", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    node = secure.nodes[0]
    given = {**secure.client_options, "username": "private", "password": PASSWORD}
    return {"host": node.host, "port": node.port, **given}


def test_threads(options: dict[str, Any], written: Written) -> None:
    with slotwise.RedisCluster(**options) as client:
        client.set(KEY, VALUE)
        for call in BAD_CALLS:
            with written.raised():
                call(client)
        manager = client.nodes_manager
        written.show(client, *client.get_nodes(), *manager._pools.values(), *manager._endpoints.values())
        written.show(client.get_redis_connection(client.get_default_node()), client.pipeline())
        connection = client.get_redis_connection(client.get_default_node()).connection_pool.get_connection()
        written.show(connection)
        connection.disconnect()
    with written.raised():
        slotwise.RedisCluster(**{**options, "password": WRONG})
    with written.raised():
        slotwise.RedisCluster.from_url(f"redis://private:{WRONG}@127.0.0.1:1")
    with written.raised():
        slotwise.connect({**options, "password": WRONG})


def test_tasks(options: dict[str, Any], written: Written) -> None:
    async def main() -> None:
        async with slotwise.asyncio.RedisCluster(**options) as client:
            await client.set(KEY, VALUE)
            for call in BAD_CALLS:
                with written.raised():
                    await call(client)
            manager = client.nodes_manager
            pools = [endpoint.pool for endpoint in manager._endpoints.values()]
            written.show(client, *client.get_nodes(), *manager._endpoints.values(), *pools, client.pipeline())
        with written.raised():
            await slotwise.asyncio.RedisCluster(**{**options, "password": WRONG}).initialize()
        with written.raised():
            await slotwise.asyncio.RedisCluster.from_url(f"redis://private:{WRONG}@127.0.0.1:1").initialize()

    asyncio.run(main())


def test_metrics(options: dict[str, Any], written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    class Collector:
        def record_operation_duration(self, **facts: Any) -> None:
            written.show(facts)

    call = (f"AUTH private {PASSWORD}",)
    with slotwise.RedisCluster(**options) as client:
        monkeypatch.setattr(recorder, "_metrics_collector", Collector())
        client.execute_command(*call, target_nodes=client.get_default_node())
        monkeypatch.undo()
    assert len(written.texts) == 2

    async def main() -> None:
        async with slotwise.asyncio.RedisCluster(**options) as client:
            monkeypatch.setattr(async_recorder, "_async_metrics_collector", Collector())
            await client.execute_command(*call, target_nodes=client.get_default_node())
            monkeypatch.undo()

    asyncio.run(main())
    assert len(written.texts) == 4


def test_a_lost_write(written: Written) -> None:
    """The server goes away with a command: neither says what it was."""
    with ScriptedCluster(1) as cluster:
        node = cluster.nodes[0]
        node.expect("INCRBY").often().close()
        with slotwise.RedisCluster.from_url(cluster.url) as client:
            for call in (lambda: client.incr(KEY), lambda: client.pipeline().incr(KEY).execute()):
                with written.raised():
                    call()

        async def main() -> None:
            async with slotwise.asyncio.RedisCluster.from_url(cluster.url) as client:
                with written.raised():
                    await client.incr(KEY)
                with written.raised():
                    await client.pipeline().incr(KEY).execute()

        asyncio.run(main())


def test_local_servers(secure: LocalCluster, written: Written) -> None:
    node = secure.nodes[0]
    with LocalCluster(1, 0, server=secure.binary.command, password=PASSWORD) as cluster:
        written.show(cluster, *cluster.nodes)
        wrong = slotwise.local.LocalNode(0, cluster.nodes[0].port, "primary", node.folder, WRONG)
        with written.raised():
            wrong.call("PING")
        written.texts.append(cluster.nodes[0].log.read_text())


def test_the_check_finds_what_it_looks_for() -> None:
    written = Written()
    with written.raised():
        raise redis.ConnectionError("broken") from ValueError(f"of {VALUE}")
    with pytest.raises(AssertionError):
        written.check()
