from typing import Any, final

# (encoding, errors) of text.
_Encoding = tuple[str, str]

MAX_REPLY_SIZE: int

@final
class ServerError:
    def __new__(cls, text: str) -> ServerError: ...
    @property
    def text(self) -> str: ...

@final
class Flawed:
    def __new__(cls, reply: Any) -> Flawed: ...
    @property
    def reply(self) -> Any: ...

@final
class Reader:
    def __new__(cls, encoding: _Encoding | None = None, limit: int = ...) -> Reader: ...
