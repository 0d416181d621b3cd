"""Versions of 16 bytes, the hybrid logical clock that makes them, the stored form of values, and batches of versions.

docs/consistency.md is the design: what the bytes are and why.
"""

cimport cython
from cpython.buffer cimport PyBUF_RECORDS_RO, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport Py_EQ, Py_GT, Py_LE, Py_LT, Py_NE
from libc.stdint cimport int8_t, uint8_t
from libc.string cimport memcpy, strcmp

from hashlib import sha1

cdef extern from "Python.h":
    int PyBUF_READ
    object PyNumber_Index(object number)
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF

HEADER_SIZE = HEADER
MAGIC = b"\xc1\x53\x57"
FORMAT = 1
TOMBSTONE = 0x01
COMPRESSED = 0x02
CODEC_SHIFT = 4

cdef uint64_t MOST_MILLISECONDS = 0xFFFFFFFFFFFF


class NotSealed(ValueError):
    """Bytes that `unseal` and `header` do not take; its subclasses say why."""


class ForeignValue(NotSealed):
    """They do not begin as a stored value does: somebody else has written them."""


class UnknownFormat(NotSealed):
    """A newer program has stored them: their format or their flags mean nothing here."""


class DamagedValue(NotSealed):
    """They begin as a stored value does and are cut off, or not what their checksum was made of."""


# -- one version ----------------------------------------------------------------------------------


cdef uint64_t field(object number, uint64_t limit, str name) except? 0xFFFFFFFFFFFFFFFF:
    """A field of a version out of a Python number, within 0 and `limit`."""
    cdef uint64_t value
    number = PyNumber_Index(number)
    try:
        value = PyLong_AsUnsignedLongLong(number)
    except OverflowError:
        raise ValueError(f"{name} {number} is not within 0-{limit}") from None
    if value > limit:
        raise ValueError(f"{name} {number} is not within 0-{limit}")
    return value


cdef Version version_of(uint64_t high, uint64_t low):
    cdef Version version = Version.__new__(Version)
    version.high = high
    version.low = low
    return version


@cython.final
@cython.freelist(64)
cdef class Version:
    """When something was written, and by whom: immutable, ordered, hashable.

    ``milliseconds`` since 1970, UTC, 48 bits; ``counter`` of versions within a millisecond, 16 bits; ``writer``, the
    random number of a clock, 64 bits. ``bytes(version)`` are 16 bytes in the same order. Without arguments it is
    older than all others. Raises ``ValueError`` for a number that has no room in its field.
    """

    def __cinit__(self, milliseconds=0, counter=0, writer=0):
        self.high = field(milliseconds, MOST_MILLISECONDS, "milliseconds") << 16 | field(counter, 0xFFFF, "counter")
        self.low = field(writer, 0xFFFFFFFFFFFFFFFF, "writer")

    @staticmethod
    def from_bytes(data):
        """The version in 16 bytes; ``data`` is bytes or any other buffer. Raises ``ValueError`` for another length."""
        if not PyBytes_CheckExact(data):
            # Not `bytes(data)` at once, which makes zeros of a number.
            data = bytes(memoryview(data))
        if PyBytes_GET_SIZE(data) != WIDTH:
            raise ValueError(f"a version has {WIDTH} bytes, not {len(data)}")
        cdef const unsigned char *p = <const unsigned char*>PyBytes_AS_STRING(data)
        return version_of(slotwise_load64(p), slotwise_load64(p + 8))

    @property
    def milliseconds(self):
        """Since 1970, UTC."""
        return self.high >> 16

    @property
    def counter(self):
        """Of versions within the millisecond, 0 to 65535."""
        return self.high & 0xFFFF

    @property
    def writer(self):
        """The random number of the clock that made it."""
        return self.low

    def __bytes__(self):
        cdef unsigned char data[WIDTH]
        slotwise_store64(data, self.high)
        slotwise_store64(data + 8, self.low)
        return PyBytes_FromStringAndSize(<char*>data, WIDTH)

    def __richcmp__(self, other, int op):
        if type(other) is not Version:
            return NotImplemented
        cdef Version theirs = <Version>other
        cdef int order = order_of(self.high, self.low, theirs.high, theirs.low)
        if op == Py_LT:
            return order < 0
        if op == Py_LE:
            return order <= 0
        if op == Py_EQ:
            return order == 0
        if op == Py_NE:
            return order != 0
        if op == Py_GT:
            return order > 0
        return order >= 0

    def __hash__(self):
        # The writers of a program are few and the low bits of times are alike: all bits have to reach the low ones.
        cdef uint64_t mixed = (self.high ^ (self.low << 32 | self.low >> 32)) * <uint64_t>0x9E3779B97F4A7C15
        mixed ^= mixed >> 32
        # Minus one means an error to Python; half of the range is as good as all of it.
        return <Py_hash_t>(mixed & 0x7FFFFFFF if sizeof(Py_hash_t) < 8 else mixed >> 1)

    def __repr__(self):
        return f"Version({self.milliseconds}, {self.counter}, {self.low:#018x})"

    def __reduce__(self):
        return Version, (self.milliseconds, self.counter, self.low)


