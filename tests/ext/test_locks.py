"""What a method takes of a lock, and an exception keeps it from giving back, is given back for it."""

import threading
from typing import Any

import pytest

from slotwise._locks import holding, restoring


class Shop:
    def __init__(self) -> None:
        self.door = threading.RLock()
        self.till = threading.RLock()

    @holding("door")
    def owned(self, *, leave: int = 0) -> bool:
        """Whether the door is held inside; takes it ``leave`` times more, and goes away by an exception then."""
        for _ in range(leave):
            self.door.acquire()
        if leave:
            raise KeyboardInterrupt
        return not free(self.door)

    @holding("door")
    def nested(self, leave: int) -> bool:
        with pytest.raises(KeyboardInterrupt):
            self.owned(leave=leave)
        return not free(self.door)

    @restoring("door", "till", "none")
    def take(self, fail: bool) -> bool:
        found = free(self.door) and free(self.till)
        self.door.acquire()
        self.till.acquire()
        self.till.acquire()
        if fail:
            raise KeyboardInterrupt
        return found

    none = None


def free(lock: Any) -> bool:
    """Whether another thread could take the lock now."""
    found = []

    def attempt() -> None:
        found.append(lock.acquire(blocking=False))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_method_holds_its_lock(shop: Shop) -> None:
    assert shop.owned()
    assert free(shop.door)
    assert Shop.owned.__name__ == "owned"
    assert "inside" in (Shop.owned.__doc__ or "")


@pytest.mark.parametrize("leave", [1, 3])
def test_an_exception_leaves_nothing_locked(shop: Shop, leave: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        shop.owned(leave=leave)
    assert free(shop.door)


def test_an_inner_call_leaves_the_outer_ones_lock(shop: Shop) -> None:
    assert shop.nested(leave=2)
    assert free(shop.door)


@pytest.mark.parametrize("fail", [False, True])
def test_what_was_taken_inside_is_given_back(shop: Shop, fail: bool) -> None:
    if fail:
        with pytest.raises(KeyboardInterrupt):
            shop.take(fail)
    else:
        assert shop.take(fail)
    assert free(shop.door)
    assert free(shop.till)


def test_what_the_caller_holds_stays_his(shop: Shop) -> None:
    with shop.door:
        with pytest.raises(KeyboardInterrupt):
            shop.take(True)
        assert not free(shop.door)
        assert free(shop.till)
    # The inner call's own share of it is the caller's matter.
    assert not free(shop.door)
