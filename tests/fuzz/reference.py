"""A parser of RESP that is written to be read: what a link should make of a stream.

It has the whole stream at hand, and asks hiredis about single lines.
"""

import contextlib
import re
import sys
from typing import Any

import hiredis

from slotwise._reply import Flawed, ServerError

Encoding = tuple[str, str] | None

DEPTH = 256
LEAST = 3
NUMBER = re.compile(rb"0|[1-9][0-9]{,17}")

# Each level takes three calls.
sys.setrecursionlimit(3000)


class More(Exception):
    """The stream ends in the middle of a reply; ``in_line``: of a line, which may be malformed already."""

    def __init__(self, in_line: bool) -> None:
        super().__init__(in_line)
        self.in_line = in_line


class Broken(Exception):
    """The stream is malformed, or passes a limit."""


class Stream:
    """The replies in ``data``, and how it ends."""

    def __init__(self, data: bytes, encoding: Encoding = None, limit: int = 2**32) -> None:
        self.data = data
        self.at = 0
        self.encoding = encoding
        self.limit = limit
        # What hiredis is known to do otherwise was met.
        self.unlike_hiredis = False
        # Values, exceptions for replies that nothing can be made of.
        self.replies: list[Any] = []
        self.pushes: list[Any] = []
        self.end: Exception
        try:
            while True:
                self.reply()
        except (More, Broken) as end:
            self.end = end

    def reply(self) -> None:
        self.start = self.at
        self.flaw: Exception | None = None
        self.skip_attributes(0)
        is_push = self.data[self.at : self.at + 1] == b">"
        value = self.element(0, aside=is_push)
        if is_push and value is not None:
            self.pushes.append(value)
        else:
            self.replies.append(value if self.flaw is None else self.flaw)

    def skip_attributes(self, depth: int) -> None:
        while self.data.startswith(b"|", self.at) and not self.data.startswith(b"|-1\r\n", self.at):
            self.unlike_hiredis = True
            self.elements(depth, aside=True)

    def element(self, depth: int, aside: bool) -> Any:
        self.skip_attributes(depth)
        kind = self.data[self.at : self.at + 1]
        if not kind:
            raise More(in_line=False)
        if kind in b"-:+,#(_":
            return self.text(by_hiredis(self.line()), aside)
        if kind in b"$=":
            return self.text(self.bulk(), aside)
        parts = self.elements(depth, aside)
        return self.mapping(parts, aside) if kind == b"%" and parts is not None else parts

    def elements(self, depth: int, aside: bool) -> list[Any] | None:
        kind = self.data[self.at : self.at + 1]
        if kind not in b"*%~>|":
            raise Broken
        count = self.length()
        if count is None:
            return None
        count *= 2 if kind in b"%|" else 1
        self.unlike_hiredis |= kind == b">" and depth > 0
        if depth == DEPTH or count > (self.limit - (self.at - self.start)) // LEAST:
            self.unlike_hiredis = True
            raise Broken
        return [self.element(depth + 1, aside) for _ in range(count)]

    def mapping(self, parts: list[Any], aside: bool) -> dict[Any, Any] | None:
        try:
            pairs = dict(zip(parts[::2], parts[1::2], strict=True))
        except TypeError as error:
            self.unlike_hiredis = True
            self.flawed(hiredis.ProtocolError(str(error)), aside)
            return None
        self.unlike_hiredis |= 2 * len(pairs) < len(parts)
        return pairs

    def bulk(self) -> bytes | None:
        verbatim = self.data[self.at : self.at + 1] == b"="
        size = self.length()
        if size is None:
            return None
        if self.at + size + 2 - self.start > self.limit:
            self.unlike_hiredis = True
            raise Broken
        value = self.data[self.at : self.at + size]
        end = self.data[self.at + size : self.at + size + 2]
        if len(end) < 2:
            raise More(in_line=False)
        if end != b"\r\n":
            self.unlike_hiredis = True
            raise Broken
        if verbatim and value[3:4] != b":":
            raise Broken
        self.at += size + 2
        return value[4:] if verbatim else value

    def length(self) -> int | None:
        """A header's number, None for -1."""
        digits = self.line()[1:-2]
        if digits == b"-1":
            return None
        if not NUMBER.fullmatch(digits):
            raise Broken
        return int(digits)

    def line(self) -> bytes:
        end = self.data.find(b"\r\n", self.at) + 2
        if end < 2:
            raise More(in_line=True)
        line = self.data[self.at : end]
        self.at = end
        if self.at - self.start > self.limit:
            self.unlike_hiredis = True
            raise Broken
        return line

    def text(self, value: Any, aside: bool) -> Any:
        if not isinstance(value, bytes) or aside or self.encoding is None:
            return value
        try:
            return value.decode(*self.encoding)
        except UnicodeError as error:
            self.flawed(error, aside)
            return None

    def flawed(self, error: Exception, aside: bool) -> None:
        if self.flaw is None and not aside:
            self.flaw = error


def by_hiredis(line: bytes) -> Any:
    parser = hiredis.Reader(replyError=ServerError)
    parser.feed(line)
    try:
        return parser.gets()
    except hiredis.ProtocolError as error:
        raise Broken from error


def hiredis_alone(data: bytes) -> tuple[list[Any], list[Any]]:
    """Replies and push messages as hiredis has them, up to what is malformed."""
    parser = hiredis.Reader(replyError=ServerError, notEnoughData=More)
    parser.feed(data)
    replies, pushes = [], []
    # What it raises for a list as a key is a TypeError.
    with contextlib.suppress(hiredis.ProtocolError, TypeError):
        while (reply := parser.gets()) is not More:
            (pushes if isinstance(reply, hiredis.PushNotification) else replies).append(reply)
    return replies, pushes


def normal(found: Any) -> Any:
    """Something that equals another when the replies are the same, types and all."""
    if isinstance(found, Flawed):
        return normal(found.reply)
    if isinstance(found, ServerError):
        return ("error", found.text)
    if isinstance(found, Exception):
        return ("unmakable", type(found))
    if isinstance(found, list):
        return [normal(one) for one in found]
    if isinstance(found, dict):
        return ("map", [(normal(key), normal(value)) for key, value in found.items()])
    return (type(found), repr(found) if isinstance(found, float) else found)
