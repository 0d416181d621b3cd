import asyncio
from typing import Any, final

from slotwise._aioengine import AsyncEndpoint
from slotwise._encoder import Batch, Indices

@final
class Exchange:
    future: asyncio.Future[None] | None
    given_up: bool
    def __new__(
        cls,
        batch: Batch,
        results: list[Any],
        decode: list[bool] | None,
        failures: dict[int, Exception],
    ) -> Exchange: ...
    @property
    def batch(self) -> Batch: ...
    @property
    def results(self) -> list[Any]: ...
    @property
    def decode(self) -> list[bool] | None: ...
    @property
    def troubled(self) -> list[int]: ...
    @property
    def failures(self) -> dict[int, Exception]: ...
    @property
    def left(self) -> int: ...
    def unsent(self) -> list[Part]: ...

@final
class Part:
    def __new__(
        cls,
        exchange: Exchange,
        endpoint: AsyncEndpoint,
        indices: Indices,
        asking: bool = False,
        whole: bool = False,
    ) -> Part: ...
    @property
    def exchange(self) -> Exchange: ...
    @property
    def endpoint(self) -> AsyncEndpoint | None: ...
    @property
    def indices(self) -> Indices: ...
    def hand_back(self) -> None: ...
    def lost(self, error: Exception) -> None: ...
