"""From a call to its node's link."""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.tuple cimport PyTuple_GET_ITEM

from slotwise._encoder cimport STACK_ARGS, Arg, Name, arguments_of, borrow_keep, name_of, return_keep, scan
from slotwise._link cimport IDLE, Link, send_and_wait
from slotwise._slots cimport SlotTable, slotwise_key_slot

cdef extern from "_net.h" nogil:
    double slotwise_now()


class Uncovered(Exception):
    """Nobody serves the slot that is the argument."""


cdef class Lanes:

    def __cinit__(self, *args, **kwargs):
        self.idle = []
        self.waiting = []

    def take(self):
        """An idle link that is the caller's until :meth:`give_back`."""
        return self.lane()

    def give_back(self, Link link, bint discard=False):
        """Ends the caller's ownership. A link that is closed, not idle, outdated or to be discarded leaves the pool."""
        self.end_lane(link, discard)

    cdef Link lane(self):
        cdef Link link
        while True:
            link = self.idle.pop() if self.idle and not self.waiting else self.open_lane()
            # What the server closed meanwhile must not cost a command its outcome.
            if slotwise_now() - link.heard < IDLE or link.poll_pushes():
                return link
            self.drop(link)

    cdef int end_lane(self, Link link, bint discard) except -1:
        if discard or link.outdated or not link.is_idle():
            self.drop(link)
        else:
            self.idle.append(link)
            if self.waiting:
                self.wake()
        return 0


@cython.final
cdef class Endpoint:
    """A node at address ``node``: ``opener(endpoint)`` returns its open shared link, ``pool`` has the others."""

    def __cinit__(self, node, Lanes pool, opener):
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
        cdef list keep = borrow_keep()
        cdef object shard
        cdef Endpoint endpoint
        cdef Name name = name_of(<object>PyTuple_GET_ITEM(call, 0))
        if not 0 < first_key <= n:
            raise IndexError(f"no key at argument {first_key}")
        self.calls += 1
        if n > STACK_ARGS:
            args = <Arg*>PyMem_Malloc(n * sizeof(Arg))
            if args == NULL:
                raise MemoryError()
        try:
            size = scan(arguments_of(call), n, args, self.encoding, keep)
            slot = slotwise_key_slot(args[first_key - 1].data, <size_t>args[first_key - 1].size)
            shard = self.table.shard(slot)
            if shard is None:
                raise Uncovered(slot)
            endpoint = <Endpoint>PyTuple_GET_ITEM(<tuple>shard, 0)
            return send_and_wait(endpoint.open(), name, args, n, size, decode)
        finally:
            return_keep(keep)
            if args != stack:
                PyMem_Free(args)

    def on_endpoint(self, Endpoint endpoint, tuple call, bint decode=True):
        """Sends ``call`` over the endpoint's shared link and returns the parser's reply, as :meth:`keyed`."""
        return endpoint.open().call(call, decode, self.encoding)
