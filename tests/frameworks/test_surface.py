"""What libraries ask of a cluster client beside its commands."""

import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.cluster import ClusterNode, ClusterPipeline
from redis.commands.core import Script
from redis.lock import Lock

import slotwise
from slotwise.local import LocalCluster

Connect = Callable[..., Any]


def parameters(function: Any) -> dict[str, tuple[Any, Any]]:
    found = inspect.signature(function).parameters
    return {name: (parameter.kind, _plain(parameter.default)) for name, parameter in found.items()}


def _plain(default: Any) -> Any:
    """A default, or the class of one that is an object of its own."""
    return default if isinstance(default, int | str | bool | type | None) else type(default)


def test_it_is_an_instance_of_redis_py(client: Any) -> None:
    assert isinstance(client, redis.RedisCluster)
    assert isinstance(client, redis.cluster.RedisCluster)
    assert not isinstance(client, redis.Redis)
    assert issubclass(slotwise.RedisCluster, redis.RedisCluster)
    assert isinstance(client.pipeline(), ClusterPipeline)


def test_the_constructor_has_the_keywords_and_defaults_of_redis_py() -> None:
    expected = parameters(redis.RedisCluster.__init__)
    got = parameters(slotwise.RedisCluster.__init__)

    assert {name: got.get(name) for name in expected} == expected
    assert list(got)[: len(expected) - 1] == list(expected)[:-1]  # the order too, but for **kwargs


@pytest.mark.parametrize(
    "name", ["from_url", "pipeline", "lock", "transaction", "pubsub", "monitor", "execute_command"]
)
def test_methods_take_the_arguments_of_redis_py(name: str) -> None:
    expected = parameters(getattr(redis.RedisCluster, name))
    got = parameters(getattr(slotwise.RedisCluster, name))

    assert {name: got.get(name) for name in expected} == expected


def test_there_is_no_connection_pool(client: Any) -> None:
    assert not hasattr(client, "connection_pool")
    assert not hasattr(client.pipeline(), "connection_pool")


def test_plain_clients_of_nodes(client: Any, reader: redis.RedisCluster) -> None:
    for primary in client.get_primaries():
        plain = client.get_redis_connection(primary)

        assert isinstance(plain, redis.Redis)
        assert plain.ping()
        assert plain.connection_pool.connection_kwargs["port"] == primary.port
    node = client.get_node_from_key("key")
    assert client.get_redis_connection(node).set("key", "value")
    assert reader.get("key") == b"value"
    assert node.redis_connection.get("key") == b"value"


def test_nodes_and_their_manager(client: Any, cluster: LocalCluster) -> None:
    addresses = {f"{node.host}:{node.port}" for node in cluster.startup_nodes}

    assert set(client.nodes_manager.startup_nodes) == addresses
    assert all(isinstance(node, ClusterNode) for node in client.nodes_manager.startup_nodes.values())
    assert set(client.nodes_manager.nodes_cache) == addresses
    assert {node.name for node in client.get_nodes()} == addresses
    assert {node.server_type for node in client.get_primaries()} == {"primary"}
    assert {node.server_type for node in client.get_replicas()} == {"replica"}
    assert client.nodes_manager.default_node == client.get_default_node()
    slot = client.keyslot("key")
    assert client.nodes_manager.slots_cache[slot][0] == client.get_node_from_key("key")
    assert client.nodes_manager.get_node_from_slot(slot) == client.get_node_from_key("key")


def test_options_can_be_read_back(client_class: type, connect: Connect) -> None:
    client = connect(
        client_class, socket_timeout=3.5, client_name="reader", decode_responses=True, encoding="latin-1"
    )

    for options in (client.get_connection_kwargs(), client.nodes_manager.connection_kwargs):
        assert options["socket_timeout"] == 3.5
        assert options["client_name"] == "reader"
        assert options["decode_responses"] is True
        assert "host" not in options
    assert client.client_getname() == "reader"


