"""Counts what a load test's operations have come to: one pass over a chunk, twenty nanoseconds an operation.

With numpy it was 170, most of it for arrays made of Python's floats, and the callers of an event loop waited for it.
`slotwise.loadtest.tally` says what is counted, and adds up.
"""

from cpython.list cimport PyList_GET_SIZE
from libc.math cimport frexp
from libc.stdint cimport int64_t, uint32_t

cdef extern from "Python.h":
    # Borrowed, as lists give them: no reference is counted on the way to a number.
    void *item "PyList_GET_ITEM"(object items, Py_ssize_t i)
    bint is_float "PyFloat_CheckExact"(void *number)
    double as_double "PyFloat_AS_DOUBLE"(void *number)

# Nanoseconds: what is shorter or longer counts as these.
SHORTEST = 100
LONGEST = 1_000_000_000_000
# A latency of m * 2 ** e nanoseconds, m from 0.5 up to 1, is in bin (e - LEAST) * FINE + (m - 0.5) * 2 * FINE.
FINE = 512
LEAST = 7   # 2 ** 6 is below what counts as shortest
BINS = (40 - LEAST + 1) * FINE

# What stands for a second of those that ended after the last one; what was due before the first one and ended in
# second s is in the table of -1 - s.
AFTER = 1 << 40

cdef double _SHORTEST = SHORTEST
cdef double _LONGEST = LONGEST
cdef int _FINE = FINE
cdef int _LEAST = LEAST
cdef Py_ssize_t _BINS = BINS
cdef Py_ssize_t _AFTER = AFTER


cdef inline double number(list numbers, Py_ssize_t i) except? -1.0:
    """One of a list of floats, unchecked index. TypeError for anything else."""
    cdef void *found = item(numbers, i)
    if not is_float(found):
        raise TypeError("times are floats")
    return as_double(found)


cdef inline Py_ssize_t bin_of(double seconds) noexcept nogil:
    """The bin of a latency, 0 up to BINS."""
    cdef int exponent
    cdef double nanoseconds = seconds * 1e9, mantissa
    # Written so that what is no number is short.
    if not nanoseconds > _SHORTEST:
        nanoseconds = _SHORTEST
    elif nanoseconds > _LONGEST:
        nanoseconds = _LONGEST
    mantissa = frexp(nanoseconds, &exponent)
    return (exponent - _LEAST) * _FINE + <Py_ssize_t>((mantissa - 0.5) * (2 * _FINE))


def count(
    list ended not None,
    list took not None,
    list late not None,
    dict failed not None,
    list left,
    int64_t[::1] kinds not None,
    int64_t[::1] shards not None,
    int64_t[::1] keys not None,
    int64_t[:, ::1] spread,
    double zero,
    double seconds,
    table_of,
    int64_t[::1] key_sums not None,
    int64_t[::1] shard_sums not None,
    double[::1] newest not None,
    dict lates not None,
):
    """Counts the operations of a chunk that have ended since this was last called.

    ``ended`` and ``took`` are floats, one an operation, 0 in ``ended`` for what is under way; ``late`` as well, or it
    is empty: then this is a closed loop. ``left`` are the numbers that were under way last time, None the first time.
    What ended before ``zero``, or ``seconds`` later, is left out, but for an open loop's operations that were due in
    that time. ``table_of(second)`` gives that second's ``uint32`` table, a number for each place and bin: places are
    kind * all shards + shard, and then the shards once more for operations on several of them, of which ``spread``
    has the number of keys by operation and shard. ``key_sums`` has one for each place, ``shard_sums`` for each shard
    of operations on several, or is empty without ``spread``; ``newest``, one a shard, is when each was answered last;
    ``lates`` counts hundredths of milliseconds.

    Returns the numbers that are under way now, those that have ended and are in ``failed``, which are in no table,
    and whether something ended after the time. Raises ValueError for columns of several lengths, IndexError for a
    kind or shard beyond the tables.
    """
    cdef Py_ssize_t size = PyList_GET_SIZE(ended), all_shards = newest.shape[0], wide = shard_sums.shape[0]
    cdef Py_ssize_t n, i, many, place, second, bin, shard, current = -_AFTER
    cdef double at, due
    cdef uint32_t[::1] table = None
    cdef bint any_failed = len(failed) > 0, any_late = PyList_GET_SIZE(late) > 0, any_after = False
    cdef list still = [], wrong = []
    if (
        PyList_GET_SIZE(took) != size or kinds.shape[0] != size or shards.shape[0] != size or keys.shape[0] != size
        or (any_late and PyList_GET_SIZE(late) != size)
        or (spread is not None and (spread.shape[0] != size or spread.shape[1] != wide)) or wide >= all_shards
    ):
        raise ValueError("the columns of a chunk are of one length")
    many = size if left is None else PyList_GET_SIZE(left)
    for n in range(many):
        i = n if left is None else <Py_ssize_t>left[n]
        if not 0 <= i < size:
            raise IndexError("a number beyond the chunk")
        at = number(ended, i)
        if at == 0.0:
            still.append(i)
            continue
        at -= zero
        if any_failed and i in failed:
            wrong.append(i)
        due = at - number(took, i) if any_late else at
        if at >= seconds:
            any_after = True
        if not (at >= 0.0 and due < seconds):
            continue
        if any_late and due >= 0.0:
            hundredths = <Py_ssize_t>(number(late, i) * 1e5)
            lates[hundredths] = lates.get(hundredths, 0) + 1
        if any_failed and i in failed:
            continue
        if not (0 <= shards[i] < all_shards and 0 <= kinds[i]):
            raise IndexError("a kind or a shard beyond the tables")
        place = kinds[i] * all_shards + shards[i]
        if place >= key_sums.shape[0]:
            raise IndexError("a kind or a shard beyond the tables")
        second = _AFTER if at >= seconds else <Py_ssize_t>at if due >= 0.0 else -1 - <Py_ssize_t>at
        if second != current:
            table = table_of(second)
            if table.shape[0] != (key_sums.shape[0] + wide) * _BINS:
                raise IndexError("a table of another size")
            current = second
        bin = bin_of(number(took, i))
        table[place * _BINS + bin] += 1
        if second != _AFTER:
            key_sums[place] += keys[i]
            if at > newest[shards[i]]:
                newest[shards[i]] = at
        if spread is None or shards[i] != all_shards - 1:
            continue
        for shard in range(wide):
            if not spread[i, shard]:
                continue
            table[(key_sums.shape[0] + shard) * _BINS + bin] += 1
            if second != _AFTER:
                shard_sums[shard] += spread[i, shard]
                if at > newest[shard]:
                    newest[shard] = at
    return still, wrong, any_after
