"""`slotwise demo`: the client at work on real data, and beside redis-py."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Annotated, Any

import redis
import redis.asyncio
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import slotwise
import slotwise.asyncio
from slotwise.cli._in_loop import InLoop
from slotwise.cli._library import WrongDataError, chunks, read_library, snippets, store, verify
from slotwise.cli._output import complain, print_json
from slotwise.cli._timing import (
    Arguments,
    Call,
    Figures,
    Stretch,
    batches,
    in_turns,
    ratio,
    summary,
    timed,
    timed_in_tasks,
)
from slotwise.local import LocalCluster

_OURS, _THEIRS = "slotwise", "redis-py"
# How often the clients take turns in each race.
_ROUNDS = 5
# What the races read: so many short values.
_SNIPPETS = 10_000

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Race:
    """One piece of work that both clients do with the very same code."""

    name: str
    #: What either client is timed at.
    call: Callable[[Any], Call]
    #: Keys that one call takes: as its argument if one, as a list if several.
    keys: int = 1
    threads: int = 1

    def arguments(self, keys: Sequence[str]) -> Arguments:
        if self.keys == 1:
            return [(key,) for key in keys]
        return [(group,) for group in batches(keys, self.keys)]

    def first_reply(self, client: Any, arguments: Arguments) -> Any:
        return self.call(client)(*arguments[0])

    def stretch(self, client: Any, arguments: Arguments) -> Stretch:
        return timed(self.call(client), arguments, threads=self.threads, commands=self.keys)


@dataclass(frozen=True)
class AsyncRace(Race):
    """The same for clients of asyncio, each an `InLoop`. Calls are awaited, by so many tasks."""

    tasks: int = 1

    def first_reply(self, client: InLoop, arguments: Arguments) -> Any:
        async def first() -> Any:
            return await self.call(client.client)(*arguments[0])

        return client.run(first())

    def stretch(self, client: InLoop, arguments: Arguments) -> Stretch:
        call = self.call(client.client)
        return timed_in_tasks(client.run, call, arguments, tasks=self.tasks, commands=self.keys)


def _get_in_pipeline(client: Any) -> Call:
    """Sends it as well, or, under asyncio, returns what is to be awaited."""

    def call(keys: Sequence[str]) -> Any:
        pipeline = client.pipeline()
        for key in keys:
            pipeline.get(key)
        return pipeline.execute()

    return call


RACES = (
    Race("GET", lambda client: client.get),
    Race("GET, 8 threads", lambda client: client.get, threads=8),
    Race("MGET of 100 keys", lambda client: client.mget_nonatomic, keys=100),
    Race("pipeline of 100", _get_in_pipeline, keys=100),
    Race("pipeline of 1,000", _get_in_pipeline, keys=1_000),
)
ASYNC_RACES = (
    AsyncRace("async GET, 50 tasks", lambda client: client.get, tasks=50),
    AsyncRace("async pipeline of 100", _get_in_pipeline, keys=100),
)


@dataclass(frozen=True)
class Speed:
    """How fast a client ran a race: keys a second, and milliseconds a call."""

    rate: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, figures: Figures) -> "Speed":
        return cls(figures.rate, figures.p50 * 1e3, figures.p99 * 1e3)


@dataclass(frozen=True)
class Result:
    """One race run."""

    name: str
    slotwise: Speed
    redis_py: Speed
    #: How many times redis-py's rate slotwise reached.
    ratio: float


@dataclass(frozen=True)
class Load:
    """What lies on one primary."""

    node: str
    slots: int
    keys: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """All that the demo found; the answer of --json."""

    server: str
    slotwise: str
    redis_py: str
    modules: int
    #: Bytes of source that were read back and equal what was stored.
    verified_bytes: int
    store_seconds: float
    verify_seconds: float
    races: list[Result]
    primaries: list[Load]
    #: Keys of the fullest primary over the mean.
    imbalance: float


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=0.05, help="What each client gets for each race.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Store Python's standard library in a cluster, verify every byte, and race redis-py.

    The cluster is made for the occasion: 3 primaries and 3 replicas on free
    ports of this machine, gone when the command ends. Takes less than a minute.

    Exit code 1 if no cluster can be started, or if what was read is not what
    was stored.
    """
    console = Console(stderr=as_json, highlight=False)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with bars:
            report = _run(bars, seconds)
    except WrongDataError as error:
        complain(str(error))
        raise typer.Exit(1) from None
    if as_json:
        print_json(asdict(report))
        return
    console.print("", _race_table(report), _load_table(report), sep="\n")
    console.print(f"The fullest primary holds {report.imbalance:.2f} times the mean. The cluster is gone.")


