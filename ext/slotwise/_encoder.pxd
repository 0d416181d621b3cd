"""RESP encoding: from the arguments of a call to bytes in a send buffer, copied once at the most.

A call is encoded in two steps, so that nothing is written before everything is known to be right:

1. ``scan`` looks at each argument once and fills one ``Arg`` for it: where its bytes are, how many. It may
   run Python code (``repr`` of a subclass of int) and may raise. Nothing has been written then.
2. ``SendBuffer.write`` copies framing and bytes. It runs no Python code and fails only without memory, so
   that no other thread can put a command in the middle of this one.

Between the steps the caller picks the buffer, by the slot of the key that ``scan`` found.

Ownership: an ``Arg`` borrows from the tuple of arguments or from ``keep``, which both outlive it on the
caller's stack. A ``SendBuffer`` owns the small bytes that it copied; of values of BORROW_MIN bytes and more
it only keeps a reference, and hands their memory to the kernel directly.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t


cdef enum:
    # Arguments that fit on the stack; longer calls take the heap.
    STACK_ARGS = 24
    # Values from this size on are referenced, not copied. Below it a copy is cheaper than an extra segment.
    BORROW_MIN = 16384


cdef struct Arg:
    # The argument's bytes: in an object of the call, in one that `keep` holds, or in `digits`.
    const char *data
    Py_ssize_t size
    # The bytes or str object, of no subclass, that `data` lies in and that the send may reference, else NULL.
    PyObject *owner
    # Decimal digits of a machine integer.
    char digits[24]


cdef class Name:
    """A command's name in RESP framing, made once: "CONFIG SET" -> $6 CONFIG $3 SET."""
    cdef bytes frame
    # Arguments that the name takes on the wire: 2 for CONFIG SET.
    cdef Py_ssize_t words


cdef struct Borrowed:
    # The bytes or str object, of which this is a reference, and the bytes in it.
    PyObject *owner
    const char *data
    Py_ssize_t size
    # It follows the owned byte of this stream position.
    int64_t at


cdef class SendBuffer:
    # Stream of bytes that wait for the socket: data[start:end], and big[big_start:big_end] in between.
    cdef char *data
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef Py_ssize_t capacity
    # Where data[0] lies in the stream of all bytes ever written, borrowed values not counted.
    cdef int64_t base
    cdef Borrowed *big
    cdef Py_ssize_t big_start
    cdef Py_ssize_t big_end
    cdef Py_ssize_t big_capacity
    # Bytes of big[big_start] that the kernel took already, and bytes of all of `big` that it did not.
    cdef Py_ssize_t big_sent
    cdef Py_ssize_t big_left

    # Bytes that wait to be sent, borrowed ones included.
    cdef Py_ssize_t pending(self) noexcept
    # Makes room for n more owned bytes.
    cdef int reserve(self, Py_ssize_t n) except -1
    # Makes room for n more borrowed values.
    cdef int reserve_big(self, Py_ssize_t n) except -1
    # Appends n raw bytes. Room must have been reserved.
    cdef void put(self, const char *p, Py_ssize_t n) noexcept
    # References the `size` bytes at `data` in `owner` at the present end. Room must have been reserved.
    cdef void borrow(self, PyObject *owner, const char *data, Py_ssize_t size) noexcept
    # Appends a whole command, or nothing when there is no memory.
    cdef int write(self, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size) except -1
    # The next contiguous piece to send: its size, 0 when nothing waits.
    cdef Py_ssize_t peek(self, const char **p) noexcept
    # The kernel took n bytes of the piece that peek() showed.
    cdef void consumed(self, Py_ssize_t n) noexcept
    cdef void clear(self) noexcept


# The framing of a command name; the table of names is bounded.
cdef Name name_of(object name)

# Fills args[i - first] for every i from `first` to the end of `call`; returns the total size in bytes.
# `keep` is set to a list of the temporary objects that were needed, if any.
cdef Py_ssize_t scan(tuple call, Py_ssize_t first, Arg *args, object encoding, list keep) except -1


cdef class Batch:
    """Commands encoded as they are called, to be sent later to the nodes of their slots."""
    # Owned bytes of all commands, one after the other; borrowed values left out.
    cdef SendBuffer bytes_
    # Per command: where its owned bytes end, how many borrowed values precede its end, and its slot or -1.
    cdef Py_ssize_t *ends
    cdef Py_ssize_t *bigs
    cdef int *slots
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef object encoding
    # The last command's name as it was called, and its framing: commands of one batch are often alike.
    cdef object called
    cdef Name name

    cdef int _grow(self) except -1
    cpdef int add(self, tuple call, Py_ssize_t first_key) except -2
    # Copies command i to the end of `out`.
    cdef int copy_to(self, Py_ssize_t i, SendBuffer out) except -1
