"""One connection's protocol state: threads share a link, a batch drives several links at once."""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t

from slotwise._encoder cimport STACK_ARGS, Arg, Batch, Name, SendBuffer, name_of, scan
from slotwise._slots cimport SlotTable, slotwise_key_slot

import contextlib
import os
import socket
import ssl

import hiredis
from hiredis import ProtocolError, PushNotification

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    void PyThread_release_lock(PyThread_type_lock lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)
    unsigned long PyThread_get_thread_ident()

cdef extern from "_net.h" nogil:
    enum:
        POLLIN
        POLLOUT
        EAGAIN
        EWOULDBLOCK
        EINTR
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int milliseconds)
    int errno
    double slotwise_now()
    ssize_t slotwise_send(int fd, const char *p, size_t n)
    ssize_t slotwise_recv(int fd, char *p, size_t n, int wait)
    ssize_t slotwise_recv_soon(int fd, char *p, size_t n, double seconds)
    int slotwise_recv_timeout(int fd, double seconds)
    int slotwise_wait(int fd, int events, double seconds)


cdef enum:
    INBOX = 65536
    # Bytes that a batch keeps encoded ahead of its socket.
    AHEAD = 262144
    # send_some and receive_some: nothing now.
    LATER = -1

# A socket that was silent for this long is looked at before a command is sent into it: the server may have
# closed it, and a command sent into a closed socket has an unknown outcome for no reason.
cdef double IDLE = 0.01

# How long a wait may burn a core before it sleeps, in seconds, and how many waits sleep at once after one in vain.
cdef double EAGER = 100e-6
cdef int PATIENCE = 8
cdef int CORES = os.cpu_count() or 1

# What `gets` answers when the reply is not complete.
cdef object _MORE = object()

# Error replies made so far: tells whether a reply holds one without walking it.
cdef long long _errors_made = 0


class Broken(Exception):
    """The stream ended. No OSError: a signal handler may raise one as well, which is none of the link's business."""


class LinkFailure(Exception):
    """A call did not get its reply. ``sent`` is False when its command surely never left this process."""

    def __init__(self, reason: str, *, sent: bool, timed_out: bool = False):
        super().__init__(reason)
        self.sent = sent
        self.timed_out = timed_out


class Uncovered(Exception):
    """Nobody serves the slot that is the argument."""


class Reentered(Exception):
    """The thread that leads this link called again from a signal handler or a finalizer: use another link."""


@cython.final
cdef class ServerError:
    """An error reply as it came, e.g. ``MOVED 3999 127.0.0.1:6381``."""

    def __cinit__(self, str text):
        global _errors_made
        self.text = text
        _errors_made += 1

    def __repr__(self):
        return f"ServerError({self.text.split(' ', 1)[0]!r})"


@cython.final
@cython.freelist(64)
cdef class Waiter:

    def __dealloc__(self):
        if self.gate != NULL:
            PyThread_free_lock(self.gate)

    cdef void wake(self) noexcept:
        if self.gate != NULL:
            # Leaves the gate open when its thread is about to sleep, which then does not.
            PyThread_acquire_lock(self.gate, 0)
            PyThread_release_lock(self.gate)