def _run(bars: Progress, seconds: float) -> Report:
    say = partial(bars.console.print, soft_wrap=True)
    began = perf_counter()
    starting = bars.add_task("Starting a cluster", total=1)
    with (
        LocalCluster(primaries=3, replicas=1) as cluster,
        slotwise.RedisCluster.from_url(cluster.url) as ours,
        redis.RedisCluster.from_url(cluster.url) as theirs,
    ):
        bars.advance(starting)
        server = f"{cluster.server_name} {cluster.server_version}"
        say(f"Started 3 primaries and 3 replicas of {server} in {perf_counter() - began:.1f} s.")

        library = read_library()
        size = sum(len(module.source) for module in library)
        began = perf_counter()
        for modules in bars.track(chunks(library), description="Storing the standard library"):
            store(ours, modules)
        stored = perf_counter()
        for modules in bars.track(chunks(library), description="Reading it back"):
            verify(ours, modules)
        verified = perf_counter()
        say(
            f"Stored {len(library):,} modules of Python's library, {size / 1e6:.1f} MB, in {stored - began:.2f} s.\n"
            f"Read them back in {verified - stored:.2f} s: every byte is as stored."
        )

        values = snippets(library, _SNIPPETS)
        ours.mset_nonatomic(values)
        keys = list(values)
        task = bars.add_task("Racing redis-py", total=(len(RACES) + len(ASYNC_RACES)) * _ROUNDS)
        after_round = partial(bars.advance, task)
        clients: dict[str, Any] = {_OURS: ours, _THEIRS: theirs}
        races = [_race(race, clients, keys, seconds, after_round) for race in RACES]
        with (
            closing(InLoop(partial(slotwise.asyncio.RedisCluster.from_url, cluster.url))) as async_ours,
            closing(InLoop(partial(redis.asyncio.RedisCluster.from_url, cluster.url))) as async_theirs,
        ):
            clients = {_OURS: async_ours, _THEIRS: async_theirs}
            races += [_race(race, clients, keys, seconds, after_round) for race in ASYNC_RACES]

        distribution = ours.distribution()
        return Report(
            server=server,
            slotwise=slotwise.__version__,
            redis_py=redis.__version__,
            modules=len(library),
            verified_bytes=size,
            store_seconds=stored - began,
            verify_seconds=verified - stored,
            races=races,
            primaries=[
                Load(load.node.name, load.slots, load.keys, load.bytes) for load in distribution.nodes
            ],
            imbalance=distribution.imbalance,
        )


def _race(
    race: Race,
    clients: Mapping[str, Any],
    keys: Sequence[str],
    seconds: float,
    after_round: Callable[[], object],
) -> Result:
    arguments = race.arguments(keys)
    # A client that answers fast and wrongly wins nothing.
    replies = [race.first_reply(client, arguments) for client in clients.values()]
    if replies[0] != replies[1]:
        raise WrongDataError(f"{race.name}: slotwise and redis-py read different values")
    stretches = {name: race.stretch(client, arguments) for name, client in clients.items()}
    rounds = []
    for figures in in_turns(stretches, seconds, _ROUNDS):
        rounds.append(figures)
        after_round()
    return Result(
        race.name,
        Speed.of(summary(rounds, _OURS)),
        Speed.of(summary(rounds, _THEIRS)),
        ratio(rounds, _OURS, to=_THEIRS),
    )


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )


def _race_table(report: Report) -> Table:
    table = _table(f"Beside redis-py {report.redis_py}: same process, same calls, taking turns")
    table.add_column(no_wrap=True)
    for client in (_OURS, _THEIRS):
        table.add_column(f"{client}\nkeys/s", justify="right")
        table.add_column("p50\nms", justify="right")
        table.add_column("p99\nms", justify="right")
    table.add_column("\nratio", justify="right", style="bold")
    for race in report.races:
        cells = [
            cell
            for speed in (race.slotwise, race.redis_py)
            for cell in (f"{speed.rate:,.0f}", f"{speed.p50_ms:.2f}", f"{speed.p99_ms:.2f}")
        ]
        table.add_row(race.name, *cells, f"{race.ratio:.1f}x")
    return table


def _load_table(report: Report) -> Table:
    table = _table("Where the data lies")
    table.add_column("primary")
    for column in ("slots", "keys", "MB", "of all keys"):
        table.add_column(column, justify="right")
    total = sum(load.keys for load in report.primaries)
    for load in report.primaries:
        table.add_row(
            load.node,
            f"{load.slots:,}",
            f"{load.keys:,}",
            f"{load.bytes / 1e6:.1f}",
            f"{load.keys / total:.1%}",
        )
    return table
