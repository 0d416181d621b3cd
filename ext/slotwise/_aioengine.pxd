"""Where a call goes under asyncio: the engine finds the slot's endpoint, the endpoint one of its shared links."""

from libc.stdint cimport int64_t

from slotwise._aiolink cimport AsyncLink, Turns
from slotwise._slots cimport SlotTable


cdef class AsyncEndpoint:
    """A node and its shared links, which take turns. With one link it always has the turn."""
    cdef readonly object node
    cdef readonly object pool
    # By place; None where none was opened yet.
    cdef readonly list links
    # The place whose turn it is, and its link.
    cdef Py_ssize_t turn
    cdef readonly AsyncLink link
    cdef bint several

    cdef int pass_turn(self) except -1


cdef class AsyncEngine:
    cdef public SlotTable table
    cdef readonly object encoding
    # The event loop that the links belong to, and its turns; None before the first call.
    cdef public object loop
    cdef public Turns turns
    # Calls and batches sent for the first time: the retry budget is a share of them.
    cdef public int64_t calls

    cdef object submit_to(self, AsyncLink link, tuple call, bint decode)
