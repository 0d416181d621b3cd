"""A real cluster with a container per node: each has an address of its own, which may change, and its port is mapped."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from docker import DockerClient
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool
from redis.exceptions import ResponseError
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import SESSION_ID, create_labels

from slotwise.local.formation import form_cluster
from slotwise.local.node import LocalNode
from slotwise.local.slots import SlotMove
from slotwise.local.view import read_view, what_is_missing
from slotwise.local.wire import Wire
from tests.local.processes import wait_until

PRIMARIES = REPLICAS = 3
PORT = 6379
#: Seconds within which containers start and nodes agree.
_READY_WITHIN = 60.0
# Options only: the entry point of the images of Redis and Valkey puts the server before them.
_OPTIONS = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": "2000",
    "protected-mode": "no",
    # A node that comes back has its data still.
    "appendonly": "yes",
}


class ContainerNode(LocalNode):
    """A server in a container. ``host`` and ``port`` are its own; this process talks to it by the mapped port."""

    def __init__(self, index: int, container: DockerContainer, network: Network) -> None:
        super().__init__(index, PORT, "primary" if index < PRIMARIES else "replica", Path("/"))
        self._container = container
        self._network = network
        self.came_up()

    @property
    def mapped(self) -> tuple[str, int]:
        """Where this machine's port leads to it; another one after each start."""
        return self._container.get_container_host_ip(), self._container.get_exposed_port(PORT)

    def connect(self, timeout: float = 5.0) -> Wire:
        return Wire(*self.mapped, timeout=timeout)

    def came_up(self) -> None:
        """Wait until it answers, and read the address that it has now."""
        wait_until(self._answers, _READY_WITHIN)
        container = self._container.get_wrapped_container()
        container.reload()
        self.host = container.attrs["NetworkSettings"]["Networks"][self._network.name]["IPAddress"]
        self.state = "running"

    def _answers(self) -> bool:
        with suppress(OSError, ResponseError):  # it loads its data
            return bool(self.call("PING") == "PONG")
        return False

    # -- faults ------------------------------------------------------------------------------

    def kill(self) -> None:
        """End the container as a crash does."""
        self._container.get_wrapped_container().kill()
        self.state = "stopped"

    def cut_off(self) -> None:
        """Take it off the network: it runs on, and nothing comes from it any more, not even a RST."""
        self._network.disconnect(self._container.get_wrapped_container())
        self.state = "paused"

    def rejoin(self) -> None:
        """End `cut_off`, with the same address."""
        self._network.connect(self._container.get_wrapped_container(), ipv4_address=self.host)
        self.came_up()

    def start(self) -> None:
        """End `kill`."""
        self._container.get_wrapped_container().start()
        self.came_up()

    def move_to(self, address: str) -> None:
        """Stop the container, and start it with another address."""
        container = self._container.get_wrapped_container()
        container.stop()
        self._network.disconnect(container)
        self._network.connect(container, ipv4_address=address)
        self.start()


class ContainerCluster:
    """Three primaries with a replica each, on a network of their own. A context manager, which removes it all."""

    def __init__(self, engine: DockerClient, image: str) -> None:
        self._engine = engine
        self._image = image
        self._stack = ExitStack()
        self._network: Network | None = None
        #: The primaries first.
        self.nodes: list[ContainerNode] = []

    def __enter__(self) -> ContainerCluster:
        with ExitStack() as stack:
            self._network = network = _make_network(self._engine)
            stack.callback(network.remove)
            options = [word for name, value in _OPTIONS.items() for word in (f"--{name}", value)]
            for index in range(PRIMARIES + REPLICAS):
                container = DockerContainer(self._image).with_command(options).with_exposed_ports(PORT)
                stack.enter_context(container.with_kwargs(network=network.name))
                self.nodes.append(ContainerNode(index, container, network))
            form_cluster(self.nodes, PRIMARIES, time.monotonic() + _READY_WITHIN)
            self.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # -- where it is -------------------------------------------------------------------------

    @property
    def mapped(self) -> dict[tuple[str, int], tuple[str, int]]:
        """The containers' own addresses, and what leads there from outside."""
        return {node.address: node.mapped for node in self.nodes}

    def unused_addresses(self) -> Iterator[str]:
        """Addresses of the network that no container has, the last ones first."""
        assert self._network is not None
        (pool,) = self._network.attrs["IPAM"]["Config"]
        subnet = ipaddress.ip_network(pool["Subnet"])
        taken = {node.host for node in self.nodes}
        addresses = (str(subnet[-number]) for number in range(2, subnet.num_addresses))
        return (address for address in addresses if address not in taken)

    # -- who is what now ---------------------------------------------------------------------

    def wait_ready(self) -> None:
        """Return when the running nodes agree on roles and slots, all of which are served."""
        wait_until(lambda: not what_is_missing(self._running), _READY_WITHIN)

    @property
    def _running(self) -> list[ContainerNode]:
        return [node for node in self.nodes if node.running]

    @property
    def primaries(self) -> list[ContainerNode]:
        """The running nodes that call themselves primaries at this moment."""
        return [node for node in self._running if node.call("ROLE")[0] == "master"]

    def owner_of(self, slot: int) -> ContainerNode:
        """The running node that serves ``slot`` at this moment."""
        (owner,) = (node for node in self.primaries if slot in read_view(node)[node.id].slots)
        return owner

    def replicas_of(self, primary: ContainerNode) -> list[ContainerNode]:
        """The running nodes that replicate ``primary`` at this moment."""
        return [node for node in self._running if read_view(node)[node.id].primary_id == primary.id]

    def slot_move(self, slots: Iterable[int], to_node: ContainerNode) -> SlotMove:
        """A move that has not begun, to take step by step."""
        return SlotMove(self.nodes, slots, to_node)

    def heal(self) -> None:
        """Let every node run and be on the network again; returns when the cluster is ready."""
        for node in self.nodes:
            if node.state == "stopped":
                node.start()
            elif node.state == "paused":
                node.rejoin()
        self.wait_ready()


def _make_network(engine: DockerClient) -> Network:
    """A network on a range of addresses that the engine finds free.

    The engine lets containers have addresses of their choice where the range was chosen as well: so it is asked for one,
    which is given back and then asked for by name.
    """
    name, labels = f"slotwise-{SESSION_ID}", create_labels("", None)
    found = engine.networks.create(name, labels=labels)
    found.reload()
    (pool,) = found.attrs["IPAM"]["Config"]
    found.remove()
    chosen = IPAMConfig(pool_configs=[IPAMPool(subnet=pool["Subnet"])])
    network = engine.networks.create(name, labels=labels, ipam=chosen)
    network.reload()
    return network