def test_the_encoder(client_class: type, connect: Connect) -> None:
    plain, decoding = connect(client_class), connect(client_class, decode_responses=True, encoding="latin-1")

    assert plain.get_encoder() is plain.encoder
    assert (plain.encoder.encoding, plain.encoder.decode_responses) == ("utf-8", False)
    assert plain.get_encoder().encode("ż") == "ż".encode()
    assert (decoding.encoder.encoding, decoding.encoder.decode_responses) == ("latin-1", True)
    assert decoding.get_encoder().decode(b"\xe9") == "é"


def test_scripts(client: Any) -> None:
    script = client.register_script("return {KEYS[1], ARGV[1]}")

    assert isinstance(script, Script)
    assert script(keys=["one"], args=["two"]) == [b"one", b"two"]
    client.script_flush()
    assert script(keys=["one"], args=["three"]) == [b"one", b"three"]
    sha = client.script_load("return 7")
    assert client.script_exists(sha) == [True]
    assert client.evalsha(sha, 1, "any key") == 7


def test_transactions(client: Any) -> None:
    client.set("{t}n", 1)

    def double(pipe: Any) -> str:
        value = int(pipe.get("{t}n"))
        pipe.multi()
        pipe.set("{t}n", value * 2)
        pipe.get("{t}n")
        return "done"

    assert client.transaction(double, "{t}n") == [b"OK", b"2"]
    assert client.transaction(double, "{t}n", value_from_callable=True) == "done"
    assert client.get("{t}n") == b"4"


def test_a_transaction_that_lost_the_race_is_tried_again(client: Any, reader: redis.RedisCluster) -> None:
    rounds = []

    def raced(pipe: Any) -> None:
        value = int(pipe.get("{t}n") or 0)
        if not rounds:
            reader.set("{t}n", 10)
        rounds.append(value)
        pipe.multi()
        pipe.set("{t}n", value + 1)

    assert client.transaction(raced, "{t}n") == [b"OK"]
    assert rounds == [0, 10]
    assert client.get("{t}n") == b"11"


def test_locks(client: Any, reader: redis.RedisCluster) -> None:
    lock = client.lock("lock", timeout=10)

    assert type(lock) is Lock
    with lock:
        assert reader.get("lock") == lock.local.token
        assert lock.owned()
        assert not client.lock("lock", blocking=False).acquire()
        assert lock.extend(5)
        assert lock.reacquire()
    assert not reader.exists("lock")
    with pytest.raises(redis.exceptions.LockError):
        lock.release()


def test_a_lock_of_a_class_of_ones_own(client: Any) -> None:
    class Counted(Lock):
        acquired = 0

        def acquire(self, *args: Any, **kwargs: Any) -> bool:
            type(self).acquired += 1
            return super().acquire(*args, **kwargs)

    with client.lock("lock", timeout=5, lock_class=Counted) as lock:
        assert type(lock) is Counted
    assert Counted.acquired == 1


def test_a_lock_waits_for_its_owner(client: Any) -> None:
    order = []
    first = client.lock("lock", timeout=30, thread_local=False)
    assert first.acquire()

    def wait() -> None:
        with client.lock("lock", timeout=30, sleep=0.01, blocking_timeout=20):
            order.append("second")

    waiting = threading.Thread(target=wait)
    waiting.start()
    order.append("first")
    first.release()
    waiting.join(30)

    assert order == ["first", "second"]


def test_a_response_callback(client: Any) -> None:
    client.set_response_callback("GET", lambda reply, **options: ("mine", reply))

    client.set("key", "value")

    assert client.get("key") == ("mine", b"value")
    assert client.pipeline().get("key").execute() == [("mine", b"value")]


def test_an_external_module_is_attached(client: Any) -> None:
    client.load_external_module("greet", lambda name: f"hello {name}")

    assert client.greet("you") == "hello you"


def test_credentials_can_be_renewed_on_all_nodes(client: Any) -> None:
    for node in client.get_nodes():
        assert callable(client.get_redis_connection(node).connection_pool.re_auth_callback)
