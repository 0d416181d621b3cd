"""Versions, the clock, the stored form and batches: against Python's tuples, bytes and hashlib."""

import copy
import hashlib
import mmap
import operator
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise._versions import (
    CODEC_SHIFT,
    COMPRESSED,
    FORMAT,
    HEADER_SIZE,
    MAGIC,
    TOMBSTONE,
    ZERO,
    DamagedValue,
    ForeignValue,
    HybridClock,
    NotSealed,
    UnknownFormat,
    Version,
    compare,
    header,
    newest,
    seal,
    unseal,
)

Fields = tuple[int, int, int]

END = (2**48 - 1, 2**16 - 1, 2**64 - 1)
SAMPLE = Version(1_700_000_000_000, 1, 0x0123456789ABCDEF)
WALL = 1_700_000_000_000
WALL_NS = WALL * 1_000_000


def around(bits: int) -> st.SearchStrategy[int]:
    """Numbers of so many bits, often those that differ in one byte only, the highest or the lowest."""
    edges = {0, 1, 0xFF, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << bits) - 1, (1 << bits) - 2}
    return st.one_of(st.sampled_from(sorted(edges)), st.integers(0, (1 << bits) - 1))


fields = st.tuples(around(48), around(16), around(64))
versions = fields.map(lambda numbers: Version(*numbers))


def numbers_of(version: Version) -> Fields:
    return version.milliseconds, version.counter, version.writer


def bytes_of(numbers: Fields) -> bytes:
    """A version's bytes as the design says, in Python."""
    return b"".join(number.to_bytes(size, "big") for number, size in zip(numbers, (6, 2, 8), strict=True))


# -- one version ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "data"),
    [
        ((0, 0, 0), "00000000000000000000000000000000"),
        ((0, 0, 1), "00000000000000000000000000000001"),
        ((0, 1, 0), "00000000000000010000000000000000"),
        ((1, 0, 0), "00000000000100000000000000000000"),
        ((1_700_000_000_000, 1, 0x0123456789ABCDEF), "018bcfe5680000010123456789abcdef"),
        (END, "ffffffffffffffffffffffffffffffff"),
    ],
)
def test_bytes_of_known_versions(numbers: Fields, data: str) -> None:
    version = Version(*numbers)
    assert bytes(version).hex() == data
    assert Version.from_bytes(bytes.fromhex(data)) == version
    assert numbers_of(version) == numbers


@given(fields)
def test_numbers_and_bytes_there_and_back(numbers: Fields) -> None:
    version = Version(*numbers)
    assert numbers_of(version) == numbers
    assert bytes(version) == bytes_of(numbers)
    for data in (bytes(version), bytearray(bytes(version)), memoryview(bytes(version))):
        assert numbers_of(Version.from_bytes(data)) == numbers


@given(fields, fields)
def test_one_order_of_versions_numbers_and_bytes(left: Fields, right: Fields) -> None:
    a, b = Version(*left), Version(*right)
    for other in (right, left):
        b = Version(*other)
        for mine, theirs in ((left, other), (bytes(a), bytes(b))):
            assert (a < b) is (mine < theirs)  # type: ignore[operator]
            assert (a <= b) is (mine <= theirs)  # type: ignore[operator]
            assert (a == b) is (mine == theirs)
            assert (a != b) is (mine != theirs)
            assert (a > b) is (mine > theirs)  # type: ignore[operator]
            assert (a >= b) is (mine >= theirs)  # type: ignore[operator]


@given(st.lists(fields))
def test_sorted_as_numbers_are(many: list[Fields]) -> None:
    assert [numbers_of(version) for version in sorted(Version(*numbers) for numbers in many)] == sorted(many)


def test_the_oldest() -> None:
    assert Version() == ZERO == Version(0, 0, 0)
    assert bytes(ZERO) == bytes(16)


@given(versions)
def test_nothing_is_older_than_zero(version: Version) -> None:
    assert version >= ZERO


@given(versions)
def test_equal_versions_are_one_key(version: Version) -> None:
    again = Version.from_bytes(bytes(version))
    assert again is not version
    assert hash(again) == hash(version)
    assert {version: "found"}[again] == "found"


