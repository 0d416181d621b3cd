"""Where a call goes: the engine finds the slot's endpoint, the endpoint its shared link, a pool the others."""

from libc.stdint cimport int64_t

from slotwise._link cimport Link
from slotwise._slots cimport SlotTable


cdef class Lanes:
    """A node's idle links, each for one caller at a time. The pool that derives from it opens and drops them:
    ``open_lane()`` and ``drop(link)``; ``wake()`` tells who waits that a link has become idle."""
    # The last one used is the first to be used again.
    cdef readonly list idle
    # Who waits for a connection, oldest first. Nobody overtakes them.
    cdef readonly list waiting

    # What `take` and `give_back` do, for compiled callers.
    cdef Link lane(self)
    cdef int end_lane(self, Link link, bint discard) except -1


cdef class Endpoint:
    """A node as the engine sees it: its shared link and what opens another."""
    # Its address, and the pool of the connections that nobody shares.
    cdef readonly object node
    cdef readonly Lanes pool
    # The shared link, None before the first call.
    cdef public Link link
    cdef object opener

    cdef Link open(self)


cdef class Engine:
    cdef public SlotTable table
    cdef readonly object encoding
    # Calls and batches sent for the first time: the retry budget is a share of them.
    cdef public int64_t calls

    cpdef keyed(self, tuple call, Py_ssize_t first_key, bint decode=*)
