"""One door for both kinds of server: a cluster or a standalone one, detected."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import redis
from redis.connection import parse_url

from slotwise.errors import DataError, ResponseError
from slotwise.sync.cluster import RedisCluster

# Keywords of the cluster client that a standalone one does not take; `timeout` is that of the pool.
_CLUSTER_ONLY = (
    set(signature(redis.RedisCluster.__init__).parameters) - set(signature(redis.Redis.__init__).parameters)
) | {"timeout"}


def connect(url_or_settings: str | Mapping[str, Any], **options: Any) -> RedisCluster | redis.Redis:
    """The right client for the server at ``url_or_settings``: slotwise's ``RedisCluster``, or ``redis.Redis``.

    ``url_or_settings`` is a URL as ``redis://user:secret@host:6379`` (``rediss://`` for TLS, ``unix://`` for a
    standalone server's socket), or a mapping of the client's keywords with ``host`` and ``port``. ``options`` are further
    keywords and win over the settings; those that only a cluster client takes do nothing for a standalone server.
    Asks the server once (INFO cluster); raises redis-py's exceptions when it cannot be reached, and
    ``redis.DataError`` for anything else than a URL or a mapping.
    """
    if isinstance(url_or_settings, Mapping):
        options = {**url_or_settings, **options}
    plain = {name: value for name, value in options.items() if name not in _CLUSTER_ONLY}
    if isinstance(url_or_settings, str):
        where = parse_url(url_or_settings)
        standalone = redis.Redis.from_url(url_or_settings, **plain)
        database = where.get("db", 0)
    elif isinstance(url_or_settings, Mapping):
        standalone = redis.Redis(**plain)
        database = options.get("db", 0)
    else:
        raise DataError(
            f"connect() takes a URL such as redis://localhost:6379 or a mapping of keywords, "
            f"not {type(url_or_settings).__name__}"
        )
    try:
        clustered = bool(standalone.info("cluster").get("cluster_enabled"))
    except ResponseError:
        # A server or proxy that does not tell is one to talk to plainly.
        clustered = False
    except BaseException:
        standalone.close()
        raise
    if not clustered or database:
        return standalone
    standalone.close()
    options.pop("db", None)
    if isinstance(url_or_settings, str):
        return RedisCluster.from_url(url_or_settings, **options)
    return RedisCluster(**options)