def test_hashes_spread() -> None:
    """Times differ in their upper bits, writers in all of them; a dictionary looks at the lowest of the hash."""
    for many in (
        [Version(WALL + i, 0, 7) for i in range(10_000)],
        [Version(WALL, 0, i << 48) for i in range(10_000)],
        [Version(WALL, i, 7) for i in range(10_000)],
    ):
        assert len({hash(version) for version in many}) == 10_000
        assert len({hash(version) & 0xFFFF for version in many}) > 7_000


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
@pytest.mark.parametrize("version", [ZERO, SAMPLE, Version(*END)])
def test_copies_are_equal(copied: Callable[[Version], Version], version: Version) -> None:
    assert copied(version) == version


def test_repr_makes_it_again() -> None:
    assert repr(SAMPLE) == "Version(1700000000000, 1, 0x0123456789abcdef)"
    assert eval(repr(SAMPLE)) == SAMPLE
    assert eval(repr(Version(*END))) == Version(*END)


@pytest.mark.parametrize("other", [None, 1, bytes(SAMPLE), numbers_of(SAMPLE), "x"])
def test_other_types_are_neither_equal_nor_ordered(other: Any) -> None:
    assert operator.ne(SAMPLE, other)
    assert not operator.eq(SAMPLE, other)
    for order in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(TypeError, match="not supported between instances"):
            order(SAMPLE, other)


def test_a_version_cannot_be_changed() -> None:
    for name in ("milliseconds", "counter", "writer", "more"):
        with pytest.raises(AttributeError):
            setattr(SAMPLE, name, 1)
    SAMPLE.__init__(1, 2, 3)  # type: ignore[call-arg]
    assert numbers_of(SAMPLE) == (1_700_000_000_000, 1, 0x0123456789ABCDEF)
    with pytest.raises(TypeError):
        type("Sub", (Version,), {})


@pytest.mark.parametrize("size", [0, 1, 15, 17, 32])
def test_a_version_has_16_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"a version has 16 bytes, not {size}"):
        Version.from_bytes(bytes(size))


@pytest.mark.parametrize("data", [16, "x" * 16, None, [0] * 16])
def test_a_version_is_made_of_bytes(data: Any) -> None:
    with pytest.raises(TypeError):
        Version.from_bytes(data)


@pytest.mark.parametrize(
    ("name", "limit"), [("milliseconds", 2**48 - 1), ("counter", 2**16 - 1), ("writer", 2**64 - 1)]
)
def test_a_number_without_room_is_refused(name: str, limit: int) -> None:
    fits = Version(**{name: limit})
    assert getattr(fits, name) == limit
    for number in (-1, limit + 1, 2**200, -(2**200)):
        with pytest.raises(ValueError, match=f"{name} {number} is not within 0-{limit}"):
            Version(**{name: number})
    for wrong in (1.0, "1", None):
        with pytest.raises(TypeError):
            Version(**{name: wrong})  # type: ignore[arg-type]
    assert Version(**{name: numpy.uint16(3)}) == Version(**{name: 3})  # type: ignore[arg-type]


# -- the clock ------------------------------------------------------------------------------------


class Wall:
    """A wall clock that the test sets."""

    def __init__(self, nanoseconds: int = WALL_NS) -> None:
        self.nanoseconds = nanoseconds

    def __call__(self) -> int:
        return self.nanoseconds


