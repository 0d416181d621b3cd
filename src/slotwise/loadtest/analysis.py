"""From what the generators have counted to a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from slotwise.loadtest.faults import Struck
from slotwise.loadtest.result import FaultReport, Part, Second, Shard, ShardSecond, Silence
from slotwise.loadtest.tally import Cell, Totals, latency

# Seconds before a fault that are compared with it.
_BEFORE = 5
_TICKS = 100

ErrorKey = tuple[int, int, int, str, bool]


def parts(
    totals: Totals, kinds: Sequence[str], shards: Sequence[Shard], seconds: float
) -> tuple[Part, list[Part], list[Part], float]:
    """Everything, by kind, by shard; operations on the busiest shard over the mean of all shards."""
    several = len(shards)

    def part(name: str, places: Iterable[tuple[int, int]], errors: Mapping[str, int]) -> Part:
        places = list(places)
        cell = totals.cell(totals.places.get(place) for place in places)
        histogram = cell.histogram()
        return Part(
            name,
            cell.operations,
            cell.operations / seconds,
            int(sum(int(totals.keys[place]) for place in places)),
            dict(errors),
            latency(histogram),
            histogram.encode().decode(),
        )

    everywhere = range(several + 1)
    total = part(
        "all",
        ((kind, shard) for kind in range(len(kinds)) for shard in everywhere),
        _errors(totals.errors),
    )
    by_kind = [
        part(name, ((kind, shard) for shard in everywhere), _errors(totals.errors, kind=kind))
        for kind, name in enumerate(kinds)
    ]
    by_shard = [
        part(
            shard.slots, ((kind, number) for kind in range(len(kinds))), _errors(totals.errors, shard=number)
        )
        for number, shard in enumerate(shards)
    ]
    busiest, mean = max(p.operations for p in by_shard), sum(p.operations for p in by_shard) / several
    return total, by_kind, by_shard, busiest / mean if mean else float("nan")


def timeline(totals: Totals, shards: int, seconds: int) -> list[Second]:
    """One entry for each second; the last one may be shorter."""
    errors: dict[tuple[int, int], Counter[str]] = {}
    for (tick, _kind, shard, name, _unknown), times in totals.errors.items():
        errors.setdefault((tick // _TICKS, shard), Counter())[name] += times
    found = []
    for second in range(seconds):
        whole = totals.second(second)
        cells = [totals.seconds.get((second, shard), Cell()) for shard in range(shards)]
        of_all: Counter[str] = Counter()
        for shard in range(shards + 1):
            of_all.update(errors.get((second, shard), {}))
        found.append(
            Second(
                second,
                whole.operations,
                dict(of_all),
                whole.at(0.5),
                whole.at(0.99),
                whole.at(1.0),
                [
                    ShardSecond(
                        cell.operations, dict(errors.get((second, shard), {})), cell.at(0.99), cell.at(1.0)
                    )
                    for shard, cell in enumerate(cells)
                ],
            )
        )
    return found


def fault_report(totals: Totals, struck: Struck, shards: int, seconds: float) -> FaultReport:
    """What callers noticed of a fault."""
    hit = range(shards) if struck.shard is None else [struck.shard]
    silences = [
        silence
        for shard in hit
        for silence in totals.silences(shard)
        if silence[1] > struck.began and silence[0] < struck.ended + 1
    ]
    longest = max(silences, key=lambda silence: silence[1] - silence[0], default=None)
    answered_at = max((ended for _, ended in silences), default=struck.began)
    until = max(struck.ended, answered_at)
    within = {
        key: times
        for key, times in totals.errors.items()
        if struck.began - 1 / _TICKS <= key[0] / _TICKS <= until + 1 / _TICKS
    }
    unknown = sum(times for key, times in within.items() if key[4])
    first = min((key[0] / _TICKS for key in within), default=None)
    # The last shard takes the slots in, and has as much to do as the one that gives them away.
    busy = {*hit, shards - 1} if struck.fault.kind == "reshard" else {*hit}
    others = [shard for shard in range(shards + 1) if shard not in busy]
    began, ended = int(struck.began), min(ceil(until), int(seconds))
    stayed_silent = longest is not None and answered_at >= seconds
    return FaultReport(
        name=struck.fault.name,
        kind=struck.fault.kind,
        began=struck.began,
        ended=struck.ended,
        shard=struck.shard,
        elected_after=struck.elected_after,
        noticed_after=None if first is None else max(0.0, first - struck.began),
        silence=None if longest is None else Silence(longest[0], None if stayed_silent else longest[1]),
        recovered_after=None if stayed_silent else answered_at - struck.began,
        errors=_errors(within),
        unknown=unknown,
        lost=sum(within.values()) - unknown,
        others_p99_before=_p99(totals, others, range(max(0, began - _BEFORE), began)),
        others_p99_during=_p99(totals, others, range(began, max(ended, began + 1))),
    )


def _p99(totals: Totals, shards: Iterable[int], seconds: range) -> float | None:
    shards = list(shards)
    return totals.cell(totals.seconds.get((second, shard)) for second in seconds for shard in shards).at(0.99)


def _errors(
    errors: Mapping[ErrorKey, int], *, kind: int | None = None, shard: int | None = None
) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (_tick, of_kind, of_shard, name, _unknown), times in errors.items():
        if kind in (None, of_kind) and shard in (None, of_shard):
            found[name] += times
    return dict(found.most_common())
