"""The link under asyncio: one connection that all tasks of an event loop share.

Way of a call: ``AsyncEngine.keyed`` encodes the command into ``out`` of the node's link, puts a future into
the ring and returns it. The first command of an event-loop turn asks the loop to call ``flush`` when the turn
is over, so all commands of a turn leave in one write. ``data_received`` parses all replies that one read
brought and completes their futures in one loop. No object is made for a command beside its future.

A batch (``Part``) takes one place in the ring for all its commands on this link, and one future for all of
them.

Cancellation: a cancelled future keeps its place; its late reply is dropped there. Time-outs: one timer per
link looks at the oldest entry. What waited longer than ``timeout`` ends with a failure, its place stays, the
link is retired: no new command enters it, what is under way goes on, and it is closed when nothing waits any
more.

Back-pressure: ``full`` is true while MAX_COMMANDS are in flight or the transport asks for a pause; callers
then wait in ``room`` (in order) outside of this file.

Threads: none. Everything runs in the loop's thread.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from slotwise._encoder cimport Arg, Batch, Name, SendBuffer
from slotwise._slots cimport SlotTable


cdef enum:
    # Commands in flight on one link; beyond it callers wait.
    MAX_COMMANDS = 16384
    # Bytes that wait for the socket; beyond it callers wait.
    MAX_BYTES = 4194304


cdef struct Entry:
    # Reference to the future of one command, or to the Part of several; NULL when nobody wants the reply.
    PyObject *owner
    # Where its first byte lies in the stream of `out`.
    int64_t at
    # When its turn began.
    double since
    # Replies that it still waits for: those of a part's commands, or one.
    Py_ssize_t left
    bint part
    # False asks the parser for bytes whatever the connection's encoding is.
    bint decode


cdef class Unusual:
    """What came in place of a plain reply: an error reply, one with errors inside, a failure of the link."""
    cdef readonly object what


cdef class Part:
    """The commands ``indices`` of a batch on one link; their replies go to their places in ``results``."""
    cdef readonly Batch batch
    cdef readonly list indices
    cdef readonly list results
    # Indices whose reply is an error, holds one, or is missing.
    cdef readonly list troubled
    cdef list decode
    # ASKING goes before each command, and its reply is dropped.
    cdef readonly bint asking
    cdef bint skip
    # Commands encoded, which may be in several entries, and replies taken.
    cdef readonly Py_ssize_t written
    cdef readonly Py_ssize_t answered
    # Done when all replies are there or the link failed; `failure` tells which.
    cdef readonly object future
    cdef readonly object failure


cdef class AsyncLink:
    cdef readonly object connection
    cdef readonly object loop
    cdef object transport
    cdef object create_future
    cdef SendBuffer out
    cdef Entry *ring
    cdef Py_ssize_t head
    cdef Py_ssize_t entries
    cdef Py_ssize_t capacity
    # Commands in flight: entries, and the unanswered commands of parts.
    cdef readonly Py_ssize_t commands
    cdef object feed
    cdef object gets
    # A flush is due at the end of this turn; when the turn began.
    cdef bint scheduled
    cdef double turn
    # Seconds that a reply may take, negative for ever; the timer is running.
    cdef double timeout
    cdef bint watched
    # The transport has enough.
    cdef bint paused
    cdef readonly bint retired
    cdef readonly bint closed
    cdef object on_push
    # Futures of those who wait for room, oldest first.
    cdef object waiters
    # Some were let in and have their turn before anybody new; those for whom there was no room after all.
    cdef bint letting
    cdef list missed
    cdef object flush_soon

    cdef bint has_room(self) noexcept
    cdef bint is_full(self)
    cdef Entry *push(self) except NULL
    cdef object put(self, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode)
    cdef int begin_turn(self) except -1
    cdef int parse(self) except -1
    cdef int lose(self, Entry *entry, str reason, bint timed_out) except -1
    cdef int fail(self, str reason) except -1
    cdef int let_in(self) except -1


cdef class AsyncEndpoint:
    """A node: its open shared link, or None while there is none."""
    cdef readonly object node
    cdef readonly object pool
    cdef public AsyncLink link


cdef class AsyncEngine:
    cdef public SlotTable table
    cdef readonly object encoding
    # The event loop that the links belong to; None before the first call.
    cdef public object loop

    cdef object submit_to(self, AsyncLink link, tuple call, bint decode)
