"""Reports of load tests: pages that need nothing else, plots without holes or false lines, tables."""

import io
import math
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("hdrh")
rich_console = pytest.importorskip("rich.console")

from slotwise.loadtest.report import grids, numbers, plots, svg  # noqa: E402
from slotwise.loadtest.report.html import page, write_html  # noqa: E402
from slotwise.loadtest.report.numbers import NONE  # noqa: E402
from slotwise.loadtest.report.table import print_comparison, print_result  # noqa: E402
from slotwise.loadtest.result import Result, Second, ShardSecond, read  # noqa: E402
from tests.loadtest.results import HIT, made_up, unanswered  # noqa: E402

HOSTILE = '<script>alert("1")</script>&\'$x$[bold]'


@pytest.fixture(scope="module")
def ours() -> Result:
    return made_up()


@pytest.fixture(scope="module")
def theirs() -> Result:
    return made_up("redis-py", slowness=2.5, rate=10_000, back=20)


class Page(HTMLParser):
    """A page taken apart; fails on tags that are left open or closed twice."""

    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and data.strip():
            self.text.append(data.strip())

    def values(self, attribute: str) -> list[str]:
        return [value for name, value in self.attributes if name == attribute]


def drawings(text: str) -> list[ET.Element]:
    """The plots of a page, each parsed as XML."""
    return [ET.fromstring(found) for found in re.findall(r"<svg [^>]*xmlns=.*?</svg>", text, re.DOTALL)]


def said(print_it: object, *arguments: object, width: int = 100) -> str:
    written = io.StringIO()
    console = rich_console.Console(file=written, width=width)
    print_it(console, *arguments)  # type: ignore[operator]
    return written.getvalue()


RUNS = [
    "one",
    "compared",
    "three times one client",
    "without a fault",
    "unanswered",
    "answered and unanswered",
    "stopped at once",
]


@pytest.fixture(params=RUNS)
def results(request: pytest.FixtureRequest, ours: Result, theirs: Result) -> list[Result]:
    calm = made_up(fault=False, kinds=("get",), duration=5)
    found = {
        "one": [ours],
        "compared": [ours, theirs],
        "three times one client": [ours, ours, theirs],
        "without a fault": [calm],
        "unanswered": [unanswered()],
        "answered and unanswered": [calm, unanswered()],
        "stopped at once": [replace(unanswered(), duration=0.0, seconds=[], faults=[], expectations=[])],
    }
    return found[request.param]


# -- the page as a whole --------------------------------------------------------------------------


def test_page_stands_alone(results: list[Result]) -> None:
    text = page(results)
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not found.values("src")
    # What is used is in the page itself; and no style loads anything.
    assert all(href.startswith("#") for href in found.values("href") + found.values("xlink:href"))
    assert "@import" not in text
    assert set(re.findall(r"url\(.", text)) <= {"url(#"}
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) == {"http://www.w3.org/2000/svg"}


def test_ids_are_the_only_ones_and_all_used_ones_are_there(results: list[Result]) -> None:
    text = page(results)
    ids = Page(text).values("id")
    assert len(ids) == len(set(ids))
    used = {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)}
    assert used
    assert used <= set(ids)


def test_plots_are_xml_in_the_colours_of_the_page(results: list[Result]) -> None:
    text = page(results)
    found = drawings(text)
    assert len(found) == sum(len(group) for group in plots.plots(grids.named(results)))
    properties = set(re.findall(r"(--[\w-]+):", text))
    for drawing in found:
        assert drawing.get("aria-label")
        # Neither matplotlib's metadata, nor a style that would be the whole page's.
        assert {element.tag.rpartition("}")[2] for element in drawing.iter()} <= {
            *("svg", "g", "path", "defs", "use", "text", "clipPath", "rect")
        }
    drawn = "".join(ET.tostring(drawing, encoding="unicode") for drawing in found)
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= properties
    assert not re.search(r"(fill|stroke): #", drawn)
    assert "font-family" not in drawn
    assert "nan" not in drawn


def test_no_figure_is_left_as_nan_or_none(results: list[Result]) -> None:
    words = Page(page(results)).text
    assert not [word for word in words if re.search(r"\b(nan|None|inf)\b", word)]


def test_the_same_results_make_the_same_page(ours: Result) -> None:
    assert page([ours]) == page([ours])


def test_written_from_json(tmp_path: Path, ours: Result, theirs: Result) -> None:
    (tmp_path / "a.json").write_text(unanswered().to_json(), encoding="utf-8")
    (tmp_path / "b.json").write_text(theirs.to_json(), encoding="utf-8")
    results = [read(tmp_path / "a.json"), read(tmp_path / "b.json")]
    write_html(tmp_path / "page.html", results)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page([unanswered(), theirs])


