"""RESP encoding of single commands and of batches (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove

from slotwise._slots cimport SLOTWISE_SLOTS, SlotTable, slotwise_key_slot

from redis.exceptions import DataError

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    int PyLong_CheckExact(object)
    int PyUnicode_CheckExact(object)
    int PyBytes_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1


cdef enum:
    # "$" + 20 digits + two CRLF: what the framing of one argument takes at the most.
    FRAME_MAX = 26
    # Distinct spellings of command names that are remembered; user text must not grow the table forever.
    NAMES_MAX = 4096


cdef dict _names = {}


@cython.final
cdef class Name:
    pass


cdef Name name_of(object name):
    cdef Name made = _names.get(name)
    if made is not None:
        return made
    if isinstance(name, str):
        words = name.encode().split()
    elif isinstance(name, (bytes, bytearray, memoryview)):
        words = bytes(name).split()
    else:
        raise DataError(
            f"A command's name is text, not {type(name).__name__}: pass it as the first argument, e.g. 'GET'."
        )
    if not words:
        raise DataError("The command's name is empty: pass it as the first argument, e.g. 'GET'.")
    made = Name.__new__(Name)
    made.frame = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
    made.words = len(words)
    if len(_names) < NAMES_MAX and type(name) in (str, bytes):
        _names[name] = made
    return made


cdef int digits_of(char *out, unsigned long long value) noexcept:
    """Writes `value` in decimal to out[0:20]; returns how many digits."""
    cdef char turned[20]
    cdef int n = 0, i
    while True:
        turned[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    for i in range(n):
        out[i] = turned[n - 1 - i]
    return n


cdef int scan_odd(object value, Arg *arg, object encoding, list keep) except -1:
    """An argument that is neither exact bytes, UTF-8 text nor a machine integer."""
    cdef const char *p
    if isinstance(value, bool) or value is None:
        raise DataError(
            f"Invalid input of type: '{type(value).__name__}'. "
            "Convert to a bytes, string, int or float first."
        )
    if isinstance(value, str):
        value = value.encode(*encoding) if encoding is not None else str.encode(value, "utf-8")
    elif isinstance(value, (int, float)):
        value = repr(value).encode()
    elif isinstance(value, bytes):
        # A subclass: its own bytes, whatever it overrides.
        value = bytes.__getitem__(value, slice(None))
        value = bytes(memoryview(value))
    elif isinstance(value, (bytearray, memoryview)):
        # Its owner may change it before the kernel has taken it, so this is a copy.
        value = bytes(value)
    else:
        raise DataError(
            f"Invalid input of type: '{type(value).__name__}'. "
            "Convert to a bytes, string, int or float first."
        )
    keep.append(value)
    arg.data = PyBytes_AS_STRING(value)
    arg.size = PyBytes_GET_SIZE(value)
    arg.owner = <PyObject*>value
    return 0


cdef Py_ssize_t scan(tuple call, Py_ssize_t first, Arg *args, object encoding, list keep) except -1:
    cdef Py_ssize_t i, n = len(call), total = 0, size
    cdef Arg *arg
    cdef object value
    cdef int overflow = 0
    cdef long long number
    for i in range(first, n):
        arg = &args[i - first]
        value = <object>PyTuple_GET_ITEM(call, i)
        if PyBytes_CheckExact(value):
            arg.data = PyBytes_AS_STRING(value)
            arg.size = PyBytes_GET_SIZE(value)
            arg.owner = <PyObject*>value
        elif PyUnicode_CheckExact(value) and encoding is None:
            arg.data = PyUnicode_AsUTF8AndSize(value, &size)
            arg.size = size
            arg.owner = <PyObject*>value
        elif PyLong_CheckExact(value):
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow:
                scan_odd(value, arg, encoding, keep)
            else:
                arg.data = arg.digits
                arg.owner = NULL
                if number < 0:
                    arg.digits[0] = 45
                    arg.size = 1 + digits_of(&arg.digits[1], <unsigned long long>-(number + 1) + 1)
                else:
                    arg.size = digits_of(arg.digits, <unsigned long long>number)
        else:
            scan_odd(value, arg, encoding, keep)
        total += arg.size
    return total


@cython.final
cdef class SendBuffer:

    def __cinit__(self):
        self.big = []
        self.big_at = []

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef Py_ssize_t pending(self) noexcept:
        return self.end - self.start + self.big_left

    cdef int reserve(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t wanted
        cdef char *grown
        if self.capacity - self.end >= n:
            return 0
        if self.start:
            # What was sent makes room first: the buffer grows only with what really waits.
            memmove(self.data, self.data + self.start, self.end - self.start)
            self.base += self.start
            self.end -= self.start
            self.start = 0
            if self.capacity - self.end >= n:
                return 0
        wanted = max(self.capacity * 2, self.end + n, 4096)
        grown = <char*>PyMem_Realloc(self.data, wanted)
        if grown == NULL:
            raise MemoryError()
        self.data = grown
        self.capacity = wanted
        return 0

    cdef void put(self, const char *p, Py_ssize_t n) noexcept:
        memcpy(self.data + self.end, p, n)
        self.end += n

    cdef int borrow(self, object value, Py_ssize_t size) except -1:
        self.big.append(value)
        self.big_at.append(self.base + self.end)
        self.big_left += size
        return 0

    cdef int write(self, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size) except -1:
        cdef Py_ssize_t i, borrowed = 0
        cdef char *p
        cdef Arg *arg
        for i in range(n):
            if args[i].size >= BORROW_MIN and args[i].owner != NULL:
                borrowed += args[i].size
        self.reserve(FRAME_MAX * (n + 1) + PyBytes_GET_SIZE(name.frame) + size - borrowed)
        p = self.data + self.end
        p[0] = 42  # *
        p += 1 + digits_of(p + 1, <unsigned long long>(n + name.words))
        p[0] = 13
        p[1] = 10
        p += 2
        memcpy(p, PyBytes_AS_STRING(name.frame), PyBytes_GET_SIZE(name.frame))
        p += PyBytes_GET_SIZE(name.frame)
        for i in range(n):
            arg = &args[i]
            p[0] = 36  # $
            p += 1
            if arg.size < 10:
                p[0] = <char>(48 + arg.size)
                p += 1
            else:
                p += digits_of(p, <unsigned long long>arg.size)
            p[0] = 13
            p[1] = 10
            p += 2
            if borrowed and arg.size >= BORROW_MIN and arg.owner != NULL:
                self.end = p - self.data
                self.borrow(<object>arg.owner, arg.size)
            else:
                memcpy(p, arg.data, arg.size)
                p += arg.size
            p[0] = 13
            p[1] = 10
            p += 2
        self.end = p - self.data
        return 0

    cdef Py_ssize_t peek(self, const char **p) noexcept:
        cdef Py_ssize_t stop = self.end, size = 0
        cdef object value
        if self.big_left:
            stop = <Py_ssize_t>(<int64_t>self.big_at[0] - self.base)
            if stop == self.start:
                value = <object>PyList_GET_ITEM(self.big, 0)
                if isinstance(value, bytes):
                    p[0] = PyBytes_AS_STRING(value)
                    size = PyBytes_GET_SIZE(value)
                else:
                    p[0] = PyUnicode_AsUTF8AndSize(value, &size)
                p[0] += self.big_sent
                return size - self.big_sent
        p[0] = self.data + self.start
        return stop - self.start

    cdef int consumed(self, Py_ssize_t n) except -1:
        cdef const char *p
        if self.big_left and <int64_t>self.big_at[0] == self.base + self.start:
            self.big_left -= n
            if n == self.peek(&p):
                del self.big[0]
                del self.big_at[0]
                self.big_sent = 0
            else:
                self.big_sent += n
            return 0
        self.start += n
        if self.start == self.end and not self.big_left:
            self.base += self.end
            self.start = self.end = 0
        return 0

    cdef void clear(self):
        self.start = self.end = 0
        self.big = []
        self.big_at = []
        self.big_sent = self.big_left = 0


@cython.final
cdef class Batch:
    """Commands encoded as they are called.

    ``encoding`` is None for strict UTF-8, else the ``(encoding, errors)`` of text arguments.
    ``len()`` is the number of commands.
    """

    def __cinit__(self, encoding=None):
        self.bytes_ = SendBuffer()
        self.encoding = encoding

    def __dealloc__(self):
        PyMem_Free(self.ends)
        PyMem_Free(self.bigs)
        PyMem_Free(self.slots)

    def __len__(self):
        return self.count

    cdef int _grow(self) except -1:
        cdef Py_ssize_t wanted = max(self.capacity * 2, 64)
        cdef void *p
        p = PyMem_Realloc(self.ends, wanted * sizeof(Py_ssize_t))
        if p == NULL:
            raise MemoryError()
        self.ends = <Py_ssize_t*>p
        p = PyMem_Realloc(self.bigs, wanted * sizeof(Py_ssize_t))
        if p == NULL:
            raise MemoryError()
        self.bigs = <Py_ssize_t*>p
        p = PyMem_Realloc(self.slots, wanted * sizeof(int))
        if p == NULL:
            raise MemoryError()
        self.slots = <int*>p
        self.capacity = wanted
        return 0

    cpdef int add(self, tuple call, Py_ssize_t first_key) except -2:
        """Encodes one command and returns the slot of the key at index ``first_key``, or -1 for index 0."""
        cdef Arg stack[STACK_ARGS]
        cdef Arg *args = stack
        cdef Py_ssize_t n = len(call) - 1, size
        cdef int slot = -1
        cdef list keep = []
        cdef Name name
        if n < 0:
            raise DataError("A command needs a name: pass it as the first argument, e.g. 'GET'.")
        name = name_of(<object>PyTuple_GET_ITEM(call, 0))
        if n > STACK_ARGS:
            args = <Arg*>PyMem_Malloc(n * sizeof(Arg))
            if args == NULL:
                raise MemoryError()
        try:
            size = scan(call, 1, args, self.encoding, keep)
            if first_key > 0 and first_key <= n:
                slot = slotwise_key_slot(args[first_key - 1].data, <size_t>args[first_key - 1].size)
            if self.count == self.capacity:
                self._grow()
            self.bytes_.write(name, args, n, size)
        finally:
            if args != stack:
                PyMem_Free(args)
        self.ends[self.count] = self.bytes_.end
        self.bigs[self.count] = len(self.bytes_.big)
        self.slots[self.count] = slot
        self.count += 1
        return slot

    def set_slot(self, Py_ssize_t index, int slot):
        """Routes command ``index`` by ``slot``, 0 to 16383, in place of its first key; -1 for no slot."""
        if not 0 <= index < self.count:
            raise IndexError(f"command {index} of {self.count}")
        self.slots[index] = slot

    def slot(self, Py_ssize_t index):
        """The slot that command ``index`` is routed by, or -1."""
        if not 0 <= index < self.count:
            raise IndexError(f"command {index} of {self.count}")
        return self.slots[index]

    def by_shard(self, SlotTable table):
        """Indices of the commands by the shard that serves their slot: ``{shard_index: [index, ...]}``.

        Key -1 holds the commands without a slot and those whose slot nobody serves.
        """
        cdef Py_ssize_t i
        cdef int slot, owner, last = -2
        cdef list run = None
        cdef dict groups = {}
        for i in range(self.count):
            slot = self.slots[i]
            owner = -1 if slot < 0 or slot >= SLOTWISE_SLOTS else table.owner[slot]
            if owner == 0xFFFF:
                owner = -1
            if owner != last:
                run = groups.get(owner)
                if run is None:
                    run = groups[owner] = []
                last = owner
            run.append(i)
        return groups

    cdef int copy_to(self, Py_ssize_t i, SendBuffer out) except -1:
        cdef Py_ssize_t start = self.ends[i - 1] if i else 0, end = self.ends[i]
        cdef Py_ssize_t big = self.bigs[i - 1] if i else 0, at, size
        out.reserve(end - start)
        while big < self.bigs[i]:
            at = <Py_ssize_t>self.bytes_.big_at[big]
            out.put(self.bytes_.data + start, at - start)
            value = self.bytes_.big[big]
            if isinstance(value, bytes):
                size = PyBytes_GET_SIZE(value)
            else:
                PyUnicode_AsUTF8AndSize(value, &size)
            out.borrow(value, size)
            start = at
            big += 1
        out.put(self.bytes_.data + start, end - start)
        return 0

    def encoded(self, Py_ssize_t index):
        """The bytes of command ``index`` as they go over the wire."""
        if not 0 <= index < self.count:
            raise IndexError(f"command {index} of {self.count}")
        cdef SendBuffer out = SendBuffer()
        self.copy_to(index, out)
        return drain(out)


cdef bytes drain(SendBuffer out):
    cdef const char *p
    cdef Py_ssize_t n
    cdef list pieces = []
    while True:
        n = out.peek(&p)
        if n <= 0:
            return b"".join(pieces)
        pieces.append(p[:n])
        out.consumed(n)


def encode_command(*args, encoding=None):
    """One command in RESP, as redis-py's ``pack_command`` would send it, as ``bytes``.

    Arguments are bytes, text, int, float, bytearray or memoryview; ``encoding`` is None for strict UTF-8, else
    ``(encoding, errors)``. Raises ``redis.DataError`` for any other type.
    """
    cdef Batch batch = Batch(encoding)
    batch.add(args, 0)
    return drain(batch.bytes_)


def encode_commands(commands, encoding=None):
    """A batch of commands, an iterable of tuples, in one ``bytes``; see :func:`encode_command`."""
    cdef Batch batch = Batch(encoding)
    for command in commands:
        batch.add(tuple(command), 0)
    return drain(batch.bytes_)