cdef inline int order_of(uint64_t high, uint64_t low, uint64_t other_high, uint64_t other_low) noexcept nogil:
    """-1, 0 or 1 as one version is older than another, equal or newer."""
    return slotwise_newer(high, low, other_high, other_low) - slotwise_newer(other_high, other_low, high, low)


ZERO = Version()


# -- the clock ------------------------------------------------------------------------------------


cdef uint64_t milliseconds_of(object nanoseconds) except? 0xFFFFFFFFFFFFFFFF:
    """Milliseconds of what a clock told. Before 1970 counts as 1970; raises OverflowError where 48 bits end."""
    cdef int overflow = 0
    cdef long long value = PyLong_AsLongLongAndOverflow(nanoseconds, &overflow)
    if not overflow:
        return 0 if value < 0 else <uint64_t>value // 1_000_000
    # A C number of nanoseconds ends in 2262, versions last until 10889.
    if nanoseconds < 0:
        return 0
    nanoseconds //= 1_000_000
    if nanoseconds > MOST_MILLISECONDS:
        raise OverflowError(f"{nanoseconds} ms since 1970 have no room in the 48 bits of a version")
    return nanoseconds


cdef class HybridClock:
    """Makes versions: each is greater than the last and than all that were observed, and near the wall clock.

    ``clock`` is called for the wall clock's nanoseconds since 1970. ``writer``, 64 bits, is in every version; no other
    clock may have it. An observed version may be ``max_drift_ms`` milliseconds ahead of the wall clock. Raises
    ``ValueError`` for numbers without room. Threads may share it.
    """

    def __init__(self, clock, writer, max_drift_ms):
        self.clock = clock
        self.writer = field(writer, 0xFFFFFFFFFFFFFFFF, "writer")
        self.drift = field(max_drift_ms, MOST_MILLISECONDS, "max_drift_ms")

    @property
    def max_drift(self):
        """Seconds that an observed version may be ahead of the wall clock."""
        return self.drift / 1000.0

    @property
    def ahead(self):
        """Milliseconds that the newest version it knows is ahead of the wall clock.

        0 unless time was set back, versions came from a host that is ahead, or more than 65,536 were made within a
        millisecond.
        """
        cdef uint64_t wall = milliseconds_of(self.clock())
        return max(self.last >> 16, wall) - wall

    def now(self):
        """A version greater than all before. Raises ``OverflowError`` in the year 10889."""
        cdef uint64_t wall = milliseconds_of(self.clock()) << 16
        # Nothing of Python runs from here to where `last` is written: no other thread comes between, and two
        # never get the same version.
        cdef uint64_t high = self.last + 1
        if high == 0:
            raise OverflowError("no version is greater than the last")
        if wall > high:
            high = wall
        self.last = high
        return version_of(high, self.writer)

    def observe(self, Version version not None):
        """Makes ``now()`` greater than ``version`` from here on.

        One that is more than ``max_drift`` ahead of the wall clock is not taken: it is counted in ``refused`` and the
        error of ``_drift_error`` is raised.
        """
        if version.high <= self.last:
            # What most reads bring; nobody has to be asked the time.
            return
        cdef uint64_t wall = milliseconds_of(self.clock())
        if version.high >> 16 > wall + self.drift:
            self.refused += 1
            raise self._drift_error(version, (version.high >> 16) - wall)
        # Again, as another thread may have run in the clock; and nothing of Python between this and the next line.
        if version.high > self.last:
            self.last = version.high

    def _drift_error(self, version, ahead):
        """The exception for a version that is ``ahead`` milliseconds ahead; for subclasses to change."""
        return ValueError(f"{version!r} is {ahead} ms ahead of the wall clock")

    def _renew(self, writer):
        """Makes versions of another writer from here on: for a child process, which would make its parent's."""
        self.writer = field(writer, 0xFFFFFFFFFFFFFFFF, "writer")

    def __reduce__(self):
        raise TypeError("a clock cannot be copied: two of the same writer would make the same versions")


