"""One connection's protocol state: threads share a link, a batch drives several links at once."""

cimport cython
from cpython.buffer cimport PyBUF_WRITE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t

from slotwise._encoder cimport (
    STACK_ARGS, Arg, Name, SendBuffer, arguments_of, borrow_keep, name_of, return_keep, scan,
)
from slotwise._reply cimport INBOX, NOTHING, PUSH, TROUBLE, Kind, Reader

import contextlib
import os
import socket
import ssl

from hiredis import ProtocolError

from slotwise._reply import MAX_REPLY_SIZE

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
    # How long a wait for one reply may burn a core before it sleeps, in microseconds, and how many waits sleep at once
    # after one in vain.
    EAGER = 100
    PATIENCE = 8

IDLE = 0.01

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Broken(Exception):
    """The stream ended. No OSError: a signal handler may raise one as well, which is none of the link's business."""


class LinkFailure(Exception):
    """A call did not get its reply. ``sent`` is False when its command surely never left this process."""

    def __init__(self, reason: str, *, sent: bool, timed_out: bool = False):
        super().__init__(reason)
        self.sent = sent
        self.timed_out = timed_out


class Reentered(Exception):
    """The thread that leads this link called again from a signal handler or a finalizer: use another link."""


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
    ``(encoding, errors)``; ``on_push`` is called with each push message, in order. A reply of more than
    ``max_reply_size`` bytes closes the link.
    """

    def __cinit__(
        self, connection, timeout, encoding=None, on_push=None, long long max_reply_size=MAX_REPLY_SIZE,
    ):
        self.fd = -1
        self.closed = True
        self.connection = connection
        self.sock = connection._sock
        self.tls = isinstance(self.sock, ssl.SSLSocket)
        self.timeout = -1.0 if timeout is None else timeout
        self.out = SendBuffer()
        self.reader = Reader(encoding, max_reply_size)
        self.pushes = []
        self.on_push = on_push
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
        self.looked = -1
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
        return self.is_idle()

    cdef bint is_idle(self) noexcept:
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
        cdef list keep = borrow_keep()
        cdef Name name = name_of(<object>PyTuple_GET_ITEM(call, 0))
        if n > STACK_ARGS:
            args = <Arg*>PyMem_Malloc(n * sizeof(Arg))
            if args == NULL:
                raise MemoryError()
        try:
            size = scan(arguments_of(call), n, args, encoding, keep)
            return send_and_wait(self, name, args, n, size, decode)
        finally:
            return_keep(keep)
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
                if sending or self.tls or (deadline > 0 and self.due(deadline) < slotwise_now() + 0.9 * self.timeout):
                    events = self.wait_for(POLLIN | POLLOUT if sending else POLLIN, self.due(deadline))
                    if events == 0:
                        late = True
                        break
                    if events & POLLOUT:
                        self.heard = slotwise_now()
                    if not events & ~POLLOUT:
                        continue
                    got = self.receive_some(False, 0)
                    if got == LATER:
                        continue
                else:
                    got = self.receive_some(True)
                    if got == LATER:
                        if deadline > 0 and self.due(deadline) > slotwise_now():
                            continue
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

    cdef void send_now(self) noexcept:
        """Sends what the kernel takes at once, for a leader that is not there; the leader finds what goes wrong."""
        cdef const char *p
        cdef Py_ssize_t n, done
        # TLS gives the GIL away: the leader may be sending.
        if self.tls or self.closed:
            return
        n = self.out.peek(&p)
        if n > 0:
            done = slotwise_send(self.fd, p, n)
            if done > 0:
                self.out.consumed(done)

    cdef Py_ssize_t send_some(self) except -2:
        """Sends a piece of `out` without waiting; returns its size, or LATER."""
        cdef const char *p
        cdef Py_ssize_t n = self.out.peek(&p), done
        cdef int fd = self.fd
        if self.tls:
            try:
                done = self.sock.send(p[:min(n, INBOX)])
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

    cdef Py_ssize_t receive_some(self, bint wait, int eager=EAGER) except -2:
        """Reads once; returns the number of bytes, or LATER.

        Waits awake, for ``eager`` microseconds at the most, and then with ``wait`` asleep, for the socket's time-out.
        """
        cdef int fd = self.fd
        cdef Py_ssize_t got, room
        cdef double began = 0, until = 0
        cdef char *p
        if self.reader.unseen():
            # An exception came between; what was read then is still to be parsed.
            return self.reader.end - self.reader.unread
        p = self.reader.room(&room)
        if self.tls:
            try:
                got = self.sock.recv_into(PyMemoryView_FromMemory(p, room, PyBUF_WRITE))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return LATER
            except BaseException as error:
                self.torn(error)
                raise
        else:
            while True:
                # After a signal `eager` may be 0: to sleep with the GIL held would stop every thread.
                if wait or eager:
                    # A sleep costs two or three times the round trip to a near server, so an eager wait comes first.
                    # Not soon after a wait that was in vain, nor where threads meet.
                    began = slotwise_now()
                    if CORES == 1 or self.patience:
                        eager = 0
                    with nogil:
                        got = slotwise_recv_soon(fd, p, room, eager * 1e-6) if eager else -EAGAIN
                        if got == -EAGAIN and (wait or not eager):
                            got = slotwise_recv(fd, p, room, wait)
                    if eager and slotwise_now() - began >= eager * 1e-6:
                        self.patience = PATIENCE
                    elif self.patience:
                        self.patience -= 1
                else:
                    if until > 0 and not self.wait_for(POLLIN, until):
                        return LATER
                    got = slotwise_recv(fd, p, room, False)
                if got >= 0:
                    break
                if got == -EAGAIN or got == -EWOULDBLOCK:
                    if until <= 0:
                        return LATER
                elif got == -EINTR:
                    PyErr_CheckSignals()
                    if wait and self.timeout >= 0:
                        # The socket's own time-out would begin anew.
                        until = began + self.timeout
                        wait = False
                        eager = 0
                else:
                    raise Broken(os.strerror(-got))
        if got == 0:
            raise Broken("the server closed the connection")
        self.reader.came(got)
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
        cdef Waiter waiter
        cdef object reply
        cdef Kind kind
        self.heard = slotwise_now()
        while self.count:
            waiter = <Waiter>self.queue[self.head]
            try:
                reply = self.reader.next(waiter.decode, &kind)
            except ProtocolError:
                raise
            except BaseException:
                self.fail(ConnectionError("interrupted in the middle of a reply"))
                raise
            if kind == NOTHING:
                return 0
            if kind == PUSH:
                self.pushes.append(reply)
                continue
            self.head = (self.head + 1) & (self.capacity - 1)
            self.count -= 1
            if waiter.state == WAITING:
                waiter.reply = reply
                waiter.state = UNREADABLE if kind == TROUBLE and isinstance(reply, Exception) else DONE
                waiter.wake()
            Py_DECREF(waiter)
        self.parse_rest()
        return 0

    cdef int parse_rest(self) except -1:
        """Nothing is in flight: what else has come is for nobody in particular."""
        cdef Kind kind
        while True:
            reply = self.reader.next(True, &kind)
            if kind == NOTHING:
                return 0
            if kind != PUSH:
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
        return LinkFailure(str(reason) or type(reason).__name__, sent=sent, timed_out=timed_out)

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

    def is_silent(self, bint look=True):
        """True when nothing has come since the last look, though somebody waited then and waits now. This is the next
        look, unless ``look`` is false."""
        cdef bint waiting = not self.closed and (self.led or self.count > 0)
        cdef bint silent = waiting and self.looked == self.heard
        if look:
            self.looked = self.heard if waiting else -1
        return silent

    def close(self):
        """Closes the link. Calls under way on other threads end with LinkFailure."""
        if self.closed:
            return
        self.retired = True
        if self.led:
            # Its leader sits in a system call with the descriptor: end the stream, the leader does the rest. It may
            # let go of the socket before the shutdown has returned, hence a reference of one's own.
            sock = self.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own: that one takes the TLS layer away from under the leader.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
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
        if not self.is_idle():
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
            while self.wait_for(POLLIN, slotwise_now()) and self.receive_some(False, 0) != LATER:
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
        link.patience = PATIENCE
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
        # Its leader sleeps until replies come.
        link.send_now()
        link.follow(mine, deadline)
    # The queue may hold a waiter for longer, unseen by the garbage collector; through the traceback of its failure, it
    # would hold the link, and so itself.
    reply, mine.reply = mine.reply, None
    if mine.state == DONE:
        return reply
    raise reply
