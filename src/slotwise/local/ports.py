"""Free loopback ports for servers and for their cluster buses."""

import random
import socket

#: Without `cluster-port` (which Redis 6.2 lacks) a node's bus listens this far above its port.
BUS_OFFSET = 10_000

# Both ends of a pair stay below 32768, where Linux starts to hand out ports for outgoing
# connections: one of those must not take a node's port while the node is being restarted.
_LOWEST, _HIGHEST = 11_000, 32_767 - BUS_OFFSET

# Tests that seed the global generator would otherwise all ask for the same ports.
_random = random.SystemRandom()


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 just now."""
    with socket.socket() as probe:
        # As the servers do: what is left of closed connections does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """`count` ports that are free together with their bus ports, as neighbours.

    Another process may still take one first, so the caller has to be ready to choose again.
    """
    for _ in range(200):
        first = _random.randint(_LOWEST, _HIGHEST - count)
        ports = range(first, first + count)
        if all(is_free(port) and is_free(port + BUS_OFFSET) for port in ports):
            return list(ports)
    raise OSError(f"no {count} neighbouring free ports between {_LOWEST} and {_HIGHEST}")
