"""`slotwise load-test`: how much a cluster takes, how fast it answers, and what a fault costs."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote_plus

import typer
from redis.connection import parse_url
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from slotwise.cli._output import complain
from slotwise.loadtest import PRESETS, Fault, LoadTestError, Options, Result, Workload, read, run
from slotwise.loadtest import Progress as RunProgress
from slotwise.loadtest.clients import ASYNCIO, UnsuitableClientError
from slotwise.loadtest.data import WrongDataError
from slotwise.loadtest.expect import parse as parse_wishes
from slotwise.loadtest.faults import KINDS as FAULT_KINDS
from slotwise.loadtest.faults import check as check_faults
from slotwise.loadtest.report.files import check_writable, write_whole
from slotwise.loadtest.report.html import write_html
from slotwise.loadtest.report.svg import MissingPlotsError, check_plots
from slotwise.loadtest.report.table import print_comparison, print_result
from slotwise.loadtest.search import Step, search
from slotwise.loadtest.units import number_of, seconds_of
from slotwise.loadtest.workload import KINDS, Family, mix
from slotwise.local import LocalCluster
from slotwise.testing import Chaos
from slotwise.testing.chaos import can_be_proxied

EXPECTATION_MISSED = 1
INTERRUPTED = 130
# Seconds: nodes would take one another for dead that are merely busy.
_SHORTEST_NODE_TIMEOUT = 0.1
# Twice that and a multiplier fit into 64 bits, with which keys are scattered.
_MOST_SEED = 2**61 - 1
# In the name of an option of a URL: its value is for nobody else.
_SECRETS = ("pass", "secret", "token")
_OF_COMPARE = ("compare", "html", "as_json")
_OF_LOCAL_CLUSTERS = ("primaries", "replicas", "node_timeout")

app = typer.Typer(add_completion=False)

_LOAD, _WORK, _TEST, _OUTPUT = "How much", "What", "Where", "What comes of it"


def _time(text: str) -> float:
    return _parsed(seconds_of, text)


def _number(text: str) -> float:
    return _parsed(number_of, text)


def _parsed(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        # Of a ValueError the command line would tell the text that was typed, and nothing else.
        raise typer.BadParameter(str(error)) from None


@app.command()
def load_test(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            help="Any node of the cluster: redis://\\[user:password@]host:port. Without it a local one is started.",
            rich_help_panel=_TEST,
        ),
    ] = None,
    client: Annotated[
        str, typer.Option(help=f"Who is driven: {', '.join(ASYNCIO)}.", rich_help_panel=_TEST)
    ] = "slotwise",
    primaries: Annotated[int, typer.Option(min=1, help="Of the local cluster.", rich_help_panel=_TEST)] = 3,
    replicas: Annotated[
        int, typer.Option(min=0, help="Of each primary of the local cluster.", rich_help_panel=_TEST)
    ] = 1,
    node_timeout: Annotated[
        float,
        typer.Option(
            parser=_time,
            metavar="TIME",
            help="cluster-node-timeout of the local cluster.",
            rich_help_panel=_TEST,
        ),
    ] = "2s",  # type: ignore[assignment]
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[=AMOUNT]@AT[:FOR]",
            help=f"In the local cluster, such as kill-primary@10s or slow=20ms@5s:10s; any number of them. "
            f"{'; '.join(f'{name}: {kind.help}' for name, kind in FAULT_KINDS.items())}.",
            rich_help_panel=_TEST,
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help=f"{'; '.join(f'{name}: {preset.help}' for name, preset in PRESETS.items())}.",
            rich_help_panel=_WORK,
        ),
    ] = "read-heavy",
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHARE,...",
            help=f"In place of the preset's. {'; '.join(f'{name}: {kind.help}' for name, kind in KINDS.items())}.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    keys: Annotated[
        float | None,
        typer.Option(parser=_number, metavar="N", help="How many different keys.", rich_help_panel=_WORK),
    ] = None,
    distribution: Annotated[
        str | None,
        typer.Option(
            help="uniform, zipf[:THETA], latest[:THETA], hot:SHARE_OF_KEYS:SHARE_OF_TRAFFIC.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    value_size: Annotated[
        str | None,
        typer.Option(
            help="Bytes: 100, 10-1000, lognormal:MEDIAN:SIGMA, or file:PATH for the lines of a file.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(
            parser=_time,
            metavar="TIME",
            help="Of what SET writes, whole seconds; 0 for none.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    pipeline: Annotated[
        int | None,
        typer.Option(help="Commands in a pipeline, which is one operation.", rich_help_panel=_WORK),
    ] = None,
    mget_keys: Annotated[int | None, typer.Option(help="Keys in an mget.", rich_help_panel=_WORK)] = None,
    prefix: Annotated[str | None, typer.Option(help="Of all keys.", rich_help_panel=_WORK)] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the keys where they are, with --url.", rich_help_panel=_WORK)
    ] = False,
    tasks: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tasks under asyncio, in each process; 50 unless --threads.", rich_help_panel=_LOAD
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads in each process, in place of tasks.", rich_help_panel=_LOAD),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, rich_help_panel=_LOAD)] = 1,
    loop: Annotated[
        str | None,
        typer.Option(help="uvloop (if it is installed) or asyncio.", rich_help_panel=_LOAD),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            parser=_number,
            metavar="N",
            help="Operations a second, due whatever has become of the earlier ones (open loop); latencies count from "
            "then. Without it each task or thread waits for its reply (closed loop).",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help="Of an open loop: constant or poisson.", rich_help_panel=_LOAD)
    ] = "constant",
    max_under_way: Annotated[
        int,
        typer.Option(
            min=1, help="Tasks under way at once, per process of an open loop.", rich_help_panel=_LOAD
        ),
    ] = 10_000,
    duration: Annotated[
        float, typer.Option(parser=_time, metavar="TIME", help="What is measured.", rich_help_panel=_LOAD)
    ] = "10s",  # type: ignore[assignment]
    warmup: Annotated[
        float, typer.Option(parser=_time, metavar="TIME", help="Before that.", rich_help_panel=_LOAD)
    ] = "2s",  # type: ignore[assignment]
    ramp: Annotated[
        float,
        typer.Option(
            parser=_time,
            metavar="TIME",
            help="Before that, with more and more callers or a growing rate.",
            rich_help_panel=_LOAD,
        ),
    ] = "0s",  # type: ignore[assignment]
    p99: Annotated[
        float | None,
        typer.Option(
            parser=_time,
            metavar="TIME",
            help="Search for the highest rate at which the p99 is not longer than this. --rate is where it begins.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=_MOST_SEED, help="Of all that is drawn at random.", rich_help_panel=_LOAD),
    ] = 1,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=BOUND,...",
            help="Exit code 1 if missed: ops=100000,p50=1ms,p90,p99,p99.9,max,errors=0,imbalance=1.2,recovery=4s.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the result as JSON, for --compare.", dir_okay=False, rich_help_panel=_OUTPUT
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a report with plots.", dir_okay=False, rich_help_panel=_OUTPUT)
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A.json B.json",
            help="Nothing is run: two saved results beside one another; with --html in the same plots. "
            "Only --html and --json go with it.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for programs.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Put a cluster under load, and show what it takes and what callers notice.

    On a cluster of its own on this machine, or on that of --url: there it
    stores keys that begin with --prefix, and deletes them at the end.

    Exit code 0 if all of --expect is met, 1 if something is missed or the run
    failed, 2 for wrong options, 130 after Ctrl-C or SIGTERM.
    """
    settings = {name: _plain(value) for name, value in locals().items() if name not in ("context", "as_json")}
    given = _given(context)
    console = Console(stderr=as_json, highlight=False)
    if compare is not None:
        _compare(console, compare, given, html, as_json)
        return
    with _wrong_usage():
        _check_targets(save, html)
        options = Options(
            url=url or "",
            workload=_workload(preset, mix, keys, distribution, value_size, ttl, pipeline, mget_keys, prefix),
            client=client,
            callers=threads or tasks or 50,
            threads=threads is not None,
            processes=processes,
            loop=_loop(loop),
            rate=rate,
            poisson=_is_poisson(arrivals),
            most_under_way=max_under_way,
            duration=duration,
            warmup=warmup,
            ramp=ramp,
            seed=seed,
            keep=keep,
            faults=[Fault.parse(text) for text in fault or ()],
            expectations=parse_wishes(expect) if expect is not None else [],
            command=_command(),
        )
        options = dataclasses.replace(options, settings=_settings(settings, options, p99))
        if node_timeout < _SHORTEST_NODE_TIMEOUT:
            raise ValueError(f"--node-timeout is {_SHORTEST_NODE_TIMEOUT:g} s at least")
        _check_together(options, given, p99)
        if url is None:
            check_faults(options.faults, primaries, replicas)
    # Whoever ends it so (`timeout`, CI) wants no keys left either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            chaos = None
            if url is None:
                chaos = stack.enter_context(_local(options, primaries, replicas, node_timeout, console))
                # Its keys go with it.
                options = dataclasses.replace(options, url=chaos.url, keep=True)
            result = _run(console, options, chaos, p99)
    except KeyboardInterrupt:
        complain("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (LoadTestError, UnsuitableClientError, WrongDataError) as error:
        complain(str(error))
        raise typer.Exit(1) from None
    _show(console, result, save, html, as_json)
    if not result.met:
        raise typer.Exit(EXPECTATION_MISSED)


@contextmanager
def _wrong_usage() -> Iterator[None]:
    """What is found wrong within it is told as wrong usage: nothing has begun."""
    try:
        yield
    except (ValueError, OSError, MissingPlotsError) as error:
        raise typer.BadParameter(str(error)) from None


def _given(context: typer.Context) -> dict[str, str]:
    """The options that were typed, as they are written, by their parameters.

    Raises BadParameter for text that is not UTF-8: it could be neither a key nor in a report.
    """
    given = {
        str(option.name): option.opts[0]
        for option in context.command.params
        if (source := context.get_parameter_source(str(option.name))) and source.name == "COMMANDLINE"
    }
    for name, written in given.items():
        value = context.params[name]
        for text in value if isinstance(value, (list, tuple)) else [value]:
            try:
                str(text).encode()
            except UnicodeEncodeError:
                raise typer.BadParameter(f"{written} is not UTF-8") from None
    return given


def _workload(preset: str, mix_text: str | None, keys: float | None, *rest: Any) -> Workload:
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: there are {', '.join(PRESETS)}")
    names = ("distribution", "value_size", "ttl", "pipeline", "mget_keys", "prefix")
    changes: dict[str, Any] = {
        name: value for name, value in zip(names, rest, strict=True) if value is not None
    }
    if mix_text is not None:
        changes["mix"] = mix(mix_text)
    if keys is not None:
        if keys % 1:
            raise ValueError(f"{keys:g} keys: it is a whole number")
        changes["keys"] = int(keys)
    if "ttl" in changes:
        if changes["ttl"] % 1:
            raise ValueError(f"a TTL of {changes['ttl']:g} s: it is whole seconds")
        changes["ttl"] = int(changes["ttl"])
    return dataclasses.replace(PRESETS[preset].workload, **changes)


def _loop(wanted: str | None) -> str:
    installed = find_spec("uvloop") is not None
    if wanted is None:
        return "uvloop" if installed else "asyncio"
    if wanted not in ("uvloop", "asyncio"):
        raise ValueError(f"no loop {wanted!r}: uvloop or asyncio")
    if wanted == "uvloop" and not installed:
        raise ValueError("uvloop is not installed: pip install uvloop, or --loop asyncio")
    return wanted


def _is_poisson(arrivals: str) -> bool:
    if arrivals not in ("constant", "poisson"):
        raise ValueError(f"no arrivals {arrivals!r}: constant or poisson")
    return arrivals == "poisson"


def _check_targets(save: Path | None, html: Path | None) -> None:
    """Raises OSError, MissingPlotsError or ValueError for what could not be written after the run."""
    if html is not None:
        check_plots()
    for path in filter(None, (save, html)):
        check_writable(path)
    if save is not None and html is not None and save.resolve() == html.resolve():
        raise ValueError("--save and --html write to the same file: take two")


def _check_together(options: Options, given: Mapping[str, str], p99: float | None) -> None:
    """Raises ValueError for options of which one leaves nothing to do for another."""
    is_open = options.rate is not None or p99 is not None
    if options.threads and "tasks" in given:
        raise ValueError("either --tasks or --threads")
    if options.threads and "loop" in given:
        raise ValueError("threads have no event loop: leave out --loop")
    if "tasks" in given and is_open:
        raise ValueError(
            "operations of an open loop begin when they are due, whoever waits: leave out --tasks; "
            "--max-under-way bounds them"
        )
    if "max_under_way" in given and options.threads:
        raise ValueError("each thread has one operation under way: leave out --max-under-way")
    if "max_under_way" in given and not is_open:
        raise ValueError("each task has one operation under way: --max-under-way needs a --rate")
    if "arrivals" in given and not is_open:
        raise ValueError(f"{'poisson' if options.poisson else 'constant'} arrivals need a --rate")
    if "url" in given:
        _check_url(options.url)
        if options.faults:
            raise ValueError("faults are for a local cluster: leave out --url")
        if local := [given[name] for name in _OF_LOCAL_CLUSTERS if name in given]:
            raise ValueError(f"the cluster of --url is as it is: leave out {', '.join(local)}")
    elif options.keep:
        raise ValueError("a local cluster goes with its keys: --keep needs a --url")
    if "mget_keys" in given and "mget" not in options.workload.mix:
        raise ValueError("there is no mget in the mix: leave out --mget-keys")
    if "ttl" in given and not {Family.STRING, Family.VERSIONED} & {*options.workload.families}:
        raise ValueError("nothing in the mix is written with a TTL: leave out --ttl")
    if p99 is not None and not p99 > 0:
        raise ValueError("--p99 is a time above 0")
    if not options.faults and any(wish.name == "recovery" for wish in options.expectations):
        raise ValueError("there is nothing to recover from: recovery=TIME goes with --fault")
    if p99 is not None and (options.faults or options.ramp):
        raise ValueError("a search for the highest rate goes without --fault and --ramp")


def _check_url(url: str) -> None:
    """Raises ValueError that does not repeat it: where a password is in what cannot be parsed, nobody knows."""
    if not url.startswith(("redis://", "rediss://")):
        raise ValueError("--url is redis://HOST:PORT, or rediss:// for TLS")
    try:
        parse_url(url)
    except ValueError:
        raise ValueError(
            "--url is redis://HOST:PORT: of this one the port, or the value of an option, makes no sense"
        ) from None


def _command() -> list[str]:
    """As it was typed, without what a URL may have of passwords."""
    typed = ["slotwise", *sys.argv[1:]]
    return typed[:1] + [
        _without_password(argument) if before == "--url" or argument.startswith("--url=") else argument
        for before, argument in pairwise(typed)
    ]


def _without_password(url: str) -> str:
    found = re.fullmatch(r"([\w+.=-]*://)?([^?#]*)(.*)", url, re.DOTALL)
    assert found is not None
    scheme, address, query = found.groups("")
    address += re.sub(r"([?&#][^=&]*)=[^&]*", _without_secret, query)
    # Whatever stands before the last @, should a password have one.
    return f"{scheme}***@{address.rpartition('@')[2]}" if "@" in address else f"{scheme}{address}"


def _without_secret(option: re.Match[str]) -> str:
    name = unquote_plus(option[0].rpartition("=")[0]).lower()
    return f"{option[1]}=***" if any(word in name for word in _SECRETS) else option[0]


def _settings(given: dict[str, Any], options: Options, p99: float | None) -> dict[str, Any]:
    """All options of the run with their values, those of a preset and the defaults as well."""
    workload = options.workload
    found = {name: value for name, value in given.items() if name != "compare"}
    if options.url:
        found["url"] = _without_password(options.url)
    found["mix"] = ",".join(f"{kind}={share:g}" for kind, share in workload.mix.items())
    for name in ("keys", "distribution", "value_size", "ttl", "pipeline", "mget_keys", "prefix"):
        found[name] = getattr(workload, name)
    if not options.threads:
        found["loop"] = options.loop
        if options.rate is None and p99 is None:
            found["tasks"] = options.callers
    return found


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


@contextmanager
def _local(
    options: Options, primaries: int, replicas: int, node_timeout: float, console: Console
) -> Iterator[Chaos]:
    # Relays cost each command something, so there are none unless a fault needs them.
    proxied = any(FAULT_KINDS[fault.kind].proxied for fault in options.faults)
    with LocalCluster(primaries, replicas, node_timeout_ms=round(node_timeout * 1000)) as cluster:
        if proxied and not can_be_proxied(cluster.binary):
            raise LoadTestError(
                f"{cluster.server_name} {cluster.server_version} cannot be partitioned or slowed down: "
                "set SLOTWISE_SERVER to a redis-server of 7.0 or later, or to a valkey-server"
            )
        console.print(
            f"Started a cluster of {primaries} primaries with {replicas} replica(s) each on this machine.",
            soft_wrap=True,
        )
        with Chaos(cluster, proxied=proxied, heals=False) as chaos:
            yield chaos


def _run(console: Console, options: Options, chaos: Chaos | None, p99: float | None) -> Result:
    say: Callable[[str], object] = lambda text: console.print(text, soft_wrap=True, markup=False)  # noqa: E731
    with _bar(console) as follow:
        if p99 is None:
            return run(options, chaos=chaos, say=say, progress=follow)

        def tell(step: Step) -> None:
            verdict = "met" if step.met else "missed"
            say(f"{step.rate:>12,.0f}/s: {step.reached:,.0f}/s reached, p99 {step.p99:.2f} ms, {verdict}.")

        return search(options, p99 * 1e3, chaos=chaos, say=say, progress=follow, after=tell)


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[RunProgress], None]]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("Starting", total=1.0, figures="")

    def follow(now: RunProgress) -> None:
        if now.at < 0:
            bar.update(task, description="Warming up", completed=0)
            return
        figures = f"{now.rate:,.0f}/s"
        if now.p50 is not None and now.p99 is not None:
            figures += f", p50 {now.p50:.2f} ms, p99 {now.p99:.2f} ms"
        if now.errors:
            figures += f", {now.errors:,} errors"
        bar.update(task, description="Measuring", total=now.seconds, completed=now.at, figures=figures)

    with bar:
        yield follow