def test_everything_from_a_result_is_escaped(ours: Result) -> None:
    part = replace(ours.total, name=HOSTILE, errors={HOSTILE: 1})
    hostile = replace(
        ours,
        began=HOSTILE,
        client=HOSTILE,
        command=[HOSTILE],
        options={HOSTILE: HOSTILE},
        machine={HOSTILE: HOSTILE},
        server=HOSTILE,
        loop=HOSTILE,
        shards=[replace(shard, slots=HOSTILE, node=HOSTILE) for shard in ours.shards],
        operations=[part],
        by_shard=[replace(part, name=HOSTILE) for _ in ours.shards],
        total=part,
        faults=[replace(ours.faults[0], name=HOSTILE, kind=HOSTILE, errors={HOSTILE: 1})],
        expectations=[replace(ours.expectations[0], name=HOSTILE, unit=HOSTILE)],
    )
    for results in ([hostile], [hostile, ours]):
        text = page(results)
        found = Page(text)
        assert "script" not in found.tags
        assert "<script" not in text
        # Nothing is lost either, nor taken for mathematics by matplotlib.
        assert HOSTILE in found.text
        assert sum(HOSTILE in drawing.itertext() for drawing in drawings(text)) >= 4
    assert HOSTILE in said(print_result, hostile, width=400)
    assert HOSTILE in said(print_comparison, [hostile, ours], width=400)


def test_no_result_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a result"):
        write_html(tmp_path / "page.html", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "library"), [("matplotlib", "matplotlib"), ("hdrh", "hdrhistogram")])
def test_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: Result, module: str, library: str
) -> None:
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(svg.MissingPlotsError, match=rf"{library}: pip install 'slotwise\[load-test\]'"):
        write_html(tmp_path / "page.html", [ours])
    assert not list(tmp_path.iterdir())
    # Tables do without.
    assert "kill-primary@10s" in said(print_result, ours)


# -- the plots ------------------------------------------------------------------------------------


def line_lengths(plot: plots.Plot, style: plots.Style) -> list[int]:
    """Of the lines in a style, the number of points in each stretch without a gap."""
    root = ET.fromstring(plot.svg)
    found = []
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        css = path.get("style", "")
        if f"stroke: {style.color.css}" in css and f"stroke-width: {style.width:g}" in css:
            found += [part.count("L") + 1 for part in path.get("d", "").split("M") if part.strip()]
    return found


def zigzag(number: int, silent: Sequence[int]) -> Iterator[Second]:
    """Seconds in which matplotlib can leave no point out; the second shard is silent in some of them."""
    for second in range(number):
        value = 1.0 + second % 2
        answered = ShardSecond(100 + 50 * (second % 2), {}, value, value)
        other = ShardSecond(0, {"ConnectionError": 1}, None, None) if second in silent else answered
        yield Second(second, 200, {}, value, value, value, [answered, other])


def test_silence_is_a_gap_of_latency_and_zero_throughput(ours: Result) -> None:
    result = replace(
        ours,
        duration=12.0,
        shards=ours.shards[:2],
        by_shard=ours.by_shard[:2],
        seconds=list(zigzag(12, silent=[4, 5, 6])),
    )
    *_, (throughput, latency) = plots.plots(grids.named([result]))
    hit = next(style for name, style in latency.legend if name.endswith("(hit)"))
    assert line_lengths(latency, hit) == [4, 5]
    assert sum(line_lengths(throughput, hit)) >= 10
    assert len(line_lengths(throughput, hit)) == 1


def test_a_second_alone_between_gaps_is_a_dot(ours: Result) -> None:
    def dots(silent: Sequence[int]) -> int:
        seconds = list(zigzag(9, silent))
        result = replace(
            ours, duration=9.0, shards=ours.shards[:2], by_shard=ours.by_shard[:2], seconds=seconds
        )
        *_, (_, latency) = plots.plots(grids.named([result]))
        root = ET.fromstring(latency.svg)
        uses = root.iter("{http://www.w3.org/2000/svg}use")
        return sum(svg.Color.SERIES_1.css in use.get("style", "") for use in uses)

    assert dots([]) == dots([3, 4]) == 0
    assert dots([3, 5]) == 1
    assert dots([0, 2, 3, 5]) == 2


def test_a_shorter_last_second_is_no_dip(ours: Result) -> None:
    assert plots._rate(50, 10, replace(ours, duration=10.5)) == 100
    assert plots._rate(50, 9, replace(ours, duration=10.5)) == 50
    # What was answered after the end counts as it is.
    assert plots._rate(50, 11, replace(ours, duration=10.5)) == 50


