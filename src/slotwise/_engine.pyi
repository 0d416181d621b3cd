from collections.abc import Callable
from typing import Any, final

from typing_extensions import disjoint_base

from slotwise._link import Link
from slotwise._slots import SlotTable
from slotwise.routing.topology import Address
from slotwise.sync.connection import NodePool

# (encoding, errors) of text.
_Encoding = tuple[str, str]

class Uncovered(Exception): ...

@disjoint_base
class Lanes:
    @property
    def idle(self) -> list[Link]: ...
    @property
    def waiting(self) -> list[Any]: ...
    def take(self) -> Link: ...
    def give_back(self, link: Link, discard: bool = False) -> None: ...

@final
class Endpoint:
    link: Link | None
    def __new__(cls, node: Address, pool: NodePool, opener: Callable[[Endpoint], Link]) -> Endpoint: ...
    @property
    def node(self) -> Address: ...
    @property
    def pool(self) -> NodePool: ...

@disjoint_base
class Engine:
    table: SlotTable
    calls: int
    def __new__(cls, table: SlotTable, encoding: _Encoding | None = None) -> Engine: ...
    @property
    def encoding(self) -> _Encoding | None: ...
    def keyed(self, call: tuple[Any, ...], first_key: int, decode: bool = True) -> Any: ...
    def on_endpoint(self, endpoint: Endpoint, call: tuple[Any, ...], decode: bool = True) -> Any: ...