@cython.final
cdef class Link:
    """A socket with RESP spoken over it.

    ``connection`` is a connected redis-py connection, handshake done; the link takes its socket over and closes it
    in the end. ``timeout`` is in seconds, None for ever; ``encoding`` is None for replies in bytes, else
    ``(encoding, errors)``; ``on_push`` is called with each push message, in order.
    """

    def __cinit__(self, connection, timeout, encoding=None, on_push=None):
        self.fd = -1
        self.closed = True
        self.connection = connection
        self.sock = connection._sock
        self.tls = isinstance(self.sock, ssl.SSLSocket)
        self.timeout = -1.0 if timeout is None else timeout
        self.out = SendBuffer()
        self.inbox = bytearray(INBOX)
        self.pushes = []
        self.on_push = on_push
        kwargs = {"protocolError": ProtocolError, "replyError": ServerError, "notEnoughData": _MORE}
        if encoding is not None:
            kwargs["encoding"], kwargs["errors"] = encoding
        reader = hiredis.Reader(**kwargs)
        self.feed = reader.feed
        self.gets = reader.gets
        self.capacity = 16
        self.queue = <PyObject**>PyMem_Malloc(self.capacity * sizeof(PyObject*))
        if self.queue == NULL:
            raise MemoryError()
        # A TLS socket can be readable without data: a blocking read would wait for these.
        self.sock.setblocking(not self.tls)
        self.fd = self.sock.fileno()
        if not self.tls and slotwise_recv_timeout(self.fd, 0 if timeout is None else self.timeout) < 0:
            raise OSError("the socket takes no receive time-out")
        self.heard = slotwise_now()
        self.closed = False

    def __dealloc__(self):
        while self.count:
            self.count -= 1
            Py_DECREF(<object>self.queue[self.head])
            self.head = (self.head + 1) & (self.capacity - 1)
        PyMem_Free(self.queue)

    @property
    def idle(self):
        """True when nobody uses the link and nothing is in flight on it."""
        return not (self.led or self.closed or self.retired or self.count or self.out.pending())

    def execute(self, tuple call, bint decode=True, encoding=None):
        """Sends one command, waits for its reply and returns it as the parser made it, see :meth:`Engine.keyed`."""
        return self.call(call, decode, encoding)

    def fileno(self):
        """The socket's file descriptor, or -1 when it is closed."""
        return self.fd

    # -- one call ---------------------------------------------------------------------------------------------------

    cdef int enqueue(self, Waiter waiter) except -1:
        cdef PyObject **grown
        cdef Py_ssize_t i
        if self.count == self.capacity:
            grown = <PyObject**>PyMem_Malloc(2 * self.capacity * sizeof(PyObject*))
            if grown == NULL:
                raise MemoryError()
            for i in range(self.count):
                grown[i] = self.queue[(self.head + i) & (self.capacity - 1)]
            PyMem_Free(self.queue)
            self.queue = grown
            self.head = 0
            self.capacity *= 2
        Py_INCREF(waiter)
        self.queue[(self.head + self.count) & (self.capacity - 1)] = <PyObject*>waiter
        self.count += 1
        return 0

    cdef object call(self, tuple call, bint decode, object encoding):
        """Encodes and sends one command, waits for its reply and returns it as the parser made it.

        Raises LinkFailure, Reentered, the encoder's DataError, or what a signal handler raised.
        """
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
            return send_and_wait(self, name, args, n, size, decode)
        finally:
            if args != stack:
                PyMem_Free(args)

    cdef int lead(self, Waiter mine, double deadline) except -1:
        """Sends and reads for everybody until `mine` is settled. A deadline of 0 is the socket's own time-out."""
        cdef Py_ssize_t got
        cdef int events
        cdef bint sending, late = False
        self.leader = PyThread_get_thread_ident()
        try:
            while mine.state == WAITING:
                sending = False
                while self.out.pending():
                    if self.send_some() == LATER:
                        # The kernel's buffer is full: read meanwhile, or both sides could wait for each other.
                        sending = True
                        break
                if sending or deadline > 0 or self.tls:
                    events = self.wait_for(POLLIN | POLLOUT if sending else POLLIN, self.due(deadline))
                    if events == 0:
                        late = True
                        break
                    if events & POLLOUT:
                        self.heard = slotwise_now()
                    if not events & ~POLLOUT:
                        continue
                    got = self.receive_some(False)
                    if got == LATER:
                        continue
                else:
                    got = self.receive_some(True)
                    if got == LATER:
                        late = True
                        break
                self.parse()
            self.deliver_pushes()
        except (Broken, ProtocolError) as error:
            self.fail(error)
        except BaseException:
            # A signal handler raised, most likely KeyboardInterrupt. The stream is in step, or the link failed
            # (TLS): in the first case only this call ends.
            self.abandon(mine)
            self.hand_over()
            raise
        else:
            if late:
                self.give_up(mine)
            self.hand_over()
        return 0

    cdef int follow(self, Waiter mine, double deadline) except -1:
        """Sleeps without the GIL until `mine` is settled or leads."""
        cdef long long microseconds
        cdef double left
        cdef PyLockStatus woken
        cdef void *gate = mine.gate
        while mine.state == WAITING and not mine.leads:
            if deadline > 0:
                left = self.due(deadline) - slotwise_now()
                microseconds = <long long>(left * 1e6) if left > 0 else 0
            else:
                microseconds = -1
            with nogil:
                woken = PyThread_acquire_lock_timed(gate, microseconds, 1)
            if mine.state != WAITING or mine.leads:
                break
            if woken == PY_LOCK_INTR:
                # The handler may call over this very link: its call leads, if this one was to.
                mine.away = True
                try:
                    PyErr_CheckSignals()
                except BaseException:
                    self.abandon(mine)
                    if not self.led:
                        self.hand_over()
                    raise
                finally:
                    mine.away = False
                if mine.state == WAITING and not self.led:
                    # The leader left meanwhile and found nobody.
                    self.led = mine.leads = True
            elif woken == PY_LOCK_FAILURE and self.due(deadline) <= slotwise_now():
                self.give_up(mine)
        if mine.leads:
            mine.leads = False
            self.lead(mine, deadline)
        return 0

    cdef double due(self, double deadline) noexcept:
        """The end of the patience that began with `deadline`, later as long as bytes move; 0 stays 0."""
        return deadline if deadline <= 0 else max(deadline, self.heard + self.timeout)

    cdef int hand_over(self) except -1:
        """Gives the lead to the oldest call that still waits, or to nobody."""
        cdef Py_ssize_t i
        cdef Waiter waiter
        cdef bint awaited = False
        self.leader = 0
        for i in range(self.count):
            waiter = <Waiter>self.queue[(self.head + i) & (self.capacity - 1)]
            if waiter.state == WAITING and not waiter.away:
                waiter.leads = True
                waiter.wake()
                return 0
            awaited |= waiter.state == WAITING
        self.led = False
        if self.retired and not awaited:
            self.shut()
        return 0

    cdef int abandon(self, Waiter mine) except -1:
        if mine.state == WAITING:
            mine.state = ABANDONED
        return 0

    cdef int give_up(self, Waiter mine) except -1:
        """The time-out of a call: it ends, the link takes no new ones."""
        if mine.state == WAITING:
            self.abandon(mine)
            self.retired = True
            # Sent or not, its bytes stand in line with those of others: they may still go out.
            mine.reply = self.lost("no reply within the time-out", True, True)
        return 0

    # -- bytes --------------------------------------------------------------------------------------------------------

    cdef Py_ssize_t send_some(self) except -2:
        """Sends a piece of `out` without waiting; returns its size, or LATER."""
        cdef const char *p
        cdef Py_ssize_t n = self.out.peek(&p), done
        cdef int fd = self.fd
        if self.tls:
            try:
                done = self.sock.send(p[:min(n, AHEAD)])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                return LATER
            except BaseException as error:
                self.torn(error)
                raise
        else:
            # Not blocking, so the GIL stays: nobody else may grow `out` under the kernel's eyes.
            done = slotwise_send(fd, p, n)
            if done < 0:
                if done == -EAGAIN or done == -EWOULDBLOCK:
                    return LATER
                if done == -EINTR:
                    PyErr_CheckSignals()
                    return 0
                raise Broken(os.strerror(-done))
        self.out.consumed(done)
        return done

    cdef Py_ssize_t receive_some(self, bint wait) except -2:
        """Reads once and feeds the parser; returns the number of bytes, or LATER after the socket's time-out."""
        cdef char *p = PyByteArray_AS_STRING(self.inbox)
        cdef int fd = self.fd
        cdef Py_ssize_t got
        cdef double began
        cdef bint eager
        if self.tls:
            try:
                got = self.sock.recv_into(self.inbox)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return LATER
            except BaseException as error:
                self.torn(error)
                raise
        else:
            while True:
                if wait:
                    # A sleep costs two or three times the round trip to a near server, so an eager wait comes first.
                    # Not while others wait here as well, nor soon after one that was in vain.
                    began = slotwise_now()
                    eager = CORES > 1 and self.count <= 1 and not self.patience
                    with nogil:
                        got = slotwise_recv_soon(fd, p, INBOX, EAGER) if eager else -EAGAIN
                        if got == -EAGAIN:
                            got = slotwise_recv(fd, p, INBOX, 1)
                    if slotwise_now() - began < EAGER:
                        self.patience = 0
                    elif eager:
                        self.patience = PATIENCE
                    elif self.patience:
                        self.patience -= 1
                else:
                    got = slotwise_recv(fd, p, INBOX, 0)
                if got >= 0:
                    break
                if got == -EAGAIN or got == -EWOULDBLOCK:
                    return LATER
                if got == -EINTR:
                    PyErr_CheckSignals()
                    continue
                raise Broken(os.strerror(-got))
        if got == 0:
            raise Broken("the server closed the connection")
        self.feed(self.inbox, 0, got)
        return got

    cdef int torn(self, error) except -1:
        """An exception out of Python's TLS code: the socket's, or that of a signal handler that ran there."""
        if isinstance(error, OSError) and error.errno is not None:
            raise Broken(str(error)) from error
        # Perhaps with bytes in hand, which are lost now: nobody can go on with this stream.
        self.fail(ConnectionError("interrupted while bytes went through TLS"))
        return 0

    cdef int wait_for(self, int events, double deadline) except -1:
        """Waits for the socket; returns its events, or 0 when the deadline passed (0: the link's own time-out)."""
        cdef int fd = self.fd, ready
        cdef double left
        if self.tls and events & POLLIN and self.sock.pending():
            return POLLIN
        if deadline <= 0 and self.timeout >= 0:
            deadline = slotwise_now() + self.timeout
        while True:
            left = -1.0
            if deadline > 0:
                left = deadline - slotwise_now()
                if left < 0:
                    left = 0
            with nogil:
                ready = slotwise_wait(fd, events, left)
            if ready >= 0:
                return ready
            if ready != -EINTR:
                raise Broken(os.strerror(-ready))
            PyErr_CheckSignals()

    cdef int parse(self) except -1:
        """Completes, in order, every waiter whose reply is there."""
        global _errors_made
        cdef Waiter waiter
        cdef object reply
        cdef long long before
        cdef WaiterState state
        self.heard = slotwise_now()
        while self.count:
            waiter = <Waiter>self.queue[self.head]
            before = _errors_made
            state = DONE
            try:
                reply = self.gets() if waiter.decode else self.gets(False)
            except (UnicodeError, LookupError) as error:
                # The reply is read, only its text is not in the connection's encoding.
                reply = error
                state = UNREADABLE
            if reply is _MORE:
                return 0
            if type(reply) is PushNotification:
                self.pushes.append(reply)
                continue
            self.head = (self.head + 1) & (self.capacity - 1)
            self.count -= 1
            if waiter.state == WAITING:
                waiter.reply = reply
                waiter.errors = _errors_made != before
                waiter.state = state
                waiter.wake()
            Py_DECREF(waiter)
        # Nothing is in flight: what else has come is for nobody in particular.
        while True:
            reply = self.gets()
            if reply is _MORE:
                return 0
            if type(reply) is not PushNotification:
                raise ProtocolError("a reply to no command")
            self.pushes.append(reply)

    cdef int deliver_pushes(self) except -1:
        while self.pushes:
            message = self.pushes.pop(0)
            if self.on_push is None:
                continue
            try:
                self.on_push(message)
            except BaseException:
                # The news is lost, so nothing that was kept because of this link may be trusted any more.
                self.retired = True
                raise
        return 0

    # -- the end ------------------------------------------------------------------------------------------------------

    cdef object lost(self, object reason, bint sent, bint timed_out):
        """The failure of a call over this link."""
        where = f"{self.connection.host}:{self.connection.port}"
        return LinkFailure(f"{str(reason) or type(reason).__name__} (node {where})", sent=sent, timed_out=timed_out)

    cdef int fail(self, object failure) except -1:
        """Closes the link and tells every waiter."""
        cdef Waiter waiter
        cdef int64_t sent = self.out.base + self.out.start
        self.failure = failure
        while self.count:
            waiter = <Waiter>self.queue[self.head]
            self.head = (self.head + 1) & (self.capacity - 1)
            self.count -= 1
            if waiter.state == WAITING:
                waiter.reply = self.lost(failure, waiter.at < sent, False)
                waiter.state = LOST
                waiter.leads = False
                waiter.wake()
            Py_DECREF(waiter)
        self.led = False
        self.leader = 0
        self.shut()
        return 0

    cdef int shut(self) except -1:
        self.closed = True
        self.retired = True
        self.fd = -1
        self.out.clear()
        sock, self.sock = self.sock, None
        if sock is not None:
            self.connection.disconnect()
        return 0

    def close(self):
        """Closes the link. Calls under way on other threads end with LinkFailure."""
        if self.closed:
            return
        self.retired = True
        if self.led:
            # Its leader sits in a system call with the descriptor: end the stream, the leader does the rest.
            with contextlib.suppress(OSError):
                # Not SSLSocket's own: that one takes the TLS layer away from under the leader.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        else:
            self.fail(ConnectionError("the client was closed"))

    def retire(self):
        """No new call enters the link; the last of those under way closes it."""
        self.retired = True
        if not self.led:
            self.hand_over()

    def forget(self):
        """Drops the link in a child process: closes this process' descriptor and touches nothing shared."""
        self.closed = self.retired = True
        self.led = False
        self.fd = -1
        sock, self.sock = self.sock, None
        if sock is not None:
            os.close(sock.detach())

    # -- an owner of one's own ----------------------------------------------------------------------------------------

    cdef bint try_lead(self):
        """Takes the lead of an idle link for an exchange."""
        if self.led or self.closed or self.retired or self.count or self.out.pending():
            return False
        self.led = True
        self.leader = PyThread_get_thread_ident()
        return True

    def poll_pushes(self):
        """Reads what has come unasked, without waiting; True if the link is usable afterwards."""
        if self.closed or self.led:
            return not self.closed
        if slotwise_now() - self.heard < IDLE and self.on_push is None:
            return True
        self.led = True
        self.leader = PyThread_get_thread_ident()
        try:
            while self.wait_for(POLLIN, slotwise_now()) and self.receive_some(False) != LATER:
                self.parse()
            self.deliver_pushes()
        except (Broken, ProtocolError) as error:
            self.fail(error)
            return False
        except BaseException:
            self.hand_over()
            raise
        self.hand_over()
        return not self.closed


