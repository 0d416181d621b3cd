"""Versions: 16 bytes whose order is the order of writes. The design is docs/consistency.md.

A version is two numbers, so that a comparison is two: ``high``, the milliseconds and the counter, and ``low``, the
writer. In bytes both are big-endian.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "_versions.h" nogil:
    uint64_t slotwise_load64(const unsigned char *p)
    int slotwise_newer(uint64_t high, uint64_t low, uint64_t other_high, uint64_t other_low)
    void slotwise_store64(unsigned char *p, uint64_t number)
    uint32_t slotwise_sha1_start(const unsigned char *p, size_t n)


cdef enum:
    # Bytes of a version.
    WIDTH = 16
    # Of what stands before the payload: magic (3), format, checksum (4), version, flags.
    HEADER = 25
    # Where the checksum begins, and what it covers: everything from the version to the end.
    CHECKSUM = 4
    COVERED = 8
    # Where the flags are.
    FLAGS = 24
    # Bits of the flags that have no meaning yet.
    UNUSED = 0x0C
    # Bytes up to which our own SHA-1 is the faster one, as measured.
    SHORT = 448


cdef class Version:
    # Milliseconds since 1970 in the upper 48 bits, the counter in the lower 16: adding one to a version whose
    # counter is at its end borrows from the next millisecond by itself.
    cdef uint64_t high
    cdef uint64_t low


# A version of its two numbers.
cdef Version version_of(uint64_t high, uint64_t low)


cdef class HybridClock:
    # Tells the wall clock's nanoseconds since 1970.
    cdef readonly object clock
    # The greatest `high` that was made or observed. It is read and written without a call of Python in between.
    cdef uint64_t last
    # `low` of all versions that it makes.
    cdef readonly uint64_t writer
    # How many milliseconds an observed version may be ahead of the wall clock.
    cdef uint64_t drift
    # Versions that were more than that.
    cdef readonly uint64_t refused
