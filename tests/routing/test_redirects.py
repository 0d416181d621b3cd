"""The switch after a reply or a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.routing.redirects import Next, Step, after_error, after_failure
from slotwise.routing.topology import Address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", Next(Step.GO, 3999, Address("127.0.0.1", 6381))),
        ("ASK 3999 127.0.0.1:6381", Next(Step.ASK, 3999, Address("127.0.0.1", 6381))),
        ("MOVED 0 node.example:1", Next(Step.GO, 0, Address("node.example", 1))),
        ("MOVED 16383 :6381", Next(Step.GO, 16383, Address("asked", 6381))),
        ("MOVED 1 ?:6381", Next(Step.GO, 1, Address("asked", 6381))),
        ("ASK 1 ::1:6381", Next(Step.ASK, 1, Address("::1", 6381))),
        ("ASK 1 [::1]:6381", Next(Step.ASK, 1, Address("::1", 6381))),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Next(Step.WAIT)),
        ("CLUSTERDOWN The cluster is down", Next(Step.REFRESH)),
        ("LOADING Redis is loading the dataset in memory", Next(Step.REFRESH)),
        ("MASTERDOWN Link with MASTER is down", Next(Step.REFRESH)),
        ("ERR unknown command", Next(Step.GIVE_UP)),
        ("MOVEDON 1 a:1", Next(Step.GIVE_UP)),
        ("MOVED 16384 a:1", Next(Step.GIVE_UP)),
        ("MOVED -1 a:1", Next(Step.GIVE_UP)),
        ("MOVED one a:1", Next(Step.GIVE_UP)),
        ("MOVED 1 a:b", Next(Step.GIVE_UP)),
        ("MOVED ² a:1", Next(Step.GIVE_UP)),
        ("MOVED 1", Next(Step.GIVE_UP)),
        ("MOVED", Next(Step.GIVE_UP)),
        ("", Next(Step.GIVE_UP)),
    ],
)
def test_step_after_an_error(text: str, expected: Next) -> None:
    assert after_error(text, "asked") == expected


UNBLOCKED = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"


@pytest.mark.parametrize(
    ("text", "waited", "expected"),
    [
        (UNBLOCKED, True, Step.REFRESH),
        # A module may have begun to write.
        (UNBLOCKED, False, Step.GIVE_UP),
        ("UNBLOCKED client unblocked via CLIENT UNBLOCK", True, Step.GIVE_UP),
        ("UNBLOCKED", True, Step.GIVE_UP),
    ],
)
def test_step_after_a_wait_that_was_ended(text: str, waited: bool, expected: Step) -> None:
    assert after_error(text, "asked", waited=waited) == Next(expected)


def test_remap_is_applied_to_what_the_cluster_says() -> None:
    def outside(address: tuple[str, int]) -> tuple[str, int]:
        return ("outside", address[1] + 1)

    assert after_error("MOVED 1 inside:1", "asked", outside).address == Address("outside", 2)
    assert after_error("ASK 1 inside:1", "asked", outside).address == Address("outside", 2)


@given(st.text(max_size=60) | st.from_regex(r"(MOVED|ASK) \S* ?\S*", fullmatch=True))
def test_any_text_is_a_step(text: str) -> None:
    step = after_error(text, "asked")
    assert (step.step in (Step.GO, Step.ASK)) == (step.address is not None)
    assert step.address is None or 0 <= step.slot < 16384


@pytest.mark.parametrize(
    ("sent", "repeatable", "expected"),
    [
        (False, False, Step.REFRESH),
        (False, True, Step.REFRESH),
        (True, True, Step.REFRESH),
        (True, False, Step.GIVE_UP),
    ],
)
def test_step_after_a_failure(sent: bool, repeatable: bool, expected: Step) -> None:
    """Only what may have been executed, and must not be twice, is given up."""
    assert after_failure(sent=sent, repeatable=repeatable).step is expected
