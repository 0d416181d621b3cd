"""What a connection receives: its bytes, and the replies in them.

Short replies of the common kinds that are wholly there, one value or a short array, are made in one go (`quick_reply`).
All others are built element by element as their bytes come: a stack holds the aggregates that are still open. hiredis
parses the lines of the rarer types, errors for one, and says what is wrong with a line.

**What a server can do to us.** Nothing is allocated because a length or a count was announced: lists grow as their
elements come, a large value's memory doubles as it is filled. More than DEPTH aggregates inside one another, and a
reply that is larger than the limit or announces to be, is a ProtocolError, as is whatever is malformed: the link
closes.

A value that is larger than the inbox is received straight into the object that it becomes: nothing is copied, and no
call of the reader takes longer for its size.

Way of the bytes: the link asks for ``room``, receives into it, says what ``came`` and takes the replies by ``next``
until there is none. The memory of ``room`` is good until the next call.
"""

from cpython.object cimport PyObject


cdef enum:
    INBOX = 65536
    # Aggregates inside one another. RedisJSON has documents 128 deep at the most, and tells of each level as an array.
    DEPTH = 256


cdef enum Text:
    # Replies are bytes.
    BYTES
    # They are text in strict UTF-8.
    UTF8
    # They are text in another encoding.
    FOREIGN


cdef enum Kind:
    # No reply is complete.
    NOTHING
    # The reply is a value.
    PLAIN
    # It is a ServerError, a Flawed, or the exception that comes of making it: text in another encoding, a list as the
    # key of a map, no memory.
    TROUBLE
    # It is a push message.
    PUSH


cdef enum Found:
    # An element, or a whole reply, is made.
    MADE
    # An aggregate is opened.
    OPENED
    # The rest has not come.
    UNFINISHED


# An aggregate whose elements are still coming.
ctypedef struct Open:
    # The character that it begins with on the wire.
    char type
    # Elements still to come.
    long long left


cdef class ServerError:
    """An error reply as the parser found it; the caller makes the exception of it."""
    cdef readonly str text


cdef class Flawed:
    """A reply with an error inside, such as a script's table: the caller makes exceptions of them."""
    cdef readonly object reply


cdef class Reader:
    cdef bytearray inbox
    # inbox[unread:end] was received and not yet read; `partial`: it is the beginning of an element, to be had whole.
    cdef Py_ssize_t unread
    cdef Py_ssize_t end
    cdef bint partial

    # What replies are made as.
    cdef Text text
    # (encoding, errors) of text, None for bytes.
    cdef tuple decoding

    # -- the reply that is being built --
    # Its bytes so far, and how many it may have.
    cdef long long size
    cdef long long limit
    # The open aggregates, outermost first; `lists` has what came of each, a map's keys and values in turn.
    cdef Open open[DEPTH]
    cdef list lists
    cdef int depth
    # How many of them are push messages or attributes. Their text stays bytes: a key in it may be no text.
    cdef int aside
    # An error reply is among its elements, other than those of push messages and attributes.
    cdef bint has_errors
    # The first exception that came of making it; the rest of the reply is still to be read.
    cdef object flaw
    # A value that is larger than the inbox: a bytes object with one reference, not yet of the final size, which is
    # `whole`; `filled` of it has come. NULL when there is none.
    cdef PyObject *large
    cdef Py_ssize_t whole
    cdef Py_ssize_t filled
    # It is a verbatim string.
    cdef bint verbatim
    # hiredis has the beginning of a line.
    cdef bint in_line
    cdef object feed
    cdef object gets

    # Where the next bytes go, and how many at the most.
    cdef char *room(self, Py_ssize_t *n) noexcept
    # So many went there.
    cdef void came(self, Py_ssize_t n) noexcept
    # Something came that `next` has not looked at.
    cdef bint unseen(self) noexcept
    # The next reply or push message. Without `decode` it is in bytes, whatever the connection's encoding is. Whatever
    # is raised, ProtocolError or what a signal handler raised, nobody can go on with this stream.
    cdef object next(self, bint decode, Kind *kind)

    cdef bint filling(self) noexcept
    cdef int read(self, Py_ssize_t n) except -1
    cdef int announced(self, long long n) except -1
    cdef object build(self, bint decode, Kind *kind)
    cdef object ended(self, object value, bint is_push, Kind *kind)
    cdef object element(self, Text text, Found *found)
    cdef int flawed(self, object error) except -1
    cdef int open_aggregate(self, char type, long long count) except -1
    cdef object close_aggregate(self, char *type)
    cdef object line(self, Text text, Found *found)
    cdef int begin_large(self, char type, const char *data, Py_ssize_t size) except -1
    cdef object fill_large(self, Text text, Found *found)
