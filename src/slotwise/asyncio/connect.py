"""`slotwise.connect` for asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis.asyncio

from slotwise.asyncio.cluster import RedisCluster
from slotwise.connect import candidates
from slotwise.errors import ResponseError


async def connect(
    url_or_settings: str | Mapping[str, Any], **options: Any
) -> RedisCluster | redis.asyncio.Redis:
    """The right client for the server at ``url_or_settings``: slotwise's ``RedisCluster``, or ``redis.asyncio.Redis``.

    Arguments and exceptions are those of `slotwise.connect`. Asks the server once (INFO cluster).
    """
    standalone, cluster = candidates(url_or_settings, options, redis.asyncio.Redis, RedisCluster)
    try:
        clustered = bool((await standalone.info("cluster")).get("cluster_enabled"))
    except ResponseError:
        # A server or proxy that does not tell is one to talk to plainly.
        clustered = False
    except BaseException:
        await standalone.aclose()
        raise
    if not clustered or cluster is None:
        plain: redis.asyncio.Redis = standalone
        return plain
    await standalone.aclose()
    made: RedisCluster = cluster()
    return made
