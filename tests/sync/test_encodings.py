"""Text on its way in and out: encodings, decoded replies, and both protocols."""

from __future__ import annotations

from typing import Any

import pytest

from slotwise.local import LocalCluster
from tests.sync.conftest import MakeClient


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252"])
@pytest.mark.parametrize("decode", [True, False])
def test_text_round_trip(
    cluster: LocalCluster, make_client: MakeClient, protocol: int, encoding: str, decode: bool
) -> None:
    client = make_client(cluster, protocol=protocol, encoding=encoding, decode_responses=decode)
    key, text = "schlüssel", "größe"
    expected: Any = text if decode else text.encode(encoding)
    client.set(key, text)
    assert client.get(key) == expected
    assert client.mget(key) == [expected]
    assert client.mget_nonatomic(key) == [expected]
    assert client.pipeline().get(key).execute() == [expected]
    assert client.get(key.encode(encoding)) == expected
    assert client.delete(key) == 1


def test_latin_1_keys_reach_their_slot(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(cluster, encoding="latin-1")
    for n in range(50):
        key = f"ä{n}"
        client.set(key, n)
        assert client.keyslot(key) == cluster.nodes[0].call("CLUSTER", "KEYSLOT", key.encode("latin-1"))
    assert client.pipeline().get("ä1").get("ä2").execute() == [b"1", b"2"]


def test_reply_that_cannot_be_decoded_is_one_callers_trouble(
    cluster: LocalCluster, make_client: MakeClient
) -> None:
    client = make_client(cluster, decode_responses=True)
    client.set("{e}bad", b"\xff\xfe")
    client.set("{e}good", "good")
    with pytest.raises(UnicodeDecodeError):
        client.get("{e}bad")
    assert client.get("{e}good") == "good"
    with pytest.raises(UnicodeDecodeError):
        client.mget("{e}good", "{e}bad", "{e}good")
    assert client.mget("{e}good") == ["good"]
    first, second, third = client.pipeline().get("{e}good").get("{e}bad").get("{e}good").execute(False)
    assert (first, third) == ("good", "good")
    assert isinstance(second, UnicodeDecodeError)
    with pytest.raises(UnicodeDecodeError):
        client.pipeline().get("{e}bad").execute()
    assert client.get("{e}good") == "good"


def test_bytes_that_must_stay_bytes(cluster: LocalCluster, make_client: MakeClient) -> None:
    """DUMP is never decoded, whatever the client decodes."""
    client = make_client(cluster, decode_responses=True)
    client.set("{d}a", "value")
    dumped = client.dump("{d}a")
    assert isinstance(dumped, bytes)
    assert client.restore("{d}b", 0, dumped, replace=True) in (True, "OK", b"OK")
    assert client.get("{d}b") == "value"


def test_encoding_errors(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(cluster, encoding="ascii", encoding_errors="replace", decode_responses=True)
    client.set("replaced", "größe")
    assert client.get("replaced") == "gr??e"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "value", [b"", b"\r\n", b"\x00\xff", b"$-1\r\n", b"x" * 20_000, b"*1\r\n$4\r\nPING\r\n"]
)
def test_binary_values(cluster: LocalCluster, make_client: MakeClient, protocol: int, value: bytes) -> None:
    client = make_client(cluster, protocol=protocol)
    key = b"bin" + value[:50]
    client.set(key, value)
    assert client.get(key) == value
    assert client.pipeline().set(key, value).get(key).execute() == [True, value]
    assert client.set(bytearray(key), memoryview(value)) is True
    assert client.get(memoryview(key)) == value
    client.delete(key)


def test_numbers(cluster: LocalCluster, make_client: MakeClient) -> None:
    client = make_client(cluster)
    for number in (0, -1, 2**63, -(2**63), 10**30, 1.5, float("inf"), 1e-300):
        client.set("number", number)
        assert client.get("number") == repr(number).encode()
        client.set(number, "as a key")
        assert client.get(number) == b"as a key"
        client.delete(number)