cdef object send_and_wait(Link link, Name name, Arg *args, Py_ssize_t n, Py_ssize_t size, bint decode):
    """One command from its scanned arguments to its reply. Arguments stay valid: the caller holds them."""
    cdef Waiter mine = Waiter.__new__(Waiter)
    cdef double deadline = 0
    cdef bint leads
    mine.decode = decode
    if link.led and link.leader == PyThread_get_thread_ident():
        raise Reentered()
    if link.led:
        mine.gate = PyThread_allocate_lock()
        if mine.gate == NULL:
            raise MemoryError()
        PyThread_acquire_lock(mine.gate, 0)
        if link.timeout >= 0:
            deadline = slotwise_now() + link.timeout
    if link.closed or link.retired:
        raise link.lost("the link is closed", False, False)
    # From here to the end of `enqueue` no other thread runs.
    leads = not link.led
    if not leads and mine.gate == NULL:
        mine.gate = PyThread_allocate_lock()
        if mine.gate == NULL:
            raise MemoryError()
        PyThread_acquire_lock(mine.gate, 0)
        if link.timeout >= 0:
            deadline = slotwise_now() + link.timeout
    mine.at = link.out.base + link.out.end
    link.out.write(name, args, n, size)
    link.enqueue(mine)
    if leads:
        link.led = True
        link.lead(mine, 0)
    else:
        link.follow(mine, deadline)
    if mine.state == DONE:
        if mine.errors and type(mine.reply) is not ServerError:
            return Flawed(mine.reply)
        return mine.reply
    raise mine.reply


