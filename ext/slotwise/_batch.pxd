"""Batches: the commands of a pipeline, and their exchange with several nodes at once.

A ``Queue`` has the commands encoded as they are called (``_encoder.Batch``) and what shapes their replies. ``run``
takes the commands of each node, a lane (``_link.Lanes``) per node, and exchanges all of them together in one thread: it
writes to every node, then reads, and goes on writing where a socket's buffer was full, so neither side waits for the
other. A batch has no size limit: what waits for a socket is encoded a bounded number of bytes ahead.
"""

from cpython.object cimport PyObject

from slotwise._encoder cimport Batch, Indices
from slotwise._link cimport Link


cdef class Queue:
    """The commands of a pipeline, encoded, and what is needed to shape their replies."""
    cdef readonly Batch batch
    # Arguments of all commands, one command after the other; the batch knows where each ends.
    cdef list words
    # Options of those that have any, and (index, plan) of those whose value a callback makes.
    cdef readonly dict options
    cdef readonly list shaped

    # A whole command of `n` objects, its name the first and its key the second; `plan` is None where the parser's reply
    # is the value.
    cdef int put(self, PyObject **words, Py_ssize_t n, object plan) except -1


cdef class Job:
    """One node's part of a batch: the commands ``indices`` of ``batch`` over ``link``.

    ``asking`` puts ASKING before each command and drops its reply. After :func:`exchange`: ``answered`` commands, from
    the first, have a reply; of the rest, those before ``written`` may have reached the server; ``failure`` says why.
    """
    cdef readonly Link link
    cdef readonly Batch batch
    cdef readonly Indices indices
    cdef readonly bint asking
    cdef readonly Py_ssize_t written
    cdef readonly Py_ssize_t answered
    cdef readonly object failure
    # Replies to ASKING that are still to be dropped before the next command's own.
    cdef bint skip
    # When something last moved.
    cdef double moved

    cdef bint ready(self)
    cdef int fill(self) except -1
    cdef int send(self) except -1
    cdef int take(self, list results, list decode, list troubled) except -1
    cdef int read(self, list results, list decode, list troubled) except -1
    cdef bint read_soon(self, list results, list decode, list troubled) except -1
    cdef int broken(self, object error, bint timed_out=*) except -1
