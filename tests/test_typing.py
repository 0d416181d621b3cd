"""What a type checker sees of slotwise, in a program that uses it."""

import subprocess
import sys
from collections.abc import Callable

import pytest

PROGRAM = """
import numpy
import numpy.typing
import redis
from typing_extensions import assert_type

import slotwise
import slotwise.asyncio
from slotwise import ClusterNode, RedisCluster
from slotwise.errors import UnknownOutcomeError
from slotwise.local import LocalCluster
from slotwise.sync.distribution import Distribution
from slotwise.sync.pipeline import ClusterPipeline

client = RedisCluster(host="localhost", port=6379, decode_responses=True)
assert_type(RedisCluster.from_url("redis://localhost:6379"), RedisCluster)
assert_type(slotwise.connect("redis://localhost:6379"), RedisCluster | redis.Redis)
assert_type(slotwise.key_slot(b"key"), int)
assert_type(slotwise.key_slots(["a", 1, b"c"]), numpy.typing.NDArray[numpy.uint16])
assert_type(client.pipeline(), ClusterPipeline)
assert_type(client.distribution(), Distribution)
assert_type(client.distribution().balanced, bool)
for node, keys in client.group_by_node(["a"]).items():
    assert_type(node, ClusterNode)

drop_in: redis.RedisCluster = client
failure: redis.ConnectionError = UnknownOutcomeError("lost")
under_asyncio: redis.asyncio.RedisCluster = slotwise.asyncio.RedisCluster(host="localhost", port=6379)
with LocalCluster(primaries=3) as cluster:
    assert_type(cluster.url, str)
"""

WRONG = """
import slotwise

slotwise.key_slot({"a": "dict"})
"""


Check = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Type-checks a program; what mypy learns of the libraries is kept for the next one."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("typing")
    path = folder / "program.py"

    def check(program: str) -> "subprocess.CompletedProcess[str]":
        path.write_text(program)
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), str(path)]
        # Elsewhere than in the sources: it is the installed package that is to tell its types.
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    return check


def test_a_program_is_typed(check: Check) -> None:
    run = check(PROGRAM)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_mistake_is_found(check: Check) -> None:
    assert 'error: Argument 1 to "key_slot"' in check(WRONG).stdout