@cython.final
cdef class Flawed:
    """A reply with an error inside, such as a script's table: the caller's thread makes exceptions of them."""

    def __cinit__(self, reply):
        self.reply = reply


@cython.final
cdef class Endpoint:
    """A node at address ``node``: ``opener(endpoint)`` returns its open shared link, ``pool`` has the others."""

    def __cinit__(self, node, pool, opener):
        self.node = node
        self.pool = pool
        self.opener = opener

    cdef Link open(self):
        cdef Link link = self.link
        if (
            link is not None and not link.retired and not link.led and not link.count
            and slotwise_now() - link.heard > IDLE
        ):
            link.poll_pushes()
        if link is None or link.retired:
            link = self.opener(self)
        return link

    def __repr__(self):
        return f"<Endpoint {self.node!r}>"


cdef class Engine:
    """From a call to its reply: slot, node, bytes, socket, parser.

    ``table`` is the published :class:`SlotTable`; each of its shards is a tuple of endpoints, the primary first.
    ``encoding`` is None for text arguments in strict UTF-8, else ``(encoding, errors)``.
    """

    def __cinit__(self, SlotTable table, encoding=None):
        self.table = table
        self.encoding = encoding

    cpdef keyed(self, tuple call, Py_ssize_t first_key, bint decode=True):
        """Sends ``call`` to the primary of its key, ``call[first_key]``.

        Returns the parser's reply: a :class:`ServerError` for an error reply, a :class:`Flawed` for one with errors
        inside. Raises Uncovered, and what :meth:`Link.execute` raises.
        """
        cdef Arg stack[STACK_ARGS]
        cdef Arg *args = stack
        cdef Py_ssize_t n = len(call) - 1, size
        cdef int slot
        cdef list keep = []
        cdef object shard
        cdef Endpoint endpoint
        cdef Name name = name_of(<object>PyTuple_GET_ITEM(call, 0))
        if not 0 < first_key <= n:
            raise IndexError(f"no key at argument {first_key}")
        if n > STACK_ARGS:
            args = <Arg*>PyMem_Malloc(n * sizeof(Arg))
            if args == NULL:
                raise MemoryError()
        try:
            size = scan(call, 1, args, self.encoding, keep)
            slot = slotwise_key_slot(args[first_key - 1].data, <size_t>args[first_key - 1].size)
            shard = self.table.shard(slot)
            if shard is None:
                raise Uncovered(slot)
            endpoint = <Endpoint>PyTuple_GET_ITEM(<tuple>shard, 0)
            return send_and_wait(endpoint.open(), name, args, n, size, decode)
        finally:
            if args != stack:
                PyMem_Free(args)

    def on_endpoint(self, Endpoint endpoint, tuple call, bint decode=True):
        """Sends ``call`` over the endpoint's shared link and returns the parser's reply, as :meth:`keyed`."""
        return endpoint.open().call(call, decode, self.encoding)


