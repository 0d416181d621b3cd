"""Rules that find the keys of commands whose key positions depend on their arguments.

Every rule takes the arguments with the command's name as one element in front and returns the positions of
the keys. The rules read arguments the way the servers do (their COMMAND GETKEYS is the test), and raise
`slotwise.errors.CommandRefusedError` where a server could not tell the keys either.
"""

from __future__ import annotations

from collections.abc import Sequence


def word(argument: object) -> str:
    """An argument as an upper-case word, to compare with keywords; "" when it cannot be one."""
    if isinstance(argument, str):
        return argument.upper()
    if isinstance(argument, (bytes, bytearray, memoryview)):
        return bytes(argument).decode("latin-1").upper()
    return ""


def after_count(args: Sequence[object]) -> range:
    """`ZUNION numkeys key [key ...] ...`"""
    return _counted(args, 1)


def after_second_count(args: Sequence[object]) -> range:
    """`EVAL script numkeys [key ...] ...`, `BLMPOP timeout numkeys key [key ...] ...`"""
    return _counted(args, 2)


def pairs_after_count(args: Sequence[object]) -> range:
    """`MSETEX numkeys key value [key value ...] ...`"""
    return _counted(args, 1, step=2)


def destination_and_count(args: Sequence[object]) -> list[int]:
    """`ZUNIONSTORE destination numkeys key [key ...] ...`"""
    return [1, *_counted(args, 2)]


def of_streams(args: Sequence[object]) -> range:
    """`XREAD [COUNT n] [BLOCK ms] STREAMS key [key ...] id [id ...]`, XREADGROUP likewise."""
    streams, _ = stream_options(args)
    if streams == 0:
        raise refused(args, "STREAMS is missing before the keys")
    first = streams + 1
    # An odd number is for the server to complain about: half of it are keys that tell where to ask.
    count = (len(args) - first) // 2
    if not count:
        raise refused(args, "STREAMS must be followed by keys and as many ids")
    return range(first, first + count)


def stream_options(args: Sequence[object]) -> tuple[int, bool]:
    """Where STREAMS stands in the arguments of XREAD or XREADGROUP (0: nowhere), and whether BLOCK comes before it."""
    blocks = False
    position = 1
    while position < len(args):
        option = word(args[position])
        if option == "STREAMS":
            return position, blocks
        if option == "BLOCK":
            blocks = True
        # A group or consumer may itself be called STREAMS, so the options' values are stepped over.
        position += _STREAM_OPTION_LENGTHS.get(option, 1)
    return 0, blocks


_STREAM_OPTION_LENGTHS = {"BLOCK": 2, "COUNT": 2, "CLAIM": 2, "GROUP": 3}


def of_sort(args: Sequence[object]) -> list[int]:
    """`SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] ... [STORE destination]`"""
    destination = 0
    position = 2
    while position < len(args):
        option = word(args[position])
        if option == "STORE" and position + 1 < len(args):
            destination = position + 1
        position += _SORT_OPTION_LENGTHS.get(option, 1)
    return [1, destination] if destination else [1]


_SORT_OPTION_LENGTHS = {"LIMIT": 3, "GET": 2, "BY": 2}


def of_georadius(args: Sequence[object]) -> list[int]:
    """`GEORADIUS key ... [STORE key] [STOREDIST key]`: of several destinations the server uses the last."""
    destination = 0
    position = 5
    while position < len(args) - 1:
        if word(args[position]) in ("STORE", "STOREDIST"):
            position += 1
            destination = position
        position += 1
    return [1, destination] if destination else [1]


def of_migrate(args: Sequence[object]) -> Sequence[int]:
    """`MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH ...] [KEYS key [key ...]]`"""
    if len(args) > 3 and args[3] in ("", b""):
        position = 6
        while position < len(args):
            option = word(args[position])
            if option == "KEYS" and position + 1 < len(args):
                return range(position + 1, len(args))
            position += _MIGRATE_OPTION_LENGTHS.get(option, 1)
    return [3]


_MIGRATE_OPTION_LENGTHS = {"AUTH": 2, "AUTH2": 3}


def of_stralgo(args: Sequence[object]) -> Sequence[int]:
    """`STRALGO LCS ... KEYS key key` of Redis 6.2; with STRINGS there is no key."""
    for position in range(2, len(args) - 2):
        if word(args[position]) == "KEYS":
            return [position + 1, position + 2]
    return []


def _counted(args: Sequence[object], count_at: int, step: int = 1) -> range:
    """The keys behind a numkeys argument, `step` arguments apart."""
    if len(args) <= count_at:
        raise refused(args, f"numkeys is missing: it is argument {count_at}")
    numkeys = args[count_at]
    try:
        count = int(bytes(numkeys) if isinstance(numkeys, memoryview) else numkeys)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise refused(args, f"numkeys (argument {count_at}) must be an integer, not {numkeys!r}") from None
    first = count_at + 1
    if count < 0 or first + count * step > len(args):
        raise refused(args, f"numkeys is {numkeys!r}, but {len(args) - first} arguments follow it")
    return range(first, first + count * step, step)


def refused(args: Sequence[object], why: str) -> Exception:
    """The error for arguments whose keys cannot be told."""
    # Imported when needed only: these modules stay light for who imports them alone.
    from slotwise.commands import shown
    from slotwise.errors import CommandRefusedError

    return CommandRefusedError(f"{shown(args[0]).upper()} was not sent: {why}")
