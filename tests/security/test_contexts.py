"""A client's connections share what was read from the files, for as long as the files are what they were."""

from __future__ import annotations

import asyncio
import gc
import ssl
import weakref
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import RedisSSLContext

import slotwise
import slotwise.asyncio
from slotwise.local import LocalCluster, LocalError
from slotwise.local.certificates import Authority
from slotwise.tls import SharedContext


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    try:
        return Authority(tmp_path)
    except LocalError as error:
        pytest.skip(str(error))


def context(shared: SharedContext, authority: Authority, **more: Any) -> ssl.SSLContext:
    """One of redis-py's defaults for a cluster, but for some."""
    options: dict[str, Any] = dict.fromkeys(RedisSSLContext.__slots__)
    del options["context"]
    client = {
        "certfile": str(authority.folder / "client.pem"),
        "keyfile": str(authority.folder / "client.key"),
    }
    trusted = {"ca_certs": str(authority.certificate.file), "cert_reqs": "required", "check_hostname": True}
    return shared.get(**{**options, **client, **trusted, **more})


def test_one_for_all(authority: Authority) -> None:
    authority.issue("client")
    shared = SharedContext()
    assert context(shared, authority) is context(shared, authority)


@pytest.mark.parametrize("how", ["replaced", "written to"])
@pytest.mark.parametrize("which", ["client.pem", "client.key", "ca.pem"])
def test_another_after_a_file_has_changed(authority: Authority, which: str, how: str) -> None:
    authority.issue("client")
    shared = SharedContext()
    first = context(shared, authority)
    file = authority.folder / which
    text = file.read_text()
    if how == "replaced":
        (authority.folder / "new").write_text(text)
        (authority.folder / "new").replace(file)
    else:
        file.write_text(text + "\n")
    assert context(shared, authority) is not first
    assert context(shared, authority) is context(shared, authority)


def test_options_are_applied(authority: Authority) -> None:
    authority.issue("client")
    strict = context(SharedContext(), authority)
    lax = context(SharedContext(), authority, cert_reqs="none", check_hostname=False)
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    flagged = context(SharedContext(), authority, include_verify_flags=[ssl.VerifyFlags.VERIFY_X509_STRICT])
    assert flagged.verify_flags & ssl.VerifyFlags.VERIFY_X509_STRICT


def test_what_cannot_be_read_is_read_again(authority: Authority) -> None:
    """A certificate that has come before its key."""
    authority.issue("client")
    (authority.folder / "client.pem").write_text(authority.issue("other").file.read_text())
    shared = SharedContext()
    with pytest.raises(ssl.SSLError):
        context(shared, authority)
    (authority.folder / "client.key").write_text((authority.folder / "other.key").read_text())
    assert context(shared, authority) is context(shared, authority)


def test_it_goes_with_its_client(secure: LocalCluster) -> None:
    """And with it the key that was read, and the password of that."""

    def threads() -> Any:
        with slotwise.RedisCluster.from_url(secure.url) as client:
            return weakref.ref(client.nodes_manager._tls._made[1])  # type: ignore[index]

    async def tasks() -> Any:
        async with slotwise.asyncio.RedisCluster.from_url(secure.url) as client:
            return weakref.ref(client.nodes_manager.connection_kwargs["ssl_shared"]._made[1])

    for reference in (threads(), asyncio.run(tasks())):
        gc.collect()
        assert reference() is None
