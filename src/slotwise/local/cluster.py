"""A real cluster on this machine."""

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from slotwise.local.config import Value
from slotwise.local.errors import LocalError, NotReadyError
from slotwise.local.formation import form_cluster
from slotwise.local.node import LocalNode, Role
from slotwise.local.servers import Servers
from slotwise.local.slots import AtomicMove, SlotMove, moves_atomically
from slotwise.local.view import read_view, what_is_missing

if TYPE_CHECKING:
    from redis.cluster import ClusterNode

_POLL = 0.02
# Seconds after which a replica has forgotten a manual failover that did not come about, because a primary was busy or
# refused its vote; the servers' own limit is 5.
_FAILOVER_GIVEN_UP = 6.0


class LocalCluster(Servers):
    """Real cluster nodes on free loopback ports, gone without trace when the program ends.

    ::

        with LocalCluster(primaries=3, replicas=1) as cluster:
            client = RedisCluster.from_url(cluster.url)

    `replicas` is the number for each primary. Slots are spread evenly; the primaries are the
    first of `nodes`, and replica r of primary p has index ``primaries + r * primaries + p``.
    A primary fails over by itself when most primaries survive, so use three or more for that.

    `server` is described at `find_server`. `node_timeout_ms` is the servers'
    cluster-node-timeout: how long a silent node counts as alive. `config` adds lines to the
    configuration of all nodes (a sequence makes several lines, a bool yes or no).
    `username`, `password` and `tls` ask for credentials and certificates; `url` carries what a
    client needs of them. See `Servers`.
    `directory`, `port` (the first of consecutive ones) and `ready_within` (seconds) have
    defaults that suit tests.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 1,
        *,
        server: str | Path | Sequence[str] | None = None,
        directory: str | Path | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        config: Mapping[str, Value] | None = None,
        node_timeout_ms: int = 2000,
        ready_within: float = 30.0,
    ) -> None:
        if primaries < 1 or replicas < 0:
            raise ValueError("a cluster has at least one primary, and no negative number of replicas")
        roles: list[Role] = ["primary"] * primaries
        roles += ["replica"] * (primaries * replicas)
        super().__init__(
            roles,
            server=server,
            directory=directory,
            port=port,
            username=username,
            password=password,
            tls=tls,
            config=config,
        )
        self._primaries = primaries
        self._node_timeout_ms = node_timeout_ms
        self._ready_within = ready_within

    @property
    def startup_nodes(self) -> "list[ClusterNode]":
        """All nodes as redis-py takes them."""
        from redis.cluster import ClusterNode

        return [ClusterNode(node.host, node.port) for node in self._started()]

    # -- who is what now -------------------------------------------------------------------

    @property
    def running(self) -> list[LocalNode]:
        """The nodes that are neither killed nor paused."""
        return [node for node in self._started() if node.running]

    @property
    def primaries(self) -> list[LocalNode]:
        """The running nodes that call themselves primaries at this moment."""
        return [node for node in self.running if node.call("ROLE")[0] == "master"]

    @property
    def replicas(self) -> list[LocalNode]:
        """The running nodes that call themselves replicas at this moment."""
        return [node for node in self.running if node.call("ROLE")[0] == "slave"]

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Return when the running nodes form a whole cluster: each finds its state ok, they
        agree on roles and slots, each slot is served, replicas are linked to their primaries.

        After `kill` of a primary this therefore waits for the failover. `timeout` in seconds;
        raises NotReadyError that says what is missing.
        """
        deadline = time.monotonic() + timeout
        while missing := what_is_missing(self.running):
            if time.monotonic() > deadline:
                raise NotReadyError(f"cluster not ready after {timeout:g} s: {missing}")
            time.sleep(_POLL)

    def owner_of(self, slot: int) -> LocalNode:
        """The running node that serves `slot` at this moment."""
        for node in self.primaries:
            if slot in read_view(node)[node.id].slots:
                return node
        raise LocalError(f"no running node serves slot {slot}")

    def replicas_of(self, primary: LocalNode) -> list[LocalNode]:
        """The running nodes that replicate `primary` at this moment."""
        return [node for node in self.running if read_view(node)[node.id].primary_id == primary.id]

    # -- changes ---------------------------------------------------------------------------

    def failover(self, replica: LocalNode, timeout: float = 30.0) -> None:
        """Make `replica` the primary of its slots; returns when the whole cluster has seen it.

        The old primary hands over without losing a write if it is running; otherwise the
        replica takes its place at once (FORCE). `timeout` in seconds, then NotReadyError.
        """
        primary_id = read_view(replica)[replica.id].primary_id
        hand_over = any(node.id == primary_id for node in self.running)
        deadline = time.monotonic() + timeout
        command = ("CLUSTER", "FAILOVER", *(() if hand_over else ("FORCE",)))
        replica.call(*command)
        ask_again = time.monotonic() + _FAILOVER_GIVEN_UP
        while replica.call("ROLE")[0] != "master":
            now = time.monotonic()
            if now > deadline:
                raise NotReadyError(f"replica {replica.port} was not promoted within {timeout:g} s")
            if now > ask_again:
                ask_again = now + _FAILOVER_GIVEN_UP
                with contextlib.suppress(ResponseError):  # it was promoted just now
                    replica.call(*command)
            time.sleep(_POLL)
        # A node that wins twice within seconds is promoted on the votes, and with the epoch, of
        # its earlier election (seen in Redis 7.0): nobody believes it without a newer epoch.
        replica.call("CLUSTER", "BUMPEPOCH")
        self.wait_ready(deadline - time.monotonic())

    def slot_move(self, slots: Iterable[int], to_node: LocalNode) -> SlotMove:
        """A move that has not begun, to take step by step."""
        return SlotMove(self.running, slots, to_node)

    def move_slots(self, slots: Iterable[int], to_node: LocalNode, *, atomic: bool = False) -> int:
        """Move slots with their keys to another primary; returns the number of keys.

        Key by key, or with `atomic` all at once, which only Valkey 9 and later can: ValueError
        of others. Returns when all nodes agree on the new owner.
        """
        if atomic:
            if not moves_atomically(to_node):
                raise ValueError(
                    f"{self.server_name} {self.server_version} moves slots key by key only; "
                    "atomic=True needs Valkey 9 or later"
                )
            keys = AtomicMove(self.running, slots, to_node).run()
        else:
            move = self.slot_move(slots, to_node)
            move.open()
            keys = move.move_keys()
            move.close()
        self.wait_ready()
        return keys

    def heal(self) -> None:
        """Let every node run again, leave no slot half-way; returns when the cluster is ready.

        Roles and slots stay as they are now. Keys that an unfinished move had carried over
        already are out of reach until the move is begun again.
        """
        for node in self._started():
            if node.state == "paused":
                self.resume(node)
            elif node.state == "stopped":
                self.restart(node)
        self.wait_ready()
        for node in self.primaries:
            for slot in read_view(node)[node.id].open_slots:
                node.call("CLUSTER", "SETSLOT", slot, "STABLE")

    def _set_up(self) -> None:
        form_cluster(self.nodes, self._primaries, time.monotonic() + self._ready_within)
        self.wait_ready(self._ready_within)
