"""`ConsistencyMonitor`: an audit of a sample every few minutes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from slotwise.consistency.auditing import audit
from slotwise.consistency.findings import AuditReport, Failure
from slotwise.consistency.values import check_client

logger = logging.getLogger("slotwise")

VARIABLE = "CACHE_CONSISTENCY_CHECK_INTERVAL"
#: Seconds between the beginnings of two audits.
INTERVAL = 300.0


def interval_of(given: float | None) -> float:
    """Seconds: as given, else of the environment, else 300. Raises ValueError for what is no number above 0."""
    name, value = "interval", given
    if given is None:
        name, text = VARIABLE, os.environ.get(VARIABLE) or INTERVAL
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{VARIABLE} is {text!r}: a number of seconds") from None
    if value is None or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}: a number of seconds above 0")
    return value


class ConsistencyMonitor:
    """Audits ``sample`` random keys every ``interval`` seconds, in a thread of its own. A context manager.

    ``interval`` is by default that of CACHE_CONSISTENCY_CHECK_INTERVAL, else 300 s. The last ``keep`` reports stay in
    `reports`; ``on_report`` is called with each, in the monitor's thread. Further keywords are those of `audit`.

    An audit that fails as a whole is a report as well, with the failure in it; the next one is made all the same.
    """

    def __init__(
        self,
        client: Any,
        interval: float | None = None,
        sample: int = 1_000,
        keep: int = 100,
        on_report: Callable[[AuditReport], object] | None = None,
        **options: Any,
    ) -> None:
        check_client(client, awaited=False, taker="ConsistencyMonitor")
        if keep < 1 or sample < 1:
            raise ValueError("sample and keep must be at least 1")
        self.interval = interval_of(interval)
        self.sample = sample
        self._client = client
        self._options = options
        self._on_report = on_report
        self._reports: deque[AuditReport] = deque(maxlen=keep)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def reports(self) -> list[AuditReport]:
        """The reports that are kept, the oldest first."""
        return list(self._reports)

    @property
    def latest(self) -> AuditReport | None:
        """The last report; None before the first audit has ended."""
        return self._reports[-1] if self._reports else None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begins with an audit at once. Does nothing while it runs."""
        if not self.running:
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stop,), name="slotwise-consistency", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ends an audit under way with its batch, and returns when the thread has ended."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def check(self) -> AuditReport:
        """One audit now, in this thread; it counts as one of the monitor's."""
        return self._check(threading.Event())

    def _run(self, stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            self._check(stop)
            # Not to catch up with what a slow audit has missed.
            due = max(due + self.interval, time.monotonic())
            stop.wait(due - time.monotonic())

    def _check(self, stop: threading.Event) -> AuditReport:
        began = time.time()
        try:
            report = audit(self._client, sample=self.sample, stop=stop, **self._options)
        except Exception as error:
            # Whatever it was: the next audit may find the cluster well again.
            logger.warning("a consistency audit failed: %s", error)
            report = AuditReport("*", self.sample, "not at all", began)
            report.failures.append(Failure("-", str(error) or type(error).__name__))
        if report.stopped:
            return report
        self._reports.append(report)
        if self._on_report is not None:
            try:
                self._on_report(report)
            except Exception:
                logger.exception("on_report raised")
        return report

    def __enter__(self) -> ConsistencyMonitor:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()
