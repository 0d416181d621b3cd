"""From a user's value to its stored form and back: codec, compression, checksum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn

import redis
import redis.asyncio

from slotwise._versions import (
    CODEC_SHIFT,
    COMPRESSED,
    TOMBSTONE,
    DamagedValue,
    ForeignValue,
    NotSealed,
    UnknownFormat,
    Version,
    seal,
)
from slotwise.consistency.errors import (
    DamagedValueError,
    ForeignValueError,
    StoredFormError,
    UnknownFormatError,
)

Codec = Literal["raw", "msgpack"]

RAW, MSGPACK = 0, 1
CODECS: dict[str, int] = {"raw": RAW, "msgpack": MSGPACK}

_NAMED: dict[type[NotSealed], type[StoredFormError]] = {
    ForeignValue: ForeignValueError,
    UnknownFormat: UnknownFormatError,
    DamagedValue: DamagedValueError,
}


def named(error: NotSealed) -> StoredFormError:
    """The error that users see, of the one that the compiled module raised."""
    return _NAMED.get(type(error), StoredFormError)()


_FOR_THREADS = (redis.Redis, redis.RedisCluster)
_FOR_ASYNCIO = (redis.asyncio.Redis, redis.asyncio.RedisCluster)


def check_client(client: Any, *, awaited: bool, taker: str) -> None:
    """Raises TypeError for what is no client, or one of the other world; ``taker`` is who was given it."""
    if not hasattr(client, "execute_command"):
        raise TypeError(f"{taker} takes a client, such as slotwise.RedisCluster, not {type(client).__name__}")
    ours, theirs = (_FOR_THREADS, _FOR_ASYNCIO) if not awaited else (_FOR_ASYNCIO, _FOR_THREADS)
    if isinstance(client, theirs) and not isinstance(client, ours):
        wanted = "slotwise.asyncio.RedisCluster" if awaited else "slotwise.RedisCluster"
        kind = "for threads" if awaited else "for asyncio"
        raise TypeError(f"{taker} takes a client such as {wanted}, and this is one {kind}")


class Values:
    """How one store writes values, and how it reads those of any store.

    ``encode`` makes bytes of what the codec "raw" is given, ``decode`` what it gives back of bytes (None: themselves).
    """

    def __init__(
        self,
        codec: Codec,
        compress_above: int | None,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any] | None,
    ) -> None:
        number = CODECS.get(codec)
        if number is None:
            raise ValueError(f"codec is {codec!r} and can be {' or '.join(map(repr, CODECS))}")
        if compress_above is not None and compress_above < 0:
            raise ValueError(f"compress_above is {compress_above!r} bytes and cannot be less than 0")
        self._flags = number << CODEC_SHIFT
        self._above = compress_above
        self._encode = encode if number == RAW else _pack
        # What raw bytes are in the hands of the user.
        self.decode = decode

    def seal(self, version: Version, value: Any) -> bytes:
        """The stored form. What the codec cannot hold raises the codec's own error, a `TypeError` mostly."""
        payload = value if type(value) is bytes and not self._flags else self._encode(value)
        if self._above is None or len(payload) <= self._above:
            return seal(version, self._flags, payload)
        packed = _compress(payload)
        if len(packed) >= len(payload):
            return seal(version, self._flags, payload)
        return seal(version, self._flags | COMPRESSED, packed)

    def open(self, flags: int, payload: bytes) -> Any:
        """The value of what was stored, whatever codec this store itself writes."""
        codec = flags >> CODEC_SHIFT
        if codec not in (RAW, MSGPACK) or flags & TOMBSTONE:
            raise UnknownFormatError
        if flags & COMPRESSED:
            payload = _decompress(payload)
        if codec == MSGPACK:
            return _unpack(payload)
        return payload if self.decode is None else self.decode(payload)


def tombstone(version: Version) -> bytes:
    """The stored form of a deletion."""
    return seal(version, TOMBSTONE, b"")


def _pack(value: Any) -> bytes:
    import msgpack

    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(payload: bytes) -> Any:
    import msgpack

    try:
        try:
            return msgpack.unpackb(payload, strict_map_key=False)
        except TypeError:
            # A map with keys that were tuples: they come as lists, which cannot be keys.
            return msgpack.unpackb(payload, strict_map_key=False, object_pairs_hook=_with_tuples)
    except (TypeError, ValueError, msgpack.UnpackException) as error:
        _damaged(error)


def _with_tuples(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_tuple(key): value for key, value in pairs}


def _tuple(key: Any) -> Any:
    return tuple(map(_tuple, key)) if type(key) is list else key


def _compress(payload: bytes) -> bytes:
    import lz4.frame

    packed: bytes = lz4.frame.compress(payload)
    return packed


def _decompress(payload: bytes) -> bytes:
    import lz4.frame

    try:
        unpacked: bytes = lz4.frame.decompress(payload)
    except (RuntimeError, EOFError) as error:
        _damaged(error)
    return unpacked


def _damaged(error: Exception) -> NoReturn:
    # The checksum is right, so this was written so. The library's text may show what the value holds.
    raise DamagedValueError from None
