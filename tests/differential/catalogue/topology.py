"""Commands about the cluster itself, and what the client knows of it."""

from typing import Any

from tests.differential.case import A, case
from tests.differential.compare import between, kinds, nodes, some_kinds

TEXT = ("SET", A, "value")
SLOT_OF_A = 11298
NODE_ID = "0" * 40


def home(client: Any) -> Any:
    return client.get_node_from_key(A)


def add_slots(client: Any) -> Any:
    return client.cluster_addslots(home(client), SLOT_OF_A, 1)


def add_slots_range(client: Any) -> Any:
    return client.cluster_addslotsrange(home(client), 0, 5)


def failover(client: Any) -> Any:
    return client.cluster_failover(home(client))


def failover_wrongly(client: Any) -> Any:
    return client.cluster_failover(home(client), "GENTLY")


def failover_by_force(client: Any) -> Any:
    return client.cluster_failover(home(client), "FORCE")


def info_of_home(client: Any) -> Any:
    return client.cluster_info(target_nodes=home(client))


def links_of_home(client: Any) -> Any:
    return client.cluster_links(home(client))


def myid_of_home(client: Any) -> Any:
    return client.cluster_myid(home(client))


def shard_of_home(client: Any) -> Any:
    return client.cluster_myshardid(target_nodes=home(client))


def nodes_seen_by_home(client: Any) -> Any:
    """Without ping times, which differ from call to call."""
    nodes = client.execute_command("CLUSTER NODES", target_nodes=home(client))
    return {
        address: {name: value for name, value in node.items() if "last" not in name}
        for address, node in nodes.items()
    }


def replicas_of_home(client: Any) -> Any:
    node = home(client)
    found = client.cluster_replicas(client.cluster_myid(node), target_nodes=node)
    return {
        address: {name: value for name, value in one.items() if "last" not in name}
        for address, one in found.items()
    }


def replicate(client: Any) -> Any:
    return client.cluster_replicate(home(client), NODE_ID)


def reset_hard(client: Any) -> Any:
    return client.cluster_reset(soft=False, target_nodes=home(client))


def save_config(client: Any) -> Any:
    return client.cluster_save_config(target_nodes=client.get_primaries())


def set_epoch(client: Any) -> Any:
    return client.cluster_set_config_epoch(7, target_nodes=home(client))


def set_slot(client: Any) -> Any:
    return client.cluster_setslot(home(client), NODE_ID, SLOT_OF_A, "NODE")


def set_slot_migrating(client: Any) -> Any:
    return client.cluster_setslot(home(client), NODE_ID, SLOT_OF_A, "migrating")


def set_slot_stable_wrongly(client: Any) -> Any:
    return client.cluster_setslot(home(client), NODE_ID, SLOT_OF_A, "STABLE")


def set_slot_nowhere(client: Any) -> Any:
    return client.cluster_setslot(home(client), NODE_ID, SLOT_OF_A, "AWAY")


def slots_seen_by_home(client: Any) -> Any:
    return client.cluster_slots(target_nodes=home(client))


def shards_seen_by_home(client: Any) -> Any:
    return client.cluster_shards(target_nodes=home(client))


def asked_by_itself(client: Any) -> Any:
    return home(client).redis_connection.get(A)


def plain_client(client: Any) -> Any:
    plain = client.get_redis_connection(home(client))
    return type(plain), plain.get(A), plain.set(A, "new"), plain.get(A)


def node_by_name(client: Any) -> Any:
    return client.get_node(node_name=home(client).name)


def node_by_address(client: Any) -> Any:
    return client.get_node(host="127.0.0.1", port=home(client).port)


def random_node(client: Any) -> Any:
    return client.get_random_node() in client.get_nodes()


def random_primary(client: Any) -> Any:
    return client.get_random_primary_node() in client.get_primaries()


def default_node(client: Any) -> Any:
    return client.get_default_node() in client.get_primaries()