def test_percentile_curve_is_the_histogram(ours: Result) -> None:
    nines, milliseconds = plots._percentile_curve(ours.total)
    assert nines[0] == 0
    assert milliseconds == sorted(milliseconds)
    assert milliseconds[-1] == pytest.approx(ours.total.latency.max, rel=0.002)
    for share, expected in ((0.5, ours.total.latency.p50), (0.99, ours.total.latency.p99)):
        index = min(range(len(nines)), key=lambda index: abs(nines[index] + math.log10(1 - share)))
        assert milliseconds[index] == pytest.approx(expected, rel=0.1)
    assert plots._percentile_curve(unanswered().total) == ([], [])


def test_curves_of_one_run_are_its_kinds_and_of_several_the_runs(ours: Result, theirs: Result) -> None:
    one = plots.plots(grids.named([ours]))[0][0]
    assert [name for name, _ in one.legend] == ["get", "set", "pipeline", "all"]
    several = plots.plots(grids.named([ours, theirs, theirs]))[0][0]
    assert [name for name, _ in several.legend] == ["slotwise", "redis-py 1", "redis-py 2"]
    assert len({(style.color, style.dashes) for _, style in several.legend}) == 3


def test_the_hit_shard_stands_out(ours: Result) -> None:
    many = made_up(slots=[f"{n * 400}-{n * 400 + 399}" for n in range(40)], duration=12)
    for result, name in ((ours, "5461-10922 (hit)"), (many, "400-799 (hit)")):
        *_, (throughput, _) = plots.plots(grids.named([result]))
        assert [label for label, _ in throughput.legend] == [name, "other shards"]
    calm = made_up(fault=False, duration=3)
    *_, (throughput, _) = plots.plots(grids.named([calm]))
    assert [label for label, _ in throughput.legend] == [shard.slots for shard in calm.shards]


def test_faults_are_marked_in_all_plots_over_time(ours: Result, theirs: Result) -> None:
    for results, over_time in (([ours], 4), ([ours, theirs], 7)):
        found = drawings(page(results))
        assert sum("kill-primary" in drawing.itertext() for drawing in found) == over_time


def test_labels_of_faults_do_not_cover_one_another() -> None:
    texts = ["kill-primary", "freeze", "partition", "kill-primary"]
    places = plots._places(texts, [HIT, HIT + 1, HIT + 12, 29.5], 30)
    assert [row for *_, row in places] == [0, 1, 0, 0] or places[2][2] != places[3][2]
    second = (svg.WIDTH - plots._LEFT - plots._RIGHT) / 30
    spans = [(row, x * second, x * second + plots._LETTER * len(text)) for text, x, row in places]
    for index, (row, left, right) in enumerate(spans):
        assert 0 <= left < right <= 30 * second + 1e-6
        assert not [other for other in spans[:index] if other[0] == row and other[2] > left]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.4, 3900, [1, 10, 100, 1000]),
        (0.9, 40, [1, 3, 10, 30]),
        (0.8, 3, [1, 2]),
        (11, 19, []),
    ],
)
def test_ticks_of_latency(low: float, high: float, ticks: list[float]) -> None:
    assert plots._ticks(low, high) == pytest.approx(ticks)


# -- the tables -----------------------------------------------------------------------------------


def cells(grid: grids.Grid, name: str) -> list[str]:
    return next(list(row.cells) for row in grid.rows if row.cells[0] == name)


def test_all_rows_have_a_cell_for_each_column(results: list[Result]) -> None:
    runs = grids.named(results)
    some = [grids.comparison(runs), grids.operations(runs), grids.shards(runs), *grids.faults(runs)]
    some += [grids.what_was_run(runs), grids.options(runs), grids.machine(runs)]
    some += [grid for grid in (grids.errors(runs), grids.expectations(runs)) if grid is not None]
    for grid in some:
        assert {len(row.cells) for row in grid.rows} == {len(grid.columns)}


def test_comparison_has_ratios_against_the_first(ours: Result, theirs: Result) -> None:
    grid = grids.comparison(grids.named([ours, theirs]))
    assert [column.name for column in grid.columns] == ["", "slotwise", "redis-py", "ratio"]
    rates = ours.total.rate, theirs.total.rate
    assert cells(grid, "operations a second")[1:] == [
        f"{rates[0]:,.0f}",
        f"{rates[1]:,.0f}",
        f"{rates[1] / rates[0]:.2f}x",
    ]
    assert cells(grid, "recovered from kill-primary@10s, s")[1:] == ["3.87", "9.87", "2.55x"]
    assert cells(grid, "recovered from kill-primary@10s, s")[0] in said(print_comparison, [ours, theirs])


def test_comparison_of_what_is_not_there(ours: Result) -> None:
    never = replace(ours, faults=[replace(ours.faults[0], recovered_after=None)])
    calm = replace(ours, faults=[])
    grid = grids.comparison(grids.named([ours, never, calm]))
    recovered = cells(grid, "recovered from kill-primary@10s, s")
    assert recovered[1:] == ["3.87", "not in this run", NONE, NONE, NONE]
    grid = grids.comparison(grids.named([unanswered(), ours]))
    assert cells(grid, "p99, ms")[1:] == [NONE, numbers.figure(ours.total.latency.p99), NONE]


