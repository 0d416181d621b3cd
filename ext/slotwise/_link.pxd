"""The link: one connection's protocol state, shared by threads or owned by one.

Way of a call on a shared link (``Link.call``): the calling thread appends its command to ``out`` and a ``Waiter`` to
``queue``. If nobody leads, it leads: it sends all that waits in ``out``, reads, parses, and completes waiters in order
until its own is complete; then it hands the lead to the first thread that still waits. If somebody leads, it sleeps
without the GIL on its waiter's gate until it is woken with a reply or with the lead. With one thread this is plain
blocking I/O: one send, one receive.

Locking: the GIL. State changes between two points where the GIL may be released (a system call, a Python callback,
an allocation that can start the garbage collector) are complete in themselves. The compiled modules therefore do not
declare themselves free-threading compatible: such an interpreter turns its GIL on.

Ownership: while ``led`` is true, the leader alone touches ``reader``, ``inbox`` and the head of ``queue`` and sends
from ``out``; others append to ``out`` and to the tail of ``queue``.

Failure: an I/O or protocol error closes the link and wakes all its waiters; each is told whether its command may have
reached the kernel. A time-out or an interrupt abandons the waiter alone: its place in the queue stays, its late reply
is dropped there, and nobody else notices. A link that timed out is retired: no new call enters it, those under way
finish, the last one closes it.

Batches (``exchange``) need links that nobody shares; one thread drives several of them at once.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from slotwise._encoder cimport Batch, SendBuffer
from slotwise._slots cimport SlotTable


cdef enum WaiterState:
    WAITING
    # `reply` is the server's answer.
    DONE
    # `reply` is the exception that the answer could not be read without.
    UNREADABLE
    # The link closed; `reply` is its failure.
    LOST
    # The caller went away; its late reply will be dropped.
    ABANDONED


cdef class ServerError:
    """An error reply as the parser found it; the caller's thread makes the exception of it."""
    cdef readonly str text


cdef class Waiter:
    cdef object reply
    cdef WaiterState state
    # False asks the parser for bytes whatever the connection's encoding is.
    cdef bint decode
    # The reply holds an error somewhere.
    cdef bint errors
    # The lead was handed to this thread.
    cdef bint leads
    # Its thread runs a signal handler and cannot take the lead.
    cdef bint away
    # Where its command starts in the stream of `out`.
    cdef int64_t at
    # Locked while its thread sleeps; NULL as long as nobody slept.
    cdef void *gate

    cdef void wake(self) noexcept


cdef class Link:
    cdef object __weakref__
    # What opened and authenticated the socket; closes it at the end.
    cdef readonly object connection
    cdef object sock
    cdef int fd
    # TLS goes through `sock`, which never blocks; plain TCP straight to `fd`.
    cdef bint tls
    # Seconds that a reply may take; negative for ever.
    cdef double timeout
    cdef SendBuffer out
    # Ring of references to the waiters in flight, oldest at `head`; capacity is a power of two.
    cdef PyObject **queue
    cdef Py_ssize_t head
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef object feed
    cdef object gets
    cdef bytearray inbox
    # Somebody sends and reads; who.
    cdef bint led
    cdef unsigned long leader
    # Waits that sleep at once before the next eager one.
    cdef int patience
    # No new call may enter; closed: the socket is gone.
    cdef readonly bint retired
    cdef readonly bint closed
    cdef object failure
    # When bytes last moved: for the check of an idle socket, and because a time-out means that nothing moves.
    cdef double heard
    # Push messages in order of arrival, and who takes them; None drops them.
    cdef list pushes
    cdef object on_push

    cdef int enqueue(self, Waiter waiter) except -1
    cdef object call(self, tuple call, bint decode, object encoding)
    cdef int lead(self, Waiter mine, double deadline) except -1
    cdef int follow(self, Waiter mine, double deadline) except -1
    cdef double due(self, double deadline) noexcept
    cdef int hand_over(self) except -1
    cdef int abandon(self, Waiter mine) except -1
    cdef int give_up(self, Waiter mine) except -1
    cdef Py_ssize_t send_some(self) except -2
    cdef Py_ssize_t receive_some(self, bint wait) except -2
    cdef int torn(self, object error) except -1
    cdef int wait_for(self, int events, double deadline) except -1
    cdef int parse(self) except -1
    cdef int deliver_pushes(self) except -1
    cdef object lost(self, object reason, bint sent, bint timed_out)
    cdef int fail(self, object failure) except -1
    cdef int shut(self) except -1
    cdef bint try_lead(self)


cdef class Endpoint:
    """A node as the engine sees it: its shared link and what opens another."""
    # Its address, and the pool of the connections that nobody shares.
    cdef readonly object node
    cdef readonly object pool
    # The shared link, None before the first call.
    cdef public Link link
    cdef object opener

    cdef Link open(self)


cdef class Flawed:
    """A reply with an error inside, such as a script's table: the caller's thread makes exceptions of them."""
    cdef readonly object reply


cdef class Engine:
    cdef public SlotTable table
    cdef readonly object encoding

    cpdef keyed(self, tuple call, Py_ssize_t first_key, bint decode=*)
