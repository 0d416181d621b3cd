"""The link under asyncio: one connection that all tasks of an event loop share, or one of several.

Way of a call: ``AsyncEngine.keyed`` (``_aioengine``) encodes the command into ``out`` of the node's link, puts a future
into the ring and returns it. The first command of an event-loop turn asks the loop to call ``flush`` when the turn
is over, so all commands of a turn leave in one write. ``buffer_updated`` parses all replies that one read
brought and completes their futures in one loop. No object is made for a command beside its future.

Of a batch (``_aiobatch``), what goes over one link takes one place in the ring for all its commands.
One future tells that all parts have ended.

Cancellation: a cancelled future keeps its place; its late reply is dropped there. Time-outs: one timer per
link looks at the oldest entry. When nothing moved for ``timeout``, what waited as long ends with a failure, its
place stays, the link is retired: no new command enters it, what is under way goes on, and it is closed when
nothing waits any more.

Back-pressure: ``full`` is true while MAX_COMMANDS are in flight, MAX_BYTES are unsent, the transport asks for a
pause, or somebody waits. A command then stands in line with its future; it is encoded when its turn comes, and
nothing of it is copied before. What is in line when the link is retired is handed back: its caller goes on as
if it had not begun.

Fairness to the loop: a turn wakes WAKE_MAX callers of all links together (``Turns``) and writes TURN_BYTES of a link
at the most; the rest is for the next turns. That also keeps the objects of a turn below what starts a garbage
collection, which with 10,000 tasks would cost as much as everything else.

Few commands and many nodes would make writes of a command each. When callers were woken since the first of its commands
was encoded, a small write is put off, for PUT_OFF_MAX turns at the most: what they ask next may join it. With 1,000
tasks that gave 18 % more commands a second on 3 nodes and 28 % on 30, with 50 tasks 5 %; one task waits for nobody.
With 2 KiB for small in place of 1 KiB, 3,000 tasks on 30 nodes got another 11 %, 1,000 tasks 3 %, at a better p99.
A batch that is a write's worth does not even wait for the turn's end.

To sleep and be woken costs two or three times the round trip to a near server. So a loop that would sleep while
shared links wait for replies looks again and again instead, for EAGER at the most since bytes last went or came:
``Turns`` asks for one more turn each time, so whatever else is due comes as ever. After a wait in vain the next ones
sleep at once, twice as many each time, so a far server costs next to nothing. Beside redis-py that took one task from
1.3x to 2.0x, pipelines of 100 from 8.0x to 10.0x, 50 tasks from 10.9x to 11.5x, on uvloop from 13.1x to 14.9x.

Threads: none. Everything runs in the loop's thread.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from slotwise._aiobatch cimport Part
from slotwise._encoder cimport Arg, Name, SendBuffer
from slotwise._reply cimport Reader


cdef enum:
    # How long the loop stays awake for replies, in microseconds, and how many waits sleep at once after one in vain:
    # the first time, and at the most.
    EAGER = 300
    NAPS = 8
    NAPS_MAX = 64
    # Commands in flight on one link; beyond it callers wait.
    MAX_COMMANDS = 16384
    # Bytes that wait for the socket; beyond it callers wait.
    MAX_BYTES = 4194304
    # Callers that all links of a client wake, and bytes that one writes, in one turn of the loop.
    WAKE_MAX = 384
    TURN_BYTES = 1048576
    # Bytes of a batch that are worth a write at once.
    WRITE_MIN = 1024
    # Bytes below which a write is put off, and for how many turns.
    SMALL = 2048
    PUT_OFF_MAX = 4
    # Bytes given to the transport at once, which copies what the socket does not take.
    WRITE_MAX = 262144
    # Callers in line from which on those that gave up are swept out.
    SWEEP_MIN = 1024


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


cdef class AsyncLink


cdef class Unusual:
    """What came in place of a plain reply: an error reply, one with errors inside, a failure of the link.

    None when the command was handed back: it stood in line for a link that was retired.
    """
    cdef readonly object what


cdef class Waiting:
    """A command in line. ``call`` keeps its arguments, which are encoded when its turn comes."""
    cdef object future
    cdef tuple call
    cdef bint decode
    cdef object encoding


cdef class Turns:
    """What the links of a client have left of the loop's turn."""
    cdef object loop
    # Callers that may still be woken; valid while the next turn is scheduled.
    cdef Py_ssize_t wakes
    cdef bint scheduled
    # Links that hold replies for the next turns, in the order of those.
    cdef object resting
    cdef object next_soon
    # Callers woken so far.
    cdef int64_t woken
    # How long the loop stays awake for replies, in seconds since bytes last went or came.
    cdef double eager
    # Links that the loop stays awake for; a look at them is scheduled while there are any.
    cdef list awaited
    cdef object look_soon
    # When bytes last went or came.
    cdef double moved
    # Waits that sleep at once before the next eager one, and how many after the next one in vain.
    cdef int naps
    cdef int next_naps

    cdef int begin(self) except -1
    cdef int stay_awake(self, AsyncLink link) except -1
    cdef int forget_awaited(self) except -1


cdef class AsyncLink:
    # What opened and authenticated the transport.
    cdef readonly object connection
    cdef readonly object loop
    cdef Turns turns
    cdef object transport
    cdef object create_future
    cdef SendBuffer out
    cdef Entry *ring
    cdef Py_ssize_t head
    cdef Py_ssize_t entries
    cdef Py_ssize_t capacity
    # Commands in flight: entries, and the unanswered commands of parts.
    cdef readonly Py_ssize_t commands
    cdef Reader reader
    # A flush is due at the end of this turn; when the turn began.
    cdef bint scheduled
    cdef double turn
    # How often the flush was put off, and the callers woken when it was scheduled.
    cdef int put_off
    cdef int64_t woken
    # Seconds that a reply may take, negative for ever; the timer is running.
    cdef double timeout
    cdef bint watched
    # When bytes last came, or the transport last wanted more.
    cdef double moved
    # `moved` at the last look whether the link is silent, -1 where nobody waited then.
    cdef double looked
    # The transport has enough.
    cdef bint paused
    # The turn has woken all it may, the reader may hold more replies; nothing more is read for now.
    cdef bint resting
    cdef readonly bint retired
    cdef readonly bint closed
    # The loop may stay awake for its replies, and does.
    cdef bint eager
    cdef bint awaited
    cdef object on_push
    # Waiting commands and parts, oldest first; they are swept when there are `sweep_at`.
    cdef object waiting
    cdef Py_ssize_t sweep_at
    cdef object flush_soon

    cdef bint has_room(self) noexcept
    cdef bint is_full(self)
    cdef int make_place(self) except -1
    cdef Entry *push(self, object owner, int64_t at) noexcept
    cdef object put(
        self, tuple call, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode, object encoding)
    cdef int encode(
        self, object future, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode) except -1
    cdef bint encode_part(self, Part part) except -1
    cdef int line_up(self, object waiting) except -1
    cdef int admit(self) except -1
    cdef int hand_back(self) except -1
    cdef int begin_turn(self) except -1
    cdef int write_out(self) except -1
    cdef int read(self) except -1
    cdef int read_on(self) except -1
    cdef int read_to_end(self) except -1
    cdef Py_ssize_t parse(self, Py_ssize_t wakes) except? -2
    cdef Py_ssize_t parse_or_fail(self, Py_ssize_t wakes) except? -2
    cdef int lose(self, Entry *entry, str reason, bint timed_out) except -1
    cdef int fail(self, str reason) except -1


cdef object submit(AsyncLink link, tuple call, bint decode, object encoding, object future=*)