def test_faults_say_what_callers_noticed(ours: Result) -> None:
    (grid,) = grids.faults(grids.named([ours]))
    assert cells(grid, "hit")[1] == "5461-10922"
    assert cells(grid, "replica elected after")[1] == "2.60 s"
    assert cells(grid, "noticed by a caller after")[1] == "0.004 s"
    assert cells(grid, "lost: surely did not take place")[1] == "120"
    (grid,) = grids.faults(grids.named([unanswered()]))
    assert cells(grid, "hit")[1] == "all shards"
    assert cells(grid, "noticed by a caller after")[1] == "never"
    assert cells(grid, "answered again after")[1] == "not in this run"
    assert cells(grid, "longest silence of the shard")[1] == "from 1.00 s to the end"


def test_many_faults_are_shown_in_several_tables(ours: Result) -> None:
    faults = [replace(ours.faults[0], name=f"freeze@{second}s") for second in range(7)]
    some = list(grids.faults(grids.named([replace(ours, faults=faults)])))
    assert [column.name for grid in some for column in grid.columns[1:]] == [fault.name for fault in faults]
    assert max(len(grid.columns) for grid in some) == 4


def test_errors_by_exception(ours: Result) -> None:
    grid = grids.errors(grids.named([ours]))
    assert grid is not None
    number = ours.total.errors["ConnectionError"]
    assert cells(grid, "ConnectionError")[1] == str(number)
    assert cells(grid, "ConnectionError")[3] == f"set {number}"
    assert grids.errors(grids.named([made_up(fault=False, duration=2)])) is None


def test_expectations_in_words_and_colour(ours: Result) -> None:
    grid = grids.expectations(grids.named([ours]))
    assert grid is not None
    assert [(row.cells[-1], row.tone) for row in grid.rows] == [("met", "good"), ("missed", "bad")]
    assert list(grid.rows[0].cells) == ["p99", "≤ 10 ms", "4.25 ms", "met"]
    assert "Expectations missed: 1 of 2" in Page(page([ours])).text


def test_options_that_differ_are_marked_and_equal_ones_said_once(ours: Result, theirs: Result) -> None:
    grid = grids.options(grids.named([ours, theirs]))
    assert [row.cells[0] for row in grid.rows if row.tone == "other"] == ["client"]
    assert cells(grid, "read_from_replicas")[1:] == ["no", "no"]
    assert cells(grid, "timeout")[1:] == [NONE, NONE]
    assert len(grids.machine(grids.named([ours, theirs])).columns) == 2


def test_what_was_not_answered_in_words(ours: Result) -> None:
    behind = replace(ours, due=200_000, unanswered=50_000)
    words = "50,000 of 200,000 operations that were due (25.0 %); they are in no latency"
    assert f"Unanswered: {words}." in said(print_result, behind, width=160)
    assert words in Page(page([behind])).text
    assert "Unanswered" not in said(print_result, replace(ours, due=200_000, unanswered=0))
    held = "Held up: for 2.50 s as much was under way as may be, and what was due waited, on all shards."
    assert held in said(print_result, replace(behind, held_s=2.5), width=160)
    assert "Held up" not in said(print_result, replace(behind, held_s=0.0))
    assert cells(grids.what_was_run(grids.named([ours])), "unanswered")[1:] == [NONE]


@pytest.mark.parametrize("width", [80, 160])
def test_terminal(results: list[Result], width: int) -> None:
    text = said(print_comparison, results, width=width)
    assert not re.search(r"\b(nan|None)\b", text)
    text = said(print_result, results[0], width=width)
    assert not re.search(r"\b(nan|None)\b", text)
    assert results[0].by_shard[0].name in text
    assert ("p99.99" in text) == (width == 160)
    # Numbers are not cut.
    assert "…" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, NONE), (float("nan"), NONE), (0.0, "0"), (0.0123, "0.012"), (0.9994, "0.999")),
        *((0.9996, "1.00"), (9.994, "9.99"), (9.996, "10.0"), (99.94, "99.9"), (99.96, "100")),
        *((12345.6, "12,346"),),
    ],
)
def test_figure(value: float | None, text: str) -> None:
    assert numbers.figure(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        *((0, 0, NONE), (0, 5, "0 %"), (5, 5, "100 %"), (1, 10**6, "< 0.01 %")),
        *((10**6 - 1, 10**6, "> 99.99 %"), (1, 30, "3.33 %"), (1, 3, "33.3 %"), (997, 1000, "99.70 %")),
    ],
)
def test_share(part: float, whole: float, text: str) -> None:
    assert numbers.share(part, whole) == text
