"""Key to slot, one key or a whole batch, and the table from slot to shard.

The slot of a key is CRC16/XMODEM modulo 16,384 over the key or its hash tag (Redis Cluster specification).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.string cimport memcpy

from redis.exceptions import DataError

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

# The greatest index that `owner` can hold; a cluster has at most 16,384 shards.
cdef enum:
    NO_SHARD = 0xFFFF

SLOTS = SLOTWISE_SLOTS


cdef int _slot(object key) except -1:
    """Slot of one key of any type that redis-py accepts as one."""
    cdef const char* p
    cdef Py_ssize_t n
    cdef Py_buffer view
    cdef int slot
    if type(key) is bytes:
        return slotwise_key_slot(PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key))
    if PyUnicode_Check(key):
        p = PyUnicode_AsUTF8AndSize(key, &n)
        return slotwise_key_slot(p, <size_t>n)
    if isinstance(key, bool) or key is None:
        raise _not_a_key(key)
    if isinstance(key, (int, float)):
        # The digits that redis-py sends for a number.
        text = repr(key)
        p = PyUnicode_AsUTF8AndSize(text, &n)
        return slotwise_key_slot(p, <size_t>n)
    if isinstance(key, memoryview) and not key.contiguous:
        key = key.tobytes()
    try:
        PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
    except TypeError:
        raise _not_a_key(key) from None
    slot = slotwise_key_slot(<const char*>view.buf, <size_t>view.len)
    PyBuffer_Release(&view)
    return slot


def _not_a_key(key):
    return DataError(
        f"Invalid input of type: '{type(key).__name__}'. "
        "Convert to a bytes, string, int or float first."
    )


def key_slot(key):
    """Slot of ``key``, 0 to 16383.

    Text is hashed as UTF-8, numbers as their ``repr``, any contiguous buffer as its bytes.
    Raises ``redis.DataError`` for a type that cannot be a key. (``CLUSTER KEYSLOT``)
    """
    return _slot(key)


def key_slots(keys):
    """Slots of a batch of keys as a ``numpy.ndarray`` of ``uint16``, shape ``(len(keys),)``.

    ``keys`` is any iterable of keys; see :func:`key_slot` for the types.
    """
    import numpy

    cdef list batch = keys if type(keys) is list else list(keys)
    cdef Py_ssize_t i, n = len(batch)
    slots = numpy.empty(n, dtype=numpy.uint16)
    if n == 0:
        return slots
    cdef uint16_t[::1] out = slots
    for i in range(n):
        out[i] = <uint16_t>_slot(batch[i])
    return slots


cdef class SlotTable:
    """Which shard serves each of the 16,384 slots: frozen, swapped as a whole.

    ``ranges`` yields ``(first_slot, last_slot, shard_index)``, both slots included; ``shards`` is the
    tuple that the indices point into. Where ranges overlap the last one wins.
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
        """A copy in which shard ``index`` serves ``slot``; ``shards`` replaces the tuple of shards."""
        cdef SlotTable copy = SlotTable.__new__(SlotTable)
        copy.shards = self.shards if shards is None else tuple(shards)
        if not 0 <= slot < SLOTWISE_SLOTS:
            raise IndexError(f"slot {slot} is not within 0-{SLOTWISE_SLOTS - 1}")
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
