"""One door for both kinds of server: a cluster or a standalone one, detected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import redis
from redis.connection import parse_url

from slotwise.errors import DataError, ResponseError
from slotwise.sync.cluster import RedisCluster


def connect(url_or_settings: str | Mapping[str, Any], **options: Any) -> RedisCluster | redis.Redis:
    """The right client for the server at ``url_or_settings``: slotwise's ``RedisCluster``, or ``redis.Redis``.

    ``url_or_settings`` is a URL as ``redis://user:secret@host:6379`` (``rediss://`` for TLS, ``unix://`` for a
    standalone server's socket), or a mapping of the client's keywords with ``host`` and ``port``. ``options`` are further
    keywords and win over the settings; those that only a cluster client takes do nothing for a standalone server.
    Asks the server once (INFO cluster); raises redis-py's exceptions when it cannot be reached, and
    ``redis.DataError`` for anything else than a URL or a mapping.
    """
    standalone, cluster = candidates(url_or_settings, options, redis.Redis, RedisCluster)
    try:
        clustered = bool(standalone.info("cluster").get("cluster_enabled"))
    except ResponseError:
        # A server or proxy that does not tell is one to talk to plainly.
        clustered = False
    except BaseException:
        standalone.close()
        raise
    if not clustered or cluster is None:
        plain: redis.Redis = standalone
        return plain
    standalone.close()
    made: RedisCluster = cluster()
    return made


def candidates(
    url_or_settings: str | Mapping[str, Any], options: Mapping[str, Any], standalone: Any, cluster: Any
) -> tuple[Any, Callable[[], Any] | None]:
    """A client of class ``standalone``, to ask the server with, and what makes the one of class ``cluster``.

    There is no second where a database was chosen, which a cluster does not have.
    """
    # Keywords that a standalone client does not take; `timeout` is that of the pool.
    cluster_only = (
        signature(cluster.__init__).parameters.keys() - signature(standalone.__init__).parameters.keys()
    ) | {"timeout"}
    if isinstance(url_or_settings, Mapping):
        options = {**url_or_settings, **options}
    plain = {name: value for name, value in options.items() if name not in cluster_only}
    rest = {name: value for name, value in options.items() if name != "db"}
    if isinstance(url_or_settings, str):
        url, database = url_or_settings, parse_url(url_or_settings).get("db", 0)
        asked = standalone.from_url(url, **plain)
        return asked, None if database else lambda: cluster.from_url(url, **rest)
    if not isinstance(url_or_settings, Mapping):
        raise DataError(
            f"connect() takes a URL such as redis://localhost:6379 or a mapping of keywords, "
            f"not {type(url_or_settings).__name__}"
        )
    return standalone(**plain), None if options.get("db", 0) else lambda: cluster(**rest)
