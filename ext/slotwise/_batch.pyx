"""Batches: a queue of encoded commands, and their exchange with several nodes at once; see the .pxd."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_SetItem
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM

from slotwise._encoder cimport Arg, Batch, Indices, Name, arguments_of, copy_arg, name_of, scan, take_in
from slotwise._engine cimport Endpoint
from slotwise._link cimport LATER, Link
from slotwise._reply cimport NOTHING, PUSH, TROUBLE, Kind
from slotwise._slots cimport SLOTWISE_SLOTS, slotwise_key_slot

from hiredis import ProtocolError
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoConnectionInTime

from slotwise._link import Broken, LinkFailure

cdef extern from "_net.h" nogil:
    enum:
        POLLIN
        POLLOUT
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int milliseconds)
    double slotwise_now()


cdef enum:
    # How long the wait for a node's replies may burn a core, in microseconds: a hundred commands take a server as long.
    EAGER = 300
    # Bytes that a batch keeps encoded ahead of its socket.
    AHEAD = 262144

cdef bytes _ASKING = b"*1\r\n$6\r\nASKING\r\n"


@cython.final
cdef class Queue:

    def __cinit__(self, encoding=None):
        self.batch = Batch(encoding)
        self.words = []
        self.options = {}
        self.shaped = []

    def __len__(self):
        return self.batch.count

    def clear(self):
        """Empties the queue."""
        self.batch.clear()
        self.words.clear()
        self.options.clear()
        self.shaped.clear()

    def call(self, Py_ssize_t index):
        """The arguments of command ``index``, its name the first."""
        if not 0 <= index < self.batch.count:
            raise IndexError(f"command {index} of {self.batch.count}")
        cdef Py_ssize_t start = self.batch.commands[index - 1].words if index else 0
        return tuple(self.words[start : self.batch.commands[index].words])

    @property
    def calls(self):
        """The arguments of each command."""
        return [self.call(i) for i in range(self.batch.count)]

    cdef int put(self, PyObject **words, Py_ssize_t n, object plan) except -1:
        cdef Py_ssize_t i
        self.batch.put(words, n, 1)
        for i in range(n):
            self.words.append(<object>words[i])
        if plan is not None:
            self.shaped.append((self.batch.count - 1, plan))
        return 0

    def add(self, tuple call, dict options, plan, Py_ssize_t first_key=0, slot=None):
        """Encodes a command. It is routed by the key at ``first_key``, or by ``slot``, or by neither."""
        cdef Py_ssize_t index
        self.batch.add(call, first_key)
        index = self.batch.count - 1
        if slot is not None:
            self.batch.set_slot(index, slot)
        self.words += call
        options.pop("keys", None)
        if options:
            self.options[index] = options
        if plan.callback is not None:
            self.shaped.append((index, plan))


cdef struct Place:
    # A key's slot, whether it is the first one of that slot, and the slot's next key or -1.
    int slot
    bint first
    Py_ssize_t after


def split(Queue queue not None, str name, list keys not None, plan, Py_ssize_t width=1):
    """Queues command ``name`` once per slot, with the keys of that slot; returns their positions in that order.

    ``width`` is how many elements of ``keys`` belong together, a key and what follows it: 2 for MSET.
    """
    # What the commands hold, whatever else happens to the caller's list.
    cdef tuple given = tuple(keys)
    cdef Py_ssize_t n = len(given) // width, total = n * width, room = 1, done = 0, i, j, k, at, begin, used, size
    cdef Batch batch = queue.batch
    cdef Name framed = name_of(name)
    cdef list keep = []
    cdef Indices order = Indices.__new__(Indices, None)
    # All arguments; behind them there is room for those of one command whose keys do not lie side by side.
    cdef Arg *args = <Arg*>PyMem_Malloc((2 * total + 1) * sizeof(Arg))
    cdef Arg *first
    cdef bint shaped = plan.callback is not None
    cdef Place *places = <Place*>PyMem_Malloc((n + 1) * sizeof(Place))
    # Hash table: the last place of each slot so far.
    cdef Py_ssize_t *last
    while room < 2 * n and room < SLOTWISE_SLOTS:
        room *= 2
    last = <Py_ssize_t*>PyMem_Malloc(room * sizeof(Py_ssize_t))
    try:
        if args == NULL or places == NULL or last == NULL:
            raise MemoryError()
        order.allocate(n)
        scan(arguments_of(given) - 1, total, args, batch.encoding, keep)
        for i in range(room):
            last[i] = -1
        for i in range(n):
            places[i].slot = slotwise_key_slot(args[i * width].data, <size_t>args[i * width].size)
            places[i].after = -1
            at = places[i].slot & (room - 1)
            while last[at] >= 0 and places[last[at]].slot != places[i].slot:
                at = (at + 1) & (room - 1)
            places[i].first = last[at] < 0
            if not places[i].first:
                places[last[at]].after = i
            last[at] = i
        for i in range(n):
            if not places[i].first:
                continue
            first = &args[i * width] if places[i].after < 0 else &args[total]
            begin = done
            used = size = 0
            j = i
            while j >= 0:
                order.at[done] = j
                done += 1
                for k in range(j * width, (j + 1) * width):
                    if first == &args[total]:
                        copy_arg(&first[used], &args[k])
                    used += 1
                    size += args[k].size
                j = places[j].after
            take_in(batch, framed, first, used, size, places[i].slot)
            queue.words.append(name)
            for j in order.at[begin:done]:
                for k in range(j * width, (j + 1) * width):
                    queue.words.append(<object>PyTuple_GET_ITEM(given, k))
            if shaped:
                queue.shaped.append((batch.count - 1, plan))
        order.n = done
    finally:
        PyMem_Free(args)
        PyMem_Free(places)
        PyMem_Free(last)
    return order


def scatter(Indices order not None, list found not None):
    """The values of the commands of :func:`split`, a list for each, at the positions of their keys."""
    cdef list values = [None] * order.n
    cdef Py_ssize_t i = 0
    cdef object part, value
    for part in found:
        for value in part:
            if i == order.n:
                raise ValueError(f"more values than the {order.n} keys")
            Py_INCREF(value)
            PyList_SetItem(values, order.at[i], value)
            i += 1
    if i < order.n:
        raise ValueError(f"{i} values for {order.n} keys")
    return values


# -- several nodes at once --------------------------------------------------------------------------------------------

def _address(part):
    return part[0].node


def run(
    Batch batch not None,
    list parts not None,
    list results not None,
    list decode=None,
    bint asking=False,
    bint discard=False,
):
    """The commands of ``batch`` by ``parts``, tuples of an Endpoint and its Indices, over a lane each.

    ``asking`` puts ASKING before each command, ``discard`` leaves the lanes to nobody else afterwards. Replies go to
    their places in ``results``. Returns the indices whose reply is an error, holds one or is missing, and for the
    missing ones why, by index: what opening a connection raised, or a LinkFailure.
    """
    cdef dict failures = {}
    cdef list taken = [], jobs = [], troubled
    cdef Endpoint endpoint
    cdef Indices indices
    cdef Link link
    cdef Job job
    cdef Py_ssize_t i
    if len(parts) > 1:
        # In one order for all threads: with few connections two of them could wait for each other's.
        parts.sort(key=_address)
    try:
        for endpoint, indices in parts:
            try:
                link = endpoint.pool.lane()
            except (NoConnection, NoConnectionInTime) as error:
                failures.update(dict.fromkeys(indices, error))
                continue
            taken.append(endpoint)
            jobs.append(Job.__new__(Job, link, batch, indices, asking))
        troubled = exchange(jobs, results, decode)
    finally:
        for i in range(len(jobs)):
            (<Endpoint>taken[i]).pool.end_lane((<Job>jobs[i]).link, discard)
    troubled += failures
    for job in jobs:
        if job.failure is not None:
            for i in range(job.answered, job.indices.n):
                failures[job.indices.at[i]] = LinkFailure(
                    str(job.failure), sent=i < job.written, timed_out=job.failure.timed_out
                )
    return troubled, failures


@cython.final
cdef class Job:

    def __cinit__(self, Link link not None, Batch batch not None, Indices indices not None, bint asking=False):
        self.link = link
        self.batch = batch
        self.indices = indices
        self.asking = asking
        self.skip = asking

    cdef bint ready(self):
        return self.failure is not None or self.answered == self.indices.n

    cdef int fill(self) except -1:
        """Encodes ahead of the socket, a bounded number of bytes."""
        self.written = self.batch.copy_ahead(
            self.indices, self.written, _ASKING if self.asking else None, AHEAD, self.link.out
        )
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
        cdef Py_ssize_t n = self.indices.n, index
        cdef object reply
        cdef Kind kind
        self.link.heard = self.moved = slotwise_now()
        while self.answered < n:
            index = self.indices.at[self.answered]
            reply = self.link.reader.next(decode is None or decode[index], &kind)
            if kind == NOTHING:
                return 0
            if kind == PUSH:
                self.link.pushes.append(reply)
                continue
            if self.skip:
                self.skip = False
                continue
            if kind == TROUBLE:
                troubled.append(index)
            results[index] = reply
            self.answered += 1
            self.skip = self.asking
        # Pushes may follow the last reply.
        self.link.parse_rest()
        return 0

    cdef int read(self, list results, list decode, list troubled) except -1:
        """Reads, waiting, until every command has its reply or the link failed."""
        try:
            while not self.ready():
                if self.link.receive_some(True, EAGER) == LATER:
                    self.broken(TimeoutError("no reply within the time-out"), True)
                else:
                    self.take(results, decode, troubled)
        except (Broken, ProtocolError) as error:
            self.broken(error)
        return 0

    cdef bint read_soon(self, list results, list decode, list troubled) except -1:
        """Reads what comes soon. False when there is more to wait for."""
        try:
            while not self.ready():
                if self.link.receive_some(False, EAGER) == LATER:
                    return False
                self.take(results, decode, troubled)
        except (Broken, ProtocolError) as error:
            self.broken(error)
        return True

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
    cdef bint buffered, writing, late = False
    if fds == NULL:
        raise MemoryError()
    for i in range(n):
        job = jobs[i]
        if job.link.closed:
            # By another thread, while the links for other nodes were opened.
            job.failure = job.link.lost("the link is closed", False, False)
        elif not job.link.try_lead():
            PyMem_Free(fds)
            for job in jobs[:i]:
                if not job.link.closed:
                    job.link.hand_over()
            raise RuntimeError("a batch needs idle links of its own")
    try:
        now = slotwise_now()
        for job in jobs:
            if job.failure is not None:
                continue
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
                fds[i].events = POLLIN | (POLLOUT if job.link.out.pending() or job.written < job.indices.n else 0)
                if job.link.tls and job.link.sock.pending():
                    buffered = True
            if not active:
                break
            if not writing and active == 1:
                # Nobody else waits for us to read.
                for job in jobs:
                    job.read(results, decode, troubled)
                break
            if not writing and not late:
                # The usual case: all is written, and the replies of all nodes come while those of the first are read.
                for job in jobs:
                    late = not job.read_soon(results, decode, troubled) or late
                continue
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
                        if job.link.receive_some(False, 0) != LATER:
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
            if job.answered < job.indices.n:
                # Left in the middle of a reply: nobody can go on with this stream.
                job.link.fail(ConnectionError("the batch was interrupted"))
                continue
            job.link.hand_over()
    return troubled
