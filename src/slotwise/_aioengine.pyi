import asyncio
from typing import Any, final

from slotwise._aiolink import AsyncLink, Turns
from slotwise._slots import SlotTable
from slotwise.asyncio.connection import AsyncNodePool
from slotwise.routing.topology import Address

# (encoding, errors) of text.
_Encoding = tuple[str, str]

@final
class AsyncEndpoint:
    def __new__(cls, node: Address, pool: AsyncNodePool, places: int = 1) -> AsyncEndpoint: ...
    @property
    def link(self) -> AsyncLink | None: ...
    @property
    def links(self) -> list[AsyncLink | None]: ...
    def next(self) -> tuple[int, AsyncLink | None]: ...
    def put(self, place: int, link: AsyncLink | None) -> None: ...
    @property
    def node(self) -> Address: ...
    @property
    def pool(self) -> AsyncNodePool: ...

@final
class AsyncEngine:
    table: SlotTable
    loop: asyncio.AbstractEventLoop | None
    turns: Turns | None
    calls: int
    def __new__(cls, table: SlotTable, encoding: _Encoding | None = None) -> AsyncEngine: ...
    @property
    def encoding(self) -> _Encoding | None: ...
    def keyed(
        self, call: tuple[Any, ...], first_key: int, decode: bool = True
    ) -> asyncio.Future[Any] | None: ...
