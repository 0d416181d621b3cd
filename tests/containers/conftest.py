"""A cluster whose nodes are containers, where an engine and an image are at hand; else the tests are skipped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from slotwise.local.wire import Wire

if TYPE_CHECKING:
    from docker import DockerClient

    from tests.containers.cluster import ContainerCluster

_DEFAULT_IMAGE = "redis:8"


@pytest.fixture(scope="session")
def _engine() -> Iterator[DockerClient]:
    reason = "testcontainers is not installed: pip install 'slotwise[containers]'"
    pytest.importorskip("testcontainers", reason=reason)
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


def _has(engine: DockerClient, image: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        engine.images.get(image)
    except ImageNotFound:
        return False
    return True


@pytest.fixture(scope="session")
def _image(_engine: DockerClient) -> str:
    """The servers' image. Nothing is pulled unasked: that may take minutes, and a registry."""
    image = os.environ.get("SLOTWISE_TEST_IMAGE", _DEFAULT_IMAGE)
    if not _has(_engine, image):
        pytest.skip(f"there is no image {image}: docker pull it, or name another in SLOTWISE_TEST_IMAGE")
    return image


@pytest.fixture(scope="session")
def _container_cluster(_engine: DockerClient, _image: str) -> Iterator[ContainerCluster]:
    from testcontainers.core.config import testcontainers_config

    from tests.containers.cluster import ContainerCluster

    with pytest.MonkeyPatch.context() as patch:
        if not _has(_engine, testcontainers_config.ryuk_image):
            # It removes what a killed run leaves; but it would be pulled.
            patch.setattr(testcontainers_config, "ryuk_disabled", True)
        # Whoever ends the run lets it clean up.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with ContainerCluster(_engine, _image) as cluster:
                yield cluster
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.fixture
def containers(_container_cluster: ContainerCluster) -> Iterator[ContainerCluster]:
    """Three primaries with a replica each, to kill, cut off and move; healed after each test.

    Roles, slots and addresses stay as the tests before have left them, and so do keys.
    """
    yield _container_cluster
    _container_cluster.heal()


@pytest.fixture
def inside(containers: ContainerCluster) -> ContainerCluster:
    """The same, for clients that reach the containers' own addresses."""
    node = containers.nodes[0]
    try:
        Wire(node.host, node.port, timeout=3).close()
    except OSError as error:
        pytest.skip(
            f"the containers' own addresses cannot be reached, as with an engine in a machine of its own: {error}"
        )
    return containers
