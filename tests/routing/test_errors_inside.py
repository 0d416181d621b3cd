"""Errors say which command of a pipeline they are of, and go on saying what they said."""

from __future__ import annotations

import sys

import redis

from slotwise.routing.errors_inside import annotate


def test_the_command_comes_before_the_text() -> None:
    error = redis.ResponseError("WRONGTYPE", "more")
    annotate(error, 2, ("LPUSH", "key", "value"))
    assert error.args == ("Command # 2 (LPUSH) of pipeline caused error: WRONGTYPE", "more")


def test_an_error_without_a_text() -> None:
    error = MemoryError()
    annotate(error, 1, (b"GET", "key"))
    assert str(error) == "Command # 1 (GET) of pipeline caused error: MemoryError"


def test_an_error_whose_arguments_are_no_words() -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    text, args = str(error), error.args
    annotate(error, 1, ("GET", "key"))
    assert (str(error), error.args) == (text, args)
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ["Command # 1 (GET) of pipeline caused error"]
