"""Locks that an exception may be raised into at any place, as by a signal handler.

After ``with lock`` has taken a lock, and before its block begins, CPython 3.14 lets one through, and the lock stays
taken for ever. Nothing comes between here.
"""

import functools


cdef int release_all(lock) except -1:
    if lock._is_owned():
        lock._release_save()
    return 0


def holding(str name):
    """Decorates a method that runs while it holds the RLock that is the attribute ``name`` of its object."""
    def decorate(method):
        @functools.wraps(method)
        def locked(self, *args, **kwargs):
            lock = getattr(self, name)
            nested = lock._is_owned()
            lock.acquire()
            try:
                return method(self, *args, **kwargs)
            finally:
                if nested:
                    lock.release()
                else:
                    release_all(lock)
        return locked
    return decorate


def restoring(*names):
    """Decorates a method in whose end no more is held of the RLocks ``names`` of its object than at its begin.

    For methods that leave the locking to redis-py.
    """
    def decorate(method):
        @functools.wraps(method)
        def restored(self, *args, **kwargs):
            locks = [getattr(self, name) for name in names]
            free = [lock for lock in locks if lock is not None and not lock._is_owned()]
            try:
                return method(self, *args, **kwargs)
            finally:
                for lock in free:
                    release_all(lock)
        return restored
    return decorate
