"""Error replies inside other replies, as scripts and transactions return them."""

from __future__ import annotations

from typing import Any

from slotwise._link import ServerError
from slotwise.errors import parse_error


def exceptions_in(reply: Any) -> Any:
    """The reply with every error inside it made an exception, as redis-py delivers them."""
    if type(reply) is ServerError:
        return parse_error(reply.text)
    if type(reply) is list:
        return [exceptions_in(item) for item in reply]
    if type(reply) is dict:
        return {exceptions_in(key): exceptions_in(value) for key, value in reply.items()}
    return reply
