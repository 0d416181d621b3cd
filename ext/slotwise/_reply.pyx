"""Received bytes and the replies in them; see the .pxd."""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize,
)
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcpy, memmove

import hiredis
from hiredis import ProtocolError

cdef extern from "_resp.h" nogil:
    enum:
        SLOTWISE_BULK
        SLOTWISE_SIMPLE
        SLOTWISE_INTEGER
        SLOTWISE_NIL
        SLOTWISE_AGGREGATE
        SLOTWISE_PARTIAL
        SLOTWISE_LINE
        SLOTWISE_BROKEN
    ctypedef struct slotwise_token:
        const char *data
        size_t size
        long long number
        size_t used
    int slotwise_next_token(const char *p, size_t n, slotwise_token *t)
    size_t slotwise_line(const char *p, size_t n, int *whole)

cdef enum:
    # Elements of an array that is made in one go.
    FEW = 16
    # Received at once of a large value, because an event loop has others to serve; and its memory to begin with.
    LARGE_READ = 1048576
    # No element takes fewer bytes: "_\r\n".
    LEAST = 3

# Bytes of one reply, framing included: eight values of the size that Redis allows unless told otherwise.
MAX_REPLY_SIZE = 2**32


@cython.final
cdef class ServerError:
    """An error reply as it came, e.g. ``MOVED 3999 127.0.0.1:6381``."""

    def __cinit__(self, str text):
        self.text = text

    def __repr__(self):
        return f"ServerError({self.text.split(' ', 1)[0]!r})"


@cython.final
cdef class Flawed:
    """A reply with an error inside, such as a script's table: the caller makes exceptions of them."""

    def __cinit__(self, reply):
        self.reply = reply


