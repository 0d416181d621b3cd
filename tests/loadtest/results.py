"""Results as runs leave them, made up from a seed: real histograms, faults that show in every series."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from hdrh.histogram import HdrHistogram

from slotwise.loadtest.result import (
    Expectation,
    FaultReport,
    Latency,
    Part,
    Result,
    Second,
    Shard,
    ShardSecond,
    Silence,
)

NAN = float("nan")
NO_LATENCY = Latency(NAN, NAN, NAN, NAN, NAN, NAN, NAN)
#: The second in which the shard is hit.
HIT = 10


def histogram(milliseconds: Sequence[float]) -> HdrHistogram:
    """Of the latencies, as the generator keeps them."""
    found = HdrHistogram(100, 60_000_000_000, 3)
    for value in milliseconds:
        found.record_value(int(value * 1e6))
    return found


def part(
    name: str, milliseconds: Sequence[float], seconds: float, errors: dict[str, int], weight: int
) -> Part:
    """Each latency stands for `weight` operations."""
    kept = histogram(milliseconds)
    latency = NO_LATENCY
    if milliseconds:
        at = (kept.get_value_at_percentile(percent) / 1e6 for percent in (50, 90, 99, 99.9, 99.99, 100))
        latency = Latency(sum(milliseconds) / len(milliseconds), *at)
    operations = len(milliseconds) * weight
    return Part(
        name, operations, operations / seconds, operations, errors, latency, kept.encode().decode("ascii")
    )


def made_up(
    client: str = "slotwise",
    *,
    slots: Sequence[str] = ("0-5460", "5461-10922", "10923-16383"),
    duration: int = 30,
    fault: bool = True,
    back: int = 14,
    rate: int = 18_000,
    slowness: float = 1.0,
    kinds: Sequence[str] = ("get", "set", "pipeline"),
    seed: int = 1,
) -> Result:
    """A run on so many shards; with a fault the second one is silent from `HIT` until `back`."""
    drawn = random.Random(f"{client} {seed}")
    weight = 40
    by_shard: dict[str, list[float]] = {name: [] for name in slots}
    by_kind: dict[str, list[float]] = {name: [] for name in kinds}
    failed = dict.fromkeys(slots, 0)
    seconds = []
    for second in range(duration):
        shards, everything = [], []
        for index, name in enumerate(slots):
            silent = fault and index == 1 and HIT <= second < back
            share = (
                rate / len(slots) / weight * (1 + 0.12 * math.sin(3 * index + 1)) * drawn.uniform(0.94, 1.03)
            )
            values = [] if silent else [_latency(drawn, slowness) for _ in range(int(share))]
            if fault and index == 1 and second == back:
                values += [drawn.uniform(0.1, 1) * 1e3 * (back - HIT) for _ in range(6)]
            errors = {"ConnectionError": drawn.randrange(3, 12)} if silent else {}
            failed[name] += sum(errors.values())
            by_shard[name] += values
            for value in values:
                kind = drawn.choices(kinds, [6, 3, 1][: len(kinds)])[0]
                by_kind[kind].append(value * (2.5 if kind == "pipeline" else 1))
            everything += values
            shards.append(ShardSecond(len(values) * weight, errors, *_ends(values)[1:]))
        errors = {name: number for shard in shards for name, number in shard.errors.items()}
        seconds.append(Second(second, len(everything) * weight, errors, *_ends(everything), shards))
    all_errors = {"ConnectionError": sum(failed.values()), "UnknownOutcomeError": 7} if fault else {}
    everything = [value for values in by_kind.values() for value in values]
    parts = [
        part(name, values, duration, {"ConnectionError": failed[name]} if failed[name] else {}, weight)
        for name, values in by_shard.items()
    ]
    rates = [each.rate for each in parts]
    return Result(
        began="2025-03-01T09:30:00+00:00",
        command=[
            "slotwise",
            "load-test",
            "--client",
            client,
            "--fault",
            "kill-primary@10s",
            "--save",
            "a b.json",
        ],
        options={
            "client": client,
            "callers": 50,
            "value_size": 100,
            "mix": {"get": 60, "set": 30, "pipeline": 10},
            "fault": ["kill-primary@10s"] if fault else [],
            "read_from_replicas": False,
            "timeout": None,
        },
        client=client,
        machine={
            "processor": "a processor, 2 cores",
            "memory": "8 GiB",
            "system": "Linux 6.1 x86_64",
            "python": "CPython 3.11.9",
            "libraries": "slotwise 0.1.0, redis 8.1.0, hiredis 3.2.1",
        },
        server=f"Redis 8.2.1, {2 * len(slots)} nodes",
        shards=[Shard(name, f"127.0.0.1:{30001 + index}") for index, name in enumerate(slots)],
        seed=seed,
        loop="open",
        duration=float(duration),
        total=part("all", everything, duration, all_errors, weight),
        operations=[
            part(name, values, duration, all_errors if index == 1 else {}, weight)
            for index, (name, values) in enumerate(by_kind.items())
        ],
        by_shard=parts,
        imbalance=max(rates) * len(rates) / sum(rates),
        seconds=seconds,
        faults=[killed(all_errors, back - HIT - 0.13)] if fault else [],
        expectations=[
            Expectation("p99", "<=", 10.0, "ms", 4.25, True),
            Expectation("errors", "<=", 0.0, "", float(sum(all_errors.values())), not all_errors),
        ],
        overhead_us=6.4,
        overhead_share=0.11,
        late_p99_ms=0.35,
    )


def killed(errors: dict[str, int], recovered: float) -> FaultReport:
    return FaultReport(
        name="kill-primary@10s",
        kind="kill-primary",
        began=10.0,
        ended=12.6,
        shard=1,
        elected_after=2.6,
        noticed_after=0.004,
        silence=Silence(10.0, 10.0 + recovered),
        recovered_after=recovered,
        errors=errors,
        unknown=7,
        lost=120,
        others_p99_before=2.1,
        others_p99_during=2.4,
    )


def unanswered() -> Result:
    """A cluster that was there and said nothing for three seconds."""
    errors = {"TimeoutError": 12}
    slots = ("0-8191", "8192-16383")
    silent = ShardSecond(0, {"TimeoutError": 2}, None, None)
    nothing = part("all", [], 3, {"TimeoutError": 36}, 1)
    return replace(
        made_up(slots=slots, fault=False, duration=1),
        duration=3.0,
        total=nothing,
        operations=[replace(nothing, name="get")],
        by_shard=[replace(nothing, name=name, errors={"TimeoutError": 18}) for name in slots],
        imbalance=NAN,
        seconds=[Second(number, 0, errors, None, None, None, [silent, silent]) for number in range(3)],
        expectations=[Expectation("p99", "<=", 10.0, "ms", None, False)],
        faults=[
            replace(
                killed({"TimeoutError": 30}, 1.87),
                name="freeze@1s",
                kind="freeze",
                began=1.0,
                ended=3.0,
                shard=None,
                elected_after=None,
                noticed_after=None,
                silence=Silence(1.0, None),
                recovered_after=None,
                others_p99_before=None,
                others_p99_during=None,
            )
        ],
    )


def _latency(drawn: random.Random, slowness: float) -> float:
    return slowness * (
        0.35 + drawn.lognormvariate(-0.6, 0.65) + (drawn.uniform(4, 22) if drawn.random() < 0.003 else 0)
    )


def _ends(values: list[float]) -> tuple[float | None, float | None, float | None]:
    """p50, p99 and the largest one."""
    if not values:
        return None, None, None
    values = sorted(values)
    at: Callable[[float], float] = lambda share: values[int(share * (len(values) - 1))]  # noqa: E731
    return at(0.5), at(0.99), values[-1]
