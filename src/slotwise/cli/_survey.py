"""What the nodes of a cluster say of themselves, and whether all is well.

Each node is asked over a connection of its own, not through the cluster client: a picture of an
ailing cluster must not depend on the routing, redirects and retries that the ailment upsets.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, SSLConnection, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

SLOTS = 16_384
#: Keys lie unevenly when the fullest primary has this many times the mean.
UNEVEN = 1.2


@dataclass
class Node:
    """A server; what only it can tell is None if it gave no answer."""

    #: "host:port", as its cluster announces it.
    address: str
    #: "primary", "replica", or "standalone" outside of any cluster.
    role: str
    #: The cluster's name for it.
    id: str = ""
    #: The id of its primary, for a replica.
    primary_id: str = ""
    slots: int = 0
    #: How many of its slots are on their way to other nodes.
    migrating_slots: int = 0
    #: What is wrong with it; None if nothing is.
    problem: str | None = None
    #: Such as "redis 7.0.15".
    version: str | None = None
    keys: int | None = None
    memory_bytes: int | None = None
    #: 0 for no limit.
    max_memory_bytes: int | None = None
    #: Commands a second, lately.
    ops: int | None = None
    #: How much of its primary's stream of writes a replica has yet to apply. The two are asked
    #: moments apart, so a healthy replica of a busy primary shows some.
    lag_bytes: int | None = None


@dataclass
class Survey:
    """A whole cluster, or one server outside of any."""

    #: Primaries by their addresses, each followed by its replicas.
    nodes: list[Node]
    #: What makes it unhealthy.
    problems: list[str] = field(default_factory=list)
    #: What is worth knowing, and no fault.
    notes: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def imbalance(self) -> float | None:
        """Keys of the fullest primary over the mean of those that answer; None without keys."""
        keys = [node.keys for node in self.nodes if node.slots and node.keys is not None]
        return max(keys) * len(keys) / sum(keys) if any(keys) else None


def survey(url: str, timeout: float) -> Survey:
    """Ask the node of `url` who its cluster is, and then all of them at the same time.

    `timeout` is the seconds that a node has for connecting and for each answer. Raises
    ValueError for a URL that names no node, RedisError if that node does not answer.
    """
    options = _options(url, timeout)
    seed = f"{options['host']}:{options['port']}"
    with _connect(options, seed) as client:
        clustered = client.info("cluster")["cluster_enabled"]
        members = client.execute_command("CLUSTER NODES") if clustered else {}
    if clustered:
        nodes = _in_order([_node(address, member, options) for address, member in members.items()])
    else:
        nodes = [Node(seed, "standalone")]
    with ThreadPoolExecutor(len(nodes)) as pool:
        answers = list(pool.map(partial(_ask, options), nodes))
    infos = {node.id: info for node, info in zip(nodes, answers, strict=True)}
    for node in nodes:
        _describe(node, infos[node.id], infos.get(node.primary_id, {}))
    found = Survey(nodes, [f"{node.role} {node.address} {node.problem}" for node in nodes if node.problem])
    if clustered:
        _judge_cluster(found)
    return found


def _options(url: str, timeout: float) -> dict[str, Any]:
    """What all connections have in common, and the address of the first."""
    parts = parse_url(url)
    if "path" in parts:
        raise ValueError("the URL of a node begins with redis:// or rediss://")
    return {
        "host": "127.0.0.1",
        "port": 6379,
        **parts,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # That a node needs a second try is worth knowing.
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
    }


def _connect(options: Mapping[str, Any], address: str) -> Redis:
    host, _, port = address.rpartition(":")
    return Redis.from_pool(ConnectionPool(**{**options, "host": host, "port": int(port)}))


def _node(address: str, member: Mapping[str, Any], options: Mapping[str, Any]) -> Node:
    """What a line of CLUSTER NODES says."""
    host, _, port = address.rpartition(":")
    # Certificates carry names. A node that has not met another does not know its own address.
    if options.get("connection_class") is SSLConnection and member["hostname"]:
        host = member["hostname"]
    flags = set(member["flags"].split(","))
    return Node(
        address=f"{host or options['host']}:{port}",
        role="replica" if "slave" in flags else "primary",
        id=member["node_id"],
        primary_id=member["master_id"].strip("-"),
        slots=sum(int(slots[-1]) - int(slots[0]) + 1 for slots in member["slots"]),
        problem="is failing in the eyes of its cluster" if flags & {"fail", "fail?"} else None,
    )


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    """Each primary, by address, before its replicas."""
    address = {node.id: node.address for node in nodes}
    return sorted(
        nodes, key=lambda node: (address.get(node.primary_id, node.address), node.role, node.address)
    )


def _ask(options: Mapping[str, Any], node: Node) -> dict[str, Any]:
    """INFO with a few fields more; or only a "problem", if there is no answer."""
    try:
        with _connect(options, node.address) as client:
            info = {**client.info(), "keys": client.dbsize()}
            if node.id:
                info["cluster_state"] = client.execute_command("CLUSTER INFO")["cluster_state"]
                # Only a node itself lists its migrations.
                [myself] = [
                    member
                    for member in client.execute_command("CLUSTER NODES").values()
                    if member["node_id"] == node.id
                ]
                info["migrating"] = [slot for slot in myself["migrations"] if slot["state"] == "migrating"]
    except (RedisError, OSError) as error:
        return {"problem": f"does not answer: {str(error).rstrip('.')}"}
    return info


def _describe(node: Node, info: Mapping[str, Any], primary: Mapping[str, Any]) -> None:
    """Enter what a node and its primary answered."""
    if "problem" in info:
        node.problem = info["problem"]
        return
    name = "valkey" if "valkey_version" in info else "redis"
    node.version = f"{name} {info[f'{name}_version']}"
    node.keys = info["keys"]
    node.memory_bytes = info["used_memory"]
    node.max_memory_bytes = info["maxmemory"]
    node.ops = info["instantaneous_ops_per_sec"]
    node.migrating_slots = len(info.get("migrating", ()))
    if info["role"] == "slave":
        if info["master_link_status"] != "up":
            node.problem = "is not linked to its primary"
        elif "master_repl_offset" in primary:
            node.lag_bytes = max(0, primary["master_repl_offset"] - info["slave_repl_offset"])
    if info.get("cluster_state", "ok") != "ok" and node.problem is None:
        node.problem = "finds its cluster failing"


def _judge_cluster(found: Survey) -> None:
    """Add what concerns more than one node."""
    primaries = [node for node in found.nodes if node.role == "primary"]
    unserved = SLOTS - sum(node.slots for node in primaries if node.problem is None)
    replicated = {node.primary_id for node in found.nodes}
    if unserved:
        found.problems.append(f"{unserved:,} of {SLOTS:,} slots are served by no healthy primary")
    if migrating := sum(node.migrating_slots for node in primaries):
        found.notes.append(f"{migrating:,} slots are on their way to another node")
    for node in primaries:
        if node.slots and node.id not in replicated:
            found.notes.append(f"primary {node.address} has no replica")
    if (found.imbalance or 1.0) >= UNEVEN:
        found.notes.append("keys lie unevenly")
