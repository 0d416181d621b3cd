"""Faults in a real cluster on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType

from slotwise._slots import key_slot
from slotwise.local import LocalCluster, LocalNode, NotReadyError, ServerBinary
from slotwise.testing.proxy import Relay, Relays

_POLL = 0.02
# Seconds for all nodes to hear of the relays' ports.
_ANNOUNCED_WITHIN = 30.0


class Chaos:
    """Kills, freezes, cuts off and reshards the nodes of a started `LocalCluster`. A context manager that heals it.

    ::

        with LocalCluster() as cluster, Chaos(cluster) as chaos:
            client = RedisCluster.from_url(chaos.url)
            chaos.kill(chaos.owner_of("key"))

    Every node then tells clients the port of a TCP relay that stands before it: clients (which need not know) and
    replication go through the relay, the nodes' gossip does not. So `partition`, `freeze` and `slow` are faults of the
    network between a node and everybody who uses it, at which no other node takes its place; a node that nobody hears
    any more is `pause`. Relays cost each command about a tenth of a millisecond; ``proxied=False`` does without, and
    without those three. They need Redis 7 or a Valkey. ``heals=False`` leaves the cluster as it is at the end, because
    it is going to be stopped.

    Methods return when the fault is there, `failover` and `move_slots` when the cluster has settled; they may be called
    from any thread, under asyncio by ``asyncio.to_thread``.
    """

    def __init__(self, cluster: LocalCluster, *, proxied: bool = True, heals: bool = True) -> None:
        if proxied and not can_be_proxied(cluster.binary):
            raise ValueError(
                f"{cluster.server_name} {cluster.server_version} cannot announce another port while it runs; "
                "take Redis 7 or later, or proxied=False"
            )
        #: The cluster, whose own addresses lead past the relays.
        self.cluster = cluster
        self._proxied = proxied
        self._heals = heals
        self._relays: Relays | None = None

    @property
    def url(self) -> str:
        """Where clients begin, such as ``redis://127.0.0.1:7000``."""
        node = self.cluster.nodes[0]
        if self._relays is None:
            return node.url
        return node.url.replace(f"{node.host}:{node.port}", f"{node.host}:{self._relay(node).port}")

    # -- who is what now -------------------------------------------------------------------

    @property
    def primaries(self) -> list[LocalNode]:
        """The running nodes that call themselves primaries at this moment."""
        return self.cluster.primaries

    @property
    def replicas(self) -> list[LocalNode]:
        """The running nodes that call themselves replicas at this moment."""
        return self.cluster.replicas

    def owner_of(self, key: str | bytes) -> LocalNode:
        """The running primary that serves ``key`` at this moment. Raises LocalError when there is none."""
        return self.cluster.owner_of(key_slot(key))

    def replicas_of(self, primary: LocalNode) -> list[LocalNode]:
        """The running replicas of ``primary`` at this moment."""
        return self.cluster.replicas_of(primary)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Returns when the running nodes serve all slots again; NotReadyError after ``timeout`` seconds."""
        self.cluster.wait_ready(timeout)

    # -- faults of processes ---------------------------------------------------------------

    def kill(self, node: LocalNode) -> None:
        """Ends a node as a crash does (SIGKILL); connections to it are refused from then on."""
        self.cluster.kill(node)
        if self._relays is not None:
            self._relays.run(self._relay(node).refuse())

    def restart(self, node: LocalNode) -> None:
        """Starts a node again, killing it first if need be. It has no data but what its primary sends it."""
        self.kill(node)
        self.cluster.restart(node)
        if self._relays is not None:
            self._relays.run(self._relay(node).listen())

    def pause(self, node: LocalNode) -> None:
        """Freezes a node (SIGSTOP): its connections stay open and silent, and it is taken for dead in the end."""
        self.cluster.pause(node)

    def resume(self, node: LocalNode) -> None:
        """Lets a paused node go on (SIGCONT)."""
        self.cluster.resume(node)

    # -- changes that lose nothing ---------------------------------------------------------

    def failover(self, node: LocalNode, timeout: float = 30.0) -> LocalNode:
        """Makes ``node``, or a replica of it when it is a primary, the primary of its slots; returns the new primary.

        Raises ValueError for a primary without a running replica, NotReadyError after ``timeout`` seconds.
        """
        if node in self.primaries:
            replicas = self.replicas_of(node)
            if not replicas:
                raise ValueError(f"node {node.port} has no running replica")
            node = replicas[0]
        self.cluster.failover(node, timeout)
        return node

    def move_slots(self, slots: Iterable[int], to_node: LocalNode, *, atomic: bool = False) -> int:
        """Moves slots with their keys while clients use them; returns the number of keys.

        Key by key, where clients meet ASK and TRYAGAIN on the way, or ``atomic``, all at once, as Valkey moves slots
        since 9.0; other servers raise ValueError.
        """
        return self.cluster.move_slots(slots, to_node, atomic=atomic)

    def rolling_restart(self, pause: float = 1.0) -> None:
        """Restarts all nodes one after another, as an upgrade does it: primaries after a replica has taken over and
        clients have had ``pause`` seconds to learn of it. What reaches a server that is going down is lost."""
        for node in self.cluster.nodes:
            if node in self.primaries:
                self.failover(node)
                time.sleep(pause)
            self.restart(node)
            self.wait_ready()

    # -- faults of the network -------------------------------------------------------------

    def partition(self, node: LocalNode) -> None:
        """Lets nothing pass to or from a node. What is on its way arrives when the network is mended."""
        self._network.run(self._relay(node).hold())

    def freeze(self, node: LocalNode) -> None:
        """Makes the open connections to a node half-open: they never say anything more. New ones are as ever."""
        self._network.run(self._relay(node).silence())

    def slow(self, node: LocalNode, seconds: float) -> None:
        """Makes every command and every reply of a node arrive ``seconds`` / 2 later; 0 ends it."""
        self._network.run(self._relay(node).slow(seconds / 2))

    def replace_address(self, node: LocalNode) -> None:
        """Gives a node another port, and refuses connections to the old one, as when its container is moved."""
        old = self._network.replace(node.address)
        self._announce({node: self._relay(node).port for node in self.cluster.nodes})
        self._network.run(old.refuse())

    def mend(self, node: LocalNode) -> None:
        """Ends `partition`, `freeze` and `slow` of a node. Connections that were frozen are reset."""
        self._network.run(self._relay(node).mend())

    # -- life ------------------------------------------------------------------------------

    def heal(self) -> None:
        """Ends all faults: every node runs, the network is whole, no slot is half-way; returns when all is ready.

        Roles and slots stay as they are now, and so do the keys.
        """
        for node in self.cluster.nodes:
            if self._relays is not None:
                self._relays.run(self._relay(node).mend())
            if node.state == "stopped":
                self.restart(node)
        self.cluster.heal()

    def __enter__(self) -> Chaos:
        if self._proxied:
            self._relays = Relays(node.address for node in self.cluster.nodes)
            self._announce({node: self._relay(node).port for node in self.cluster.nodes})
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if self._heals:
                self.heal()
            if self._heals and self._relays is not None:
                self._announce({})
        finally:
            relays, self._relays = self._relays, None
            if relays is not None:
                relays.stop()

    @property
    def _network(self) -> Relays:
        if self._relays is None:
            raise RuntimeError("this needs relays: with Chaos(cluster, proxied=True) as chaos")
        return self._relays

    def _relay(self, node: LocalNode) -> Relay:
        return self._network.relays[node.address]

    def _announce(self, ports: dict[LocalNode, int]) -> None:
        """Lets the nodes tell these ports in place of their own; returns when all of them know."""
        for node in self.cluster.nodes:
            # 0 stands for its own. Of the configuration as well, for when it is restarted.
            node.config["cluster-announce-port"] = ports.get(node, 0)
            node.call("CONFIG", "SET", "cluster-announce-port", ports.get(node, 0))
        told = [f":{ports.get(node, node.port)}@" for node in self.cluster.nodes]
        deadline = time.monotonic() + _ANNOUNCED_WITHIN
        while not all(port in node.call("CLUSTER", "NODES") for node in self.cluster.nodes for port in told):
            if time.monotonic() > deadline:
                raise NotReadyError("the nodes have not heard of each other's relays")
            time.sleep(_POLL)
        self.wait_ready()


def can_be_proxied(server: ServerBinary) -> bool:
    """Whether a server can announce another port while it runs, as Redis can since 7.0 and Valkey always."""
    return server.name == "valkey" or server.version_info >= (7, 0)
