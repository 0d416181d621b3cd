"""One connection's protocol state under asyncio, and the way of a call; see the .pxd."""

cimport cython
from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from slotwise._aiobatch cimport Part
from slotwise._encoder cimport (
    STACK_ARGS, Arg, Name, SendBuffer, arguments_of, borrow_keep, name_of, return_keep, scan,
)
from slotwise._link cimport CORES
from slotwise._reply cimport NOTHING, PLAIN, PUSH, TROUBLE, Kind, Reader

from collections import deque

from hiredis import ProtocolError

from slotwise._link import LinkFailure
from slotwise._reply import MAX_REPLY_SIZE

cdef extern from "_net.h" nogil:
    double slotwise_now()
    int sched_yield()

cdef bytes _ASKING = b"*1\r\n$6\r\nASKING\r\n"


@cython.final
@cython.freelist(16)
cdef class Unusual:
    """``what`` is a ServerError, a Flawed, an exception of the decoder, a LinkFailure, or None."""

    def __cinit__(self, what):
        self.what = what


@cython.final
@cython.freelist(64)
cdef class Waiting:
    pass


@cython.final
cdef class Turns:
    """What the links of a client share: the turns of ``loop``.

    ``eager`` is how long they keep it awake for replies, in seconds since bytes last went or came.
    """

    def __cinit__(self, loop, double eager=EAGER * 1e-6):
        self.loop = loop
        self.eager = eager
        self.resting = deque()
        self.next_soon = self.next
        self.awaited = []
        self.look_soon = self.look
        self.next_naps = NAPS

    cdef int begin(self) except -1:
        if not self.scheduled:
            self.loop.call_soon(self.next_soon)
            self.scheduled = True
            self.wakes = WAKE_MAX
        return 0

    def next(self):
        """The next turn begins; links that rest go on, the one that rests longest first."""
        cdef AsyncLink link
        self.scheduled = False
        for _ in range(len(self.resting)):
            self.begin()
            if not self.wakes:
                break
            link = self.resting.popleft()
            link.read_on()

    cdef int stay_awake(self, AsyncLink link) except -1:
        """``link`` has sent what a server may answer soon."""
        self.moved = slotwise_now()
        if link.awaited or CORES == 1:
            return 0
        if not self.awaited:
            if self.naps:
                self.naps -= 1
                return 0
            self.loop.call_soon(self.look_soon)
        self.awaited.append(link)
        link.awaited = True
        return 0

    def look(self):
        """One turn more, if replies may still come soon."""
        cdef AsyncLink link
        cdef bint waiting = False
        for link in self.awaited:
            if link.entries:
                waiting = True
                break
        if not waiting:
            self.next_naps = NAPS
            self.forget_awaited()
        elif slotwise_now() - self.moved > self.eager:
            self.naps = self.next_naps
            self.next_naps = min(2 * self.next_naps, <int>NAPS_MAX)
            self.forget_awaited()
        else:
            # The server may be waiting for this core.
            with nogil:
                sched_yield()
            self.loop.call_soon(self.look_soon)

    cdef int forget_awaited(self) except -1:
        cdef AsyncLink link
        for link in self.awaited:
            link.awaited = False
        self.awaited = []
        return 0


