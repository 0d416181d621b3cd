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
    # Memory in bytes that an empty send buffer keeps for what comes next; a spike's is given back.
    KEEP_MAX = 1048576


cdef struct Arg:
    # The argument's bytes: in an object of the call, in one that `keep` holds, or in `digits`.
    const char *data
    Py_ssize_t size
    # The bytes or str object, of no subclass, that `data` lies in and that the send may reference, else NULL.
    PyObject *owner
    # A machine integer or a float in decimal; the longest is -2.2250738585072014e-308.
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
    # Gives memory beyond KEEP_MAX back. The buffer must be empty.
    cdef void shrink(self) noexcept
    cdef void clear(self) noexcept


# The framing of a command name; the table of names is bounded.
cdef Name name_of(object name)

# Fills args[i] for each of the `n` objects at `words`; returns their total size in bytes. The caller holds the objects;
# `keep` gets the temporary ones that were needed.
cdef Py_ssize_t scan(PyObject **words, Py_ssize_t n, Arg *args, object encoding, list keep) except -1
# `to` becomes the same argument as `given`, which may go away then.
cdef inline void copy_arg(Arg *to, const Arg *given) noexcept:
    to[0] = given[0]
    if given.data == given.digits:
        to.data = to.digits
# A list for `keep`, and its end: an empty one serves the next call.
cdef list borrow_keep()
cdef void return_keep(list keep) noexcept
# The objects of a tuple, from the first argument behind the command's name.
cdef PyObject **arguments_of(tuple call) noexcept


cdef struct Encoded:
    # Where the command's owned bytes end, and how many borrowed values precede that.
    Py_ssize_t end
    Py_ssize_t big
    # How many arguments it and all commands before it have, names included.
    Py_ssize_t words
    # The slot that it is routed by, or -1.
    int slot


cdef class Indices:
    """Commands of a batch, by their places in it."""
    cdef Py_ssize_t *at
    cdef Py_ssize_t n

    # Room for n places, once.
    cdef int allocate(self, Py_ssize_t n) except -1


cdef class Batch:
    """Commands encoded as they are called, to be sent later to the nodes of their slots."""
    # Owned bytes of all commands, one after the other; borrowed values left out.
    cdef SendBuffer bytes_
    cdef Encoded *commands
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef object encoding
    # The last command's name as it was called, and its framing: commands of one batch are often alike.
    cdef object called
    cdef Name name

    # Forgets all commands.
    cdef void clear(self) noexcept
    cdef int grow(self) except -1
    # Encodes the command of the `n` objects at `words`, its name the first; see `add`.
    cdef int put(self, PyObject **words, Py_ssize_t n, Py_ssize_t first_key) except -2
    cpdef int add(self, tuple call, Py_ssize_t first_key) except -2
    # Copies command i to the end of `out`.
    cdef int copy_to(self, Py_ssize_t i, SendBuffer out) except -1
    # Copies commands of `which` from place `first` on, each behind `prefix` (or None), until `out` holds `ahead` bytes;
    # returns the place of the first that was not copied.
    cdef Py_ssize_t copy_ahead(
        self, Indices which, Py_ssize_t first, bytes prefix, Py_ssize_t ahead, SendBuffer out
    ) except -1


# Adds a command of `n` scanned arguments, `size` bytes in all, to `batch`; `slot` is what it is routed by, or -1.
cdef inline int take_in(Batch batch, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, int slot) except -1:
    cdef Encoded *made
    if batch.count == batch.capacity:
        batch.grow()
    batch.bytes_.write(name, args, n, size)
    made = &batch.commands[batch.count]
    made.end = batch.bytes_.end
    made.big = batch.bytes_.big_end
    made.words = n + 1 + (batch.commands[batch.count - 1].words if batch.count else 0)
    made.slot = slot
    batch.count += 1
    return 0
