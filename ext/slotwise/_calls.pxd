"""Short ways of the commonest calls: from the method straight to the encoder.

A short way may be taken only while nobody looks at the long one: ``execute_command`` is redis-py's own, on
the class and on the object, since tracers replace it there to see every command. Every method asks for itself
at every call.
"""

from slotwise._aiolink cimport AsyncEngine
from slotwise._encoder cimport Batch
from slotwise._link cimport Engine


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


cdef class Queue:
    """The commands of a pipeline, encoded, and what is needed to shape their replies."""
    cdef readonly Batch batch
    # Arguments of each command.
    cdef readonly list calls
    # Options of those that have any, and (index, plan) of those whose value a callback makes.
    cdef readonly dict options
    cdef readonly list shaped

    cdef int put(self, tuple call, object plan) except -1


cdef class PipelineCalls:
    """Methods of a pipeline."""
    cdef public Queue _queue
    # Plans of the commands with a short way, when every command may take it; else None.
    cdef public object _short_plans
    # The object has an execute_command of its own.
    cdef bint replaced

    cdef bint short(self) except -1


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
