"""Key to slot, one key or a whole batch, and the table from slot to shard.

The slot of a key is CRC16/XMODEM modulo 16,384 over the key or its hash tag (Redis Cluster specification).
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.string cimport memcpy

from redis.exceptions import DataError

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

SLOTS = SLOTWISE_SLOTS


cdef int slot_of(object key) except -1:
    """Slot of one key of any type that redis-py accepts as one."""
    cdef const char* p
    cdef Py_ssize_t n
    if PyBytes_Check(key):
        return slotwise_key_slot(PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key))
    if PyUnicode_Check(key):
        p = PyUnicode_AsUTF8AndSize(key, &n)
        return slotwise_key_slot(p, <size_t>n)
    if isinstance(key, (int, float)) and not isinstance(key, bool):
        # What redis-py sends for a number.
        return slot_of(repr(key))
    if isinstance(key, (bytearray, memoryview)):
        # The items in their order, wherever they lie in memory.
        return slot_of(bytes(key))
    raise DataError(
        f"Invalid input of type: '{type(key).__name__}'. "
        "Convert to a bytes, string, int or float first."
    )


def key_slot(key):
    """Slot of ``key``, 0 to 16383.

    A key is bytes, text (hashed as UTF-8), an int or float (as its ``repr``), a bytearray or a memoryview.
    Raises ``redis.DataError`` for any other type, ``UnicodeEncodeError`` for text that UTF-8 cannot hold.
    """
    return slot_of(key)


def key_slots(keys):
    """Slots of a batch of keys as a ``numpy.ndarray`` of ``uint16``, shape ``(len(keys),)``.

    ``keys`` is any iterable of keys; see :func:`key_slot` for the types.
    """
    import numpy

    # A tuple: the repr of a number's subclass may change the list that the caller gave.
    cdef tuple batch = tuple(keys)
    cdef Py_ssize_t i
    cdef Py_buffer view
    slots = numpy.empty(len(batch), dtype=numpy.uint16)
    PyObject_GetBuffer(slots, &view, PyBUF_WRITABLE)
    try:
        for i in range(len(batch)):
            (<uint16_t*>view.buf)[i] = <uint16_t>slot_of(batch[i])
    finally:
        PyBuffer_Release(&view)
    return slots


@cython.final
cdef class SlotTable:
    """Which shard serves each of the 16,384 slots: frozen, swapped as a whole.

    ``ranges`` yields ``(first_slot, last_slot, shard_index)``, both slots included; ``shards`` is the
    tuple that the indices point into. Where ranges overlap the last one wins. Raises ``ValueError``
    for a range outside of 0-16383 and for an index without a shard.
    """

    def __cinit__(self, ranges=(), shards=()):
        cdef int slot, first, last, index
        self.shards = tuple(shards)
        if len(self.shards) > SLOTWISE_SLOTS:
            raise ValueError(f"{len(self.shards)} shards: a cluster has at most {SLOTWISE_SLOTS}")
        for slot in range(SLOTWISE_SLOTS):
            self.owner[slot] = NO_SHARD
        for first, last, index in ranges:
            if not 0 <= first <= last < SLOTWISE_SLOTS:
                raise ValueError(f"slot range {first}-{last} is not within 0-{SLOTWISE_SLOTS - 1}")
            if not 0 <= index < len(self.shards):
                raise ValueError(f"shard {index} of {len(self.shards)} does not exist")
            for slot in range(first, last + 1):
                self.owner[slot] = <uint16_t>index
        self.covered = 0
        for slot in range(SLOTWISE_SLOTS):
            self.covered += self.owner[slot] != NO_SHARD

    cdef object shard(self, int slot):
        cdef uint16_t index = self.owner[slot]
        if index == NO_SHARD:
            return None
        return self.shards[index]

    def __getitem__(self, int slot):
        """The shard that serves ``slot``, or None."""
        if not 0 <= slot < SLOTWISE_SLOTS:
            raise IndexError(f"slot {slot} is not within 0-{SLOTWISE_SLOTS - 1}")
        return self.shard(slot)

    def index(self, int slot):
        """Index into ``shards`` of the shard that serves ``slot``, or None."""
        if not 0 <= slot < SLOTWISE_SLOTS:
            raise IndexError(f"slot {slot} is not within 0-{SLOTWISE_SLOTS - 1}")
        return None if self.owner[slot] == NO_SHARD else self.owner[slot]

    def with_slot(self, int slot, int index, shards=None):
        """A copy in which shard ``index`` serves ``slot``.

        ``shards`` replaces the tuple of shards; it cannot be shorter.
        """
        if not 0 <= slot < SLOTWISE_SLOTS:
            raise IndexError(f"slot {slot} is not within 0-{SLOTWISE_SLOTS - 1}")
        cdef SlotTable copy = SlotTable((), self.shards if shards is None else shards)
        if len(copy.shards) < len(self.shards):
            raise ValueError(f"{len(copy.shards)} shards in place of {len(self.shards)} leave slots without")
        if not 0 <= index < len(copy.shards):
            raise ValueError(f"shard {index} of {len(copy.shards)} does not exist")
        memcpy(copy.owner, self.owner, sizeof(self.owner))
        copy.covered = self.covered + (copy.owner[slot] == NO_SHARD)
        copy.owner[slot] = <uint16_t>index
        return copy

    def ranges(self):
        """``(first_slot, last_slot, shard_index)`` of every run of slots with an owner, ascending."""
        cdef int slot = 0, first
        cdef uint16_t index
        runs = []
        while slot < SLOTWISE_SLOTS:
            index = self.owner[slot]
            first = slot
            while slot < SLOTWISE_SLOTS and self.owner[slot] == index:
                slot += 1
            if index != NO_SHARD:
                runs.append((first, slot - 1, index))
        return runs
