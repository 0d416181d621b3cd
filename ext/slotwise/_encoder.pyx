"""RESP encoding of single commands and of batches.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM
from cpython.unicode cimport PyUnicode_Check
from libc.math cimport fabs, rint, signbit
from libc.string cimport memcpy, memmove, strlen

from slotwise._slots cimport NO_SHARD, SLOTWISE_SLOTS, SlotTable, slotwise_key_slot

from redis.exceptions import DataError

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    int PyLong_CheckExact(object)
    int PyUnicode_CheckExact(object)
    int PyBytes_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1
    int PyFloat_CheckExact(object)
    double PyFloat_AS_DOUBLE(object)
    int Py_DTSF_ADD_DOT_0
    char *PyOS_double_to_string(double value, char format, int precision, int flags, int *kind) except NULL
    ctypedef struct PyTupleObject:
        PyObject *ob_item[1]


cdef enum:
    # "$" + 20 digits + two CRLF: what the framing of one argument takes at the most.
    FRAME_MAX = 26
    # Distinct spellings of command names that are remembered; user text must not grow the table forever.
    NAMES_MAX = 4096
    # Commands that an emptied batch keeps room for.
    KEPT_COMMANDS = 4096
    # Decimals tried before a float is written the general way.
    DECIMALS_MAX = 6

cdef double[DECIMALS_MAX + 1] _tens = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6]


# Apart: text and bytes of the same letters have the same hash, and `python -bb` refuses to compare them.
cdef dict _text_names = {}
cdef dict _bytes_names = {}


@cython.final
cdef class Name:
    pass


cdef Name name_of(object name):
    cdef dict known = _text_names if type(name) is str else _bytes_names if type(name) is bytes else None
    cdef Name made = None if known is None else known.get(name)
    if made is not None:
        return made
    if isinstance(name, str):
        words = name.encode().split()
    elif isinstance(name, (bytes, bytearray, memoryview)):
        words = bytes(name).split() if b" " in bytes(name) else [bytes(name)]
    else:
        raise DataError(
            f"A command's name is text, not {type(name).__name__}: pass it as the first argument, e.g. 'GET'."
        )
    if not any(words):
        raise DataError("The command's name is empty: pass it as the first argument, e.g. 'GET'.")
    made = Name.__new__(Name)
    made.frame = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
    made.words = len(words)
    if known is not None and len(known) < NAMES_MAX:
        known[name] = made
    return made


cdef int digits_of(char *out, unsigned long long value) noexcept:
    """Writes `value` in decimal to out[0:20]; returns how many digits."""
    cdef char turned[20]
    cdef int n = 0, i
    if value < 10:
        out[0] = <char>(48 + value)
        return 1
    while value:
        turned[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
    for i in range(n):
        out[i] = turned[n - 1 - i]
    return n


cdef int width_of(unsigned long long value) noexcept:
    """How many digits `digits_of` writes."""
    cdef int n = 1
    while value >= 10:
        value //= 10
        n += 1
    return n


cdef int repr_of(char *out, double value) except -1:
    """Writes the `repr` of a float to out[0:24]; returns how many characters.

    Few decimals are the common case. Decimals of 15 digits at the most are all different floats, so the first
    number of decimals that gives `value` back is the shortest, which is what `repr` writes. Up to there the
    product below misses a whole number by less than a half.
    """
    cdef double size = fabs(value), whole
    cdef unsigned long long digits, unit = 1
    cdef char *p = out
    cdef char *text
    cdef int n, decimals
    if 1e-3 <= size < 1e14 or value == 0:
        for decimals in range(DECIMALS_MAX + 1):
            whole = rint(size * _tens[decimals])
            if whole >= 1e15:
                break
            if whole / _tens[decimals] == size:
                digits = <unsigned long long>whole
                if signbit(value):
                    p[0] = 45  # -
                    p += 1
                p += digits_of(p, digits // unit)
                p[0] = 46  # .
                digits %= unit
                decimals = max(decimals, 1)
                for n in range(decimals, 0, -1):
                    p[n] = <char>(48 + digits % 10)
                    digits //= 10
                return <int>(p - out) + 1 + decimals
            unit *= 10
    text = PyOS_double_to_string(value, 114, 0, Py_DTSF_ADD_DOT_0, NULL)  # r
    n = <int>strlen(text)
    memcpy(out, text, n)
    PyMem_Free(text)
    return n


cdef object plain(object value, object encoding):
    """The bytes, or the text to be sent as UTF-8, of an argument that is neither."""
    if isinstance(value, str):
        return str.encode(value, *encoding)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(value)
    if isinstance(value, (bytearray, memoryview)):
        # Its owner may change it before the kernel has taken it, so this is a copy.
        return bytes(value)
    raise DataError(
        f"Invalid input of type: '{type(value).__name__}'. "
        "Convert to a bytes, string, int or float first."
    )


# A spare list for `keep`: most calls need none of their own, and making one costs as much as a short command.
cdef list _spare = []


cdef list borrow_keep():
    global _spare
    cdef list keep = _spare
    _spare = None
    return [] if keep is None else keep


cdef void return_keep(list keep) noexcept:
    global _spare
    if not keep:
        _spare = keep


cdef PyObject **arguments_of(tuple call) noexcept:
    return &(<PyTupleObject*>call).ob_item[1]


cdef Py_ssize_t scan(PyObject **words, Py_ssize_t n, Arg *args, object encoding, list keep) except -1:
    cdef Py_ssize_t i, total = 0
    cdef Arg *arg
    cdef object value
    cdef int overflow = 0
    cdef long long number
    for i in range(n):
        arg = &args[i]
        value = <object>words[i]
        if PyLong_CheckExact(value):
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow:
                arg.data = arg.digits
                arg.owner = NULL
                if number < 0:
                    arg.digits[0] = 45  # -
                    arg.size = 1 + digits_of(&arg.digits[1], <unsigned long long>-(number + 1) + 1)
                else:
                    arg.size = digits_of(arg.digits, <unsigned long long>number)
                total += arg.size
                continue
        elif PyFloat_CheckExact(value):
            arg.data = arg.digits
            arg.owner = NULL
            arg.size = repr_of(arg.digits, PyFloat_AS_DOUBLE(value))
            total += arg.size
            continue
        if not PyBytes_Check(value) and not (PyUnicode_Check(value) and encoding is None):
            value = plain(value, encoding)
            keep.append(value)
        # A subclass' object is copied: its end may run Python code, which the sending must not.
        if PyBytes_Check(value):
            arg.data = PyBytes_AS_STRING(value)
            arg.size = PyBytes_GET_SIZE(value)
            arg.owner = <PyObject*>value if PyBytes_CheckExact(value) else NULL
        else:
            arg.data = PyUnicode_AsUTF8AndSize(value, &arg.size)
            arg.owner = <PyObject*>value if PyUnicode_CheckExact(value) else NULL
        total += arg.size
    return total


cdef inline char* line(char *p, char sign, unsigned long long number) noexcept:
    """Writes a line such as "$5"; returns its end."""
    p[0] = sign
    p += 1 + digits_of(p + 1, number)
    p[0] = 13
    p[1] = 10
    return p + 2


cdef inline char* head(char *p, Name name, Py_ssize_t n) noexcept:
    """Writes the beginning of a command with n arguments, up to its name; returns its end."""
    p = line(p, 42, <unsigned long long>(name.words + n))
    memcpy(p, PyBytes_AS_STRING(name.frame), PyBytes_GET_SIZE(name.frame))
    return p + PyBytes_GET_SIZE(name.frame)


cdef inline char* body(char *p, const Arg *arg) noexcept:
    """Writes an argument and its end of line; returns its end."""
    memcpy(p, arg.data, arg.size)
    p += arg.size
    p[0] = 13
    p[1] = 10
    return p + 2


@cython.final
cdef class SendBuffer:

    def __dealloc__(self):
        self.clear()
        PyMem_Free(self.data)
        PyMem_Free(self.big)

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

    cdef int reserve_big(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t wanted
        cdef void *grown
        if self.big_capacity - self.big_end >= n:
            return 0
        if self.big_start:
            memmove(self.big, self.big + self.big_start, (self.big_end - self.big_start) * sizeof(Borrowed))
            self.big_end -= self.big_start
            self.big_start = 0
            if self.big_capacity - self.big_end >= n:
                return 0
        wanted = max(self.big_capacity * 2, self.big_end + n)
        grown = PyMem_Realloc(self.big, wanted * sizeof(Borrowed))
        if grown == NULL:
            raise MemoryError()
        self.big = <Borrowed*>grown
        self.big_capacity = wanted
        return 0

    cdef void borrow(self, PyObject *owner, const char *data, Py_ssize_t size) noexcept:
        cdef Borrowed *value = &self.big[self.big_end]
        Py_INCREF(<object>owner)
        value.owner = owner
        value.data = data
        value.size = size
        value.at = self.base + self.end
        self.big_end += 1
        self.big_left += size

    cdef int write(self, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size) except -1:
        cdef Py_ssize_t i, borrowed = 0
        cdef char *p
        cdef Arg *arg
        for i in range(n):
            arg = &args[i]
            if arg.size >= BORROW_MIN and arg.owner != NULL:
                borrowed += 1
                size -= arg.size
        self.reserve(FRAME_MAX * (n + 1) + PyBytes_GET_SIZE(name.frame) + size)
        if borrowed:
            self.reserve_big(borrowed)
        p = head(self.data + self.end, name, n)
        for i in range(n):
            arg = &args[i]
            p = line(p, 36, <unsigned long long>arg.size)
            if arg.size >= BORROW_MIN and arg.owner != NULL:
                self.end = p - self.data
                self.borrow(arg.owner, arg.data, arg.size)
                p[0] = 13
                p[1] = 10
                p += 2
            else:
                p = body(p, arg)
        self.end = p - self.data
        return 0

    cdef Py_ssize_t peek(self, const char **p) noexcept:
        cdef Borrowed *value
        cdef Py_ssize_t stop = self.end
        if self.big_left:
            value = &self.big[self.big_start]
            stop = <Py_ssize_t>(value.at - self.base)
            if stop == self.start:
                p[0] = value.data + self.big_sent
                return value.size - self.big_sent
        p[0] = self.data + self.start
        return stop - self.start

    cdef void consumed(self, Py_ssize_t n) noexcept:
        cdef Borrowed *value
        if self.big_left:
            value = &self.big[self.big_start]
            if value.at == self.base + self.start:
                self.big_left -= n
                self.big_sent += n
                if self.big_sent == value.size:
                    self.big_sent = 0
                    self.big_start += 1
                    Py_DECREF(<object>value.owner)
                return
        self.start += n
        if self.start == self.end and not self.big_left:
            self.base += self.end
            self.start = self.end = 0
            self.big_start = self.big_end = 0
            self.shrink()

    cdef void shrink(self) noexcept:
        if self.capacity > KEEP_MAX:
            PyMem_Free(self.data)
            self.data = NULL
            self.capacity = 0
        if self.big_capacity > KEEP_MAX // <Py_ssize_t>sizeof(Borrowed):
            PyMem_Free(self.big)
            self.big = NULL
            self.big_capacity = 0

    cdef void clear(self) noexcept:
        while self.big_start < self.big_end:
            self.big_start += 1
            Py_DECREF(<object>self.big[self.big_start - 1].owner)
        self.start = self.end = 0
        self.big_start = self.big_end = 0
        self.big_sent = self.big_left = 0
        self.shrink()


@cython.final
cdef class Indices:
    """Places of commands in a batch: a sequence of int, made of any iterable of them."""

    def __cinit__(self, places=()):
        cdef Py_ssize_t i
        cdef list given
        if places is None:
            # Room that the maker of the object fills.
            return
        given = list(places)
        self.allocate(len(given))
        for i in range(len(given)):
            self.at[i] = given[i]
        self.n = len(given)

    def __dealloc__(self):
        PyMem_Free(self.at)

    cdef int allocate(self, Py_ssize_t n) except -1:
        self.at = <Py_ssize_t*>PyMem_Malloc(n * sizeof(Py_ssize_t))
        if self.at == NULL:
            raise MemoryError()
        return 0

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        if isinstance(key, slice):
            return [self.at[i] for i in range(*key.indices(self.n))]
        if not 0 <= key < self.n:
            raise IndexError(f"place {key} of {self.n}")
        return self.at[key]

    def __iter__(self):
        return iter(self[:])

    def __repr__(self):
        return f"Indices({self[:]})"


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
        PyMem_Free(self.commands)

    def __len__(self):
        return self.count

    cdef void clear(self) noexcept:
        self.bytes_.clear()
        self.count = 0
        if self.capacity > KEPT_COMMANDS:
            PyMem_Free(self.commands)
            self.commands = NULL
            self.capacity = 0

    cdef int grow(self) except -1:
        cdef Py_ssize_t wanted = max(self.capacity * 2, 64)
        cdef void *p = PyMem_Realloc(self.commands, wanted * sizeof(Encoded))
        if p == NULL:
            raise MemoryError()
        self.commands = <Encoded*>p
        self.capacity = wanted
        return 0

    cdef int put(self, PyObject **words, Py_ssize_t n, Py_ssize_t first_key) except -2:
        cdef Arg stack[STACK_ARGS]
        cdef Arg *args = stack
        cdef Py_ssize_t size
        cdef int slot = -1
        cdef list keep = borrow_keep()
        cdef Name name
        if n < 1:
            raise DataError("A command needs a name: pass it as the first argument, e.g. 'GET'.")
        if self.called is not None and words[0] == <PyObject*>self.called:
            name = self.name
        else:
            name = self.name = name_of(<object>words[0])
            # A bytearray may spell another command the next time.
            self.called = <object>words[0] if PyUnicode_CheckExact(<object>words[0]) else None
        n -= 1
        if n > STACK_ARGS:
            args = <Arg*>PyMem_Malloc(n * sizeof(Arg))
            if args == NULL:
                raise MemoryError()
        try:
            size = scan(words + 1, n, args, self.encoding, keep)
            if first_key > 0 and first_key <= n:
                slot = slotwise_key_slot(args[first_key - 1].data, <size_t>args[first_key - 1].size)
            take_in(self, name, args, n, size, slot)
        finally:
            return_keep(keep)
            if args != stack:
                PyMem_Free(args)
        return slot

    cpdef int add(self, tuple call, Py_ssize_t first_key) except -2:
        """Encodes one command and returns the slot of the key at index ``first_key``, or -1 for index 0.

        Raises ``redis.DataError`` for an argument that redis-py refuses; the batch is then as before.
        """
        return self.put(arguments_of(call) - 1, len(call), first_key)

    def set_slot(self, Py_ssize_t index, int slot):
        """Routes command ``index`` by ``slot``, 0 to 16383, in place of its first key; -1 for no slot."""
        if not 0 <= index < self.count:
            raise IndexError(f"command {index} of {self.count}")
        if not -1 <= slot < SLOTWISE_SLOTS:
            raise ValueError(f"slot {slot} is not within 0-{SLOTWISE_SLOTS - 1}")
        self.commands[index].slot = slot

    def slot(self, Py_ssize_t index):
        """The slot that command ``index`` is routed by, or -1."""
        if not 0 <= index < self.count:
            raise IndexError(f"command {index} of {self.count}")
        return self.commands[index].slot

    def by_shard(self, SlotTable table not None):
        """The commands by the shard that serves their slot: ``{index of the shard: Indices}``.

        Key -1 holds the commands without a slot and those whose slot nobody serves.
        """
        cdef Py_ssize_t i, shards = len(table.shards), shard
        # Of each shard, the last place for nobody's: how many commands, then where they are.
        cdef Py_ssize_t *counts = <Py_ssize_t*>PyMem_Calloc(shards + 1, sizeof(Py_ssize_t))
        cdef Py_ssize_t **next_of = <Py_ssize_t**>PyMem_Calloc(shards + 1, sizeof(Py_ssize_t*))
        cdef Indices made
        cdef dict groups = {}
        try:
            if counts == NULL or next_of == NULL:
                raise MemoryError()
            for i in range(self.count):
                counts[shard_of(table, self.commands[i].slot, shards)] += 1
            for shard in range(shards + 1):
                if counts[shard]:
                    made = Indices.__new__(Indices, None)
                    made.allocate(counts[shard])
                    made.n = counts[shard]
                    groups[shard if shard < shards else -1] = made
                    next_of[shard] = made.at
            for i in range(self.count):
                shard = shard_of(table, self.commands[i].slot, shards)
                next_of[shard][0] = i
                next_of[shard] += 1
        finally:
            PyMem_Free(counts)
            PyMem_Free(next_of)
        return groups

    cdef int copy_to(self, Py_ssize_t i, SendBuffer out) except -1:
        cdef Py_ssize_t start = self.commands[i - 1].end if i else 0
        cdef Py_ssize_t end = self.commands[i].end
        cdef Py_ssize_t big = self.commands[i - 1].big if i else 0
        cdef Borrowed *value
        out.reserve(end - start)
        if big < self.commands[i].big:
            out.reserve_big(self.commands[i].big - big)
            while big < self.commands[i].big:
                value = &self.bytes_.big[big]
                out.put(self.bytes_.data + start, value.at - start)
                out.borrow(value.owner, value.data, value.size)
                start = value.at
                big += 1
        out.put(self.bytes_.data + start, end - start)
        return 0

    cdef Py_ssize_t copy_ahead(
        self, Indices which, Py_ssize_t first, bytes prefix, Py_ssize_t ahead, SendBuffer out
    ) except -1:
        cdef Py_ssize_t i
        for i in range(first, which.n):
            if out.pending() >= ahead:
                return i
            if prefix is not None:
                out.reserve(PyBytes_GET_SIZE(prefix))
                out.put(PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix))
            self.copy_to(which.at[i], out)
        return which.n

    def encoded(self, Py_ssize_t index):
        """The bytes of command ``index`` as they go over the wire."""
        if not 0 <= index < self.count:
            raise IndexError(f"command {index} of {self.count}")
        cdef SendBuffer out = SendBuffer()
        self.copy_to(index, out)
        return drain(out)


cdef inline Py_ssize_t shard_of(SlotTable table, int slot, Py_ssize_t nobody) noexcept:
    if slot < 0 or table.owner[slot] == NO_SHARD:
        return nobody
    return table.owner[slot]


cdef bytes drain(SendBuffer out):
    """All that waits in `out`, which is empty afterwards."""
    cdef bytes drained = PyBytes_FromStringAndSize(NULL, out.pending())
    cdef char *to = PyBytes_AS_STRING(drained)
    cdef const char *p
    cdef Py_ssize_t n
    while out.pending():
        n = out.peek(&p)
        memcpy(to, p, n)
        to += n
        out.consumed(n)
    return drained


def encode_command(*args, encoding=None):
    """One command in RESP, as redis-py's ``pack_command`` would send it, as ``bytes``.

    Arguments are bytes, text, int, float, bytearray or memoryview; ``encoding`` is None for strict UTF-8,
    else ``(encoding, errors)``. Raises ``redis.DataError`` for any other type.
    """
    cdef Arg scanned[STACK_ARGS]
    cdef Py_ssize_t i, n = len(args) - 1, size
    cdef list keep = []
    cdef Name name
    cdef bytes command
    cdef char *p
    if not 0 <= n <= STACK_ARGS:
        return encode_commands((args,), encoding)
    # Straight into an object of the right size, without a buffer between.
    name = name_of(<object>PyTuple_GET_ITEM(args, 0))
    size = scan(arguments_of(args), n, scanned, encoding, keep)
    size += 3 + width_of(name.words + n) + PyBytes_GET_SIZE(name.frame)
    for i in range(n):
        size += 5 + width_of(scanned[i].size)
    command = PyBytes_FromStringAndSize(NULL, size)
    p = head(PyBytes_AS_STRING(command), name, n)
    for i in range(n):
        p = body(line(p, 36, <unsigned long long>scanned[i].size), &scanned[i])
    return command


def encode_commands(commands, encoding=None):
    """A batch of commands, an iterable of tuples, in one ``bytes``; see :func:`encode_command`."""
    cdef Batch batch = Batch(encoding)
    for command in commands:
        batch.add(tuple(command), 0)
    return drain(batch.bytes_)