CASES = [
    case("cluster_addslots").doing(add_slots).fails(),
    case("cluster_addslotsrange").doing(add_slots_range).fails(),
    case("cluster_bumpepoch").fails(),
    case("cluster_count_failure_report", NODE_ID).fails(),
    case("cluster_countkeysinslot", SLOT_OF_A).given(TEXT),
    case("cluster_countkeysinslot", 99_999).fails(),
    case("cluster_delslots", SLOT_OF_A, 1).denied(),
    case("cluster_delslotsrange", 1, 2).denied(),
    case("cluster_failover").doing(failover).fails(),
    case("cluster_failover").doing(failover_wrongly).fails(),
    case("cluster_failover").doing(failover_by_force).denied(),
    case("cluster_flushslots").fails(),
    case("cluster_get_keys_in_slot", SLOT_OF_A, 5).given(TEXT),
    case("cluster_get_keys_in_slot", 0, 5),
    case("cluster_info").seen_as(some_kinds),
    case("cluster_info").doing(info_of_home).seen_as(kinds),
    case("cluster_info", target_nodes="all").seen_as(some_kinds),
    case("cluster_keyslot", A),
    case("cluster_keyslot", b"\xff{x}{y}"),
    case("cluster_links").doing(links_of_home).seen_as(some_kinds),
    case("cluster_meet", "127.0.0.1", 1).denied(),
    case("cluster_myid").doing(myid_of_home),
    case("cluster_myshardid").doing(shard_of_home).newer(),  # redis-py decodes text once more, and fails
    case("cluster_nodes").seen_as(some_kinds),
    case("cluster_nodes").doing(nodes_seen_by_home),
    case("cluster_replicas").doing(replicas_of_home),
    case("cluster_replicas", NODE_ID).fails(),
    case("cluster_replicate").doing(replicate).denied(),
    case("cluster_reset").denied(),
    case("cluster_reset").doing(reset_hard).denied(),
    case("cluster_save_config").doing(save_config),
    case("cluster_set_config_epoch").doing(set_epoch).fails(),
    case("cluster_setslot").doing(set_slot).denied(),
    case("cluster_setslot").doing(set_slot_migrating).denied(),
    case("cluster_setslot").doing(set_slot_stable_wrongly).fails(),
    case("cluster_setslot").doing(set_slot_nowhere).fails(),
    case("cluster_setslot_stable", SLOT_OF_A),
    case("cluster_shards").seen_as(some_kinds),
    case("cluster_shards").doing(shards_seen_by_home).seen_as(kinds),
    case("cluster_slots").seen_as(some_kinds),
    case("cluster_slots").doing(slots_seen_by_home),
    case("hotkeys_get").fails(),
    case("hotkeys_reset").fails(),
    case("hotkeys_start", ["cpu"]).fails(),
    case("hotkeys_stop").fails(),
    case("replicaof", "127.0.0.1", 1).fails(),
    case("slaveof", "NO", "ONE").fails(),
    case("swapdb", 0, 1).fails(),
    # what the client knows by itself
    case("keyslot", A),
    case("keyslot", b"\xff{x}{y}"),
    case("keyslot", 12),
    case("keyslot", None).fails(),
    case("determine_slot", "GET", A),
    case("determine_slot", "MGET", A, "spread-0").fails(),
    case("determine_slot", "EVAL", "return 1", 0).seen_as(between(0, 16383)),
    case("get_nodes").seen_as(nodes),
    case("get_primaries").seen_as(nodes),
    case("get_replicas").seen_as(nodes),
    case("get_node_from_key", A).seen_as(nodes),
    case("get_node_from_key", A, replica=True).seen_as(nodes),
    case("get_node_from_key").doing(asked_by_itself).given(TEXT),
    case("get_node").doing(node_by_name).seen_as(nodes),
    case("get_node").doing(node_by_address).seen_as(nodes),
    case("get_node", node_name="127.0.0.1:1"),
    case("get_nodes_from_slot", "GET", "GET", A).seen_as(nodes),
    case("get_random_node").doing(random_node),
    case("get_random_primary_node").doing(random_primary),
    case("get_default_node").doing(default_node),
    case("get_redis_connection").doing(plain_client).given(TEXT),
]
