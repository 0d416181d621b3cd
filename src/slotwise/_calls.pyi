# The commands themselves (get, set, ...) are left out: redis-py's signatures hold for them.
import asyncio
from collections.abc import Callable
from typing import Any, final

from typing_extensions import disjoint_base

from slotwise._aioengine import AsyncEngine
from slotwise._batch import Queue
from slotwise._engine import Engine
from slotwise.routing.plan import Plan

@disjoint_base
class ClientCalls:
    _straight: bool
    def _open_calls(self, engine: Engine, straight: bool) -> None: ...
    def _may_batch(self) -> bool: ...

@final
class ShortPlans:
    def __new__(cls, plan: Callable[[str], Plan]) -> ShortPlans: ...

@disjoint_base
class ShortWay:
    _queue: Queue
    _short_plans: ShortPlans | None

class PipelineCalls: ...

@final
class AsyncCalls:
    straight: bool
    replaced: bool
    def __new__(cls, engine: AsyncEngine, owner: type, funnel: object, straight: bool) -> AsyncCalls: ...
    def submit(self, call: tuple[Any, ...]) -> asyncio.Future[Any] | None: ...
    def may_batch(self) -> bool: ...
