"""Short ways of the commonest calls, for a client and for its pipelines; see the .pxd."""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject

from slotwise._aiolink cimport AsyncEngine
from slotwise._encoder cimport Batch
from slotwise._link cimport Engine, Flawed, ServerError
from slotwise._slots cimport slot_of

import redis
import redis.asyncio
import redis.cluster
from redis.asyncio.observability import recorder as async_recorder
from redis.exceptions import RedisError
from redis.observability import recorder

from slotwise._link import LinkFailure, Reentered, Uncovered

cdef extern from "Python.h":
    # The attribute that a class has by its bases, borrowed; hits the interpreter's method cache.
    PyObject *_PyType_Lookup(type, object)
    int PyObject_GenericSetAttr(object, object, PyObject *value) except -1

cdef object _CLIENT_FUNNEL = redis.RedisCluster.execute_command
cdef object _PIPELINE_FUNNEL = redis.cluster.ClusterPipeline.execute_command
cdef object _PIPELINE = redis.cluster.ClusterPipeline
cdef object _PIPELINE_EXECUTE = redis.cluster.ClusterPipeline.execute
cdef object _OK = b"OK"
cdef object _ASYNC_CLIENT = redis.asyncio.RedisCluster
cdef object _ASYNC_FUNNEL = redis.asyncio.RedisCluster.__dict__["execute_command"]


cdef class ClientCalls:

    def _open_calls(self, Engine engine, bint straight):
        """Called once by the client when its engine stands."""
        self.engine = engine
        self._straight = straight

    def __setattr__(self, name, value):
        if name == "execute_command":
            self.replaced = True
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, name):
        if name == "execute_command":
            self.replaced = False
        PyObject_GenericSetAttr(self, name, NULL)

    cdef bint short(self) except -1:
        return (
            self._straight
            and not self.replaced
            and _PyType_Lookup(type(self), "execute_command") == <PyObject*>_CLIENT_FUNNEL
            and recorder._metrics_collector is None
        )

    cdef object answer(self, tuple call):
        """The reply to a call whose first argument is its key, without errors."""
        cdef object reply
        try:
            reply = self.engine.keyed(call, 1, True)
        except (LinkFailure, Reentered, Uncovered, RedisError) as error:
            # Nothing else: what a signal handler raises is the caller's, and the command may have been executed.
            return self._rescue(call, error)
        if type(reply) is ServerError or type(reply) is Flawed:
            return self._rescue(call, reply)
        return reply

    def get(self, name):
        """The value of ``name``, or None (GET)."""
        if self.short():
            return self.answer(("GET", name))
        return super().get(name)

    def set(self, name, value, *args, **options):
        """Sets ``name`` to ``value`` (SET); options as in redis-py."""
        if not args and not options and self.short():
            reply = self.answer(("SET", name, value))
            return True if reply == _OK else reply == "OK"
        return super().set(name, value, *args, **options)

    def hget(self, name, key):
        """The value of field ``key`` in the hash ``name``, or None (HGET)."""
        if self.short():
            return self.answer(("HGET", name, key))
        return super().hget(name, key)

    def incrby(self, name, amount=1):
        """Adds ``amount`` to the integer at ``name`` and returns the sum (INCRBY)."""
        if self.short():
            return self.answer(("INCRBY", name, amount))
        return super().incrby(name, amount)

    def incr(self, name, amount=1):
        """Adds ``amount`` to the integer at ``name`` and returns the sum (INCRBY)."""
        return self.incrby(name, amount)

    def delete(self, *keys):
        """Deletes the keys, whatever slots they lie in, and returns how many there were (DEL)."""
        if len(keys) == 1 and self.unwatched():
            return self.answer(("DEL", keys[0]))
        return super().delete(*keys)

    def exists(self, *keys):
        """How many of the keys exist, whatever slots they lie in (EXISTS)."""
        if len(keys) == 1 and self.unwatched():
            return self.answer(("EXISTS", keys[0]))
        return super().exists(*keys)

    cdef bint unwatched(self) except -1:
        """For what redis-py sends through a pipeline: nobody watches ClusterPipeline.execute either."""
        return self.short() and _PyType_Lookup(<type>_PIPELINE, "execute") == <PyObject*>_PIPELINE_EXECUTE

    def _may_batch(self):
        """True while nobody watches calls or pipelines: several nodes are asked directly."""
        return self.unwatched()


cdef class Queue:

    def __cinit__(self, encoding=None):
        self.batch = Batch(encoding)
        self.calls = []
        self.options = {}
        self.shaped = []

    def __len__(self):
        return len(self.calls)

    cdef int put(self, tuple call, object plan) except -1:
        """A command whose key is its first argument."""
        self.batch.add(call, 1)
        if plan.callback is not None:
            self.shaped.append((len(self.calls), plan))
        self.calls.append(call)
        return 0

    def add_short(self, tuple call, plan):
        """Encodes a command without options whose key is its first argument."""
        self.put(call, plan)

    def add(self, tuple call, dict options, plan, Py_ssize_t first_key=0, slot=None):
        """Encodes a command. It is routed by the key at ``first_key``, or by ``slot``, or by neither."""
        cdef Py_ssize_t index = len(self.calls)
        self.batch.add(call, first_key)
        if slot is not None:
            self.batch.set_slot(index, slot)
        options.pop("keys", None)
        if options:
            self.options[index] = options
        if plan.callback is not None:
            self.shaped.append((index, plan))
        self.calls.append(call)


