"""Short ways of the commonest calls, for a client and for its pipelines; see the .pxd."""

cimport cython
from cpython.object cimport PyObject

from slotwise._aioengine cimport AsyncEngine
from slotwise._engine cimport Engine
from slotwise._reply cimport Flawed, ServerError

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.asyncio.observability import recorder as async_recorder
from redis.exceptions import RedisError
from redis.observability import recorder

from slotwise._engine import Uncovered
from slotwise._link import LinkFailure, Reentered

cdef extern from "Python.h":
    # The attribute that a class has by its bases, borrowed; hits the interpreter's method cache.
    PyObject *_PyType_Lookup(type, object)
    int PyObject_GenericSetAttr(object, object, PyObject *value) except -1

cdef object _CLIENT_FUNNEL = redis.RedisCluster.execute_command
cdef object _PIPELINE_FUNNEL = redis.cluster.ClusterPipeline.execute_command
cdef object _PIPELINE = redis.cluster.ClusterPipeline
cdef object _PIPELINE_EXECUTE = redis.cluster.ClusterPipeline.execute
cdef object _OK = b"OK"
cdef object _ASYNC_PIPELINE_FUNNEL = redis.asyncio.cluster.ClusterPipeline.execute_command
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


@cython.final
cdef class ShortPlans:
    """``plan`` makes the plan of a command's name."""

    def __cinit__(self, plan):
        self.get = shaping(plan("GET"))
        self.set = shaping(plan("SET"))
        self.hget = shaping(plan("HGET"))
        self.incrby = shaping(plan("INCRBY"))


cdef object shaping(object plan):
    """The plan, unless the parser's reply is the value."""
    return plan if plan.callback is not None else None


cdef class ShortWay:

    cdef int put_one(self, str name, object key, object plan) except -1:
        cdef PyObject *words[2]
        words[0] = <PyObject*>name
        words[1] = <PyObject*>key
        return self._queue.put(words, 2, plan)

    cdef int put_two(self, str name, object key, object value, object plan) except -1:
        cdef PyObject *words[3]
        words[0] = <PyObject*>name
        words[1] = <PyObject*>key
        words[2] = <PyObject*>value
        return self._queue.put(words, 3, plan)


cdef object way_of(object pipe):
    return pipe if isinstance(pipe, ShortWay) else getattr(pipe, "_way", None)


cdef ShortWay short_way(object pipe):
    """None: the long way has to be taken."""
    cdef PyObject *funnel = _PyType_Lookup(type(pipe), "execute_command")
    cdef ShortWay way
    if funnel == <PyObject*>_PIPELINE_FUNNEL:
        way = <ShortWay?>pipe
    elif funnel == <PyObject*>_ASYNC_PIPELINE_FUNNEL:
        way = pipe._way
    else:
        return None
    return way if way is not None and way._short_plans is not None and not way.replaced else None


cdef class PipelineCalls:

    def __setattr__(self, name, value):
        if name == "execute_command":
            (<ShortWay?>way_of(self)).replaced = True
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, name):
        if name == "execute_command":
            (<ShortWay?>way_of(self)).replaced = False
        PyObject_GenericSetAttr(self, name, NULL)

    def get(self, name):
        """Queues GET; the pipeline again."""
        cdef ShortWay way = short_way(self)
        if way is None:
            return super().get(name)
        way.put_one("GET", name, way._short_plans.get)
        return self

    def set(self, name, value, *args, **options):
        """Queues SET, options as in redis-py; the pipeline again."""
        cdef ShortWay way = short_way(self) if not args and not options else None
        if way is None:
            return super().set(name, value, *args, **options)
        way.put_two("SET", name, value, way._short_plans.set)
        return self

    def hget(self, name, key):
        """Queues HGET; the pipeline again."""
        cdef ShortWay way = short_way(self)
        if way is None:
            return super().hget(name, key)
        way.put_two("HGET", name, key, way._short_plans.hget)
        return self

    def incrby(self, name, amount=1):
        """Queues INCRBY; the pipeline again."""
        cdef ShortWay way = short_way(self)
        if way is None:
            return super().incrby(name, amount)
        way.put_two("INCRBY", name, amount, way._short_plans.incrby)
        return self

    def incr(self, name, amount=1):
        """Queues INCRBY; the pipeline again."""
        return self.incrby(name, amount)


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
