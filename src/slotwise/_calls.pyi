# The commands themselves (get, set, ...) are left out: redis-py's signatures hold for them.
import asyncio
from collections.abc import Callable
from typing import Any, final

from typing_extensions import disjoint_base

from slotwise._aiolink import AsyncEngine
from slotwise._encoder import Batch
from slotwise._link import Engine
from slotwise.routing.plan import Plan

@disjoint_base
class ClientCalls:
    _straight: bool
    def _open_calls(self, engine: Engine, straight: bool) -> None: ...
    def _may_batch(self) -> bool: ...

@final
class Queue:
    def __new__(cls, encoding: tuple[str, str] | None = None) -> Queue: ...
    @property
    def batch(self) -> Batch: ...
    @property
    def calls(self) -> list[tuple[Any, ...]]: ...
    @property
    def options(self) -> dict[int, dict[str, Any]]: ...
    @property
    def shaped(self) -> list[tuple[int, Plan]]: ...
    def __len__(self) -> int: ...
    def add(
        self,
        call: tuple[Any, ...],
        options: dict[str, Any],
        plan: Plan,
        first_key: int = 0,
        slot: int | None = None,
    ) -> None: ...

@disjoint_base
class PipelineCalls:
    _queue: Queue
    _short_plans: dict[str, Plan] | None

def split(
    queue: Queue,
    name: str,
    keys: list[Any],
    plan: Plan,
    keyslot: Callable[[Any], int] | None,
    width: int = 1,
) -> list[list[int] | int]: ...
def scatter(positions: list[list[int] | int], found: list[list[Any]], n: int) -> list[Any]: ...

@final
class AsyncCalls:
    straight: bool
    replaced: bool
    def __new__(cls, engine: AsyncEngine, owner: type, funnel: object, straight: bool) -> AsyncCalls: ...
    def submit(self, call: tuple[Any, ...]) -> asyncio.Future[Any] | None: ...
    def may_batch(self) -> bool: ...
