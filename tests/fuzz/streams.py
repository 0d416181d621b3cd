"""Streams of RESP: as a server could send them, and damaged in the ways that parsers get wrong."""

import random

from tests.fuzz.reference import DEPTH

TYPES = b"+-:$*_,#(=~%>|!"
SIZES = [
    0,
    1,
    2,
    5,
    16,
    17,
    255,
    256,
    65_536,
    10**6,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    10**17,
    10**18 - 1,
    10**18,
]
SIZES += [2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**19, -1, -2, -(2**63)]
PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"-",
    b"00",
    b"+5",
    b" ",
    b"\xff",
    b"txt:",
    b"*1\r\n",
    b"%1\r\n",
    b"$-1\r\n",
    b"|1\r\n",
]
LEAVES = [
    *[
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b"$0\r\n\r\n",
        b"+\r\n",
        b"*0\r\n",
        b"%0\r\n",
        b"~0\r\n",
        b">0\r\n",
        b"%-1\r\n",
    ],
    *[b"#t\r\n", b"#f\r\n", b",1.5\r\n", b",inf\r\n", b",-inf\r\n", b",nan\r\n", b",1e300\r\n", b",10\r\n"],
    *[b"-ERR of some kind\r\n", b"-MOVED 1 h:1\r\n", b"-\r\n", b"+OK\r\n", b":0\r\n", b":-1\r\n"],
    *[b":9223372036854775807\r\n", b":-9223372036854775808\r\n", b":1000000000000000000\r\n"],
    *[
        b"(3492890328409238509324850943850943825024385\r\n",
        b"(-1\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"=4\r\nmkd:\r\n",
    ],
    *[
        b"$2\r\n\r\n\r\n",
        b"$2\r\n\xc3\xa9\r\n",
        b"$1\r\n\xe9\r\n",
        b"+\xc3\xa9\r\n",
        b"+\xe9\r\n",
        b"$4\r\n$1\r\n\r\n",
    ],
]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def leaf(rnd: random.Random) -> bytes:
    what = rnd.random()
    if what < 0.5:
        return rnd.choice(LEAVES)
    if what < 0.6:
        return b":%d\r\n" % rnd.getrandbits(rnd.randrange(1, 64))
    if what < 0.999:
        return bulk(rnd.randbytes(rnd.randrange(12)))
    # About as large as the inbox, and larger.
    value = bulk(b"x" * rnd.choice([30_000, 65_525, 65_536, 65_537, 70_000]))
    return value if rnd.random() < 0.7 else b"+" + value[value.index(b"x") :]


def reply(rnd: random.Random, depth: int = 0) -> bytes:
    if depth > 3 or rnd.random() < 0.5:
        return leaf(rnd)
    n = rnd.choice([0, 1, 1, 2, 2, 3, 4]) if depth or rnd.random() < 0.9 else rnd.choice([16, 17, 18])
    kind = rnd.choice(b"***~%>|")
    parts = [reply(rnd, depth + 1) for _ in range(2 * n if kind in b"%|" else n)]
    return b"%c%d\r\n%b" % (kind, n, b"".join(parts))


def nested(rnd: random.Random) -> bytes:
    """Aggregates as deep as they may be, and deeper."""
    depth = rnd.choice([3, 9, 100, DEPTH - 1, DEPTH, DEPTH + 1, 400])
    kinds = rnd.choice(
        [[b"*1\r\n"], [b"%1\r\n+k\r\n"], [b"|1\r\n+k\r\n"], [b"*1\r\n", b"~2\r\n:1\r\n", b">1\r\n"]]
    )
    return b"".join(rnd.choice(kinds) for _ in range(depth)) + leaf(rnd)


def header(rnd: random.Random) -> bytes:
    return b"%c%d\r\n" % (rnd.choice(TYPES), rnd.choice(SIZES))


def damaged(rnd: random.Random, data: bytes) -> bytes:
    at = rnd.randrange(len(data) + 1)
    size = rnd.choice([0, 0, 1, 1, 2, 5])
    piece = rnd.choice(
        [
            b"",
            rnd.choice(PIECES),
            header(rnd),
            bytes([rnd.choice(TYPES)]),
            rnd.randbytes(1),
            leaf(rnd),
            data[at : at + 9],
        ]
    )
    return data[:at] + piece + data[at + size :]


def stream(rnd: random.Random) -> bytes:
    what = rnd.random()
    if what < 0.05:
        return rnd.randbytes(rnd.randrange(40))
    if what < 0.10:
        return bytes(rnd.choices(TYPES + b"0129-\r\n\r\n", k=rnd.randrange(60)))
    replies = [nested] if what < 0.105 else [reply] * rnd.choice([1, 1, 2, 3])
    data = b"".join(make(rnd) for make in replies)
    for _ in range(rnd.choice([0, 0, 1, 1, 2, 3])):
        data = damaged(rnd, data)
    if rnd.random() < 0.1:
        data += header(rnd)
    return data


def pieces(rnd: random.Random, data: bytes) -> list[bytes]:
    """The stream as it may come: whole, cut anywhere, byte by byte."""
    what = rnd.random()
    if what < 0.2 and len(data) < 100:
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted(rnd.randrange(len(data) + 1) for _ in range(rnd.choice([0, 1, 2, 5])))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