cdef class PipelineCalls:

    def __setattr__(self, name, value):
        if name == "execute_command":
            self.replaced = True
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, name):
        if name == "execute_command":
            self.replaced = False
        PyObject_GenericSetAttr(self, name, NULL)

    cdef bint short(self) except -1:
        return (
            self._short_plans is not None
            and not self.replaced
            and _PyType_Lookup(type(self), "execute_command") == <PyObject*>_PIPELINE_FUNNEL
        )

    def get(self, name):
        """Queues GET; the pipeline again."""
        if self.short():
            self._queue.put(("GET", name), self._short_plans["GET"])
            return self
        return super().get(name)

    def set(self, name, value, *args, **options):
        """Queues SET, options as in redis-py; the pipeline again."""
        if not args and not options and self.short():
            self._queue.put(("SET", name, value), self._short_plans["SET"])
            return self
        return super().set(name, value, *args, **options)

    def hget(self, name, key):
        """Queues HGET; the pipeline again."""
        if self.short():
            self._queue.put(("HGET", name, key), self._short_plans["HGET"])
            return self
        return super().hget(name, key)

    def incrby(self, name, amount=1):
        """Queues INCRBY; the pipeline again."""
        if self.short():
            self._queue.put(("INCRBY", name, amount), self._short_plans["INCRBY"])
            return self
        return super().incrby(name, amount)

    def incr(self, name, amount=1):
        """Queues INCRBY; the pipeline again."""
        return self.incrby(name, amount)


# Scratch of `split`: the last position of each slot in the call that `stamp` counts. Used between two points where no
# Python code runs, so one is enough.
cdef unsigned int _stamp = 0
cdef unsigned int _seen[16384]
cdef Py_ssize_t _last[16384]


def split(Queue queue, str name, list keys, plan, keyslot, Py_ssize_t width=1):
    """Queues command ``name`` once per slot, with the keys of that slot; their positions in ``keys``, per command.

    ``keyslot`` makes the slot of a key, None that of UTF-8. ``width`` is how many elements of ``keys`` belong together,
    a key and what follows it: 2 for MSET. A position is an int for a slot with one key, a list for one with several.
    """
    global _stamp
    cdef Py_ssize_t n = len(keys) // width, i, j
    cdef int *slots = <int*>PyMem_Malloc((n + 1) * sizeof(int))
    # The next position of the same slot, or -1.
    cdef Py_ssize_t *after = <Py_ssize_t*>PyMem_Malloc((n + 1) * sizeof(Py_ssize_t))
    cdef char *first = <char*>PyMem_Malloc(n + 1)
    cdef list positions = [], group
    try:
        if slots == NULL or after == NULL or first == NULL:
            raise MemoryError()
        for i in range(n):
            slots[i] = slot_of(keys[i * width]) if keyslot is None else keyslot(keys[i * width])
        _stamp += 1
        for i in range(n):
            after[i] = -1
            first[i] = _seen[slots[i]] != _stamp
            if not first[i]:
                after[_last[slots[i]]] = i
            _seen[slots[i]] = _stamp
            _last[slots[i]] = i
        for i in range(n):
            if not first[i]:
                continue
            if after[i] < 0 and width == 1:
                positions.append(i)
                queue.put((name, keys[i]), plan)
                continue
            group = []
            j = i
            while j >= 0:
                group.append(j)
                j = after[j]
            positions.append(group)
            queue.put((name, *[part for j in group for part in keys[j * width : (j + 1) * width]]), plan)
    finally:
        PyMem_Free(slots)
        PyMem_Free(after)
        PyMem_Free(first)
    return positions


def scatter(list positions, list found, Py_ssize_t n):
    """Puts the values of each command of :func:`split` at their keys' positions among ``n``."""
    cdef list values = [None] * n, part
    cdef object place
    cdef Py_ssize_t i, j
    for i in range(len(positions)):
        place = positions[i]
        part = found[i]
        if type(place) is list:
            for j in range(len(<list>place)):
                values[(<list>place)[j]] = part[j]
        else:
            values[place] = part[0]
    return values


@cython.final
cdef class AsyncCalls:
    """``owner`` is the client's class, ``funnel`` its ``execute_command`` while nobody replaced that."""

    def __cinit__(self, AsyncEngine engine not None, owner, funnel, bint straight):
        self.engine = engine
        self.owner = owner
        self.funnel = funnel
        self.straight = straight

    cdef bint short(self) except -1:
        return (
            self.straight
            and not self.replaced
            and _PyType_Lookup(<type>self.owner, "execute_command") == <PyObject*>self.funnel
            and _PyType_Lookup(<type>_ASYNC_CLIENT, "execute_command") == <PyObject*>_ASYNC_FUNNEL
            and async_recorder._async_metrics_collector is None
        )

    def submit(self, tuple call):
        """The future of the reply to a call whose first argument is its key; None: take the long way."""
        return self.engine.keyed(call, 1, True) if self.short() else None

    def may_batch(self):
        """True while nobody watches single calls: those of several slots may go as one batch."""
        return self.short()
