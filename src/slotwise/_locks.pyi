from collections.abc import Callable
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])

def holding(name: str) -> Callable[[_Method], _Method]: ...
def restoring(*names: str) -> Callable[[_Method], _Method]: ...