cdef class AsyncLink:
    """What an ``asyncio.BufferedProtocol`` needs to speak RESP.

    ``connection`` is what opened and authenticated the transport, kept alive with it. ``timeout`` in seconds,
    None for ever; ``encoding``, None for bytes, is ``(encoding, errors)``; ``on_push`` gets push messages. ``eager``
    keeps the loop awake for replies that may come soon. A reply of more than ``max_reply_size`` bytes closes the link.
    """

    def __cinit__(
        self, connection, Turns turns not None, transport, timeout, encoding=None, on_push=None, bint eager=False,
        long long max_reply_size=MAX_REPLY_SIZE,
    ):
        self.connection = connection
        self.turns = turns
        self.loop = loop = turns.loop
        self.transport = transport
        self.create_future = loop.create_future
        self.timeout = -1.0 if timeout is None else timeout
        self.looked = -1
        self.out = SendBuffer()
        self.on_push = on_push
        self.eager = eager
        self.waiting = deque()
        self.sweep_at = SWEEP_MIN
        self.flush_soon = self.flush
        self.reader = Reader(encoding, max_reply_size)
        self.capacity = 64
        self.ring = <Entry*>PyMem_Malloc(self.capacity * sizeof(Entry))
        if self.ring == NULL:
            raise MemoryError()

    def __dealloc__(self):
        while self.entries:
            Py_XDECREF(self.ring[self.head].owner)
            self.head = (self.head + 1) & (self.capacity - 1)
            self.entries -= 1
        PyMem_Free(self.ring)

    @property
    def idle(self):
        """True when nothing is in flight and the link takes commands."""
        return not (self.commands or self.retired or self.closed)

    @property
    def full(self):
        """True while a command has to wait: there is no room, or others came earlier."""
        return self.is_full()

    cdef bint has_room(self) noexcept:
        return not self.paused and self.commands < MAX_COMMANDS and self.out.pending() < MAX_BYTES

    cdef bint is_full(self):
        return not self.has_room() or len(self.waiting) > 0

    # -- sending --------------------------------------------------------------------------------------------

    cdef int make_place(self) except -1:
        """Room in the ring for one entry more."""
        cdef Entry *grown
        cdef Py_ssize_t i
        if self.entries == self.capacity:
            grown = <Entry*>PyMem_Malloc(2 * self.capacity * sizeof(Entry))
            if grown == NULL:
                raise MemoryError()
            for i in range(self.entries):
                grown[i] = self.ring[(self.head + i) & (self.capacity - 1)]
            PyMem_Free(self.ring)
            self.ring = grown
            self.head = 0
            self.capacity *= 2
        return 0

    cdef Entry *push(self, object owner, int64_t at) noexcept:
        """A new entry for one reply; its place was made."""
        cdef Entry *entry = &self.ring[(self.head + self.entries) & (self.capacity - 1)]
        Py_INCREF(owner)
        entry.owner = <PyObject*>owner
        entry.at = at
        entry.since = self.turn
        entry.left = 1
        entry.part = False
        entry.decode = True
        self.entries += 1
        return entry

    cdef int begin_turn(self) except -1:
        self.loop.call_soon(self.flush_soon)
        self.scheduled = True
        self.woken = self.turns.woken
        self.turn = slotwise_now()
        if not self.watched and self.timeout >= 0:
            self.loop.call_later(self.timeout, self.watch)
            self.watched = True
        return 0

    cdef object put(
        self, tuple call, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode, object encoding
    ):
        """Encodes one command, or puts it in line; the future of its reply."""
        cdef object future = self.create_future()
        cdef Waiting waiting
        cdef bint full = self.is_full()
        if self.closed or full and self.retired:
            future.set_result(Unusual(LinkFailure("the link is closed", sent=False)))
        elif full:
            waiting = Waiting.__new__(Waiting)
            waiting.future = future
            waiting.call = call
            waiting.decode = decode
            waiting.encoding = encoding
            self.line_up(waiting)
        else:
            self.encode(future, name, args, n, size, decode)
        return future

    cdef int encode(
        self, object future, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode
    ) except -1:
        cdef int64_t at
        cdef Entry *entry
        if not self.scheduled:
            self.begin_turn()
        # Whatever can fail comes first: a command without an entry would put all others out of step.
        self.make_place()
        at = self.out.base + self.out.end
        self.out.write(name, args, n, size)
        entry = self.push(future, at)
        entry.decode = decode
        self.commands += 1
        return 0

    def put_part(self, Part part not None):
        """Encodes the commands of ``part``, as many as there is room for; the rest stands in line."""
        if not part.is_wanted():
            return
        if not part.indices.n:
            part.end()
        elif self.closed or self.retired:
            part.hand_back()
        elif self.is_full() or not self.encode_part(part):
            self.line_up(part)
        elif self.out.pending() >= WRITE_MIN:
            # It is a write's worth: the server need not wait for the turn's end.
            self.write_out()

    cdef bint encode_part(self, Part part) except -1:
        """The next commands of ``part``, at least one; True when all are encoded."""
        cdef Entry *entry
        cdef Py_ssize_t n = part.indices.n, first = part.written
        cdef int64_t at
        if not self.scheduled:
            self.begin_turn()
        self.make_place()
        at = self.out.base + self.out.end
        entry = self.push(part, at)
        entry.part = True
        entry.left = 0
        # It is this link's from now on; the way back through the ring is one that no garbage collector sees.
        part.endpoint = None
        try:
            # One at least: a value that is larger than all room goes when its turn comes.
            while part.written < n and (self.has_room() or part.written == first):
                if part.asking:
                    self.out.reserve(len(_ASKING))
                    self.out.put(_ASKING, len(_ASKING))
                part.batch.copy_to(part.indices.at[part.written], self.out)
                part.written += 1
                self.commands += 1
                entry.left += 1
        except BaseException:
            self.close("interrupted in the middle of a command")
            raise
        return part.written == n

    # -- the line -------------------------------------------------------------------------------------------

    cdef int line_up(self, object waiting) except -1:
        if len(self.waiting) >= self.sweep_at:
            # A server that hangs must not hold the values of callers that gave up.
            self.waiting = deque([each for each in self.waiting if not gave_up(each)])
            self.sweep_at = max(SWEEP_MIN, 2 * len(self.waiting))
        self.waiting.append(waiting)
        return 0

    cdef int admit(self) except -1:
        """Encodes what is in line, oldest first, as long as there is room."""
        cdef Waiting waiting
        while self.waiting and self.has_room():
            first = self.waiting.popleft()
            if gave_up(first):
                continue
            if type(first) is Part:
                if self.encode_part(<Part>first):
                    continue
                if (<Part>first).whole:
                    self.waiting.appendleft(first)
                else:
                    # The others get their turns between the pieces of a large one.
                    self.waiting.append(first)
                continue
            waiting = <Waiting>first
            try:
                submit(self, waiting.call, waiting.decode, waiting.encoding, waiting.future)
            except Exception as error:
                # An argument that was fine when the call was made.
                waiting.future.set_exception(error)
        return 0

    cdef int hand_back(self) except -1:
        """Empties the line of a link that is retired; parts that were begun stay."""
        cdef object line = self.waiting
        self.waiting = deque()
        for each in line:
            if gave_up(each):
                continue
            if type(each) is Waiting:
                (<Waiting>each).future.set_result(Unusual(None))
            elif (<Part>each).written:
                self.waiting.append(each)
            else:
                (<Part>each).hand_back()
        return 0

    # -- the turn's end and time-outs -----------------------------------------------------------------------

    def flush(self):
        """The turn's end: writes what it encoded."""
        self.scheduled = False
        if self.woken != self.turns.woken and self.put_off < PUT_OFF_MAX and self.out.pending() < SMALL:
            self.loop.call_soon(self.flush_soon)
            self.scheduled = True
            self.woken = self.turns.woken
            self.put_off += 1
            return
        self.put_off = 0
        self.write_out()

    cdef int write_out(self) except -1:
        """Writes what was encoded, TURN_BYTES at the most; the rest is for the next turn."""
        cdef const char *p
        cdef Py_ssize_t n, left = TURN_BYTES
        while not (self.closed or self.paused):
            n = min(self.out.peek(&p), <Py_ssize_t>WRITE_MAX)
            if n <= 0:
                break
            if left <= 0:
                if not self.scheduled:
                    self.begin_turn()
                break
            try:
                self.transport.write(PyBytes_FromStringAndSize(p, n))
            except BaseException:
                # Perhaps it is on its way: nothing may be sent twice.
                self.out.consumed(n)
                self.close("interrupted while bytes were sent")
                raise
            self.out.consumed(n)
            left -= n
        if self.eager and left < TURN_BYTES:
            self.turns.stay_awake(self)
        return 0

    def watch(self):
        """The timer: ends what has waited too long, and comes again as long as something waits."""
        cdef double now = slotwise_now(), since
        cdef Entry *entry
        cdef Py_ssize_t i, waiting = 0
        cdef double oldest = now
        self.watched = False
        if self.closed:
            return
        if self.resting:
            self.moved = now
        for i in range(self.entries):
            entry = &self.ring[(self.head + i) & (self.capacity - 1)]
            if entry.owner == NULL:
                continue
            # As long as bytes flow the turn of this one will come.
            since = max(entry.since, self.moved)
            if now - since + 0.001 < self.timeout:
                oldest = since
                waiting += 1
                break
            self.retired = True
            self.lose(entry, "no reply within the time-out", True)
        if waiting:
            self.loop.call_later(max(oldest + self.timeout - now, 0.001), self.watch)
            self.watched = True
        elif self.retired:
            self.close()
        if self.retired:
            # They go to the link that replaces this one.
            self.hand_back()

    cdef int lose(self, Entry *entry, str reason, bint timed_out) except -1:
        """Ends an entry without its reply; its place stays."""
        cdef object owner = <object>entry.owner
        cdef bint sent = entry.at < self.out.base + self.out.start
        cdef object failure = LinkFailure(reason, sent=sent, timed_out=timed_out)
        if entry.part:
            (<Part>owner).lost(failure)
        else:
            entry.owner = NULL
            if not owner.done():
                owner.set_result(Unusual(failure))
            Py_XDECREF(<PyObject*>owner)
        return 0

    # -- receiving ------------------------------------------------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport

    def feed(self, bytes data not None):
        """Takes what was received before the transport was this link's."""
        cdef const char *p = data
        cdef Py_ssize_t left = len(data), n
        cdef char *room
        while left and not self.closed:
            room = self.reader.room(&n)
            n = min(n, left)
            memcpy(room, p, <size_t>n)
            p += n
            left -= n
            self.buffer_updated(n)

    def get_buffer(self, sizehint):
        cdef Py_ssize_t n
        cdef char *room = self.reader.room(&n)
        if not n:
            # A transport that does not mind the pause: TLS of Python 3.10.
            self.read_to_end()
            room = self.reader.room(&n)
        return PyMemoryView_FromMemory(room, n, PyBUF_WRITE)

    def buffer_updated(self, Py_ssize_t n):
        self.moved = self.turns.moved = slotwise_now()
        self.reader.came(n)
        self.read()

    cdef int read_on(self) except -1:
        """The next turn's share of what was received."""
        if self.resting:
            self.resting = False
            # What has come is not late, however long it waits for its turn.
            self.moved = slotwise_now()
            self.transport.resume_reading()
            self.read()
        return 0

    cdef int read(self) except -1:
        """Gives replies to their callers, as many as the turn has left; the rest is for the next one."""
        cdef Py_ssize_t before, left
        self.turns.begin()
        before = self.turns.wakes
        left = self.parse_or_fail(before)
        self.turns.woken += before - left
        self.turns.wakes = left
        if not self.turns.wakes and not self.closed and not self.resting:
            self.resting = True
            self.transport.pause_reading()
            self.turns.resting.append(self)
        return 0

    cdef int read_to_end(self) except -1:
        """Gives all replies to their callers."""
        self.parse_or_fail(-1)
        return 0

    cdef Py_ssize_t parse_or_fail(self, Py_ssize_t wakes) except? -2:
        try:
            return self.parse(wakes)
        except ProtocolError as error:
            self.close(str(error))
        except BaseException:
            self.close("interrupted in the middle of a reply")
            raise
        return wakes

    cdef Py_ssize_t parse(self, Py_ssize_t wakes) except? -2:
        """Gives replies to their callers; how many may still be woken."""
        cdef Entry *entry
        cdef object reply, owner
        cdef Part part
        cdef bint decode
        cdef Kind kind
        cdef Py_ssize_t index = 0
        while self.entries and wakes:
            entry = &self.ring[self.head]
            if entry.part:
                part = <Part>entry.owner
                index = part.indices.at[part.answered]
                decode = part.decode is None or part.decode[index]
            else:
                decode = entry.decode
            reply = self.reader.next(decode, &kind)
            if self.closed:
                # By a finalizer that ran meanwhile.
                return wakes
            if kind == NOTHING:
                break
            if kind == PUSH:
                self.pushed(reply)
                continue
            # The ring may have grown by one.
            entry = &self.ring[self.head]
            if entry.part:
                if part.skip:
                    part.skip = False
                    continue
                if part.is_wanted():
                    if kind == TROUBLE:
                        part.troubled.append(index)
                    part.results[index] = reply
                part.answered += 1
                part.skip = part.asking
                self.commands -= 1
                entry.left -= 1
                if entry.left:
                    continue
                self.head = (self.head + 1) & (self.capacity - 1)
                self.entries -= 1
                if part.answered == part.indices.n and not part.over:
                    part.end()
                    if not part.exchange.left:
                        wakes -= 1
                Py_XDECREF(<PyObject*>part)
            else:
                self.commands -= 1
                self.head = (self.head + 1) & (self.capacity - 1)
                self.entries -= 1
                if entry.owner == NULL:
                    continue
                owner = <object>entry.owner
                Py_XDECREF(entry.owner)
                if not owner.done():
                    owner.set_result(reply if kind == PLAIN else Unusual(reply))
                    wakes -= 1
        if not self.entries:
            while True:
                reply = self.reader.next(True, &kind)
                if kind == NOTHING or self.closed:
                    break
                if kind != PUSH:
                    raise ProtocolError("a reply to no command")
                self.pushed(reply)
        if self.waiting:
            self.admit()
        if self.retired and not self.entries and not self.waiting:
            self.close()
        return wakes

    def pushed(self, message):
        if self.on_push is not None:
            try:
                self.on_push(message)
            except Exception as error:
                self.loop.call_exception_handler({"message": "a push handler raised", "exception": error})

    # -- flow control and the end ---------------------------------------------------------------------------

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.moved = slotwise_now()
        self.admit()
        if not self.scheduled and self.out.pending():
            self.begin_turn()

    def eof_received(self):
        return False

    def connection_lost(self, error):
        try:
            if self.resting:
                self.resting = False
                self.read_to_end()
        finally:
            self.fail("the server closed the connection" if error is None else str(error) or type(error).__name__)

    cdef int fail(self, str reason) except -1:
        cdef Entry *entry
        if self.closed:
            return 0
        self.closed = self.retired = True
        while self.entries:
            entry = &self.ring[self.head]
            if entry.owner != NULL:
                if entry.part:
                    self.lose(entry, reason, False)
                    Py_XDECREF(entry.owner)
                else:
                    self.lose(entry, reason, False)
            self.head = (self.head + 1) & (self.capacity - 1)
            self.entries -= 1
        self.commands = 0
        self.out.clear()
        self.resting = False
        self.hand_back()
        for each in self.waiting:
            # All that was sent of it was answered.
            (<Part>each).lost(LinkFailure(reason, sent=False))
        self.waiting.clear()
        return 0

    def is_silent(self, bint look=True):
        """True when nothing has come since the last look, though somebody waited then and waits now. This is the next
        look, unless ``look`` is false."""
        # What rests has come, and waits for its callers' turn.
        cdef bint waiting = not self.closed and self.entries > 0 and not self.resting
        cdef bint silent = waiting and self.looked == self.moved
        if look:
            self.looked = self.moved if waiting else -1
        return silent

    def retire(self):
        """Takes no new command; closes when nothing is in flight."""
        self.retired = True
        self.hand_back()
        if not self.commands and not self.waiting:
            self.close()

    def close(self, str reason="the client was closed"):
        """Closes the connection; what is in flight fails."""
        if not self.closed:
            self.fail(reason)
        transport, self.transport = self.transport, None
        if transport is not None:
            # What is not sent by now was lost above: the peer's slowness must not keep the socket open.
            transport.abort()

    def execute(self, tuple call, bint decode=True, encoding=None):
        """Sends one command; the future of its reply, an :class:`Unusual` where it is not plain."""
        return submit(self, call, decode, encoding)


cdef bint gave_up(object waiting):
    """The caller of a command or part in line was cancelled."""
    return (<Waiting>waiting).future.done() if type(waiting) is Waiting else not (<Part>waiting).is_wanted()


cdef object submit(AsyncLink link, tuple call, bint decode, object encoding, object future=None):
    """Encodes `call`, or puts it in line; its future. With ``future``, at once and for that one."""
    cdef Arg stack[STACK_ARGS]
    cdef Arg *args = stack
    cdef Py_ssize_t n = len(call) - 1, size
    cdef list keep = borrow_keep()
    cdef Name name = name_of(<object>PyTuple_GET_ITEM(call, 0))
    if n > STACK_ARGS:
        args = <Arg*>PyMem_Malloc(n * sizeof(Arg))
        if args == NULL:
            raise MemoryError()
    try:
        size = scan(arguments_of(call), n, args, encoding, keep)
        if future is None:
            return link.put(call, name, args, n, size, decode, encoding)
        link.encode(future, name, args, n, size, decode)
        return future
    finally:
        return_keep(keep)
        if args != stack:
            PyMem_Free(args)
