"""`slotwise load-test`: its options, its exit codes, what it writes, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.random import default_rng

pytest.importorskip("hdrh")
get_command = pytest.importorskip("typer.main").get_command

from slotwise import RedisCluster  # noqa: E402
from slotwise.cli import _app, load_test  # noqa: E402
from slotwise.cli.load_test import _MOST_SEED, _command, _without_password, app  # noqa: E402
from slotwise.loadtest import Options, Result, search  # noqa: E402
from slotwise.loadtest.keys import distribution  # noqa: E402
from slotwise.loadtest.result import read  # noqa: E402
from slotwise.loadtest.workload import KINDS, PRESETS  # noqa: E402
from slotwise.local import LocalCluster, ServerBinary, StandaloneServer  # noqa: E402
from slotwise.local.ports import free_ports  # noqa: E402
from tests.cli.conftest import Run, Start, descendants  # noqa: E402
from tests.loadtest.results import made_up  # noqa: E402
from tests.loadtest.test_search import limited  # noqa: E402
from tests.local.processes import none_alive, wait_until  # noqa: E402

#: As short as a run can be.
SHORT = ("--duration", "1s", "--warmup", "0s", "--keys", "500")
ENDLESS = ("--duration", "1h", "--warmup", "0s", "--keys", "500")
PREFIX = "cli:load:"


def keys_left(cluster: LocalCluster) -> int:
    with RedisCluster.from_url(cluster.url) as client:
        return sum(1 for _ in client.scan_iter(f"{PREFIX}*", count=1000))


def words(text: str) -> str:
    """Without the frames around messages, and the line breaks in them."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def in_process(*options: str) -> Any:
    """Runs the command here, where nothing has to be started for it; its exit code."""
    with pytest.raises(SystemExit) as ended:
        get_command(app).main(list(options), prog_name="slotwise load-test")
    return ended.value.code


def on(cluster: LocalCluster, *more: str) -> tuple[str, ...]:
    return ("load-test", "--url", cluster.url, "--prefix", PREFIX, *SHORT, *more)


# -- what it shows --------------------------------------------------------------------------------


def test_help_names_everything(slotwise: Run) -> None:
    run = slotwise("load-test", "--help")
    assert run.returncode == 0
    text = words(run.stdout)
    for name in (
        *PRESETS,
        *KINDS,
        "kill-primary",
        "rolling-restart",
        "--expect",
        "--compare",
        "--max-under-way",
    ):
        assert name in text
    assert "Exit code 0 if all of --expect is met" in text
    assert "load-test" in slotwise("--help").stdout


def test_a_run_as_a_table(slotwise: Run, cluster: LocalCluster) -> None:
    run = slotwise(*on(cluster, "--expect", "ops=1,p99=1m,errors=0"))
    assert run.returncode == 0, run.stderr
    assert "Storing 500 keys ..." in run.stdout
    assert "operations/s, p50" in run.stdout
    for shard in ("0-5460", "5461-10922", "10923-16383"):
        assert shard in run.stdout
    assert "\x1b" not in run.stdout
    assert run.stderr == ""
    assert keys_left(cluster) == 0


def test_what_it_writes_can_be_read(slotwise: Run, cluster: LocalCluster, tmp_path: Path) -> None:
    saved, page = tmp_path / "a [bold].json", tmp_path / "report.html"
    saved.write_text("something older")
    options = ("--tasks", "3", "--seed", "4", "--keep", "--save", str(saved), "--html", str(page), "--json")
    run = slotwise(*on(cluster, "--expect", "p50=1us", *options))
    # It is written, and missed.
    assert run.returncode == 1, run.stderr
    assert str(saved) in run.stderr
    result = read(saved)
    assert json.loads(run.stdout) == json.loads(saved.read_text())
    assert (result.seed, result.duration, result.client) == (4, 1.0, "slotwise")
    assert result.options["tasks"] == 3
    assert result.options["preset"] == "read-heavy"
    assert result.options["save"] == str(saved)
    assert result.command[:2] == ["slotwise", "load-test"]
    assert "--seed" in result.command
    assert not result.met
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert keys_left(cluster) == 500
    with RedisCluster.from_url(cluster.url) as client:
        client.delete(*client.scan_iter(f"{PREFIX}*", count=1000))