def _show(console: Console, result: Result, save: Path | None, html: Path | None, as_json: bool) -> None:
    files: dict[Path, Callable[[Path], object]] = {}
    if save is not None:
        files[save] = lambda path: write_whole(path, result.to_json() + "\n")
    if html is not None:
        files[html] = lambda path: write_html(path, [result])
    with _written(console, files):
        if as_json:
            print(result.to_json(), flush=True)
        else:
            print_result(console, result)


def _compare(
    console: Console, paths: tuple[Path, Path], given: Mapping[str, str], html: Path | None, as_json: bool
) -> None:
    with _wrong_usage():
        if others := [written for name, written in given.items() if name not in _OF_COMPARE]:
            raise ValueError(f"--compare runs nothing: leave out {', '.join(others)}")
        _check_targets(None, html)
        results = [read(path) for path in paths]
    with _written(console, {html: lambda path: write_html(path, results)} if html is not None else {}):
        if as_json:
            print(json.dumps([json.loads(result.to_json()) for result in results], indent=1), flush=True)
        else:
            print_comparison(console, results)


@contextmanager
def _written(console: Console, files: Mapping[Path, Callable[[Path], object]]) -> Iterator[None]:
    """Writes the files after all is printed. One that cannot be written costs no other: that is told at the end.

    They are written as well when nobody reads what is printed any more, as behind `head`.
    """
    try:
        yield
    finally:
        failed = []
        for path, write in files.items():
            try:
                write(path)
                console.print(f"Wrote {shlex.quote(str(path))}.", soft_wrap=True, markup=False)
            except OSError as error:
                failed.append(f"{shlex.quote(str(path))} could not be written: {error.strerror or error}")
        for message in failed:
            complain(message)
        if failed:
            raise typer.Exit(1)
