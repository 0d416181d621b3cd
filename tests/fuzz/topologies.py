"""What nodes tell of a cluster, as it could be and damaged; as replies and as the bytes of them."""

import math
import random
from typing import Any

from slotwise._reply import ServerError
from tests.fuzz.streams import bulk

NUMBERS = [0, 1, 16383, 16384, 65_535, 65_536, -1, 2**31, 2**63 - 1, -(2**63)]
TEXTS = [
    b"",
    b"?",
    b"\xff",
    b"0",
    b"7000",
    b"1e3",
    b"10.0.0.1",
    b"online",
    b"master",
    b"slots",
    b"nodes",
    b"\0" * 3,
]
ODD = [
    None,
    True,
    math.inf,
    math.nan,
    1.5,
    "",
    b"x" * 300,
    b"9" * 5000,
    [],
    [[]],
    {},
    [b"\0"],
    {b"port": 1},
    ServerError("ERR"),
]


def odd(rnd: random.Random) -> Any:
    what = rnd.random()
    if what < 0.3:
        return rnd.choice(NUMBERS)
    if what < 0.5:
        return rnd.choice(TEXTS)
    if what < 0.55:
        # As deep as a link lets it be.
        deep: Any = []
        for _ in range(250):
            deep = [deep]
        return deep
    return rnd.choice(ODD)


def node(rnd: random.Random) -> tuple[bytes, int, bytes]:
    number = rnd.randrange(6)
    return b"10.0.0.%d" % number, 7000 + number, b"%040x" % number


def bounds(rnd: random.Random) -> list[tuple[int, int]]:
    """Slots cut into ranges."""
    cuts = sorted({rnd.randrange(1, 16384) for _ in range(rnd.randrange(4))})
    return list(zip([0, *cuts], [*(cut - 1 for cut in cuts), 16383], strict=True))


def slots(rnd: random.Random) -> list[Any]:
    def told() -> list[Any]:
        host, port, name = node(rnd)
        metadata = [b"availability-zone", b"east", b"ip", b"10.1.1.1"][: 2 * rnd.randrange(3)]
        return [rnd.choice([host, host, None, b"", b"?"]), port, name, as_map(rnd, metadata)][
            : rnd.choice([2, 3, 4])
        ]

    return [[first, last, *(told() for _ in range(rnd.randrange(1, 4)))] for first, last in bounds(rnd)]


def shards(rnd: random.Random) -> list[Any]:
    def told(role: bytes) -> Any:
        host, port, name = node(rnd)
        fields = [b"id", name, b"port", port, b"ip", host, b"endpoint", host, b"role", role]
        fields += [b"health", rnd.choice([b"online", b"online", b"failed", b"loading"])]
        fields += [b"tls-port", port + 1, b"availability-zone", b"west"][: 2 * rnd.randrange(3)]
        return as_map(rnd, fields)

    def shard(first: int, last: int) -> Any:
        nodes = [told(b"master"), *(told(b"replica") for _ in range(rnd.randrange(3)))]
        return as_map(rnd, [b"slots", [first, last], b"nodes", nodes])

    return [shard(first, last) for first, last in bounds(rnd)]


def nodes(rnd: random.Random) -> bytes:
    flags = [b"master", b"myself,master", b"slave", b"master,fail?", b"master,fail", b"noaddr"]

    def line(name: bytes, host: bytes, port: int) -> bytes:
        served = [b"connected", *(b"%d-%d" % pair for pair in bounds(rnd))][: rnd.randrange(5)]
        words = [name, b"%b:%d@1%d" % (host, port, port), rnd.choice(flags), b"-", b"0", b"0"]
        return b" ".join([*words, b"%d" % rnd.randrange(9), *served])

    lines = []
    for _ in range(rnd.randrange(6)):
        host, port, name = node(rnd)
        lines.append(line(name, host, port))
    return b"\n".join(lines)


def as_map(rnd: random.Random, fields: list[Any]) -> Any:
    """RESP3's map, or what RESP2 has for it."""
    return fields if rnd.random() < 0.5 else dict(zip(fields[::2], fields[1::2], strict=True))


def damaged(rnd: random.Random, reply: Any, depth: int = 0) -> Any:
    """The same with something odd in one place."""
    if depth and (not reply or rnd.random() < 0.25):
        return odd(rnd)
    if isinstance(reply, dict) and reply:
        key = rnd.choice(list(reply))
        changed = {**reply, key: damaged(rnd, reply[key], depth + 1)}
        if rnd.random() < 0.2:
            del changed[key]
        return changed
    if isinstance(reply, list) and reply:
        at = rnd.randrange(len(reply))
        what = rnd.random()
        if what < 0.1:
            return reply[:at] + reply[at + 1 :]
        if what < 0.2:
            return [*reply[:at], odd(rnd), *reply[at:]]
        if what < 0.25:
            return reply + reply[at:]
        return [*reply[:at], damaged(rnd, reply[at], depth + 1), *reply[at + 1 :]]
    if isinstance(reply, bytes) and reply and rnd.random() < 0.8:
        at = rnd.randrange(len(reply))
        return (
            reply[:at] + rnd.choice([b"", b" ", b"\n", b"-", b"9" * 30, b"\xff", b"master"]) + reply[at + 1 :]
        )
    return odd(rnd)


def encoded(reply: Any) -> bytes:
    """The reply as a node would send it."""
    if reply is None:
        return b"_\r\n"
    if isinstance(reply, bool):
        return b"#t\r\n" if reply else b"#f\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, float):
        return b",%r\r\n" % reply
    if isinstance(reply, str):
        return b"+%b\r\n" % reply.encode()
    if isinstance(reply, bytes):
        return bulk(reply)
    if isinstance(reply, ServerError):
        return b"-%b\r\n" % reply.text.encode()
    if isinstance(reply, dict):
        return b"%%%d\r\n" % len(reply) + b"".join(encoded(part) for pair in reply.items() for part in pair)
    return b"*%d\r\n" % len(reply) + b"".join(map(encoded, reply))
