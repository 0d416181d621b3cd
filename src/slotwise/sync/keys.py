"""Where a call goes, for the client and its pipelines."""

from __future__ import annotations

import random
from typing import Any

from redis._parsers import Encoder
from redis.cluster import SLOT_ID

from slotwise._slots import SLOTS, key_slot
from slotwise.commands import shown
from slotwise.errors import RedisClusterException
from slotwise.routing.plan import keys_in, named_slot


class Routing:
    """Where a call goes, by the table of key positions: no COMMAND GETKEYS round trip."""

    encoder: Encoder
    command_flags: dict[str, str]

    def keyslot(self, key: Any) -> int:
        """The slot of ``key``, 0 to 16383 (CLUSTER KEYSLOT)."""
        return key_slot(self.encoder.encode(key))

    def _get_command_keys(self, *args: Any) -> list[Any] | None:
        return keys_in(args)

    def determine_slot(self, *args: Any) -> int | None:
        """The slot that all keys of the call share; None for CLIENT TRACKING, a random one for a script without keys.

        Raises RedisClusterException when there is no key to route by or the keys lie in several slots.
        """
        command = args[0]
        name = str(command).upper()
        if self.command_flags.get(name) == SLOT_ID:
            return named_slot(args[1])
        if name == "CLIENT TRACKING":
            return None
        if name in ("EVAL", "EVALSHA") and len(args) <= 2:
            raise RedisClusterException(f"Invalid args in command: {shown(command)}")
        keys = keys_in(args)
        if not keys:
            if name in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"):
                return random.randrange(SLOTS)
            raise RedisClusterException(
                "No way to dispatch this command to Redis Cluster. Missing key.\n"
                f"You can execute the command by specifying target nodes.\nCommand: {shown(command)}"
            )
        slot = self.keyslot(keys[0])
        if any(self.keyslot(key) != slot for key in keys[1:]):
            raise RedisClusterException(f"{shown(command)} - all keys must map to the same key slot")
        return slot
