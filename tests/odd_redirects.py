"""Redirects that name nothing one could follow, for the tests of both clients."""

from __future__ import annotations

from slotwise import key_slot
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode

KEY = "a"
SLOT = key_slot(KEY)

# What follows MOVED or ASK where the client gives up at once, with the server's words.
SENSELESS = {
    "nothing": "",
    "no address": f"{SLOT}",
    "no port": f"{SLOT} 127.0.0.1",
    "neither host nor port": f"{SLOT} :",
    "port 0": f"{SLOT} :0",
    "port 65536": f"{SLOT} 127.0.0.1:65536",
    "negative port": f"{SLOT} 127.0.0.1:-1",
    "port in letters": f"{SLOT} 127.0.0.1:http",
    "port of 5,000 digits": f"{SLOT} 127.0.0.1:{'9' * 5000}",
    "no slot": "127.0.0.1:7000",
    "slot 16384": "16384 127.0.0.1:7000",
    "negative slot": "-1 127.0.0.1:7000",
    "slot in letters": "x 127.0.0.1:7000",
    "slot of 5,000 digits": f"{'9' * 5000} 127.0.0.1:7000",
    "host with a space": f"{SLOT} a b:7000",
    "host with NUL": f"{SLOT} a\0b:7000",
    "host of 300 letters": f"{SLOT} {'x' * 300}:7000",
    "host with an empty label": f"{SLOT} a..b:7000",
}
# Where the client gets no further, and so asks for the topology and begins again.
UNREACHABLE = {
    "closed port": f"{SLOT} 127.0.0.1:1",
    "IPv6": f"{SLOT} ::1:1",
    "IPv6 in brackets": f"{SLOT} [::1]:1",
    "unknown host": f"{SLOT} no-such-host.invalid:7000",
}


def say(cluster: ScriptedCluster, error: str) -> None:
    """The owner of KEY answers its next GET, alone or in a transaction, with ``error``; whatever else comes, with a value."""
    other, owner = cluster.nodes
    owner.expect("GET", KEY).send(f"-{error}\r\n".encode())
    owner.expect("GET", KEY).often().reply(b"1")
    other.expect("GET", "b").often().reply(b"2")


def say_in_transaction(cluster: ScriptedCluster, error: str) -> None:
    """The same of the GET of a transaction."""
    owner = cluster.nodes[1]
    owner.expect("MULTI").often().reply("OK")
    owner.expect("GET", KEY).send(f"-{error}\r\n".encode())
    owner.expect("EXEC").error("EXECABORT Transaction discarded because of previous errors.")
    owner.expect("GET", KEY).often().reply("QUEUED")
    owner.expect("EXEC").often().reply([b"1"])


def is_asked_by_another_protocol(node: ScriptedNode) -> None:
    """The node answers every handshake as a web server does."""
    node.expect("HELLO").often().send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").close()
