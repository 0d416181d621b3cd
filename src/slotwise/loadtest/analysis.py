"""From what the generators have counted to a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from slotwise.loadtest.faults import Struck
from slotwise.loadtest.result import FaultReport, Part, Second, Shard, ShardSecond, Silence
from slotwise.loadtest.tally import SILENCE, Cell, Totals, latency

# Seconds before a fault that are compared with it.
_BEFORE = 5
_TICKS = 100

ErrorKey = tuple[int, int, int, str, bool]


def parts(
    totals: Totals, kinds: Sequence[str], shards: Sequence[Shard], seconds: float
) -> tuple[Part, list[Part], list[Part], float]:
    """Everything, by kind, by shard; keys on the busiest shard over the mean of all shards.

    What has to do with several shards counts for each of them.
    """
    several = len(shards)

    def part(name: str, answered: int, keys: int, cell: Cell, errors: Mapping[str, int]) -> Part:
        histogram = cell.histogram()
        return Part(
            name,
            answered,
            answered / seconds,
            keys,
            dict(errors),
            latency(histogram),
            histogram.encode().decode(),
        )

    total = part(
        "all",
        int(totals.answered.sum()),
        int(totals.keys.sum()),
        totals.cell(totals.places.values()),
        _errors(totals.errors),
    )
    by_kind = [
        part(
            name,
            int(totals.answered[kind].sum()),
            int(totals.keys[kind].sum()),
            totals.cell(totals.places.get((kind, shard)) for shard in range(several + 1)),
            _errors(totals.errors, kind=kind),
        )
        for kind, name in enumerate(kinds)
    ]
    by_shard = [
        part(
            shard.slots,
            int(totals.answered[:, number].sum() + totals.wide_answered[number]),
            int(totals.keys[:, number].sum() + totals.wide_keys[number]),
            totals.cell(
                [
                    *(totals.places.get((kind, number)) for kind in range(len(kinds))),
                    totals.wide_places.get(number),
                ]
            ),
            _errors(totals.errors, shard=number),
        )
        for number, shard in enumerate(shards)
    ]
    busiest, mean = max(p.keys for p in by_shard), sum(p.keys for p in by_shard) / several
    return total, by_kind, by_shard, busiest / mean if mean else float("nan")


def timeline(totals: Totals, shards: int, seconds: int) -> list[Second]:
    """One entry for each second; the last one may be shorter."""
    errors: dict[tuple[int, int], Counter[str]] = {}
    for (tick, _kind, shard, name, _unknown), times in totals.errors.items():
        errors.setdefault((tick // _TICKS, shard), Counter())[name] += times
    found = []
    for second in range(seconds):
        whole = totals.second(second)
        cells = [totals.of_shard(second, shard) for shard in range(shards)]
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


def fault_reports(totals: Totals, struck: Sequence[Struck], shards: int, seconds: float) -> list[FaultReport]:
    """What callers noticed of each fault."""
    return [
        _fault_report(totals, each, shards, seconds, min(map(_began, _after(each, struck)), default=seconds))
        for each in struck
    ]


def _began(struck: Struck) -> float:
    return struck.began


def _after(first: Struck, struck: Iterable[Struck]) -> list[Struck]:
    """The faults that hit the same shard later."""
    return [
        each
        for each in struck
        if each.began > first.began and (first.shard is None or each.shard in (None, first.shard))
    ]


def _fault_report(
    totals: Totals, struck: Struck, shards: int, seconds: float, following: float
) -> FaultReport:
    hit = range(shards) if struck.shard is None else [struck.shard]
    # From the next fault on it is that one's; a silence begins with the last answer, which came before the fault.
    silences = [
        silence
        for shard in hit
        for silence in totals.silences(shard)
        if silence[1] > struck.began and silence[0] < min(struck.ended + 1, following - SILENCE)
    ]
    longest = max(silences, key=lambda silence: silence[1] - silence[0], default=None)
    answered_at = max((ended for _, ended in silences), default=struck.began)
    until = min(max(struck.ended, answered_at), following)
    within = {
        key: times
        for key, times in totals.errors.items()
        if struck.began - 1 / _TICKS <= key[0] / _TICKS <= until + 1 / _TICKS
    }
    unknown = sum(times for key, times in within.items() if key[4])
    first = min((key[0] / _TICKS for key in within), default=None)
    # The last shard takes the slots in, and has as much to do as the one that gives them away.
    busy = {*hit, shards - 1} if struck.fault.kind == "reshard" else {*hit}
    others = [shard for shard in range(shards) if shard not in busy]
    # What all of them have waited for is not the shards'.
    was_held = any(since < until and to > struck.began for since, to in held(totals, seconds))
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
        others_p99_during=None if was_held else _p99(totals, others, range(began, max(ended, began + 1))),
    )


def held(totals: Totals, seconds: float) -> list[tuple[float, float]]:
    """When a generator could begin nothing for so long that it shows, one after the other."""
    found: list[tuple[float, float]] = []
    for began, until in sorted(totals.held):
        began, until = max(began, 0.0), min(until, seconds)
        if found and began <= found[-1][1]:
            began, until = found[-1][0], max(until, found.pop()[1])
        if until > began:
            found.append((began, until))
    return [(began, until) for began, until in found if until - began >= SILENCE]


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