# -- batches ----------------------------------------------------------------------------------------------------------

cdef bytes _ASKING = b"*1\r\n$6\r\nASKING\r\n"


@cython.final
cdef class Job:
    """One node's part of a batch: the commands ``indices`` of ``batch`` over ``link``.

    ``asking`` puts ASKING before each command and drops its reply. After :func:`exchange`: ``answered`` commands, from
    the first, have a reply; of the rest, those before ``written`` may have reached the server; ``failure`` says why.
    """
    cdef readonly Link link
    cdef readonly Batch batch
    cdef readonly list indices
    cdef readonly bint asking
    cdef readonly Py_ssize_t written
    cdef readonly Py_ssize_t answered
    cdef readonly object failure
    # Replies to ASKING that are still to be dropped before the next command's own.
    cdef bint skip
    # When something last moved.
    cdef double moved

    def __cinit__(self, Link link not None, Batch batch not None, list indices not None, bint asking=False):
        self.link = link
        self.batch = batch
        self.indices = indices
        self.asking = asking
        self.skip = asking

    cdef bint ready(self):
        return self.failure is not None or self.answered == len(self.indices)

    cdef int fill(self) except -1:
        """Encodes ahead of the socket, a bounded number of bytes."""
        cdef SendBuffer out = self.link.out
        cdef Py_ssize_t n = len(self.indices)
        while self.written < n and out.pending() < AHEAD:
            if self.asking:
                out.reserve(PyBytes_GET_SIZE(_ASKING))
                out.put(PyBytes_AS_STRING(_ASKING), PyBytes_GET_SIZE(_ASKING))
            self.batch.copy_to(self.indices[self.written], out)
            self.written += 1
        return 0

    cdef int send(self) except -1:
        self.fill()
        while self.link.out.pending():
            if self.link.send_some() == LATER:
                return 0
            self.moved = slotwise_now()
            if not self.link.out.pending():
                self.fill()
        return 0

    cdef int take(self, list results, list decode, list troubled) except -1:
        """Parses what has been read into its places in `results`."""
        global _errors_made
        cdef Py_ssize_t n = len(self.indices), index
        cdef object reply, gets = self.link.gets
        cdef long long before
        cdef bint raised
        while self.answered < n:
            index = self.indices[self.answered]
            before = _errors_made
            raised = False
            try:
                if decode is None or decode[index]:
                    reply = gets()
                else:
                    reply = gets(False)
            except (UnicodeError, LookupError) as error:
                reply = error
                raised = True
            if reply is _MORE:
                return 0
            if type(reply) is PushNotification:
                self.link.pushes.append(reply)
                continue
            if self.skip:
                self.skip = False
                continue
            if raised or _errors_made != before:
                if not raised and type(reply) is not ServerError:
                    reply = Flawed(reply)
                troubled.append(index)
            results[index] = reply
            self.answered += 1
            self.skip = self.asking
        # Pushes may follow the last reply.
        while True:
            reply = self.link.gets()
            if reply is _MORE:
                return 0
            if type(reply) is not PushNotification:
                raise ProtocolError("a reply to no command")
            self.link.pushes.append(reply)

    cdef int read(self, list results, list decode, list troubled) except -1:
        """Reads, waiting, until every command has its reply or the link failed."""
        try:
            while not self.ready():
                if self.link.receive_some(True) == LATER:
                    self.broken(TimeoutError("no reply within the time-out"), True)
                else:
                    self.take(results, decode, troubled)
        except (Broken, ProtocolError) as error:
            self.broken(error)
        return 0

    cdef int broken(self, object error, bint timed_out=False) except -1:
        self.failure = self.link.lost(error, True, timed_out)
        self.link.fail(error)
        return 0


