"""500 tasks that cancel and time out: every reply belongs to its command, and nothing is left behind.

By default 30,000 commands; SLOTWISE_STRESS=1 makes it 1,000,000, also under AddressSanitizer (docs/development.md)::

    SLOTWISE_STRESS=1 pytest --timeout=1800 tests/asyncio/test_storm.py
"""

import pytest

from slotwise.local import LocalCluster
from tests.asyncio.programs import STRESS, program

COMMANDS = 1_000_000 if STRESS else 30_000
STRICT = ("-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning")


def check(
    cluster: LocalCluster, commands: int, *options: str, arguments: str = "", **environment: str
) -> dict[str, int]:
    seen, said = program(
        f"tests.asyncio.storm:storm({cluster.url!r}, {commands}{arguments})",
        *options,
        timeout=1700,
        **environment,
    )
    # In debug mode asyncio tells of every step that took more than 0.1 s.
    assert [line for line in said.splitlines() if not (line.startswith("Executing") and "took" in line)] == []
    assert {
        what: seen[what] for what in ("wrong", "left in a link", "files left", "threads left")
    } == dict.fromkeys(("wrong", "left in a link", "files left", "threads left"), 0)
    assert seen["cancelled"] > commands / 50
    assert seen["timed out"] > commands / 500
    assert seen["get"] > commands / 3
    result: dict[str, int] = seen
    return result


@pytest.mark.timeout(1800)
def test_every_reply_belongs_to_its_command(cluster: LocalCluster) -> None:
    check(cluster, COMMANDS, "-W", "error", "-W", "ignore::DeprecationWarning")


@pytest.mark.timeout(1800)
def test_the_same_while_links_time_out(cluster: LocalCluster) -> None:
    try:
        seen = check(
            cluster,
            COMMANDS // 6,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            arguments=", pauses=True",
        )
    finally:
        for primary in cluster.primaries:
            primary.call("CLIENT", "UNPAUSE")
    assert seen["no reply in time"] > 0


@pytest.mark.timeout(1800)
def test_the_same_in_debug_mode(cluster: LocalCluster) -> None:
    check(cluster, COMMANDS if STRESS else COMMANDS // 5, *STRICT, PYTHONASYNCIODEBUG="1")


@pytest.mark.timeout(1800)
def test_the_same_with_uvloop(cluster: LocalCluster) -> None:
    pytest.importorskip("uvloop", reason="an optional package, not installed here")
    check(
        cluster, COMMANDS // 5, "-W", "error", "-W", "ignore::DeprecationWarning", arguments=", uvloop=True"
    )
