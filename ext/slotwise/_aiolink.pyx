"""One connection's protocol state under asyncio, and the way of a call; see the .pxd."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t

from slotwise._encoder cimport STACK_ARGS, Arg, Batch, Name, SendBuffer, name_of, scan
from slotwise._link cimport Flawed, ServerError
from slotwise._slots cimport SlotTable, slotwise_key_slot

from asyncio import _get_running_loop
from collections import deque

import hiredis
from hiredis import ProtocolError, PushNotification

from slotwise._link import LinkFailure

cdef extern from "_net.h" nogil:
    double slotwise_now()

cdef object _MORE = object()
cdef bytes _ASKING = b"*1\r\n$6\r\nASKING\r\n"


@cython.final
@cython.freelist(16)
cdef class Unusual:
    """``what`` is a ServerError, a Flawed, an exception of the decoder, or a LinkFailure."""

    def __cinit__(self, what):
        self.what = what


@cython.final
cdef class Part:

    def __cinit__(
        self, Batch batch not None, list indices not None, list results not None, list decode, bint asking,
        future,
    ):
        self.batch = batch
        self.indices = indices
        self.results = results
        self.troubled = []
        self.decode = decode
        self.asking = asking
        self.skip = asking
        self.future = future

    def lost(self, failure):
        """Ends the part: what has no reply gets none."""
        if not self.future.done():
            self.failure = failure
            self.troubled += self.indices[self.answered :]
            self.future.set_result(None)


@cython.final
cdef class AsyncLink:
    """An asyncio protocol that speaks RESP.

    ``connection`` is what opened and authenticated the transport, kept alive with it. ``timeout`` in seconds,
    None for ever; ``encoding``, None for bytes, is ``(encoding, errors)``; ``on_push`` gets push messages.
    """

    def __cinit__(self, connection, loop, transport, timeout, encoding=None, on_push=None):
        self.connection = connection
        self.loop = loop
        self.transport = transport
        self.create_future = loop.create_future
        self.timeout = -1.0 if timeout is None else timeout
        self.out = SendBuffer()
        self.on_push = on_push
        self.waiters = deque()
        self.missed = []
        self.flush_soon = self.flush
        kwargs = {"protocolError": ProtocolError, "replyError": ServerError, "notEnoughData": _MORE}
        if encoding is not None:
            kwargs["encoding"], kwargs["errors"] = encoding
        reader = hiredis.Reader(**kwargs)
        self.feed = reader.feed
        self.gets = reader.gets
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
        """True while a caller has to wait: there is no room, or others came earlier."""
        return self.is_full()

    @property
    def roomy(self):
        """True when there is room for whoever has the turn."""
        return self.has_room()

    cdef bint has_room(self) noexcept:
        return not self.paused and self.commands < MAX_COMMANDS and self.out.pending() < MAX_BYTES

    cdef bint is_full(self):
        return not self.has_room() or self.letting or len(self.waiters) > 0

    def room(self, bint again=False):
        """A future that is done when it is the caller's turn to look for room, or the link is closed.

        The turn is over when the caller suspends. ``again``: it had one, and there was no room after all.
        """
        future = self.create_future()
        if again and self.letting:
            self.missed.append(future)
        else:
            self.waiters.append(future)
        return future

    # -- sending --------------------------------------------------------------------------------------------

    cdef Entry *push(self) except NULL:
        cdef Entry *grown
        cdef Entry *entry
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
        entry = &self.ring[(self.head + self.entries) & (self.capacity - 1)]
        entry.since = self.turn
        self.entries += 1
        return entry

    cdef int begin_turn(self) except -1:
        self.scheduled = True
        self.turn = slotwise_now()
        self.loop.call_soon(self.flush_soon)
        if not self.watched and self.timeout >= 0:
            self.watched = True
            self.loop.call_later(self.timeout, self.watch)
        return 0

    cdef object put(self, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode):
        """Encodes one command; the future of its reply."""
        cdef object future = self.create_future()
        cdef int64_t at = self.out.base + self.out.end
        cdef Entry *entry
        if self.closed:
            future.set_result(Unusual(LinkFailure("the link is closed", sent=False)))
            return future
        if not self.scheduled:
            self.begin_turn()
        self.out.write(name, args, n, size)
        entry = self.push()
        Py_INCREF(future)
        entry.owner = <PyObject*>future
        entry.at = at
        entry.left = 1
        entry.part = False
        entry.decode = decode
        self.commands += 1
        return future

    def put_part(self, Part part not None):
        """Encodes the next commands of ``part``, as many as there is room for; True when all are encoded.

        While the answer is False the caller waits for :meth:`room` and calls again.
        """
        cdef Entry *entry
        cdef Py_ssize_t n = len(part.indices), first = part.written
        if not self.scheduled:
            self.begin_turn()
        cdef int64_t at = self.out.base + self.out.end
        # One at least: a value that is larger than all room goes when its turn comes.
        while part.written < n and (self.has_room() or part.written == first):
            if part.asking:
                self.out.reserve(len(_ASKING))
                self.out.put(_ASKING, len(_ASKING))
            part.batch.copy_to(part.indices[part.written], self.out)
            part.written += 1
            self.commands += 1
        if part.written > first:
            entry = self.push()
            Py_INCREF(part)
            entry.owner = <PyObject*>part
            entry.at = at
            entry.left = part.written - first
            entry.part = True
            entry.decode = True
        return part.written == n

    def flush(self):
        """Writes what the turn encoded."""
        cdef const char *p
        cdef Py_ssize_t n
        self.scheduled = False
        if self.closed:
            return
        while True:
            n = self.out.peek(&p)
            if n <= 0:
                return
            self.transport.write(PyBytes_FromStringAndSize(p, n))
            self.out.consumed(n)

    def watch(self):
        """The timer: ends what has waited too long, and comes again as long as something waits."""
        cdef double now = slotwise_now(), age
        cdef Entry *entry
        cdef Py_ssize_t i, waiting = 0
        cdef double oldest = now
        self.watched = False
        if self.closed:
            return
        for i in range(self.entries):
            entry = &self.ring[(self.head + i) & (self.capacity - 1)]
            if entry.owner == NULL:
                continue
            age = now - entry.since
            if age + 0.001 < self.timeout:
                oldest = entry.since
                waiting += 1
                break
            self.retired = True
            self.lose(entry, "no reply within the time-out", True)
        if waiting:
            self.watched = True
            self.loop.call_later(max(oldest + self.timeout - now, 0.001), self.watch)
        elif self.retired:
            self.close()
        if self.retired:
            # They go to the link that replaces this one.
            self.let_in()

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

    def data_received(self, data):
        try:
            self.feed(data)
            self.parse()
        except ProtocolError as error:
            self.fail(str(error))
            self.close()

    cdef int parse(self) except -1:
        cdef Entry *entry
        cdef object reply, owner
        cdef Part part
        cdef bint flawed
        cdef Py_ssize_t index = 0
        while self.entries:
            entry = &self.ring[self.head]
            flawed = False
            try:
                if entry.part:
                    part = <Part>entry.owner
                    index = part.indices[part.answered]
                    reply = self.gets() if part.decode is None or part.decode[index] else self.gets(False)
                else:
                    reply = self.gets() if entry.decode else self.gets(False)
            except (UnicodeError, LookupError) as error:
                reply = error
                flawed = True
            if reply is _MORE:
                break
            if type(reply) is PushNotification:
                self.pushed(reply)
                continue
            if entry.part:
                if part.skip:
                    part.skip = False
                    continue
                if type(reply) is ServerError or flawed:
                    part.troubled.append(index)
                elif type(reply) is list or type(reply) is dict:
                    if holds_error(reply):
                        reply = Flawed(reply)
                        part.troubled.append(index)
                if not part.future.done():
                    part.results[index] = reply
                part.answered += 1
                part.skip = part.asking
                self.commands -= 1
                entry.left -= 1
                if entry.left:
                    continue
                self.head = (self.head + 1) & (self.capacity - 1)
                self.entries -= 1
                if part.answered == len(part.indices) and not part.future.done():
                    part.future.set_result(None)
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
                    if flawed or type(reply) is ServerError:
                        reply = Unusual(reply)
                    elif (type(reply) is list or type(reply) is dict) and holds_error(reply):
                        reply = Unusual(Flawed(reply))
                    owner.set_result(reply)
        if not self.entries:
            while True:
                reply = self.gets()
                if reply is _MORE:
                    break
                if type(reply) is not PushNotification:
                    raise ProtocolError("a reply to no command")
                self.pushed(reply)
            if self.retired:
                self.close()
        if self.has_room():
            self.let_in()
        return 0

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
        self.let_in()

    cdef int let_in(self) except -1:
        """Gives the oldest waiters their turn, as many as there is room for; all of them on a retired link.

        Who is new waits behind them: else tasks whose replies came with this read would take the room again.
        """
        cdef Py_ssize_t places = len(self.waiters) if self.retired else MAX_COMMANDS - self.commands
        if self.letting and not self.retired:
            return 0
        while self.waiters and places > 0:
            future = self.waiters.popleft()
            if not future.done():
                future.set_result(None)
                places -= 1
                self.letting = True
        if self.letting:
            # Behind the steps of the tasks that were woken.
            self.loop.call_soon(self.all_let_in)
        return 0

    def all_let_in(self):
        """Ends the turns of those who were let in."""
        self.letting = False
        self.waiters.extendleft(reversed(self.missed))
        self.missed.clear()
        if self.retired or self.has_room():
            self.let_in()

    def eof_received(self):
        return False

    def connection_lost(self, error):
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
        self.let_in()
        return 0

    def retire(self):
        """Takes no new command; closes when nothing is in flight."""
        self.retired = True
        if not self.commands:
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


cdef bint holds_error(object reply):
    """An error somewhere inside a reply, as scripts and transactions return it."""
    if type(reply) is list:
        for item in <list>reply:
            if holds_error(item):
                return True
    elif type(reply) is dict:
        for item in (<dict>reply).values():
            if holds_error(item):
                return True
    return type(reply) is ServerError


cdef object submit(AsyncLink link, tuple call, bint decode, object encoding):
    cdef Arg stack[STACK_ARGS]
    cdef Arg *args = stack
    cdef Py_ssize_t n = len(call) - 1, size
    cdef list keep = []
    cdef Name name = name_of(<object>PyTuple_GET_ITEM(call, 0))
    if n > STACK_ARGS:
        args = <Arg*>PyMem_Malloc(n * sizeof(Arg))
        if args == NULL:
            raise MemoryError()
    try:
        size = scan(call, 1, args, encoding, keep)
        return link.put(name, args, n, size, decode)
    finally:
        if args != stack:
            PyMem_Free(args)


@cython.final
cdef class AsyncEndpoint:

    def __cinit__(self, node, pool):
        self.node = node
        self.pool = pool

    def __repr__(self):
        return f"<AsyncEndpoint {self.node!r}>"


cdef class AsyncEngine:
    """From a call to the future of its reply. ``table``: tuples of endpoints, each shard's primary first."""

    def __cinit__(self, SlotTable table, encoding=None):
        self.table = table
        self.encoding = encoding

    cdef object submit_to(self, AsyncLink link, tuple call, bint decode):
        return submit(link, call, decode, self.encoding)

    def keyed(self, tuple call, Py_ssize_t first_key, bint decode=True):
        """The future of the reply to ``call`` from the primary of ``call[first_key]``.

        None when there is no short way: no open link, no room in it, nobody serves the slot, another loop.
        """
        cdef Arg stack[STACK_ARGS]
        cdef Arg *args = stack
        cdef Py_ssize_t n = len(call) - 1, size
        cdef list keep = []
        cdef object shard
        cdef AsyncLink link
        cdef int slot
        cdef Name name = name_of(<object>PyTuple_GET_ITEM(call, 0))
        if not 0 < first_key <= n or n > STACK_ARGS or _get_running_loop() is not self.loop:
            return None
        size = scan(call, 1, args, self.encoding, keep)
        slot = slotwise_key_slot(args[first_key - 1].data, <size_t>args[first_key - 1].size)
        shard = self.table.shard(slot)
        if shard is None:
            return None
        link = (<AsyncEndpoint>PyTuple_GET_ITEM(<tuple>shard, 0)).link
        if link is None or link.retired or link.is_full():
            return None
        return link.put(name, args, n, size, decode)
