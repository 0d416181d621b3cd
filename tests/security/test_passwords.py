"""Passwords and users that change while callers are busy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis
from redis.auth.token import SimpleToken, TokenInterface
from redis.credentials import CredentialProvider, StreamingCredentialProvider

import slotwise
import slotwise.asyncio
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from tests.asyncio.loops import run
from tests.asyncio.test_pubsub import until as async_until
from tests.security.load import SHELLS, Load
from tests.sync.test_pubsub import kind, until
from tests.sync.threads import PATIENCE, background

ALL = ("~*", "&*", "+@all")


def set_user(cluster: LocalCluster, name: str, *rules: str) -> None:
    for node in cluster.nodes:
        node.call("ACL", "SETUSER", name, *rules)


def count(cluster: LocalCluster, user: str) -> int:
    """Connections that are the user's."""
    return sum(node.call("CLIENT", "LIST").count(f" user={user} ") for node in cluster.nodes)


class Plain(CredentialProvider):
    """Asked at each connect."""

    def __init__(self, username: str, password: str) -> None:
        self.credentials = username, password

    def get_credentials(self) -> tuple[str, str]:
        return self.credentials

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.credentials


class Streaming(StreamingCredentialProvider):
    """Tells its one listener of new credentials."""

    def __init__(self, username: str, password: str) -> None:
        self.credentials = username, password
        self._listener: Callable[[TokenInterface], Any] | None = None

    def get_credentials(self) -> tuple[str, str]:
        return self.credentials

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.credentials

    def on_next(self, callback: Any) -> None:
        self._listener = callback

    def on_error(self, callback: Any) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    def renew(self, username: str, password: str) -> Any:
        """None for threads, something to await for tasks."""
        assert self._listener is not None
        self.credentials = username, password
        return self._listener(SimpleToken(password, -1, 0, {"oid": username}))


def made_with(cluster: LocalCluster, provider: CredentialProvider) -> Callable[[Any], Any]:
    """What makes a client of a class with the provider in place of user and password."""
    options = {k: v for k, v in cluster.client_options.items() if k not in ("username", "password")}
    node = cluster.nodes[0]
    return lambda kind: kind(host=node.host, port=node.port, credential_provider=provider, **options)


def wait_until(condition: Callable[[], bool], load: Load) -> None:
    for _ in range(100):
        if condition():
            return
        load.go_on(1)
    raise AssertionError("it has not come about")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_new_password_under_load(secure: LocalCluster, shell: str) -> None:
    """Both passwords are valid for a while, as the server's users allow; then every connection is ended."""
    user = f"rotating-{shell}"
    set_user(secure, user, "on", ">first", *ALL)
    provider = Plain(user, "first")
    load = Load(shell)
    with load.running(made_with(secure, provider)):
        set_user(secure, user, ">second")
        provider.credentials = user, "second"
        set_user(secure, user, "<first")
        load.go_on()
        assert load.errors == []
        assert sum(node.call("CLIENT", "KILL", "USER", user) for node in secure.nodes) >= 3
    # What was on its way to a node when its connection was ended is the caller's to decide.
    assert [error for error in load.errors if not isinstance(error, UnknownOutcomeError)] == []
    with slotwise.RedisCluster.from_url(secure.url) as client:
        assert load.violations(client) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_new_user_under_load(secure: LocalCluster, shell: str) -> None:
    """A streaming provider's token is another user's: all connections become his, and the first may be deleted."""
    set_user(secure, f"before-{shell}", "on", ">first", *ALL)
    set_user(secure, f"after-{shell}", "on", ">second", *ALL)
    provider = Streaming(f"before-{shell}", "first")
    load = Load(shell)
    with load.running(made_with(secure, provider)):
        assert count(secure, f"before-{shell}") >= 3
        load.call(_renew(shell), provider, f"after-{shell}", "second")
        wait_until(lambda: count(secure, f"before-{shell}") == 0, load)
        for node in secure.nodes:
            assert node.call("ACL", "DELUSER", f"before-{shell}") == 1
    assert load.errors == []
    with slotwise.RedisCluster.from_url(secure.url) as client:
        assert load.violations(client) == []


