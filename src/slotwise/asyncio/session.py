"""What `RedisCluster.session` returns under asyncio; see `slotwise.sync.session`."""

from __future__ import annotations

from typing import Any

from slotwise.sync.session import View


class AsyncView(View):
    """`View`, where clients are entered and closed with ``await``."""

    async def __aenter__(self) -> Any:
        return await vars(self)["_client"].initialize() and self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def aclose(self) -> None:
        """Does nothing: the connections are the client's."""

    close = aclose