# -- the stored form ------------------------------------------------------------------------------


cdef uint32_t checksum(const unsigned char *p, Py_ssize_t n) except? 0xFFFFFFFF:
    """The first 4 bytes of the SHA-1 of `n` bytes, as a big-endian number."""
    if n <= SHORT:
        return slotwise_sha1_start(p, <size_t>n)
    # The hash reads the memory before it returns and keeps no part of it.
    digest = sha1(PyMemoryView_FromMemory(<char*>p, n, PyBUF_READ), usedforsecurity=False).digest()
    return <uint32_t>(slotwise_load64(<const unsigned char*>PyBytes_AS_STRING(digest)) >> 32)


def seal(Version version not None, int flags, payload):
    """The bytes to store: ``payload``, any buffer, after a header of 25 bytes.

    ``flags`` is TOMBSTONE, COMPRESSED and the codec's number shifted by CODEC_SHIFT; raises ``ValueError`` for other
    bits.
    """
    if flags & ~0xFF or flags & UNUSED:
        raise ValueError(f"flags {flags:#x} have bits without a meaning")
    cdef Py_buffer view
    cdef Py_ssize_t n
    cdef unsigned char *p
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        n = HEADER + view.len
        value = PyBytes_FromStringAndSize(NULL, n)
        # A bytes object may be written to until somebody else sees it.
        p = <unsigned char*>PyBytes_AS_STRING(value)
        slotwise_store64(p + COVERED, version.high)
        slotwise_store64(p + COVERED + 8, version.low)
        p[FLAGS] = <unsigned char>flags
        memcpy(p + HEADER, view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    # Magic, format and checksum are 8 bytes.
    slotwise_store64(p, <uint64_t>0xC1535701 << 32 | checksum(p + COVERED, n - COVERED))
    return value


cdef int look(const unsigned char *p, Py_ssize_t n) except -1:
    """Raises for what does not begin with a whole header of our format."""
    if n < 3 or p[0] != 0xC1 or p[1] != 0x53 or p[2] != 0x57:
        raise ForeignValue("it does not begin with C1 53 57")
    if n > 3 and p[3] != 1:
        raise UnknownFormat(f"its format is {p[3]}")
    if n < HEADER:
        raise DamagedValue(f"{n} bytes, and a header has {HEADER}")
    return 0


def header(data):
    """``(version, flags)`` of a stored value or of its first 25 bytes, whose checksum is not looked at.

    Raises ForeignValue, UnknownFormat, or DamagedValue for less than a header.
    """
    if not PyBytes_CheckExact(data):
        data = bytes(memoryview(data))
    cdef const unsigned char *p = <const unsigned char*>PyBytes_AS_STRING(data)
    look(p, PyBytes_GET_SIZE(data))
    return version_of(slotwise_load64(p + COVERED), slotwise_load64(p + COVERED + 8)), p[FLAGS]


def unseal(value):
    """``(version, flags, payload)`` of a stored value: what `seal` was given, the payload as bytes.

    Raises ForeignValue for what is no stored value, DamagedValue if it is cut off or its checksum is not the one it
    carries, UnknownFormat for a format or flags of the future.
    """
    if not PyBytes_CheckExact(value):
        value = bytes(memoryview(value))
    cdef const unsigned char *p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    look(p, n)
    if checksum(p + COVERED, n - COVERED) != <uint32_t>slotwise_load64(p):
        raise DamagedValue("its checksum is another")
    # After the checksum, so that a flipped bit is what it is.
    if p[FLAGS] & UNUSED:
        raise UnknownFormat(f"its flags are {p[FLAGS]:#x}")
    return (
        version_of(slotwise_load64(p + COVERED), slotwise_load64(p + COVERED + 8)),
        p[FLAGS],
        PyBytes_FromStringAndSize(<const char*>p + HEADER, n - HEADER),
    )


# -- batches --------------------------------------------------------------------------------------


@cython.final
cdef class Column:
    """The versions in a buffer: n*16 bytes, an ``(n, 16)`` array of bytes or an array of V16.

    They are read where they lie, whatever is between two of them. Only where the bytes of a version do not lie together
    are they copied first. Raises ``ValueError`` for another shape.
    """
    # Held as long as this lives, so that its memory cannot move.
    cdef Py_buffer view
    cdef bint held
    # The first version; anything where there is none.
    cdef const unsigned char *start
    # Bytes from one version to the next; negative in a reversed view.
    cdef Py_ssize_t step
    # Versions.
    cdef Py_ssize_t count

    def __cinit__(self, source):
        self.take(source)
        cdef Py_buffer *view = &self.view
        # A version's bytes lie together if the step within it is 1.
        cdef Py_ssize_t within = 1
        if view.itemsize == 1 and view.ndim == 1 and view.shape[0] % WIDTH == 0:
            self.count = view.shape[0] // WIDTH
            self.step = WIDTH
            within = view.strides[0]
        elif view.itemsize == 1 and view.ndim == 2 and view.shape[1] == WIDTH:
            self.count = view.shape[0]
            self.step = view.strides[0]
            within = view.strides[1]
        elif (
            view.itemsize == WIDTH and view.ndim == 1 and view.format is not NULL
            and strcmp(view.format, "16x") == 0
        ):
            self.count = view.shape[0]
            self.step = view.strides[0]
        else:
            shape = tuple([view.shape[i] for i in range(view.ndim)])
            raise ValueError(
                f"versions are n*16 bytes, an (n, 16) array of uint8 or an array of V16; "
                f"not items of {view.itemsize} bytes in the shape {shape}"
            )
        if within != 1 and self.count:
            source = memoryview(source).tobytes()
            PyBuffer_Release(view)
            self.held = False
            self.take(source)
            self.step = WIDTH
        self.start = <const unsigned char*>view.buf

    cdef int take(self, source) except -1:
        PyObject_GetBuffer(source, &self.view, PyBUF_RECORDS_RO)
        self.held = True
        return 0

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


def compare(a, b):
    """-1, 0 or 1 for each pair of versions as that of ``a`` is older than that of ``b``, equal or newer.

    ``a`` and ``b`` are columns of n versions each: n*16 bytes, ``(n, 16)`` arrays of uint8, or V16 arrays, in any
    strides. Returns a ``numpy.ndarray`` of int8, shape ``(n,)``. Raises ``ValueError`` for other shapes and unequal
    lengths. Other threads run meanwhile.
    """
    import numpy

    cdef Column left = Column(a), right = Column(b)
    if left.count != right.count:
        raise ValueError(f"columns of {left.count} and {right.count} versions")
    cdef Py_ssize_t i, n = left.count, left_step = left.step, right_step = right.step
    cdef const unsigned char *p = left.start
    cdef const unsigned char *q = right.start
    cdef Py_buffer view
    cdef int8_t *order
    orders = numpy.empty(n, dtype=numpy.int8)
    PyObject_GetBuffer(orders, &view, PyBUF_WRITABLE)
    order = <int8_t*>view.buf
    with nogil:
        for i in range(n):
            order[i] = <int8_t>order_of(
                slotwise_load64(p), slotwise_load64(p + 8), slotwise_load64(q), slotwise_load64(q + 8)
            )
            p += left_step
            q += right_step
    PyBuffer_Release(&view)
    return orders


# Where the next version of a column is, and how far the one after it.
ctypedef struct Cursor:
    const unsigned char *at
    Py_ssize_t step


def newest(*columns):
    """The newest version of each row of some columns: ``(winners, versions)``.

    ``columns``, 1 to 256 of them, as in `compare`. ``winners`` is a ``numpy.ndarray`` of uint8, shape ``(n,)``: the
    index of the column whose version is the newest, the first of equal ones. ``versions`` is one of uint8,
    shape ``(n, 16)``: those versions. Raises ``ValueError`` for other shapes, unequal lengths and no columns.
    Other threads run meanwhile.
    """
    import numpy

    if not 1 <= len(columns) <= 256:
        raise ValueError(f"{len(columns)} columns: 1 to 256 can be compared")
    cdef list held = [Column(column) for column in columns]
    cdef Py_ssize_t i, n = (<Column>held[0]).count
    for i in range(1, len(held)):
        if (<Column>held[i]).count != n:
            raise ValueError(f"columns of {n} and {(<Column>held[i]).count} versions")
    cdef Py_ssize_t c, width = len(held)
    cdef uint64_t high, low, best_high, best_low, winner, newer
    cdef Py_buffer winners_view, versions_view
    cdef uint8_t *winner_out
    cdef unsigned char *version_out
    winners = numpy.empty(n, dtype=numpy.uint8)
    versions = numpy.empty((n, WIDTH), dtype=numpy.uint8)
    cdef Cursor *cursors = <Cursor*>PyMem_Malloc(<size_t>width * sizeof(Cursor))
    if cursors is NULL:
        raise MemoryError()
    for c in range(width):
        cursors[c].at = (<Column>held[c]).start
        cursors[c].step = (<Column>held[c]).step
    PyObject_GetBuffer(winners, &winners_view, PyBUF_WRITABLE)
    PyObject_GetBuffer(versions, &versions_view, PyBUF_WRITABLE)
    winner_out = <uint8_t*>winners_view.buf
    version_out = <unsigned char*>versions_view.buf
    with nogil:
        for i in range(n):
            winner = 0
            best_high = slotwise_load64(cursors[0].at)
            best_low = slotwise_load64(cursors[0].at + 8)
            cursors[0].at += cursors[0].step
            for c in range(1, width):
                high = slotwise_load64(cursors[c].at)
                low = slotwise_load64(cursors[c].at + 8)
                cursors[c].at += cursors[c].step
                # All ones if it is newer, else zero: of a condition the compiler makes a jump, and every other one is
                # guessed wrong.
                newer = -<uint64_t>slotwise_newer(high, low, best_high, best_low)
                winner ^= (winner ^ <uint64_t>c) & newer
                best_high ^= (best_high ^ high) & newer
                best_low ^= (best_low ^ low) & newer
            winner_out[i] = <uint8_t>winner
            slotwise_store64(version_out + WIDTH * i, best_high)
            slotwise_store64(version_out + WIDTH * i + 8, best_low)
    PyBuffer_Release(&versions_view)
    PyBuffer_Release(&winners_view)
    PyMem_Free(cursors)
    return winners, versions