def _renew(shell: str) -> Callable[..., Any]:
    async def renew(provider: Streaming, *credentials: str) -> None:
        await provider.renew(*credentials)

    return Streaming.renew if shell == "threads" else renew


def test_every_node_is_told_before_a_refusal_is_raised(secure: LocalCluster) -> None:
    """A token that one node does not take: the others have it."""
    set_user(secure, "half", "on", ">old", *ALL)
    for node in secure.nodes[1:]:
        node.call("ACL", "SETUSER", "new-half", "on", ">new", *ALL)
    provider = Streaming("half", "old")
    with made_with(secure, provider)(slotwise.RedisCluster) as client:
        keys = [f"key{number}" for number in range(50)]
        for key in keys:
            client.get(key)
        with pytest.raises(redis.AuthenticationError):
            provider.renew("new-half", "new")
        assert count(secure, "new-half") == 2
        assert [client.get(key) for key in keys] == [None] * 50


def test_a_connection_in_use_is_not_used_again(secure: LocalCluster) -> None:
    """A blocking command goes on with the credential that it began with, and its connection ends with it."""
    set_user(secure, "waiting", "on", ">first", *ALL)
    set_user(secure, "waited", "on", ">second", *ALL)
    provider = Streaming("waiting", "first")
    with made_with(secure, provider)(slotwise.RedisCluster) as client:
        blocked = background(client.blpop, ["list"], timeout=PATIENCE)
        while not any(" cmd=blpop " in node.call("CLIENT", "LIST") for node in secure.nodes):
            pass
        provider.renew("waited", "second")
        assert count(secure, "waiting") == 1
        client.rpush("list", "words")
        assert blocked.result(PATIENCE) == (b"list", b"words")
        assert count(secure, "waiting") == 0


class Overtaken(Streaming):
    """Renewed once after it has told a connection that opens what is the earlier credential by then."""

    renewal: tuple[str, str] | None = None

    def get_credentials(self) -> tuple[str, str]:
        told = self.credentials
        if self.renewal is not None:
            renewal, self.renewal = self.renewal, None
            self.renew(*renewal)
        return told

    async def get_credentials_async(self) -> tuple[str, str]:
        told = self.credentials
        if self.renewal is not None:
            renewal, self.renewal = self.renewal, None
            await self.renew(*renewal)
        return told


@pytest.mark.parametrize("call", ["get", "lpop", "blpop", "pipeline", "transaction"])
def test_a_connection_that_opens_meanwhile_threads(secure: LocalCluster, call: str) -> None:
    set_user(secure, "overtaken", "on", ">first", *ALL)
    set_user(secure, "overtaking", "on", ">second", *ALL)
    provider = Overtaken("overtaken", "first")
    with made_with(secure, provider)(slotwise.RedisCluster) as client:
        assert client.get_primaries()
        provider.renewal = "overtaking", "second"
        if call == "blpop":
            client.blpop(["list"], timeout=0.1)
        elif call in ("pipeline", "transaction"):
            pipe = client.pipeline(transaction=call == "transaction")
            pipe.get("list").get("list").execute()
        else:
            getattr(client, call)("list")
        assert provider.renewal is None, "it was asked while a connection opened"
        assert count(secure, "overtaken") <= 1, "one that its caller owned may be open, and is not used again"
        client.blpop(["list"], timeout=0.1)
        client.pipeline(transaction=True).get("list").execute()
        client.get("list")
        assert count(secure, "overtaken") == 0


@pytest.mark.parametrize("call", ["get", "blpop", "transaction"])
def test_a_connection_that_opens_meanwhile_tasks(secure: LocalCluster, call: str) -> None:
    set_user(secure, "overtaken", "on", ">first", *ALL)
    set_user(secure, "overtaking", "on", ">second", *ALL)

    async def main() -> None:
        provider = Overtaken("overtaken", "first")
        async with made_with(secure, provider)(slotwise.asyncio.RedisCluster) as client:
            provider.renewal = "overtaking", "second"
            if call == "blpop":
                await client.blpop(["list"], timeout=0.1)
            elif call == "transaction":
                await client.pipeline(transaction=True).get("list").execute()
            else:
                await client.get("list")
            assert provider.renewal is None, "it was asked while a connection opened"
            assert count(secure, "overtaken") == 0


