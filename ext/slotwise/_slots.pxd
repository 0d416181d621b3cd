"""Slots: where a key belongs, and who serves it.

``SlotTable`` is frozen once it is published: a patch makes a new table, so readers take no lock.
"""

from libc.stdint cimport uint16_t


cdef extern from "_crc16.h" nogil:
    enum:
        SLOTWISE_SLOTS
    int slotwise_key_slot(const char *p, size_t n)


cdef enum:
    # The greatest index that `owner` can hold; a cluster has at most 16,384 shards.
    NO_SHARD = 0xFFFF


cdef class SlotTable:
    # Index into `shards` of the shard that serves each slot; NO_SHARD where nobody does.
    cdef uint16_t owner[16384]
    # One entry per shard, in the order of the topology: whatever the caller put there.
    cdef readonly tuple shards
    # Slots with an owner.
    cdef readonly int covered

    # The shard that serves a slot, or None. The slot is the caller's to check.
    cdef object shard(self, int slot)
