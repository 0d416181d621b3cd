"""Calls on other threads, whose outcome a test awaits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

#: Seconds after which a call that should have ended long ago counts as hanging.
PATIENCE = 30


def background(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Calls ``function`` on a thread that does not keep the process alive."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def together(functions: Iterable[Callable[[], Any]]) -> list[Any]:
    """The results of all functions, called on a thread each; raises the first exception."""
    futures = [background(function) for function in functions]
    return [future.result(PATIENCE) for future in futures]
