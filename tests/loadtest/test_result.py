"""Saved results, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slotwise.loadtest.result import NotAResultError, read
from tests.loadtest.results import made_up, unanswered

Json = dict[str, Any]


def saved(change: Callable[[Json], object] = lambda found: None) -> str:
    found = json.loads(made_up(duration=12).to_json())
    change(found)
    return json.dumps(found)


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for result in (made_up(duration=12), unanswered()):
        path.write_text(result.to_json())
        assert read(path).to_json() == result.to_json()
    path.write_text(made_up(duration=12).to_json())
    assert read(path) == made_up(duration=12)


def test_fields_that_are_not_known_or_have_defaults(tmp_path: Path) -> None:
    """Of versions after and before this one."""

    def change(found: Json) -> None:
        for each in (found, found["total"], found["seconds"][0]["shards"][0], found["faults"][0]["silence"]):
            each["added"] = [{"later": 1}]
        del found["late_p99_ms"], found["overhead_us"], found["expectations"]

    path = tmp_path / "result.json"
    path.write_text(saved(change))
    result = read(path)
    assert result.total == made_up(duration=12).total
    assert (result.late_p99_ms, result.overhead_us, result.expectations) == (None, 0.0, [])


def at(*way: Any, value: Any) -> Callable[[Json], None]:
    def change(found: Any) -> None:
        for each in way[:-1]:
            found = found[each]
        found[way[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("total", "rate", value="fast"), "rate is 'fast'"),
        (at("total", "rate", value=None), "rate is None"),
        (at("total", "operations", value=1.5), "operations is 1.5"),
        (at("total", "operations", value=True), "operations is True"),
        (at("total", "operations", value=10**400), "too large"),
        (at("total", "errors", value={"Error": "many"}), "errors Error is 'many'"),
        (at("total", "latency", "p50", value=float("inf")), "p50 is inf"),
        (at("total", "histogram", value="AAAA="), "the histogram of all cannot be decoded"),
        (at("by_shard", 1, "histogram", value=""), "the histogram of 5461-10922 cannot be decoded"),
        (at("seconds", 3, "p99_ms", value=-1), "p99_ms is -1"),
        (at("seconds", 3, "shards", value=[]), "a second has other shards than the run"),
        (at("seconds", value={}), "seconds is {}"),
        (at("shards", 0, value="0-5460"), "shards is '0-5460'"),
        (at("faults", 0, "shard", value=3), "a fault is on a shard that is none"),
        (at("faults", 0, "silence", value=[1, 2]), "silence is [1, 2]"),
        (at("expectations", 0, "relation", value="<"), "an expectation is neither >= nor <="),
        (at("machine", value=[]), "machine is []"),
        (at("client", value="\ud800"), "surrogates not allowed"),
        (lambda found: found["total"].pop("keys"), "total has no keys"),
        (lambda found: found.pop("format"), "it has no format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_result(tmp_path: Path, change: Callable[[Json], object], message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(saved(change))
    with pytest.raises(NotAResultError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path} is no result of slotwise load-test (--save writes them): ")
    assert message in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(NotAResultError, match=r"result\.json is no result"):
        read(path)


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(saved(at("format", value="slotwise-load-test/2")))
    with pytest.raises(NotAResultError, match=r"result\.json is no slotwise-load-test/1: another version"):
        read(path)
