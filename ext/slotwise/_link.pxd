"""The link: one connection's protocol state, shared by threads or owned by one.

Way of a call on a shared link (``Link.call``): the calling thread appends its command to ``out`` and a ``Waiter`` to
``queue``. If nobody leads, it leads: it sends all that waits in ``out``, reads, parses, and completes waiters in order
until its own is complete; then it hands the lead to the first thread that still waits. If somebody leads, it sleeps
without the GIL on its waiter's gate until it is woken with a reply or with the lead. With one thread this is plain
blocking I/O: one send, one receive.

Locking: the GIL. State changes between two points where the GIL may be released (a system call, a Python callback,
an allocation that can start the garbage collector) are complete in themselves. The compiled modules therefore do not
declare themselves free-threading compatible: such an interpreter turns its GIL on.

Ownership: while ``led`` is true, the leader alone touches ``reader`` and the head of ``queue``; others
append to ``out`` and to the tail of ``queue``. Whoever appended sends, as far as the kernel takes it without waiting,
since the leader may sleep in a receive; with TLS, whose sending gives the GIL away, the leader alone does.

Failure: an I/O or protocol error closes the link and wakes all its waiters; each is told whether its command may have
reached the kernel. A time-out or an interrupt abandons the waiter alone: its place in the queue stays, its late reply
is dropped there, and nobody else notices. A link that timed out is retired: no new call enters it, those under way
finish, the last one closes it.

Links that nobody shares come from a node's ``Lanes`` (``_engine``); a batch (``_batch``) takes one per node and drives
them at once.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from slotwise._encoder cimport Arg, Name, SendBuffer
from slotwise._reply cimport Reader


cdef enum:
    # What `send_some` and `receive_some` answer: nothing now.
    LATER = -1


# Seconds. A socket that was silent for this long is looked at before a command is sent into it: the server may have
# closed it, and a command sent into a closed socket has an unknown outcome for no reason.
cdef double IDLE

# Processors that this process may use. With one, to wait awake would keep the server from answering.
cdef int CORES


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


cdef class Waiter:
    cdef object reply
    cdef WaiterState state
    # False asks the parser for bytes whatever the connection's encoding is.
    cdef bint decode
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
    cdef Reader reader
    # Somebody sends and reads; who.
    cdef bint led
    cdef unsigned long leader
    # Waits that sleep at once before the next eager one.
    cdef int patience
    # No new call may enter; closed: the socket is gone.
    cdef readonly bint retired
    cdef readonly bint closed
    # Opened with an earlier credential: its owner may finish, and no other gets it.
    cdef public bint outdated
    cdef object failure
    # When bytes last moved: for the check of an idle socket, and because a time-out means that nothing moves.
    cdef double heard
    # `heard` at the last look whether the link is silent, -1 where nobody waited then.
    cdef double looked
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
    cdef void send_now(self) noexcept
    cdef Py_ssize_t send_some(self) except -2
    # Waits, if at all, awake for `eager` microseconds at the most, then asleep.
    cdef Py_ssize_t receive_some(self, bint wait, int eager=*) except -2
    cdef int torn(self, object error) except -1
    cdef int wait_for(self, int events, double deadline) except -1
    cdef int parse(self) except -1
    cdef int parse_rest(self) except -1
    cdef int deliver_pushes(self) except -1
    cdef object lost(self, object reason, bint sent, bint timed_out)
    cdef int fail(self, object failure) except -1
    cdef int shut(self) except -1
    cdef bint is_idle(self) noexcept
    cdef bint try_lead(self)


cdef object send_and_wait(Link link, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode)
