"""Error replies inside other replies, as scripts and transactions return them, and which command of several they are of."""

from __future__ import annotations

import sys
from typing import Any

from slotwise._reply import ServerError
from slotwise.commands import shown
from slotwise.errors import parse_error


def annotate(error: Exception, number: int, command: Any) -> None:
    """Says in ``error`` which command of a pipeline it is of: by its name only, because errors go to logs."""
    name = shown(command if isinstance(command, str) else command[0])
    sentence = f"Command # {number} ({name}) of pipeline caused error"
    if isinstance(error, UnicodeError):
        # Its text is made of its attributes, and the arguments are not its words. Python has notes since 3.11.
        if sys.version_info >= (3, 11):
            error.add_note(sentence)
    elif error.args:
        error.args = (f"{sentence}: {error.args[0]}", *error.args[1:])
    else:
        error.args = (f"{sentence}: {type(error).__name__}",)


def exceptions_in(reply: Any) -> Any:
    """The reply with every error inside it made an exception, as redis-py delivers them."""
    if type(reply) is ServerError:
        return parse_error(reply.text)
    if type(reply) is list:
        return [exceptions_in(item) for item in reply]
    if type(reply) is dict:
        return {exceptions_in(key): exceptions_in(value) for key, value in reply.items()}
    return reply