class Twin:
    """What the clock has to do, as in the paper: a pair of numbers."""

    def __init__(self) -> None:
        self.milliseconds = self.counter = 0

    def now(self, nanoseconds: int) -> tuple[int, int]:
        wall = max(nanoseconds // 1_000_000, 0)
        if wall > self.milliseconds:
            self.milliseconds, self.counter = wall, 0
        elif self.counter < 65535:
            self.counter += 1
        else:
            self.milliseconds, self.counter = self.milliseconds + 1, 0
        return self.milliseconds, self.counter

    def observe(self, version: Version) -> None:
        self.milliseconds, self.counter = max(
            (self.milliseconds, self.counter), (version.milliseconds, version.counter)
        )


def test_the_first_version_is_the_wall_clock() -> None:
    clock = HybridClock(Wall(WALL_NS + 999_999), 7, 60_000)
    assert numbers_of(clock.now()) == (WALL, 0, 7)
    assert numbers_of(clock.now()) == (WALL, 1, 7)
    assert (clock.writer, clock.max_drift, clock.refused, clock.ahead) == (7, 60.0, 0, 0)


def test_with_a_real_clock() -> None:
    clock = HybridClock(time.time_ns, 7, 60_000)
    before = time.time_ns() // 1_000_000
    version = clock.now()
    assert before <= version.milliseconds <= time.time_ns() // 1_000_000


steps = st.lists(
    st.one_of(
        # The wall clock is set: forth, back, before 1970, and to where C's numbers of nanoseconds end.
        st.integers(-5, 5).map(lambda ms: WALL_NS + ms * 500_000),
        st.sampled_from([-(10**30), -1, 0, 1, 2**63 - 1, 2**63, (2**48 - 2) * 1_000_000]),
        # A version is observed.
        st.tuples(st.integers(WALL - 3, WALL + 3), around(16), around(64)).map(lambda n: Version(*n)),
        # Versions are made, in number.
        st.none(),
    ),
    max_size=60,
)


@given(steps)
def test_clock_equals_its_twin_and_never_goes_back(made: list[int | Version | None]) -> None:
    wall, twin = Wall(), Twin()
    clock = HybridClock(wall, 2**64 - 1, 2**48 - 1)
    known = [ZERO]
    for step in made:
        if isinstance(step, Version):
            clock.observe(step)
            twin.observe(step)
            known.append(step)
        elif step is not None:
            wall.nanoseconds = step
        version = clock.now()
        assert (version.milliseconds, version.counter) == twin.now(wall.nanoseconds)
        assert version.writer == 2**64 - 1
        assert version > max(known)
        known.append(version)
        assert clock.ahead == max(version.milliseconds - max(wall.nanoseconds // 1_000_000, 0), 0)


def test_time_that_is_set_back_costs_the_counter_only() -> None:
    wall = Wall()
    clock = HybridClock(wall, 7, 60_000)
    first = clock.now()
    wall.nanoseconds -= 3_600_000_000_000
    assert numbers_of(clock.now()) == (first.milliseconds, 1, 7)
    assert clock.ahead == 3_600_000
    wall.nanoseconds += 3_600_001_000_000
    assert numbers_of(clock.now()) == (first.milliseconds + 1, 0, 7)
    assert clock.ahead == 0


def test_a_full_millisecond_borrows_from_the_next() -> None:
    clock = HybridClock(Wall(), 7, 60_000)
    made = [clock.now() for _ in range(65_538)]
    assert all(a < b for a, b in pairwise(made))
    assert [numbers_of(version) for version in made[-3:]] == [
        (WALL, 65_535, 7),
        (WALL + 1, 0, 7),
        (WALL + 1, 1, 7),
    ]
    assert clock.ahead == 1


def test_what_is_written_after_a_read_is_newer() -> None:
    clock = HybridClock(Wall(), 0, 60_000)
    # A greater writer does not help the version that was read.
    read = Version(WALL + 5, 65_535, 2**64 - 1)
    clock.observe(read)
    assert numbers_of(clock.now()) == (WALL + 6, 0, 0)
    clock.observe(Version(WALL, 0, 0))
    assert numbers_of(clock.now()) == (WALL + 6, 1, 0)


def test_drift_is_refused_from_the_first_millisecond_beyond_the_bound() -> None:
    clock = HybridClock(Wall(WALL_NS + 999_999), 7, 60_000)
    for late in (Version(WALL + 60_001, 0, 0), Version(*END)):
        with pytest.raises(
            ValueError, match=rf"{late.milliseconds - WALL} ms ahead of the wall clock"
        ) as refusal:
            clock.observe(late)
        assert repr(late) in str(refusal.value)
    assert clock.refused == 2
    assert numbers_of(clock.now()) == (WALL, 0, 7)
    clock.observe(Version(WALL + 60_000, 65_535, 0))
    assert clock.refused == 2
    assert numbers_of(clock.now()) == (WALL + 60_001, 0, 7)


def test_a_subclass_says_what_a_refusal_is() -> None:
    class Ours(HybridClock):
        def _drift_error(self, version: Version, ahead: int) -> Exception:
            return LookupError(version, ahead)

    clock = Ours(Wall(), 7, 0)
    with pytest.raises(LookupError) as refusal:
        clock.observe(Version(WALL + 3, 0, 0))
    assert refusal.value.args == (Version(WALL + 3, 0, 0), 3)


def test_versions_end_in_the_year_10889() -> None:
    wall = Wall((2**48 - 1) * 1_000_000)
    clock = HybridClock(wall, 7, 60_000)
    assert numbers_of(clock.now()) == (2**48 - 1, 0, 7)
    clock.observe(Version(*END))
    for _ in range(2):
        with pytest.raises(OverflowError, match="no version is greater"):
            clock.now()
    wall.nanoseconds = 2**48 * 1_000_000
    with pytest.raises(OverflowError, match=f"{2**48} ms since 1970 have no room"):
        clock.now()


def test_a_clock_that_fails_leaves_no_trace() -> None:
    answers: list[Any] = [WALL_NS, OSError("no clock"), 1.5, "now", None, WALL_NS]

    def clock() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    hybrid = HybridClock(clock, 7, 60_000)
    assert numbers_of(hybrid.now()) == (WALL, 0, 7)
    with pytest.raises(OSError, match="no clock"):
        hybrid.now()
    for _ in range(3):
        with pytest.raises(TypeError):
            hybrid.now()
    assert numbers_of(hybrid.now()) == (WALL, 1, 7)


@pytest.mark.parametrize("writer", [-1, 2**64])
def test_a_writer_has_64_bits(writer: int) -> None:
    clock = HybridClock(Wall(), 7, 60_000)
    with pytest.raises(ValueError, match=f"writer {writer} is not within"):
        HybridClock(Wall(), writer, 60_000)
    with pytest.raises(ValueError, match=f"writer {writer} is not within"):
        clock._renew(writer)
    clock._renew(2**64 - 1)
    assert clock.writer == clock.now().writer == 2**64 - 1
    with pytest.raises(ValueError, match="max_drift_ms -1 is not within"):
        HybridClock(Wall(), 7, -1)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_clock_cannot_be_copied(copied: Callable[[HybridClock], object]) -> None:
    with pytest.raises(TypeError, match="a clock cannot be copied"):
        copied(HybridClock(time.time_ns, 7, 60_000))


def test_observe_takes_versions_only() -> None:
    clock = HybridClock(Wall(), 7, 60_000)
    for wrong in (None, bytes(16), 5):
        with pytest.raises(TypeError):
            clock.observe(wrong)  # type: ignore[arg-type]


def test_what_another_thread_does_while_the_time_is_asked_counts() -> None:
    between: list[Callable[[], object]] = []

    def clock() -> int:
        # Here the interpreter may change threads; another one does this.
        if between:
            between.pop()()
        return WALL_NS

    hybrid = HybridClock(clock, 7, 60_000)
    between.append(lambda: hybrid.observe(Version(WALL + 9, 0, 0)))
    hybrid.observe(Version(WALL + 5, 0, 0))
    assert numbers_of(hybrid.now()) == (WALL + 9, 1, 7)
    between.append(hybrid.now)
    assert numbers_of(hybrid.now()) == (WALL + 9, 3, 7)


def test_16_threads_never_get_the_same_version() -> None:
    chance = random.Random(1)
    jumps = [WALL_NS + chance.randrange(-2_000_000, 2_000_000) for _ in range(1000)]
    position = 0

    def jumping() -> int:
        # In Python, so that threads change places in the middle of now().
        nonlocal position
        position += 1
        return jumps[position % len(jumps)]

    clock = HybridClock(jumping, 7, 60_000)
    made: list[list[Version]] = [[] for _ in range(16)]
    together = threading.Barrier(16)

    def work(mine: list[Version], others: list[Version]) -> None:
        together.wait()
        for i in range(3000):
            if i % 3 == 0 and others:
                seen = others[-1]
                clock.observe(seen)
                mine.append(clock.now())
                assert mine[-1] > seen
            else:
                mine.append(clock.now())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(made[i], made[i - 1])) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [len(mine) for mine in made] == [3000] * 16
    assert all(a < b for mine in made for a, b in pairwise(mine))
    assert len({version for mine in made for version in mine}) == 16 * 3000


# -- the stored form ------------------------------------------------------------------------------


def sealed_in_python(version: bytes, flags: int, payload: bytes) -> bytes:
    covered = version + bytes([flags]) + payload
    return b"\xc1SW\x01" + hashlib.sha1(covered).digest()[:4] + covered


VECTORS = [
    (SAMPLE, 0, b"", "c1535701a52404ff018bcfe5680000010123456789abcdef00"),
    (SAMPLE, 0, b"hello", "c153570186754748018bcfe5680000010123456789abcdef0068656c6c6f"),
    (SAMPLE, TOMBSTONE, b"", "c1535701db2e67f2018bcfe5680000010123456789abcdef01"),
    (
        SAMPLE,
        COMPRESSED | 1 << CODEC_SHIFT,
        b"\x00\xff",
        "c1535701f1d2f92e018bcfe5680000010123456789abcdef1200ff",
    ),
    (ZERO, 0, b"", "c1535701ed24e1280000000000000000000000000000000000"),
    (Version(*END), 0, b"", "c15357013b1d7d76ffffffffffffffffffffffffffffffff00"),
]


@pytest.mark.parametrize(("version", "flags", "payload", "stored"), VECTORS)
def test_known_stored_forms(version: Version, flags: int, payload: bytes, stored: str) -> None:
    assert seal(version, flags, payload).hex() == stored
    assert unseal(bytes.fromhex(stored)) == (version, flags, payload)


def test_constants_are_the_designs() -> None:
    assert (HEADER_SIZE, MAGIC, FORMAT, TOMBSTONE, COMPRESSED, CODEC_SHIFT) == (25, b"\xc1SW", 1, 1, 2, 4)
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()


@pytest.mark.parametrize("size", [*range(200), 400, 430, 431, 432, 433, 600, 65_536, 3_000_000])
def test_sizes_around_the_blocks_of_the_checksum(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    stored = seal(SAMPLE, 0, payload)
    assert stored == sealed_in_python(bytes(SAMPLE), 0, payload)
    assert unseal(stored) == (SAMPLE, 0, payload)


allowed_flags = st.integers(0, 255).map(lambda flags: flags & ~0x0C)


@given(versions, allowed_flags, st.binary(max_size=1500))
def test_sealed_and_unsealed(version: Version, flags: int, payload: bytes) -> None:
    stored = seal(version, flags, payload)
    assert stored == sealed_in_python(bytes(version), flags, payload)
    assert unseal(stored) == (version, flags, payload)
    assert header(stored) == header(stored[:25]) == (version, flags)
    for other in (bytearray, memoryview):
        assert seal(version, flags, other(payload)) == stored
        assert unseal(other(stored)) == (version, flags, payload)
        assert header(other(stored)) == (version, flags)


def test_a_payload_lies_in_one_piece() -> None:
    with pytest.raises(BufferError):
        seal(SAMPLE, 0, memoryview(b"abcdef")[::2])
    wrong: Any
    for wrong in ("text", None, 25):
        with pytest.raises(TypeError):
            seal(SAMPLE, 0, wrong)
        for opened in (unseal, header):
            with pytest.raises(TypeError):
                opened(wrong)
    for no_version in (None, bytes(16)):
        with pytest.raises(TypeError):
            seal(no_version, 0, b"")  # type: ignore[arg-type]


@pytest.mark.parametrize("flags", [-1, 4, 8, 0x1C, 256, 257])
def test_flags_without_a_meaning_are_not_sealed(flags: int) -> None:
    with pytest.raises(ValueError, match=r"flags .* have bits without a meaning"):
        seal(SAMPLE, flags, b"")


@pytest.mark.parametrize("flags", [4, 8, 0xFF])
def test_flags_of_the_future_are_not_unsealed(flags: int) -> None:
    stored = sealed_in_python(bytes(SAMPLE), flags, b"x")
    with pytest.raises(UnknownFormat, match=f"its flags are {flags:#x}"):
        unseal(stored)
    assert header(stored) == (SAMPLE, flags)


@pytest.mark.parametrize("size", [0, 1, 5, 30, 31, 39, 100, 431, 432, 700])
def test_every_flipped_bit_is_found(size: int) -> None:
    stored = seal(SAMPLE, 0, random.Random(size).randbytes(size))
    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        wanted = ForeignValue if bit < 24 else UnknownFormat if bit < 32 else DamagedValue
        with pytest.raises(NotSealed) as refusal:
            unseal(flipped)
        assert type(refusal.value) is wanted, bit


@pytest.mark.parametrize("size", [0, 1, 100, 700])
def test_every_missing_or_added_end_is_found(size: int) -> None:
    stored = seal(SAMPLE, TOMBSTONE, bytes(size))
    for end in range(len(stored)):
        with pytest.raises(ForeignValue if end < 3 else DamagedValue):
            unseal(stored[:end])
        if end < 25:
            with pytest.raises(ForeignValue if end < 3 else DamagedValue):
                header(stored[:end])
    for more in (b"\0", b"x", bytes(64), stored):
        with pytest.raises(DamagedValue, match="checksum"):
            unseal(stored + more)


@pytest.mark.parametrize(
    "value", [b"", b"12", b"\xc1", b"\xc1S", b"text" * 20, b"\x80\x04\x95", b"\xc1SX\x01"]
)
def test_the_values_of_others(value: bytes) -> None:
    for opened in (unseal, header):
        with pytest.raises(ForeignValue, match="does not begin with C1 53 57"):
            opened(value)


@pytest.mark.parametrize("value", [b"\xc1SW\x02", b"\xc1SW\x00" + bytes(40), b"\xc1SW\xff" + bytes(21)])
def test_formats_of_the_future(value: bytes) -> None:
    for opened in (unseal, header):
        with pytest.raises(UnknownFormat, match=f"its format is {value[3]}"):
            opened(value)


@given(st.binary(max_size=100).map(lambda end: b"\xc1SW\x01" + end))
def test_noise_is_no_value(value: bytes) -> None:
    with pytest.raises(DamagedValue):
        unseal(value)


# -- batches --------------------------------------------------------------------------------------

rows = st.lists(st.tuples(fields, fields), max_size=40)


def packed(column: list[Fields]) -> bytes:
    return b"".join(map(bytes_of, column))


def as_array(data: bytes) -> Any:
    return numpy.frombuffer(data, dtype=numpy.uint8).reshape(-1, 16)


def between(data: bytes) -> Any:
    """Columns 8 to 23 of a table of headers, as an audit has it."""
    table = numpy.full((len(data) // 16, 25), 0xFF, dtype=numpy.uint8)
    table[:, 8:24] = as_array(data)
    return table[:, 8:24]


def every_second(data: bytes) -> Any:
    spread = numpy.full((len(data) // 16 * 2, 16), 0xFF, dtype=numpy.uint8)
    spread[::2] = as_array(data)
    return spread[::2]


def backwards(data: bytes) -> Any:
    return as_array(data)[::-1].copy()[::-1]


def mapped(data: bytes) -> Any:
    if not data:
        return data
    area = mmap.mmap(-1, len(data))
    area[:] = data
    return area


def read_only(data: bytes) -> Any:
    array = as_array(data).copy()
    array.flags.writeable = False
    return array


LAYOUTS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "strided memoryview": lambda data: memoryview(b"".join(bytes([byte, 0xEE]) for byte in data))[::2],
    "mmap": mapped,
    "array": as_array,
    "read-only array": read_only,
    "columns of a wider array": between,
    "every second row": every_second,
    "reversed": backwards,
    "Fortran order": lambda data: numpy.asfortranarray(as_array(data)),
    "reversed within": lambda data: as_array(data)[:, ::-1].copy()[:, ::-1],
    "flat array": lambda data: numpy.frombuffer(data, dtype=numpy.uint8),
    "V16": lambda data: numpy.frombuffer(data, dtype="V16"),
    "V16 reversed": lambda data: numpy.frombuffer(data, dtype="V16")[::-1].copy()[::-1],
    "not aligned": lambda data: numpy.frombuffer(b"x" + data, dtype=numpy.uint8)[1:].reshape(-1, 16),
}


def compared_in_python(left: list[Any], right: list[Any]) -> list[int]:
    return [(a > b) - (a < b) for a, b in zip(left, right, strict=True)]


def newest_in_python(columns: list[list[Any]]) -> tuple[list[int], list[Any]]:
    table = list(zip(*columns, strict=True))
    return [row.index(max(row)) for row in table], [max(row) for row in table]


def newest_of(columns: list[bytes]) -> tuple[list[int], bytes]:
    winners, best = newest(*columns)
    assert winners.dtype == best.dtype == numpy.uint8
    assert best.shape == (len(winners), 16)
    return winners.tolist(), best.tobytes()


@given(rows, st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS)))
def test_compare_and_newest_equal_python_in_every_layout(
    pairs: list[tuple[Fields, Fields]], one: str, other: str
) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    a, b = LAYOUTS[one](packed(left)), LAYOUTS[other](packed(right))
    orders = compare(a, b)
    assert orders.dtype == numpy.int8
    assert orders.shape == (len(pairs),)
    assert orders.tolist() == compared_in_python(left, right)
    winners, best = newest(a, b)
    wanted = newest_in_python([left, right])
    assert (winners.tolist(), best.tobytes()) == (wanted[0], packed(wanted[1]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_what_it_says(layout: str) -> None:
    """So that none of them is the same test twice, and each is taken at all."""
    data = random.Random(1).randbytes(64)
    assert memoryview(LAYOUTS[layout](data)).tobytes() == data
    assert newest(LAYOUTS[layout](data))[1].tobytes() == data


def test_100000_random_pairs() -> None:
    chance = random.Random(1)
    left = [chance.randbytes(16) for _ in range(100_000)]
    # Of every two one shares a beginning of 0 to 16 bytes with its peer.
    right = [
        a[: chance.randrange(17)] + chance.randbytes(16) if i % 2 else chance.randbytes(16)
        for i, a in enumerate(left)
    ]
    right = [b[:16] for b in right]
    assert compare(b"".join(left), b"".join(right)).tolist() == compared_in_python(left, right)
    winners, best = newest_in_python([left, right, left])
    assert newest_of([b"".join(column) for column in (left, right, left)]) == (winners, b"".join(best))


def test_each_byte_counts_and_counts_without_a_sign() -> None:
    for position in range(16):
        for low, high in ((0, 1), (0x7F, 0x80), (0xFE, 0xFF), (0, 0xFF)):
            older, newer = bytearray(b"\x80" * 16), bytearray(b"\x80" * 16)
            older[position], newer[position] = low, high
            # All that follows speaks for the other, and does not count.
            older[position + 1 :] = b"\xff" * (15 - position)
            newer[position + 1 :] = bytes(15 - position)
            assert compare(older, newer).tolist() == [-1]
            assert compare(newer, older).tolist() == [1]
            assert newest_of([bytes(older), bytes(newer)]) == ([1], bytes(newer))
            assert newest_of([bytes(newer), bytes(older)]) == ([0], bytes(newer))


@given(st.lists(st.lists(fields, min_size=5, max_size=5), min_size=1, max_size=7))
def test_newest_of_many_columns(columns: list[list[Fields]]) -> None:
    wanted = newest_in_python(columns)
    assert newest_of([packed(column) for column in columns]) == (wanted[0], packed(wanted[1]))


columns_of_3 = st.lists(st.tuples(*[around(48).map(lambda ms: (ms, 0, ms % 3))] * 3), min_size=1, max_size=20)


@given(columns_of_3)
def test_newest_does_not_depend_on_the_way(table: list[tuple[Fields, Fields, Fields]]) -> None:
    a, b, c = (packed(list(column)) for column in zip(*table, strict=True))

    def best(*columns: Any) -> bytes:
        return newest(*columns)[1].tobytes()

    assert best(a, b) == best(b, a)
    assert best(best(a, b), c) == best(a, best(b, c)) == best(a, b, c) == best(c, a, b)
    assert best(a, a) == best(a) == a
    assert newest(a, a)[0].tolist() == [0] * len(table)


@given(rows)
def test_compare_backwards_is_its_opposite(pairs: list[tuple[Fields, Fields]]) -> None:
    a, b = packed([left for left, _ in pairs]), packed([right for _, right in pairs])
    assert compare(a, b).tolist() == (-compare(b, a)).tolist()
    assert not compare(a, a).any()


def test_the_first_of_equal_ones_wins() -> None:
    one, two = bytes_of((1, 0, 0)), bytes_of((2, 0, 0))
    assert newest_of([one, two, two, one, two]) == ([1], two)


def test_256_columns_and_no_more() -> None:
    columns = [bytes_of((i, 0, 0)) for i in range(256)]
    assert newest_of(columns) == ([255], columns[255])
    for count in (0, 257):
        with pytest.raises(ValueError, match=f"{count} columns: 1 to 256 can be compared"):
            newest(*[bytes(16)] * count)


@pytest.mark.parametrize("empty", [b"", numpy.empty((0, 16), "u1"), numpy.empty(0, "V16"), bytearray()])
def test_columns_of_nothing(empty: Any) -> None:
    assert compare(empty, b"").shape == (0,)
    winners, best = newest(empty, b"")
    assert (winners.shape, best.shape) == ((0,), (0, 16))


def test_results_are_the_callers() -> None:
    column = bytearray(bytes_of((1, 0, 0)))
    orders, (winners, best) = compare(column, column), newest(column, column)
    column[:] = b"\xff" * 16
    column.extend(b"no longer held")
    assert best.tobytes() == bytes_of((1, 0, 0))
    for array in (orders, winners, best):
        assert array.flags.writeable
        assert array.flags.c_contiguous


@pytest.mark.parametrize(
    "column",
    [
        bytes(15),
        bytes(17),
        numpy.zeros((3, 15), "u1"),
        numpy.zeros((3, 17), "u1"),
        numpy.zeros((16, 3), "u1"),
        numpy.zeros((1, 2, 16), "u1"),
        numpy.zeros((), "V16"),
        numpy.zeros((2, 2), "V16"),
        numpy.zeros(2, "V8"),
        # Their bytes may lie in another order, or be fewer than 16.
        numpy.zeros((3, 2), "u8"),
        numpy.zeros(4, "u8"),
        numpy.zeros(4, "S16"),
        numpy.zeros(4, "c16"),
    ],
    ids=lambda column: f"{type(column).__name__} {getattr(column, 'dtype', '')} {numpy.shape(column)}",
)
def test_other_shapes_are_refused(column: Any) -> None:
    good = bytes(48)
    message = (
        r"versions are n\*16 bytes, an \(n, 16\) array of uint8 or an array of V16; not items of \d+ bytes"
    )
    for call in (lambda: compare(column, good), lambda: compare(good, column), lambda: newest(good, column)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("column", [None, 16, "x" * 16, [bytes(16)], object()])
def test_what_has_no_bytes_is_refused(column: Any) -> None:
    for call in (lambda: compare(column, b""), lambda: newest(column)):
        with pytest.raises(TypeError):
            call()


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="columns of 2 and 3 versions"):
        compare(bytes(32), bytes(48))
    with pytest.raises(ValueError, match="columns of 2 and 1 versions"):
        newest(bytes(32), bytes(32), bytes(16))


@pytest.mark.parametrize("call", [compare, newest])
def test_other_threads_run_meanwhile(call: Callable[[Any, Any], Any]) -> None:
    column = numpy.zeros((1_000_000, 16), dtype=numpy.uint8)
    gate, ran = threading.Lock(), []
    gate.acquire()

    def work() -> None:
        with gate:
            ran.append(True)

    thread = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    # Nobody is asked to step aside: the thread runs if the call does so by itself, or else at the end.
    sys.setswitchinterval(60)
    try:
        thread.start()
        gate.release()
        for _ in range(200):
            call(column, column)
            if ran:
                break
        assert ran
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_numpy_is_loaded_by_the_first_batch() -> None:
    code = (
        "import sys, time; from slotwise._versions import HybridClock, compare, seal, unseal; "
        "unseal(seal(HybridClock(time.time_ns, 1, 0).now(), 0, b'x')); "
        "assert 'numpy' not in sys.modules; compare(b'', b''); assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
