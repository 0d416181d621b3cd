"""A batch under asyncio: its ``Exchange``, and a ``Part`` of it for each link that it goes over.

A link takes a part as it takes a command: one place in the ring, or in the line. One future tells that all parts have
ended. What no link has begun is handed back to the caller, who looks for another.
"""

from slotwise._encoder cimport Batch, Indices


cdef class Exchange:
    """The commands of a batch on their way over several links, and what came of them."""
    cdef readonly Batch batch
    # Where the replies go, by index; `decode` False asks for the bytes of a reply, None for text of all.
    cdef readonly list results
    cdef readonly list decode
    # Indices whose reply is an error, holds one, or is missing; and why it is missing, by index.
    cdef readonly list troubled
    cdef readonly dict failures
    # Parts that have not ended, and those of them that no link has: none is open, or it was retired before anything of
    # the part was encoded.
    cdef readonly Py_ssize_t left
    cdef list handed_back
    # The future of who waits, done when no part is left or one was handed back.
    cdef public object future
    # Nobody waits any more: nothing more of it is sent, and replies are dropped.
    cdef public bint given_up

    cdef int wake(self) except -1


cdef class Part:
    """The commands ``indices`` of an exchange that go over one link of ``endpoint``."""
    cdef readonly Exchange exchange
    # None once it has begun on a link.
    cdef readonly object endpoint
    cdef readonly Indices indices
    # Those of the exchange.
    cdef Batch batch
    cdef list results
    cdef list troubled
    cdef list decode
    # ASKING goes before each command, and its reply is dropped.
    cdef bint asking
    cdef bint skip
    # Nobody else's command may come between its own.
    cdef bint whole
    # Commands encoded, which may be in several entries, and replies taken.
    cdef Py_ssize_t written
    cdef Py_ssize_t answered
    # All replies are there, or the link failed. Later replies are dropped.
    cdef bint over

    cdef int end(self) except -1
    cdef bint is_wanted(self) noexcept
