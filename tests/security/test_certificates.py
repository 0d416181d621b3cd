"""Certificates that are replaced on disk: who connects from then on uses the new ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import slotwise
import slotwise.asyncio
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.local.certificates import Authority, Certificate
from tests.asyncio.loops import run
from tests.security.conftest import MakeCluster
from tests.security.load import SHELLS, Load


def replace(file: Path, text: str) -> None:
    """As whoever renews certificates should: nobody reads half a file."""
    whole = file.with_suffix(".new")
    whole.write_text(text)
    whole.replace(file)


def install(certificate: Certificate, at: Certificate) -> None:
    replace(at.key, certificate.key.read_text())
    replace(at.file, certificate.file.read_text())


def reload(cluster: LocalCluster) -> None:
    """Every node reads its files again."""
    assert cluster.tls is not None
    files = {
        "tls-cert-file": cluster.tls.node.file,
        "tls-key-file": cluster.tls.node.key,
        "tls-ca-cert-file": cluster.tls.authority.certificate.file,
    }
    for node in cluster.nodes:
        words = [
            cluster.binary.path_inside(word) if isinstance(word, Path) else word
            for pair in files.items()
            for word in pair
        ]
        node.call("CONFIG", "SET", *words)


def renew_everything(cluster: LocalCluster) -> None:
    """Another authority signs all; at the end nobody trusts the first one."""
    assert cluster.tls is not None
    tls = cluster.tls
    trusted = tls.authority.certificate.file
    other = Authority(tls.authority.folder / "other")
    new = other.certificate.file.read_text()
    replace(trusted, trusted.read_text() + new)
    reload(cluster)
    install(other.issue("node"), tls.node)
    install(other.issue("client"), tls.client)
    reload(cluster)
    replace(trusted, new)
    reload(cluster)


def drop_connections(cluster: LocalCluster, kind: str) -> int:
    """Ends every connection of clients; how many there were."""
    return sum(node.call("CLIENT", "KILL", "TYPE", kind) for node in cluster.nodes)


@pytest.mark.parametrize("shell", SHELLS)
def test_renewal_under_load(make_cluster: MakeCluster, shell: str) -> None:
    with make_cluster() as cluster:
        load = Load(shell)
        with load.running(lambda kind: kind.from_url(cluster.url)):
            renew_everything(cluster)
            load.go_on()
            assert load.errors == []
            # Nobody trusts the certificates that these were opened with.
            assert drop_connections(cluster, "normal") > 0
        # What was on its way to a node when its connection was ended is the caller's to decide.
        assert [error for error in load.errors if not isinstance(error, UnknownOutcomeError)] == []
        with slotwise.RedisCluster.from_url(cluster.url) as client:
            assert load.violations(client) == []


def test_a_subscription_connects_again_with_the_new_ones(make_cluster: MakeCluster) -> None:
    """redis-py's asyncio connections keep what they have read once."""
    with make_cluster() as cluster:

        async def main() -> None:
            async with (
                slotwise.asyncio.RedisCluster.from_url(cluster.url) as client,
                client.pubsub() as pubsub,
            ):
                await pubsub.subscribe("news")
                assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
                await asyncio.to_thread(renew_everything, cluster)
                assert drop_connections(cluster, "pubsub") == 1
                # Connected and subscribed anew.
                kinds: list[str] = []
                while "gap" not in kinds:
                    message = await pubsub.get_message(timeout=5)
                    kinds += [message["type"]] if message else []
                assert kinds == ["subscribe", "gap"]
                await client.publish("news", "words")
                assert (await pubsub.get_message(timeout=5))["data"] == b"words"

        run(main)
