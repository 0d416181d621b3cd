"""A process that writes keys of everybody's with a clock that is wrong, and notes what it is told of each write.

Run by `Writers` as ``python -m tests.consistency.writers SETTINGS``; it obeys lines on its standard input and answers each
with a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import slotwise
import slotwise.asyncio
from slotwise._versions import Version
from slotwise.cli._in_loop import InLoop
from slotwise.consistency import AsyncVersionedStore, BatchError, HybridClock, VersionedStore
from slotwise.errors import RedisClusterException, RedisError
from tests.consistency.conftest import Awaited

ROOT = Path(__file__).parent.parent.parent
# Number of the key, version, set or delete, first letter of the outcome, the version that is there, when it was sent.
_RECORD = struct.Struct(">I16scc16sd")
#: Outcomes in a record; "f" failed: the store says that nothing was executed.
APPLIED, DISCARDED, UNKNOWN, FAILED = b"a", b"d", b"u", b"f"
NOBODY_SAID = bytes(16)
# Keys of one call at most.
_BATCH = 40


class Record(NamedTuple):
    """One write, as its writer was told."""

    key: int
    version: bytes
    action: bytes
    outcome: bytes
    #: The version that is there, as far as the writer was told; zeros: nobody said.
    current: bytes
    #: Monotonic seconds, which all processes of a host have in common, before it was sent.
    sent: float


@dataclass(frozen=True)
class Settings:
    url: str
    number: int
    #: Seconds that the clock is wrong, and by how much it gains in a second.
    skew: float
    drift: float
    prefix: str
    keys: int
    history: int
    #: Where the records go.
    path: str


def key_of(prefix: str, number: int) -> str:
    return f"{prefix}:{number}"


class _Writer:
    def __init__(self, settings: Settings, store: Any) -> None:
        self._settings = settings
        self._store = store
        self._random = random.Random(settings.number)
        self._records: list[Record] = []
        # Versions that were drawn and put aside, to be written late.
        self._aside: list[Version] = []
        self._value = b"of %d" % settings.number

    def write(self, seconds: float) -> dict[str, Any]:
        """Writes for so long; its counters, and what the calls that failed raised."""
        failures: Counter[str] = Counter()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._write_some(failures)
        with open(self._settings.path, "wb") as file:
            file.writelines(_RECORD.pack(*record) for record in self._records)
        return {"stats": asdict(self._store.stats), "failures": failures, "writer": self._store.clock.writer}

    def lost(self, rewrite: bool) -> list[Any]:
        """What `lost_writes` tells: number of the key, both versions in hexadecimal digits, whether it is there again."""
        return [
            (
                int(write.key.rpartition(":")[2]),
                bytes(write.acknowledged).hex(),
                None if write.found is None else bytes(write.found).hex(),
                write.rewritten,
            )
            for write in self._store.lost_writes(rewrite=rewrite)
        ]

    def _write_some(self, failures: Counter[str]) -> None:
        store, settings, dice = self._store, self._settings, self._random.random()
        count = 1 if dice < 0.2 else self._random.randint(2, _BATCH)
        numbers = self._random.sample(range(settings.keys), min(count, settings.keys))
        keys = [key_of(settings.prefix, number) for number in numbers]
        action = b"d" if self._random.random() < 0.3 else b"s"
        sent = time.monotonic()
        results: dict[str, Any] = {}
        try:
            if len(keys) > 1 and action == b"d":
                results = store.delete_many(keys)
            elif len(keys) > 1:
                results = store.set_many(dict.fromkeys(keys, self._value))
            elif action == b"d":
                results = {keys[0]: store.delete(keys[0])}
            elif dice < 0.1 or not self._aside:
                self._aside.append(store.clock.now())
                results = {keys[0]: store.set(keys[0], self._value)}
            else:
                late = self._aside.pop(self._random.randrange(len(self._aside)))
                results = {keys[0]: store.set_if_newer(keys[0], self._value, late)}
        except BatchError as error:
            results = error.results
            failures.update(type(one).__name__ for one in error.errors.values())
        except (RedisError, RedisClusterException) as error:
            failures[type(error).__name__] += 1
        for number, key in zip(numbers, keys, strict=True):
            if key in results:
                result = results[key]
                outcome, version = result.outcome[0].encode(), bytes(result.version)
                current = NOBODY_SAID if result.current is None else bytes(result.current)
                self._records.append(Record(number, version, action, outcome, current, sent))
            else:
                self._records.append(Record(number, NOBODY_SAID, action, FAILED, NOBODY_SAID, sent))


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[Any]:
    """Of the odd ones for asyncio."""
    began = time.time_ns()

    def now() -> int:
        time_ns = time.time_ns()
        return time_ns + int(settings.skew * 1e9 + (time_ns - began) * settings.drift)

    options: dict[str, Any] = {
        "clock": HybridClock(clock=now),
        "history": settings.history,
        "remember": settings.keys,
    }
    if settings.number % 2 == 0:
        with slotwise.RedisCluster.from_url(settings.url) as client:
            yield VersionedStore(client, **options)
        return
    with closing(InLoop(partial(slotwise.asyncio.RedisCluster.from_url, settings.url))) as looped:
        yield Awaited(looped, AsyncVersionedStore(looped.client, **options))


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    with _store(settings) as store:
        writer = _Writer(settings, store)
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            print(json.dumps(getattr(writer, command)(*arguments)), flush=True)


# -- the test's side ---------------------------------------------------------------------------------------------------


class Writers:
    """Some of these processes. A context manager, which ends them."""

    def __init__(
        self,
        url: str,
        skews: Sequence[tuple[float, float]],
        prefix: str,
        keys: int,
        history: int,
        folder: Path,
    ) -> None:
        self._paths = [folder / f"writer{number}" for number in range(len(skews))]
        self._settings = [
            Settings(url, number, *skew, prefix, keys, history, str(self._paths[number]))
            for number, skew in enumerate(skews)
        ]
        self._stack = ExitStack()
        self._processes: list[subprocess.Popen[str]] = []

    def tell(self, *command: Any) -> None:
        """Gives all of them a command, such as ``"write", 5.0`` or ``"lost", True``."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()

    def answers(self) -> list[Any]:
        """Of each, to the last command."""
        return [json.loads(self._line(process)) for process in self._processes]

    def records(self) -> list[list[Record]]:
        """What each has written, in its order."""
        return [
            [Record(*fields) for fields in _RECORD.iter_unpack(path.read_bytes())] for path in self._paths
        ]

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "a writer ended early; what it said is above"
        return line

    def __enter__(self) -> Writers:
        with ExitStack() as stack:
            for settings in self._settings:
                command = [sys.executable, "-m", "tests.consistency.writers", json.dumps(asdict(settings))]
                process = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                stack.callback(_end, process)
                self._processes.append(process)
            self.answers()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


if __name__ == "__main__":
    main()
