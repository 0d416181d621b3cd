"""From a call to the future of its reply."""

cimport cython
from cpython.tuple cimport PyTuple_GET_ITEM

from slotwise._aiolink cimport AsyncLink, submit
from slotwise._encoder cimport STACK_ARGS, Arg, Name, arguments_of, borrow_keep, name_of, return_keep, scan
from slotwise._slots cimport SlotTable, slotwise_key_slot

from asyncio import _get_running_loop


@cython.final
cdef class AsyncEndpoint:

    def __cinit__(self, node, pool, Py_ssize_t places=1):
        self.node = node
        self.pool = pool
        self.links = [None] * places
        self.several = places > 1

    def __repr__(self):
        return f"<AsyncEndpoint {self.node!r}>"

    cdef int pass_turn(self) except -1:
        self.turn = (self.turn + 1) % len(self.links)
        self.link = self.links[self.turn]
        return 0

    def next(self):
        """The place whose turn it is, and its link or None. A full link has no turn while another place has room."""
        cdef Py_ssize_t place = 0
        cdef AsyncLink link = None
        for _ in range(len(self.links)):
            place, link = self.turn, self.link
            if self.several:
                self.pass_turn()
            if link is None or link.retired or not link.is_full():
                break
        return place, link

    def put(self, Py_ssize_t place, AsyncLink link):
        """Gives a place its link, or None."""
        self.links[place] = link
        if place == self.turn:
            self.link = link


cdef class AsyncEngine:
    """From a call to the future of its reply. ``table``: tuples of endpoints, each shard's primary first."""

    def __cinit__(self, SlotTable table, encoding=None):
        self.table = table
        self.encoding = encoding

    cdef object submit_to(self, AsyncLink link, tuple call, bint decode):
        return submit(link, call, decode, self.encoding)

    def keyed(self, tuple call, Py_ssize_t first_key, bint decode=True):
        """The future of the reply to ``call`` from the primary of ``call[first_key]``.

        None when there is no short way: no open link, nobody serves the slot, another loop.
        """
        cdef Arg stack[STACK_ARGS]
        cdef Arg *args = stack
        cdef Py_ssize_t n = len(call) - 1, size
        cdef list keep = borrow_keep()
        cdef object shard, future
        cdef AsyncEndpoint endpoint
        cdef AsyncLink link
        cdef int slot
        cdef Name name = name_of(<object>PyTuple_GET_ITEM(call, 0))
        if not 0 < first_key <= n or n > STACK_ARGS or _get_running_loop() is not self.loop:
            return None
        size = scan(arguments_of(call), n, args, self.encoding, keep)
        slot = slotwise_key_slot(args[first_key - 1].data, <size_t>args[first_key - 1].size)
        shard = self.table.shard(slot)
        if shard is None:
            return None
        endpoint = <AsyncEndpoint>PyTuple_GET_ITEM(<tuple>shard, 0)
        link = endpoint.link
        if link is None or link.retired or (endpoint.several and link.is_full()):
            return None
        if endpoint.several:
            endpoint.pass_turn()
        self.calls += 1
        future = link.put(call, name, args, n, size, decode, self.encoding)
        return_keep(keep)
        return future