def test_a_subscriber_does_not_take_the_tokens(secure: LocalCluster) -> None:
    """New tokens go to the pools. The subscriber's connections are the server's to end; then there is a gap."""
    set_user(secure, "listening", "on", ">first", *ALL)
    set_user(secure, "listened", "on", ">second", *ALL)
    provider = Streaming("listening", "first")
    make = made_with(secure, provider)
    with make(partial(slotwise.RedisCluster, protocol=3)) as client, client.pubsub() as pubsub:
        keys = [f"key{number}" for number in range(50)]
        for key in keys:
            client.get(key)
        pubsub.subscribe("news")
        pubsub.ssubscribe("shard")
        until(pubsub.get_message, kind("subscribe"))
        until(pubsub.get_sharded_message, kind("ssubscribe"))
        provider.renew("listened", "second")
        for key in keys:
            client.get(key)
        assert count(secure, "listening") == 2
        for node in secure.nodes:
            assert node.call("ACL", "DELUSER", "listening") == 1
        until(pubsub.get_message, kind("gap"))
        until(pubsub.get_sharded_message, kind("gap"))
        assert count(secure, "listening") == 0


def test_a_subscriber_among_tasks_does_not_take_the_tokens(secure: LocalCluster) -> None:
    set_user(secure, "hearing", "on", ">first", *ALL)
    set_user(secure, "heard", "on", ">second", *ALL)
    provider = Streaming("hearing", "first")
    make = made_with(secure, provider)

    async def main() -> None:
        async with (
            make(partial(slotwise.asyncio.RedisCluster, protocol=3)) as client,
            client.pubsub() as pubsub,
        ):
            keys = [f"key{number}" for number in range(50)]
            for key in keys:
                await client.get(key)
            await pubsub.subscribe("news")
            await pubsub.ssubscribe("shard")
            await async_until(pubsub.get_message, kind("subscribe"))
            await async_until(pubsub.get_sharded_message, kind("ssubscribe"))
            await provider.renew("heard", "second")
            for key in keys:
                await client.get(key)
            assert count(secure, "hearing") == 2
            for node in secure.nodes:
                assert node.call("ACL", "DELUSER", "hearing") == 1
            await async_until(pubsub.get_message, kind("gap"))
            await async_until(pubsub.get_sharded_message, kind("gap"))
            assert count(secure, "hearing") == 0

    run(main)


def test_a_connection_that_comes_back_meanwhile(
    secure: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the steps of a renewal."""
    set_user(secure, "back", "on", ">first", *ALL)
    set_user(secure, "forth", "on", ">second", *ALL)
    provider = Streaming("back", "first")
    with made_with(secure, provider)(slotwise.RedisCluster) as client:
        node = client.get_primaries()[0]
        pool = client.get_redis_connection(node).connection_pool
        link = pool.take()
        drop = pool.drop

        def drop_and_give_back(other: Any) -> None:
            monkeypatch.undo()
            drop(other)
            pool.give_back(link)

        pool.give_back(second := pool.take())
        assert second is not link
        monkeypatch.setattr(pool, "drop", drop_and_give_back)
        provider.renew("forth", "second")
        assert pool.take().execute(("ACL", "WHOAMI")) == b"forth"


def test_auth_by_hand(secure: LocalCluster) -> None:
    """It changes no connection that others use."""
    set_user(secure, "manual", "on", ">first", ">second", *ALL)
    options = {**secure.client_options, "username": "manual", "password": "first"}
    node = secure.nodes[0]

    async def main() -> None:
        async with slotwise.asyncio.RedisCluster(host=node.host, port=node.port, **options) as client:
            assert await client.auth("second", "manual")
            assert await client.acl_whoami() == "manual"
            with pytest.raises(redis.AuthenticationError):
                await client.auth("third", "manual")

    with slotwise.RedisCluster(host=node.host, port=node.port, **options) as client:
        assert client.auth("second", "manual")
        assert client.acl_whoami() == "manual"
        with pytest.raises(redis.AuthenticationError):
            client.auth("third", "manual")
    run(main)
