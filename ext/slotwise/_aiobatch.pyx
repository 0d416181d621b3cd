"""What becomes of the commands of a batch under asyncio, over several links at once."""

cimport cython

from slotwise._encoder cimport Batch, Indices

from slotwise._link import LinkFailure


@cython.final
cdef class Exchange:
    """``failures`` has the commands that go nowhere, and why; those of lost parts are added."""

    def __cinit__(self, Batch batch not None, list results not None, list decode, dict failures not None):
        self.batch = batch
        self.results = results
        self.decode = decode
        self.failures = failures
        self.troubled = list(failures)
        self.handed_back = []

    def unsent(self):
        """The parts that were handed back; they are the caller's now."""
        cdef list parts = self.handed_back
        if parts:
            self.handed_back = []
        return parts

    cdef int wake(self) except -1:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)
        return 0


@cython.final
cdef class Part:

    def __cinit__(
        self, Exchange exchange not None, endpoint, Indices indices not None, bint asking=False,
        bint whole=False,
    ):
        self.exchange = exchange
        self.endpoint = endpoint
        self.indices = indices
        self.batch = exchange.batch
        self.results = exchange.results
        self.troubled = exchange.troubled
        self.decode = exchange.decode
        self.asking = asking
        self.skip = asking
        self.whole = whole
        exchange.left += 1

    def lost(self, error):
        """Ends the part: what has no reply gets none, because of ``error``."""
        cdef Py_ssize_t i
        if self.over:
            return
        for i in range(self.answered, self.indices.n):
            if i == self.written and type(error) is LinkFailure and error.sent:
                # From here on nothing was encoded.
                error = LinkFailure(str(error), sent=False, timed_out=error.timed_out)
            self.troubled.append(self.indices.at[i])
            self.exchange.failures[self.indices.at[i]] = error
        self.end()

    def hand_back(self):
        """For another link: nothing of it was encoded."""
        self.exchange.handed_back.append(self)
        self.exchange.wake()

    cdef int end(self) except -1:
        # Replies may still come, and count on: the place in the ring stays.
        self.over = True
        self.exchange.left -= 1
        if not self.exchange.left:
            self.exchange.wake()
        return 0

    cdef bint is_wanted(self) noexcept:
        return not (self.over or self.exchange.given_up)
