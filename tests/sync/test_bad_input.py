"""Calls that cannot work: redis-py's exception, a message that names the fix, and a client that goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from slotwise import ClusterNode, RedisCluster
from slotwise.errors import ClosedClientError
from slotwise.local import LocalCluster
from tests.sync.conftest import MakeClient

DataError = redis.DataError
ClusterException = redis.exceptions.RedisClusterException


@pytest.fixture
def checked(client: RedisCluster) -> Iterator[RedisCluster]:
    """A client that must work as before after the test."""
    yield client
    assert client.set("good", "input") is True
    assert client.get("good") == b"input"
    assert client.pipeline().get("good").execute() == [b"input"]
    assert client.mget_nonatomic("good", "better") == [b"input", None]


class Stranger:
    pass


BAD_CALLS: list[tuple[Callable[[Any], Any], type[Exception] | tuple[type[Exception], ...], str]] = [
    (lambda c: c.set("a", None), DataError, "NoneType.*Convert to a bytes, string, int or float"),
    (lambda c: c.set(None, "a"), DataError, "NoneType"),
    (lambda c: c.set("a", True), DataError, "bool"),
    (lambda c: c.set({"a": 1}, "a"), DataError, "dict"),
    (lambda c: c.get({"a": 1}), DataError, "dict"),
    (lambda c: c.get(["a"]), DataError, "list"),
    (lambda c: c.get(Stranger()), DataError, "Stranger"),
    (lambda c: c.hset("h", "f", None), DataError, "NoneType"),
    (lambda c: c.lpush("l", "ok", None, "ok"), DataError, "NoneType"),
    (lambda c: c.mget("a", None), DataError, "NoneType"),
    (lambda c: c.mget_nonatomic("a", None), DataError, "NoneType"),
    (lambda c: c.mset_nonatomic({"a": 1, "b": None}), DataError, "NoneType"),
    (lambda c: c.mset_nonatomic({None: 1}), DataError, "NoneType"),
    (lambda c: c.delete("a", None), DataError, "NoneType"),
    (lambda c: c.execute_command(), DataError, "name"),
    (lambda c: c.execute_command(""), DataError, "name"),
    (lambda c: c.execute_command("   "), DataError, "name"),
    (lambda c: c.execute_command(None), DataError, "name"),
    (lambda c: c.execute_command(5), DataError, "name"),
    (lambda c: c.execute_command(["GET", "a"]), DataError, "name"),
    (lambda c: c.execute_command("GET"), (ClusterException, redis.ResponseError), "GET|key|arguments"),
    (lambda c: c.execute_command("NOSUCHCOMMAND", "a"), (ClusterException, redis.ResponseError), "target"),
    (
        lambda c: c.execute_command("NOSUCHCOMMAND", "a", target_nodes="random"),
        redis.ResponseError,
        "unknown command",
    ),
    (lambda c: c.execute_command("GET a"), (ClusterException, redis.ResponseError), "target|unknown"),
    (lambda c: c.execute_command("GET", "a", "b", "c"), redis.ResponseError, "wrong number"),
    (lambda c: c.mget("a", "b"), ClusterException, "same key slot"),
    (lambda c: c.rename("a", "b"), ClusterException, "same|slot"),
    (lambda c: c.eval("return 1", "many", "a"), (DataError, ClusterException), "numkeys"),
    (lambda c: c.eval("return 1", 2, "a"), (DataError, ClusterException), "numkeys"),
    (lambda c: c.ping(target_nodes="everywhere"), (TypeError, ClusterException), "target_nodes"),
    (lambda c: c.ping(target_nodes=5), TypeError, "target_nodes"),
    (lambda c: c.ping(target_nodes=[]), ClusterException, "No targets"),
    (lambda c: c.ping(target_nodes=["127.0.0.1:1"]), (TypeError, ClusterException, AttributeError), "."),
    (lambda c: c.get_node_from_key(None), DataError, "NoneType"),
    (lambda c: c.keyslot({}), DataError, "dict"),
    (lambda c: c.group_by_node(["a", None]), DataError, "NoneType"),
    (lambda c: c.pipeline().set("a", None).execute(), DataError, "NoneType"),
    (lambda c: c.pipeline().get({}).execute(), DataError, "dict"),
    (lambda c: c.pipeline().execute_command(), DataError, "name"),
    (lambda c: c.pipeline().execute_command("", "a"), DataError, "name"),
    (lambda c: c.pipeline().mget("a", "b").execute(), ClusterException, "slot|blocked"),
    (lambda c: c.pipeline(shard_hint="a"), ClusterException, "shard_hint"),
    (lambda c: c.pipeline(transaction=True).set("a", 1).set("b", 1).execute(), ClusterException, "slot"),
    (lambda c: c.blpop(["a", "b"], 1), ClusterException, "slot"),
    (lambda c: c.set("a", 1, ex=1, px=1), DataError, "mutually exclusive"),
    (lambda c: c.incr("a", "much"), redis.ResponseError, "integer"),
    (lambda c: c.set("a", "x" * 10, nx=True, xx=True), DataError, "mutually exclusive"),
]


@pytest.mark.parametrize(("call", "exception", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_call(
    checked: RedisCluster,
    call: Callable[[Any], Any],
    exception: type[Exception] | tuple[type[Exception], ...],
    message: str,
) -> None:
    with pytest.raises(exception, match=message):
        call(checked)


def test_bad_value_leaves_nothing_in_a_pipeline(checked: RedisCluster) -> None:
    pipe = checked.pipeline()
    pipe.set("good", 1)
    with pytest.raises(DataError):
        pipe.set("good", None)
    with pytest.raises(DataError):
        pipe.lpush("list", "x", {})
    pipe.incr("good")
    assert pipe.execute() == [True, 2]


def test_value_whose_encoding_fails(checked: RedisCluster) -> None:
    with pytest.raises(UnicodeEncodeError):
        checked.set("a", "\ud800")
    with pytest.raises(UnicodeEncodeError):
        checked.get("\ud800")


def test_object_that_raises_while_it_is_encoded(checked: RedisCluster) -> None:
    class Number(int):
        def __repr__(self) -> str:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        checked.set("a", Number(5))
    with pytest.raises(ZeroDivisionError):
        checked.pipeline().set("a", Number(5))


BAD_CLIENTS: list[tuple[dict[str, Any], type[Exception] | tuple[type[Exception], ...], str]] = [
    ({}, ClusterException, "at least one node"),
    ({"host": "127.0.0.1\0evil", "port": 1}, ClusterException, "host"),
    ({"host": "", "port": 1}, ClusterException, "host"),
    ({"host": "127.0.0.1", "port": 1}, ClusterException, "reachable"),
    ({"host": "no-such-host.invalid", "port": 1}, ClusterException, "reachable"),
    ({"host": "127.0.0.1", "port": "many"}, (ValueError, TypeError, ClusterException), "."),
    ({"host": "127.0.0.1", "port": 70000}, (OverflowError, ClusterException), "."),
    ({"host": "127.0.0.1", "db": 1}, ClusterException, "db"),
    ({"host": "127.0.0.1", "hots": "x"}, TypeError, "hots"),
    ({"host": "127.0.0.1", "protocol": 4}, ClusterException, "2 or 3"),
    ({"url": "http://127.0.0.1"}, ValueError, "scheme"),
    ({"url": "unix:///tmp/x"}, ClusterException, "Unix"),
    ({"url": "redis://127.0.0.1:1/3"}, ClusterException, "0"),
    ({"startup_nodes": []}, ClusterException, "at least one node"),
]


@pytest.mark.parametrize(("keywords", "exception", "message"), BAD_CLIENTS, ids=range(len(BAD_CLIENTS)))
def test_bad_client(
    keywords: dict[str, Any], exception: type[Exception] | tuple[type[Exception], ...], message: str
) -> None:
    with pytest.raises(exception, match=message):
        RedisCluster(**keywords, socket_connect_timeout=2)


def test_handshake_error_is_told_as_it_is(cluster: LocalCluster) -> None:
    with pytest.raises((redis.RedisError, ClusterException), match=r"[Cc]lient name|spaces"):
        RedisCluster.from_url(cluster.url, client_name="no spaces allowed")


def test_wrong_password_is_told_as_it_is(cluster: LocalCluster) -> None:
    wrong = {**cluster.client_options, "username": "nobody", "password": "wrong"}
    with pytest.raises((redis.RedisError, ClusterException), match=r"(?i)password|auth"):
        RedisCluster(startup_nodes=cluster.startup_nodes, **wrong)


def test_standalone_server_is_told_as_it_is(standalone: Any) -> None:
    with pytest.raises(ClusterException, match="Cluster mode is not enabled"):
        RedisCluster.from_url(standalone.url)


def test_some_startup_nodes_may_be_dead(cluster: LocalCluster) -> None:
    dead = [ClusterNode("127.0.0.1", 1), ClusterNode("no-such-host.invalid", 7000)]
    client = RedisCluster(startup_nodes=[*dead, *cluster.startup_nodes], **cluster.client_options)
    assert client.ping() is True
    client.close()


def test_closed_client(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(cluster)
    client.set("a", 1)
    client.close()
    client.close()
    with pytest.raises(ClosedClientError, match=r"new one|with client"):
        client.ping()
    assert isinstance(ClosedClientError(), redis.ConnectionError)
    # As in redis-py, a command to a key opens it again.
    assert client.get("a") == b"1"
    with client:
        assert client.ping() is True
        assert client.pipeline().get("a").execute() == [b"1"]


def test_client_is_a_context_manager_more_than_once(cluster: LocalCluster) -> None:
    with RedisCluster.from_url(cluster.url) as client:
        client.set("a", 1)
    for _ in range(2):
        with client as same:
            assert same is client
            assert client.get("a") == b"1"
            assert client.ping() is True