@cython.final
cdef class Reader:
    """What one connection receives. ``encoding`` is the ``(encoding, errors)`` of its text, None for bytes; a reply of
    more than ``limit`` bytes is refused.
    """

    def __cinit__(self, tuple encoding=None, long long limit=MAX_REPLY_SIZE):
        self.inbox = bytearray(INBOX)
        self.limit = limit
        self.lists = []
        if encoding is not None:
            self.decoding = encoding
            plain = encoding[0].lower().replace("_", "-") in ("utf-8", "utf8") and encoding[1] == "strict"
            self.text = UTF8 if plain else FOREIGN
        parser = hiredis.Reader(protocolError=ProtocolError, replyError=ServerError)
        self.feed = parser.feed
        self.gets = parser.gets

    def __dealloc__(self):
        Py_XDECREF(self.large)

    # -- bytes --------------------------------------------------------------------------------------------------------

    cdef bint filling(self) noexcept:
        return self.large != NULL and self.filled < PyBytes_GET_SIZE(<object>self.large)

    cdef char *room(self, Py_ssize_t *n) noexcept:
        cdef char *start = PyByteArray_AS_STRING(self.inbox)
        cdef Py_ssize_t kept = self.end - self.unread
        if self.filling():
            n[0] = min(PyBytes_GET_SIZE(<object>self.large) - self.filled, <Py_ssize_t>LARGE_READ)
            return PyBytes_AS_STRING(<object>self.large) + self.filled
        if kept and self.unread:
            # The beginning of an element: the rest goes behind it.
            memmove(start, start + self.unread, <size_t>kept)
        self.unread = 0
        self.end = kept
        n[0] = INBOX - kept
        return start + kept

    cdef void came(self, Py_ssize_t n) noexcept:
        if self.filling():
            self.filled += n
        else:
            self.end += n
        self.partial = False

    cdef bint unseen(self) noexcept:
        return self.unread < self.end and not self.partial

    cdef int read(self, Py_ssize_t n) except -1:
        """So many bytes of the inbox are read, and belong to the reply that is being built."""
        self.unread += n
        self.size += n
        if self.size > self.limit:
            raise ProtocolError(f"a reply has more than {self.limit} bytes")
        return 0

    cdef int announced(self, long long n) except -1:
        """So many more bytes are to come at the least."""
        if n > self.limit - self.size:
            raise ProtocolError(f"a reply announces more than {self.limit} bytes")
        return 0

    # -- replies ------------------------------------------------------------------------------------------------------

    cdef object next(self, bint decode, Kind *kind):
        cdef Py_ssize_t used = 0
        cdef Found found = UNFINISHED
        cdef object reply
        kind[0] = NOTHING
        if not self.size:
            if self.unread == self.end:
                return None
            try:
                reply = quick_reply(
                    PyByteArray_AS_STRING(self.inbox) + self.unread,
                    self.end - self.unread,
                    self.text if decode else BYTES,
                    self.decoding,
                    &found,
                    &used,
                )
            except Exception as error:
                # The reply is read, only nothing can be made of it: its text is not in the connection's encoding, or
                # there is no memory for it.
                self.unread += used
                kind[0] = TROUBLE
                return error
            if found == MADE:
                self.unread += used
                kind[0] = PLAIN
                return reply
        try:
            return self.build(decode, kind)
        except MemoryError as error:
            raise ProtocolError("no memory for a reply") from error

    cdef object build(self, bint decode, Kind *kind):
        """Goes on with the reply that is being built, or begins one; None as long as it is not complete."""
        cdef Text text
        cdef Found found
        cdef char type
        cdef object value
        while True:
            text = BYTES if self.aside or not decode else self.text
            value = self.element(text, &found)
            if found == UNFINISHED:
                return None
            if found == MADE:
                if not self.depth:
                    return self.ended(value, False, kind)
                (<list>self.lists[self.depth - 1]).append(value)
                self.open[self.depth - 1].left -= 1
            while self.depth and not self.open[self.depth - 1].left:
                value = self.close_aggregate(&type)
                if type == c"|":
                    # Attributes are news about the element that follows; nobody has asked for them.
                    continue
                if not self.depth:
                    return self.ended(value, type == c">", kind)
                (<list>self.lists[self.depth - 1]).append(value)
                self.open[self.depth - 1].left -= 1

    cdef object ended(self, object value, bint is_push, Kind *kind):
        """The reply is complete: tells its kind, and is ready for the next one."""
        cdef bint has_errors = self.has_errors
        cdef object flaw = self.flaw
        self.size = 0
        self.has_errors = False
        self.flaw = None
        if is_push:
            kind[0] = PUSH
        elif flaw is not None:
            kind[0] = TROUBLE
            return flaw
        elif has_errors:
            kind[0] = TROUBLE
            return value if type(value) is ServerError else Flawed(value)
        else:
            kind[0] = PLAIN
        return value

    cdef object element(self, Text text, Found *found):
        """The next element of the reply, or the reply if it is none of many."""
        cdef const char *p = PyByteArray_AS_STRING(self.inbox) + self.unread
        cdef Py_ssize_t n = self.end - self.unread
        cdef slotwise_token token
        cdef int what
        if self.large != NULL:
            return self.fill_large(text, found)
        if self.in_line:
            return self.line(text, found)
        what = slotwise_next_token(p, <size_t>n, &token)
        if what == SLOTWISE_BROKEN:
            raise ProtocolError(f"malformed reply of type {chr(<unsigned char>p[0])!a}")
        if what == SLOTWISE_AGGREGATE:
            self.read(<Py_ssize_t>token.used)
            self.open_aggregate(p[0], token.number)
            found[0] = OPENED
            return None
        # A simple string has no length, and the inbox an end.
        if what == SLOTWISE_LINE or (what == SLOTWISE_PARTIAL and not token.used and n > INBOX // 2):
            return self.line(text, found)
        if what == SLOTWISE_PARTIAL:
            found[0] = UNFINISHED
            self.announced(<long long>token.used)
            if <Py_ssize_t>token.used > INBOX:
                self.begin_large(p[0], token.data, <Py_ssize_t>token.size)
                return self.fill_large(text, found)
            self.partial = True
            return None
        self.read(<Py_ssize_t>token.used)
        found[0] = MADE
        try:
            return made_of(what, &token, text, self.decoding)
        except Exception as error:
            self.flawed(error)

    cdef object line(self, Text text, Found *found):
        """What hiredis makes of a line."""
        cdef int whole
        cdef Py_ssize_t n = <Py_ssize_t>slotwise_line(
            PyByteArray_AS_STRING(self.inbox) + self.unread, <size_t>(self.end - self.unread), &whole
        )
        cdef object value
        self.feed(self.inbox, self.unread, n)
        self.read(n)
        self.in_line = not whole
        if not whole:
            self.partial = True
            found[0] = UNFINISHED
            return None
        value = self.gets()
        found[0] = MADE
        if type(value) is ServerError:
            self.has_errors |= not self.aside
        elif type(value) is bytes and text != BYTES:
            try:
                return (<bytes>value).decode(*self.decoding)
            except Exception as error:
                self.flawed(error)
        return value

    cdef int flawed(self, object error) except -1:
        """Nothing can be made of an element, which is read."""
        if self.flaw is None and not self.aside:
            self.flaw = error
        return 0

    # -- aggregates ---------------------------------------------------------------------------------------------------

    cdef int open_aggregate(self, char type, long long count) except -1:
        if self.depth == DEPTH:
            raise ProtocolError(f"a reply has more than {DEPTH} aggregates inside one another")
        self.announced(LEAST * count)
        if type == c">" and self.depth:
            # Only what stands alone is a message.
            type = c"*"
        self.aside += type == c">" or type == c"|"
        self.open[self.depth].type = type
        self.open[self.depth].left = count
        self.depth += 1
        self.lists.append([])
        return 0

    cdef object close_aggregate(self, char *type):
        cdef object value = self.lists.pop()
        self.depth -= 1
        type[0] = self.open[self.depth].type
        self.aside -= type[0] == c">" or type[0] == c"|"
        if type[0] == c"%":
            try:
                return dict(zip(value[::2], value[1::2]))
            except TypeError:
                self.flawed(ProtocolError("a map has a key that Python cannot hash"))
                return None
        return value

    # -- large values -------------------------------------------------------------------------------------------------

    cdef int begin_large(self, char type, const char *data, Py_ssize_t size) except -1:
        """The inbox has no room for a bulk string whose beginning it holds; its bytes begin at ``data``."""
        cdef object value
        self.read(data - PyByteArray_AS_STRING(self.inbox) - self.unread)
        self.size += size
        value = PyBytes_FromStringAndSize(NULL, min(size, <Py_ssize_t>LARGE_READ))
        Py_INCREF(value)
        self.large = <PyObject*>value
        self.whole = size
        self.filled = 0
        self.verbatim = type == c"="
        return 0

    cdef object fill_large(self, Text text, Found *found):
        """The large value, once its end has come."""
        cdef const char *end
        cdef Py_ssize_t n
        cdef bytes value
        found[0] = UNFINISHED
        self.partial = True
        while self.filled < self.whole:
            if not self.filling():
                _PyBytes_Resize(&self.large, min(self.whole, 2 * self.filled))
            n = min(PyBytes_GET_SIZE(<object>self.large) - self.filled, self.end - self.unread)
            if not n:
                return None
            memcpy(
                PyBytes_AS_STRING(<object>self.large) + self.filled,
                PyByteArray_AS_STRING(self.inbox) + self.unread,
                <size_t>n,
            )
            self.filled += n
            self.unread += n
        if self.end - self.unread < 2:
            return None
        end = PyByteArray_AS_STRING(self.inbox) + self.unread
        value = <bytes>self.large
        if end[0] != c"\r" or end[1] != c"\n":
            raise ProtocolError(f"a value of {self.whole} bytes has another length")
        if self.verbatim:
            if value[3:4] != b":":
                raise ProtocolError("malformed reply of type '='")
            value = value[4:]
        self.read(2)
        Py_XDECREF(self.large)
        self.large = NULL
        found[0] = MADE
        try:
            return value if text == BYTES else value.decode(*self.decoding)
        except Exception as error:
            self.flawed(error)


cdef object quick_reply(
    const char *p, Py_ssize_t n, Text text, tuple decoding, Found *found, Py_ssize_t *used
):
    """The reply at p[0:n] and its size, if it is wholly there and a single value or a short array of such.

    What is raised came of making it: the reply is read nevertheless.
    """
    # An array and its elements, or one reply.
    cdef slotwise_token tokens[FEW + 1]
    cdef int kinds[FEW + 1]
    cdef Py_ssize_t at = 0
    cdef int i = 0, count = 1
    cdef list elements
    cdef object element
    while i < count:
        kinds[i] = slotwise_next_token(p + at, <size_t>(n - at), &tokens[i])
        if kinds[i] >= SLOTWISE_AGGREGATE:
            if kinds[i] != SLOTWISE_AGGREGATE or i or p[0] != c"*" or tokens[0].number > FEW:
                return None
            count = 1 + <int>tokens[0].number
        at += <Py_ssize_t>tokens[i].used
        i += 1
    found[0] = MADE
    used[0] = at
    if kinds[0] != SLOTWISE_AGGREGATE:
        return made_of(kinds[0], &tokens[0], text, decoding)
    elements = PyList_New(count - 1)
    for i in range(1, count):
        element = made_of(kinds[i], &tokens[i], text, decoding)
        Py_INCREF(element)
        PyList_SET_ITEM(elements, i - 1, element)
    return elements


cdef inline object made_of(int kind, const slotwise_token *token, Text text, tuple decoding):
    if kind == SLOTWISE_NIL:
        return None
    if kind == SLOTWISE_INTEGER:
        return token.number
    if text == UTF8:
        return PyUnicode_DecodeUTF8(token.data, <Py_ssize_t>token.size, NULL)
    if text == BYTES:
        return PyBytes_FromStringAndSize(token.data, <Py_ssize_t>token.size)
    return PyBytes_FromStringAndSize(token.data, <Py_ssize_t>token.size).decode(*decoding)