def test_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs, page = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "both.html"
    ours.write_text(made_up().to_json())
    theirs.write_text(made_up("redis-py").to_json())
    assert in_process("--compare", str(ours), str(theirs), "--html", str(page)) == 0
    said = capsys.readouterr().out
    assert "ratio" in said
    assert "redis-py" in said
    assert "beside redis-py" in page.read_text()
    assert in_process("--compare", str(ours), str(theirs), "--json") == 0
    assert [each["client"] for each in json.loads(capsys.readouterr().out)] == ["slotwise", "redis-py"]


def test_a_local_cluster_with_a_fault_and_its_report(slotwise: Run, tmp_path: Path) -> None:
    saved = tmp_path / "result.json"
    options = ("--duration", "2s", "--warmup", "0s", "--keys", "500", "--node-timeout", "1s")
    run = slotwise(
        "load-test", *options, "--fault", "failover@500ms", "--expect", "recovery=10s", "--save", str(saved)
    )
    assert run.returncode == 0, run.stderr
    assert "Started a cluster of 3 primaries with 1 replica(s) each on this machine." in run.stdout
    assert "failover@500ms" in run.stdout
    (fault,) = read(saved).faults
    assert fault.recovered_after is not None


def test_a_search_tells_the_rate_of_the_run_that_it_saves(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = limited(150)
    rates: list[float | None] = []

    def run(options: Options, **others: Any) -> Result:
        rates.append(options.rate)
        return replace(found(options), options=dict(options.settings))

    monkeypatch.setattr(search, "run", run)
    # The handler would stay in the process of the tests.
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    saved = tmp_path / "result.json"
    assert in_process("--url", cluster.url, "--p99", "10ms", "--rate", "20", "--save", str(saved)) == 0
    result = read(saved)
    assert rates[:4] == [20, 40, 80, 160]
    assert result.options["rate"] == result.total.rate > 80
    # An open loop has none.
    assert result.options["tasks"] is None


# -- files ----------------------------------------------------------------------------------------


def limited_files(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where no file can be longer than a block, as on a disk that is full."""
    command = [sys.executable, "-c", "from slotwise.cli import main; main()", *arguments]
    return subprocess.run(
        ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *command], capture_output=True, text=True, timeout=60
    )


def test_a_full_disk_costs_neither_figures_nor_what_was_there(cluster: LocalCluster, tmp_path: Path) -> None:
    saved, page = tmp_path / "result.json", tmp_path / "page.html"
    saved.write_text("older")
    run = limited_files(*on(cluster, "--save", str(saved), "--html", str(page)))
    assert run.returncode == 1
    assert "operations/s, p50" in run.stdout
    assert "Wrote" not in run.stdout
    assert run.stderr == "".join(
        f"slotwise: {path} could not be written: File too large\n" for path in (saved, page)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert saved.read_text() == "older"
    assert keys_left(cluster) == 0


def test_a_comparison_on_a_full_disk(tmp_path: Path) -> None:
    ours, page = tmp_path / "a.json", tmp_path / "page.html"
    ours.write_text(made_up(duration=2).to_json())
    page.write_text("older")
    run = limited_files("load-test", "--compare", str(ours), str(ours), "--html", str(page))
    assert run.returncode == 1
    assert "ratio" in run.stdout
    assert run.stderr == f"slotwise: {page} could not be written: File too large\n"
    assert page.read_text() == "older"


def test_files_are_written_though_nobody_reads_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(load_test, "print_comparison", broken)
    ours, page = tmp_path / "a.json", tmp_path / "page.html"
    ours.write_text(made_up(duration=2).to_json())
    assert in_process("--compare", str(ours), str(ours), "--html", str(page)) == 1
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_result_on_standard_output(slotwise: Run, cluster: LocalCluster, tmp_path: Path) -> None:
    run = slotwise(*on(cluster, "--save", "/dev/stdout"))
    assert run.returncode == 0, run.stderr
    figures, _, saved = run.stdout.partition("{\n")
    assert "operations/s, p50" in figures
    assert json.loads("{" + saved.replace("Wrote /dev/stdout.\n", ""))["client"] == "slotwise"


@pytest.mark.parametrize("there", [False, True])
def test_a_check_leaves_links_and_files_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target)
    if there:
        target.write_text("older")
    assert in_process("--save", str(link), "--rate", "0") == 2
    assert "above 0" in capsys.readouterr().err
    assert link.is_symlink()
    assert target.exists() == there


# -- passwords ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["redis://:{}@{}", "redis://{1}?pass%77ord={0}"])
@pytest.mark.parametrize("wrong", [False, True])
def test_no_password_is_written_anywhere(
    slotwise: Run, server: ServerBinary, tmp_path: Path, wrong: bool, form: str
) -> None:
    saved, page = tmp_path / "result.json", tmp_path / "page.html"
    with LocalCluster(1, 0, server=server.command, password="s3cr@t") as cluster:
        node = cluster.nodes[0]
        password = "s3cr%40x" if wrong else "s3cr%40t"
        url = form.format(password, f"{node.host}:{node.port}")
        options = (*SHORT, "--save", str(saved), "--html", str(page), "--json")
        run = slotwise("load-test", f"--url={url}", *options)
        texts = [run.stdout, run.stderr]
        if wrong:
            assert run.returncode == 1
            assert run.stderr.startswith("slotwise: ")
            assert not saved.exists()
        else:
            assert run.returncode == 0, run.stderr
            texts += [saved.read_text(), page.read_text()]
            assert f"{node.host}:{node.port}" in texts[2]
        assert not [text for text in texts if "s3cr" in text]


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("redis://host:7000", "redis://host:7000"),
        ("redis://me:p@ss@host:7000/0", "redis://***@host:7000/0"),
        ("--url=redis://:pass@host", "--url=redis://***@host"),
        ("rediss://host?password=pass&username=me", "rediss://host?password=***&username=me"),
        ("redis://host?username=me&password=p@ss", "redis://host?username=me&password=***"),
        ("redis://h:1?pass%77ord=a&db=0", "redis://h:1?pass%77ord=***&db=0"),
        ("rediss://h:1?ssl_password=a=b#c", "rediss://h:1?ssl_password=***"),
        ("redis://h?PASSWORD=a&client_name=me", "redis://h?PASSWORD=***&client_name=me"),
        ("redis://h?auth_token=a&my_secret=b", "redis://h?auth_token=***&my_secret=***"),
        ("redis://h?a=b#password=c", "redis://h?a=***"),
        ("redis://:p?a#s@host", "redis://***@host"),
        ("me:pass@h:1", "***@h:1"),
        ("me:pass://@h:1", "***@h:1"),
    ],
)
def test_urls_without_passwords(text: str, without: str) -> None:
    assert _without_password(text) == without


def test_a_command_line_keeps_all_but_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ["load-test", "--fault", "slow=5ms@1s:2s", "--prefix", "http://me@home:", "--save", "a:b@c.json"]
    monkeypatch.setattr(sys, "argv", ["x", *kept, "--url", "me:a@h:1", "--url=redis://me:a@h:1"])
    assert _command() == ["slotwise", *kept, "--url", "***@h:1", "--url=redis://***@h:1"]


def test_a_traceback_shows_no_variables() -> None:
    assert not _app.app.pretty_exceptions_show_locals


# -- wrong usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "fast"), "no preset 'fast': there are read-heavy"),
        (("--mix", "get"), "'get' is no share of operations: name=number"),
        (("--mix", "fly=1"), "no operation fly: there are get"),
        (("--mix", "mget=1", "--pipeline", "5"), "mget cannot be part of a pipeline: --pipeline 1"),
        (("--mix", "cached=1"), "--ttl SECONDS"),
        (("--ttl", "500ms"), "it is whole seconds"),
        (("--keys", "0"), "the number of keys is 1 to"),
        (("--keys", "1.5"), "it is a whole number"),
        (("--p99", "0"), "--p99 is a time above 0"),
        (("--expect", "recovery=4s"), "recovery=TIME goes with --fault"),
        (("--fault", "pause@1s:0s"), "a fault of no time is none"),
        (("--node-timeout", "0s"), "--node-timeout is 0.1 s at least"),
        (("--keys", "many"), "'many' is no number: such as 100000, 100k"),
        (("--distribution", "even"), "no distribution of keys: uniform, zipf"),
        (("--value-size", "big"), "no size of values: bytes such as 100"),
        (("--value-size", "file:/nowhere/values"), "/nowhere/values"),
        (("--rate", "fast"), "'fast' is no number: such as"),
        (("--rate", "0"), "a rate is a number of operations a second above 0"),
        (("--duration", "soon"), "'soon' is no time: such as 250us"),
        (("--duration", "100ms"), "the duration is 1 at least"),
        (("--warmup", "-1"), "is no time"),
        (("--arrivals", "odd"), "no arrivals 'odd': constant or poisson"),
        (("--arrivals", "poisson"), "poisson arrivals need a --rate"),
        (("--arrivals", "constant"), "constant arrivals need a --rate"),
        (("--max-under-way", "5"), "--max-under-way needs a --rate"),
        (("--max-under-way", "5", "--threads", "2", "--rate", "9"), "leave out --max-under-way"),
        (("--mget-keys", "5"), "there is no mget in the mix: leave out --mget-keys"),
        (("--preset", "ycsb-a", "--ttl", "5s"), "nothing in the mix is written with a TTL: leave out --ttl"),
        (("--keep",), "--keep needs a --url"),
        (("--url", "redis://h", "--primaries", "3", "--replicas", "1"), "leave out --primaries, --replicas"),
        (("--url", "redis://h", "--node-timeout", "2s"), "leave out --node-timeout"),
        (("--loop", "twisted"), "no loop 'twisted': uvloop or asyncio"),
        (("--tasks", "5", "--threads", "5"), "either --tasks or --threads"),
        (("--threads", "5", "--loop", "asyncio"), "threads have no event loop: leave out --loop"),
        (("--tasks", "5", "--rate", "100"), "leave out --tasks; --max-under-way bounds them"),
        (("--tasks", "0"), "--tasks"),
        (("--client", "jedis"), "no client 'jedis': there are slotwise"),
        (("--client", "coredis", "--threads", "2"), "coredis has no client for threads: leave out --threads"),
        (("--expect", "speed=1"), "nothing to expect: ops=100000 (at least)"),
        (("--expect", "p99=fast"), "'fast' is no time"),
        (("--fault", "explode@1s"), "no fault: KIND[=AMOUNT]@AT[:FOR]"),
        (("--fault", "pause@10s"), "the run of 10 s is over by then, see --duration"),
        (("--fault", "pause@1s", "--primaries", "2"), "3 primaries and a replica of each"),
        (("--fault", "reshard@1s", "--primaries", "1"), "--primaries 2 or more"),
        (("--fault", "pause@1s", "--p99", "10ms"), "goes without --fault and --ramp"),
        (("--fault", "pause@1s", "--url", "redis://localhost"), "leave out --url"),
        (("--url", "localhost:7000"), "--url is redis://HOST:PORT"),
        (("--url", "unix:///tmp/redis.sock"), "--url is redis://HOST:PORT"),
        (("--url", "redis://:s3cret@host:port"), "--url is redis://HOST:PORT"),
        (("--url", "me:s3cret@host:1"), "--url is redis://HOST:PORT"),
        (("--url", "redis://me:s3cret?password=a@host:1"), "--url is redis://HOST:PORT"),
        (("--url", "redis://host?ssl_password=s3cret&db=none"), "--url is redis://HOST:PORT"),
        (("--url", "rediss://host", "--client", "valkey-glide"), "valkey-glide"),
        (("--seed", "-1"), "--seed"),
        (("--seed", str(_MOST_SEED + 1), "--distribution", "hot:0.2:0.8"), "--seed"),
        (("--prefix", "\udcff"), "--prefix is not UTF-8"),
        (("--save", "\udcff.json"), "--save is not UTF-8"),
        (("--fault", "pause@1s", "--fault", "\udcff"), "--fault is not UTF-8"),
        (("--save", "/nowhere/result.json"), "/nowhere/result.json"),
        (("--html", "/nowhere/page.html"), "/nowhere/page.html"),
        (("--save", "/"), "--save"),
        (("--save", "same", "--html", "same"), "write to the same file: take two"),
        (("--compare", "/nowhere/a.json", "/nowhere/b.json"), "/nowhere/a.json"),
        (("--compare", "bad.json", "bad.json"), "is no result of slotwise load-test (--save writes them)"),
        (
            ("--compare", "bad.json", "bad.json", "--expect", "p99=1us", "--rate", "5", "--save", "c.json"),
            "--compare runs nothing: leave out --rate, --expect, --save",
        ),
        # A default may be what was meant.
        (("--compare", "bad.json", "bad.json", "--seed", "1"), "leave out --seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is started, and nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("bad.json").write_text("{}")
    code = in_process(*options)
    said = capsys.readouterr()
    assert code == 2, said
    assert message.replace(" ", "") in words(said.err).replace(" ", "")
    assert "s3cret" not in said.err
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


def test_all_seeds_scatter_keys() -> None:
    drawn = distribution("hot:0.2:0.8", 1000, _MOST_SEED).draw(default_rng(1), 10_000, 999)
    assert set(drawn.tolist()) <= set(range(1000))
    assert len(set(drawn.tolist())) > 900


def test_wrong_usage_as_a_shell_sees_it(slotwise: Run) -> None:
    run = slotwise("load-test", "--rate", "fast")
    assert run.returncode == 2
    assert "'fast' is no number: such as 100000, 100k, 1.5M" in words(run.stderr)
    assert "Traceback" not in run.stderr


def test_a_rate_that_the_first_step_misses(slotwise: Run, cluster: LocalCluster) -> None:
    run = slotwise(*on(cluster, "--p99", "1us", "--rate", "50"))
    assert run.returncode == 1
    assert run.stderr == (
        "slotwise: 50 operations a second are too many for a p99 of 0.001 ms: --rate with less\n"
    )
    assert "missed." in run.stdout
    assert keys_left(cluster) == 0


# -- clusters that are none -----------------------------------------------------------------------


def test_nobody_there(slotwise: Run) -> None:
    [port] = free_ports(1)
    run = slotwise("load-test", "--url", f"redis://127.0.0.1:{port}")
    assert run.returncode == 1
    assert run.stderr.startswith("slotwise: ")
    assert str(port) in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""


def test_no_cluster(slotwise: Run, standalone: StandaloneServer) -> None:
    run = slotwise("load-test", "--url", standalone.url)
    assert run.returncode == 1
    assert run.stderr.startswith("slotwise: ")
    assert "cluster" in run.stderr.lower()
    assert run.stderr.count("\n") == 1


# -- ends -----------------------------------------------------------------------------------------


def command_of(pid: int) -> str:
    # -ww: all of it. Else it ends after 80 columns, of which the path of an interpreter may take most.
    run = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True)
    return run.stdout


def generators(process: subprocess.Popen[str]) -> set[int]:
    """The process ids of the generators, once there are any."""
    found: set[int] = set()

    def there() -> bool:
        assert process.poll() is None
        found.clear()
        found.update(pid for pid in descendants(process.pid) if "spawn_main" in command_of(pid))
        return bool(found)

    wait_until(there, 30)
    return found


def gets(cluster: LocalCluster) -> int:
    lines = [
        line for node in cluster.primaries for line in str(node.call("INFO", "commandstats")).splitlines()
    ]
    return sum(
        int(line.partition("calls=")[2].partition(",")[0])
        for line in lines
        if line.startswith("cmdstat_get:")
    )


def under_load(cluster: LocalCluster) -> Callable[[], bool]:
    before = gets(cluster)
    # The check of what was stored is a hundred.
    return lambda: gets(cluster) > before + 200


def test_ended_by_sigterm_it_leaves_no_keys(cluster: LocalCluster, start_slotwise: Start) -> None:
    """As `timeout` and CI end programs."""
    loaded = under_load(cluster)
    process = start_slotwise("load-test", "--url", cluster.url, "--prefix", PREFIX, *ENDLESS)
    wait_until(loaded, 30)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert keys_left(cluster) == 0


def test_keys_of_others_with_the_same_prefix_stay(slotwise: Run, cluster: LocalCluster) -> None:
    with RedisCluster.from_url(cluster.url) as client:
        client.set(f"{PREFIX}mine", "precious")
        assert slotwise(*on(cluster)).returncode == 0
        assert client.get(f"{PREFIX}mine") == b"precious"
        client.delete(f"{PREFIX}mine")
    assert keys_left(cluster) == 0


@pytest.mark.parametrize(("command", "code"), [("load-test", 1), ("audit", 2), ("status", 2)])
def test_an_option_in_the_url_that_is_none(
    slotwise: Run, cluster: LocalCluster, command: str, code: int
) -> None:
    sign = "&" if "?" in cluster.url else "?"
    run = slotwise(command, "--url", f"{cluster.url}{sign}bogus=1")
    assert run.returncode == code, run.stderr
    assert "bogus" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("starting", ("--processes", "2")),
        ("under load", ("--threads", "4")),
        ("under load", ("--rate", "300", "--processes", "2")),
    ],
    ids=["starting", "threads", "open loop"],
)
def test_interrupted_it_leaves_nothing(
    cluster: LocalCluster, tmp_path: Path, moment: str, how: tuple[str, ...]
) -> None:
    """Ctrl-C of a terminal reaches all processes of the group."""
    saved = tmp_path / "result.json"
    loaded = under_load(cluster)
    arguments = ("load-test", "--url", cluster.url, "--prefix", PREFIX, *ENDLESS, *how, "--save", str(saved))
    with subprocess.Popen(
        [sys.executable, "-c", "from slotwise.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        started = generators(process)
        if moment == "under load":
            wait_until(loaded, 30)
        children = descendants(process.pid)
        assert started <= children
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 5
    assert process.returncode == 130, err
    assert err == "slotwise: interrupted\n"
    wait_until(lambda: none_alive(children), 2)
    assert keys_left(cluster) == 0
    assert not list(tmp_path.iterdir())


def test_interrupted_during_a_fault_it_leaves_no_server(start_slotwise: Start) -> None:
    options = ("--fault", "rolling-restart@0", "--node-timeout", "1s", "--keys", "500")
    with start_slotwise("load-test", "--duration", "1m", "--warmup", "0s", *options) as process:
        generators(process)
        servers = {pid for pid in descendants(process.pid) if "redis" in command_of(pid)}
        servers |= {pid for pid in descendants(process.pid) if "valkey" in command_of(pid)}
        # The rolling restart has begun.
        wait_until(lambda: bool(servers - descendants(process.pid)), 30)
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 5
    assert process.returncode == 130, err
    wait_until(lambda: none_alive(children), 2)


def test_killed_it_takes_generators_and_servers_along(start_slotwise: Start) -> None:
    """At two operations a second the generators have drawn their next ten minutes."""
    options = ("--primaries", "1", "--replicas", "0", *ENDLESS, "--processes", "2", "--rate", "2")
    with start_slotwise("load-test", *options) as process:
        wait_until(lambda: len(generators(process)) == 2, 30)
        children = descendants(process.pid)
        assert len(children) >= 4  # a server and its watchdog as well
        process.kill()
        process.communicate(timeout=30)
    wait_until(lambda: none_alive(children), 5)


# -- what is not installed ------------------------------------------------------------------------


def without(library: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where a library is not installed."""
    program = f"import sys; sys.modules[{library!r}] = None; from slotwise.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("hdrh", "slotwise: load-test needs hdrh: pip install 'slotwise[load-test]'\n"),
        ("rich", "slotwise: the command line needs rich: pip install 'slotwise[cli]'\n"),
        ("typer", "slotwise: the command line needs typer: pip install 'slotwise[cli]'\n"),
    ],
)
def test_without_a_library(library: str, line: str) -> None:
    run = without(library, "load-test", "--help")
    assert (run.returncode, run.stderr, run.stdout) == (1, line, "")


def test_without_matplotlib_a_page_is_refused_before_the_run(tmp_path: Path) -> None:
    run = without("matplotlib", "load-test", "--html", str(tmp_path / "page.html"))
    assert run.returncode == 2
    assert "the plots need matplotlib: pip install 'slotwise[load-test]'" in words(run.stderr)
    assert run.stdout == ""


def test_without_uvloop() -> None:
    run = without("uvloop", "load-test", "--loop", "uvloop")
    assert run.returncode == 2
    assert "uvloop is not installed: pip install uvloop, or --loop asyncio" in words(run.stderr)


def test_what_the_room_offers() -> None:
    import slotwise.loadtest as room

    assert [name for name in room.__all__ if not hasattr(room, name)] == []
    assert set(room.__all__) >= {"Options", "Workload", "Fault", "run", "read", "Result", "PRESETS"}
