"""Certificates are checked unless somebody says otherwise, and a refusal says what to do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

import slotwise
import slotwise.asyncio
from slotwise.errors import RedisClusterException
from slotwise.local import LocalError
from slotwise.local.certificates import Authority, Certificate
from slotwise.testing.scripted import ScriptedCluster, ScriptedNode

SHELLS = ("threads", "tasks")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    try:
        return Authority(tmp_path_factory.mktemp("certificates"))
    except LocalError as error:
        pytest.skip(str(error))


def context_of(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key)
    return context


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[ScriptedNode]:
    with ScriptedCluster(1, tls=context) as cluster:
        yield cluster.nodes[0]


def get(shell: str, node: ScriptedNode, **options: Any) -> Any:
    """What a client of its own gets for a key."""
    url = f"rediss://{node.host}:{node.port}"
    if shell == "threads":
        with slotwise.RedisCluster.from_url(url, **options) as client:
            return client.get("key")

    async def main() -> Any:
        async with slotwise.asyncio.RedisCluster.from_url(url, **options) as client:
            return await client.get("key")

    return asyncio.run(main())


def trusting(authority: Authority) -> dict[str, Any]:
    return {"ssl_ca_certs": str(authority.certificate.file)}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("how", "remedy"),
    [
        ("unknown authority", "ssl_ca_certs has to name the file of the authority"),
        ("another name", "the certificate has to hold the address that the client connects to"),
        ("expired", "the server needs a new certificate"),
    ],
)
def test_a_bad_certificate_is_refused(authority: Authority, shell: str, how: str, remedy: str) -> None:
    options = trusting(authority)
    if how == "unknown authority":
        certificate, options = authority.issue("node"), {}
    elif how == "another name":
        certificate = authority.issue("elsewhere", subject="DNS:elsewhere.example")
    else:
        certificate = authority.issue("old", days=-1)
    with serving(context_of(certificate)) as node:
        with pytest.raises(RedisClusterException, match=remedy) as refused:
            get(shell, node, **options)
        assert "CERTIFICATE_VERIFY_FAILED" in str(refused.value)
        # Not a byte of a command has left, by TLS or without.
        assert node.reads == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_good_one_is_taken(authority: Authority, shell: str) -> None:
    with serving(context_of(authority.issue("good"))) as node:
        node.expect("GET", "key").reply(b"value")
        assert get(shell, node, **trusting(authority)) == b"value"


@pytest.mark.parametrize("shell", SHELLS)
def test_checks_end_where_somebody_says_so(authority: Authority, shell: str) -> None:
    with serving(context_of(authority.issue("old", days=-1))) as node:
        node.expect("GET", "key").reply(b"value")
        assert get(shell, node, ssl_cert_reqs="none") == b"value"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("how", "remedy"),
    [
        ("none", "ssl_certfile and ssl_keyfile"),
        ("of another authority", "does not know the authority that signed the client's certificate"),
        ("with another key", "ssl_keyfile is not the key of the certificate in ssl_certfile"),
        ("missing", "names no file"),
    ],
)
def test_a_client_without_a_good_certificate(
    authority: Authority, tmp_path: Path, shell: str, how: str, remedy: str
) -> None:
    context = context_of(authority.issue("node"))
    context.load_verify_locations(authority.certificate.file)
    context.verify_mode = ssl.CERT_REQUIRED
    # With TLS 1.3 a client may get to send before it hears the verdict, and then loses that.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    own = Authority(tmp_path).issue("client")
    files = {
        "none": {},
        "of another authority": {"ssl_certfile": own.file, "ssl_keyfile": own.key},
        "with another key": {"ssl_certfile": own.file, "ssl_keyfile": authority.certificate.key},
        "missing": {"ssl_certfile": tmp_path / "nothing", "ssl_keyfile": own.key},
    }[how]
    with (
        serving(context) as node,
        pytest.raises(RedisClusterException, match=remedy),
    ):
        get(shell, node, **trusting(authority), **{name: str(file) for name, file in files.items()})


@pytest.mark.parametrize("shell", SHELLS)
def test_a_certificate_that_becomes_bad(authority: Authority, shell: str) -> None:
    """A client that was connected says it as clearly as a new one."""
    context = context_of(authority.issue("node"))
    with ScriptedCluster(1, tls=context) as cluster:
        node = cluster.nodes[0]
        node.expect("GET", "key").often().reply(b"value")
        options = {**trusting(authority), "ssl": True}

        def spoil() -> None:
            old = authority.issue("old", days=-1)
            context.load_cert_chain(old.file, old.key)
            node.drop_connections()

        async def main() -> None:
            async with slotwise.asyncio.RedisCluster(node.host, node.port, **options) as client:
                assert await client.get("key") == b"value"
                spoil()
                await client.get("key")

        def threads() -> None:
            with slotwise.RedisCluster(node.host, node.port, **options) as client:
                assert client.get("key") == b"value"
                spoil()
                client.get("key")

        with pytest.raises(redis.ConnectionError, match="the server needs a new certificate"):
            threads() if shell == "threads" else asyncio.run(main())