def exchange(list jobs, list results, list decode=None):
    """Writes the commands of all jobs and reads their replies, all nodes at once, reading while it writes.

    The links must be idle and nobody else's; one that failed is closed afterwards. ``results[i]`` is set to the reply
    of command ``i`` of its batch (an exception object for a reply whose text cannot be decoded); returned is a list of
    the indices whose reply is an error, holds one, or is missing. Failures of a node end its job alone and are told
    there. Only what a signal handler raises is raised here; links in the middle of a reply are then closed.
    """
    cdef list troubled = []
    cdef Job job
    cdef Py_ssize_t n = len(jobs), i, active
    cdef pollfd *fds = <pollfd*>PyMem_Malloc((n + 1) * sizeof(pollfd))
    cdef int ready, milliseconds
    cdef double now, left, least
    cdef bint buffered, writing
    if fds == NULL:
        raise MemoryError()
    for job in jobs:
        if not job.link.try_lead():
            PyMem_Free(fds)
            raise RuntimeError("a batch needs idle links of its own")
    try:
        now = slotwise_now()
        for job in jobs:
            job.moved = now
            try:
                job.send()
            except Broken as error:
                job.broken(error)
        while True:
            active = 0
            least = -1
            buffered = False
            writing = False
            now = slotwise_now()
            for i in range(n):
                job = jobs[i]
                fds[i].fd = -1
                fds[i].revents = 0
                if job.ready():
                    continue
                writing = writing or job.link.tls or job.link.out.pending() > 0
                if job.link.timeout >= 0:
                    left = job.moved + job.link.timeout - now
                    if left <= 0:
                        job.broken(TimeoutError("no reply within the time-out"), True)
                        continue
                    if least < 0 or left < least:
                        least = left
                active += 1
                fds[i].fd = job.link.fd
                fds[i].events = POLLIN | (POLLOUT if job.link.out.pending() or job.written < len(job.indices) else 0)
                if job.link.tls and job.link.sock.pending():
                    buffered = True
            if not active:
                break
            if not writing:
                # The usual case, and the rest of every other: all is written, so nobody waits for us to read. The
                # replies of all nodes come while those of the first are read; no poll is needed.
                for job in jobs:
                    job.read(results, decode, troubled)
                break
            milliseconds = 0 if buffered else -1 if least < 0 else <int>(least * 1e3 + 0.999)
            # A signal that came since the last poll would not end this one.
            PyErr_CheckSignals()
            with nogil:
                ready = poll(fds, n, milliseconds)
            if ready < 0:
                continue
            for i in range(n):
                job = jobs[i]
                if fds[i].fd < 0:
                    continue
                try:
                    if fds[i].revents & ~POLLOUT or (job.link.tls and job.link.sock.pending()):
                        if job.link.receive_some(False) != LATER:
                            job.moved = slotwise_now()
                            job.take(results, decode, troubled)
                    if fds[i].revents & POLLOUT and not job.ready():
                        job.send()
                except (Broken, ProtocolError) as error:
                    job.broken(error)
        for job in jobs:
            job.link.heard = slotwise_now()
            if job.failure is not None:
                troubled += job.indices[job.answered :]
            if not job.link.closed:
                job.link.deliver_pushes()
    finally:
        PyMem_Free(fds)
        for job in jobs:
            if job.link.closed:
                continue
            if job.answered < len(job.indices):
                # Left in the middle of a reply: nobody can go on with this stream.
                job.link.fail(ConnectionError("the batch was interrupted"))
                continue
            job.link.hand_over()
    return troubled
