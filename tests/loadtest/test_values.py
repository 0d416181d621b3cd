"""What is written: sizes as asked for, bytes that nothing compresses."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from slotwise.loadtest.values import MOST_VALUE_BYTES, values


def drawn(text: str, seed: int = 1) -> list[bytes]:
    return values(text, np.random.default_rng(seed))


def test_fixed() -> None:
    found = drawn("100")
    assert {len(value) for value in found} == {100}
    assert len(set(found)) == len(found) == 1024
    assert len(zlib.compress(b"".join(found))) > 100 * 1024
    assert drawn("0")[0] == b""


def test_range_is_even() -> None:
    sizes = [len(value) for value in drawn("10-1000")]
    assert 10 <= min(sizes) < 20
    assert 990 < max(sizes) <= 1000
    assert np.mean(sizes) == pytest.approx(505, rel=0.06)


def test_lognormal_has_its_median_and_sigma() -> None:
    logs = np.log([len(value) for value in drawn("lognormal:300:1.0")])
    assert np.exp(np.median(logs)) == pytest.approx(300, rel=0.1)
    assert np.std(logs) == pytest.approx(1.0, rel=0.1)
    assert {len(value) for value in drawn("lognormal:300:0")} <= {299, 300}


def test_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "real.txt"
    path.write_bytes(b"one\n\ntwo\r\n\xff\x00three")
    assert sorted(drawn(f"file:{path}")) == [b"one", b"two", b"\xff\x00three"]
    path.write_bytes(b"\n".join(b"%d" % number for number in range(5000)))
    some = drawn(f"file:{path}")
    assert len(set(some)) == 1024
    # Of the whole file.
    assert max(map(int, some)) > 4000
    path.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match="has no lines"):
        drawn(f"file:{path}")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        drawn(f"file:{tmp_path / 'nowhere.txt'}")


def test_large_ones_are_few() -> None:
    found = drawn(f"{16 << 20}")
    assert {len(value) for value in found} == {16 << 20}
    assert sum(map(len, found)) <= 64 << 20


def test_seeds_repeat() -> None:
    assert drawn("10-50", 3) == drawn("10-50", 3)
    assert drawn("10-50", 3) != drawn("10-50", 4)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "-1", "10-", "-", "20-10", "1.5", f"{MOST_VALUE_BYTES + 1}", "10-x", "10:20"),
        *("lognormal", "lognormal:300", "lognormal:0:1", "lognormal:300:-1", "lognormal:300:6"),
        *("lognormal:x:1", "lognormal:nan:1", "lognormal:300:nan", "normal:300:1"),
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"no size of values: bytes such as 100, a range such as 10-1000"):
        drawn(text)
