"""Short ways of the commonest calls: from the method straight to the encoder.

A short way may be taken only while nobody looks at the long one: ``execute_command`` is redis-py's own, on
the class and on the object, since tracers replace it there to see every command. Every method asks for itself
at every call.
"""

from slotwise._aioengine cimport AsyncEngine
from slotwise._batch cimport Queue
from slotwise._engine cimport Engine


cdef class ClientCalls:
    """Methods of a client."""
    cdef Engine engine
    # What the client itself knows: replies come from primaries, none is kept, no callback was replaced.
    cdef public bint _straight
    # The object has an execute_command of its own.
    cdef bint replaced

    cdef bint short(self) except -1
    cdef bint unwatched(self) except -1
    cdef object answer(self, tuple call)


cdef class ShortPlans:
    """Plans of the commands that a pipeline has a short way for; None where the parser's reply is the value."""
    cdef object get
    cdef object set
    cdef object hget
    cdef object incrby


cdef class ShortWay:
    """The short way of a pipeline, into its queue. A pipeline for threads is one; one for asyncio has one as ``_way``,
    since redis-py's class has a layout of its own."""
    cdef public Queue _queue
    # None unless every command may take the short way.
    cdef public ShortPlans _short_plans
    # The pipeline object has an execute_command of its own.
    cdef bint replaced

    cdef int put_one(self, str name, object key, object plan) except -1
    cdef int put_two(self, str name, object key, object value, object plan) except -1


cdef class PipelineCalls:
    """Methods of a pipeline, for threads or asyncio."""


cdef class AsyncCalls:
    """The short way of an asyncio client, a part of it: redis-py's class has a layout of its own."""
    cdef AsyncEngine engine
    # The client's class, and what it has as execute_command while nobody replaced it.
    cdef object owner
    cdef object funnel
    # Replies come from primaries, none is kept, no callback was replaced.
    cdef public bint straight
    # The client object has an execute_command of its own.
    cdef public bint replaced

    cdef bint short(self) except -1
