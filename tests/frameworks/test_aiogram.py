"""aiogram: states and data of conversations, and its isolation of events by redis-py's asyncio lock."""

import asyncio
import json
from typing import Any

import pytest
import redis

from slotwise.local import LocalCluster
from tests.asyncio.loops import run

pytest.importorskip("aiogram", reason="needs aiogram")

from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisStorage


class Order(StatesGroup):
    size = State()
    address = State()


def _key(user: int) -> StorageKey:
    return StorageKey(bot_id=1, chat_id=7, user_id=user)


def test_states_and_data(async_class: Any, cluster: LocalCluster, reader: redis.RedisCluster) -> None:
    async def main() -> None:
        async with async_class.from_url(cluster.url) as client:
            storage = RedisStorage(client, state_ttl=100, data_ttl=200)
            users = {user: FSMContext(storage, _key(user)) for user in range(20)}
            await asyncio.gather(*(users[user].set_state(Order.size) for user in users))
            await asyncio.gather(*(users[user].update_data(size=user, note="ż") for user in users))
            assert [await users[user].get_state() for user in users] == ["Order:size"] * 20
            assert [await users[user].get_data() for user in users] == [
                {"size": user, "note": "ż"} for user in users
            ]
            assert reader.get("fsm:7:3:state") == b"Order:size"
            assert 0 < reader.ttl("fsm:7:3:state") <= 100 < reader.ttl("fsm:7:3:data") <= 200
            assert json.loads(reader.get("fsm:7:3:data")) == {"size": 3, "note": "ż"}
            await users[3].clear()
            assert await users[3].get_state() is None
            assert await users[3].get_data() == {}

    run(main)
    assert reader.exists("fsm:7:3:state", "fsm:7:3:data") == 0
    assert len(reader.keys("fsm:*", target_nodes="primaries")) == 38


def test_events_of_one_user_follow_one_another(
    async_class: Any, cluster: LocalCluster, reader: redis.RedisCluster
) -> None:
    inside: set[int] = set()
    order: list[tuple[int, int]] = []

    async def main() -> None:
        async with async_class.from_url(cluster.url) as client:
            isolation = RedisStorage(client).create_isolation(lock_kwargs={"timeout": 60, "sleep": 0.01})

            async def event(user: int, number: int) -> None:
                async with isolation.lock(_key(user)):
                    assert user not in inside, "two events of one user at a time"
                    inside.add(user)
                    assert reader.exists(f"fsm:7:{user}:lock") == 1
                    await asyncio.sleep(0.005)
                    inside.remove(user)
                    order.append((user, number))

            await asyncio.gather(*(event(user, number) for number in range(5) for user in range(3)))

    run(main)
    assert sorted(order) == [(user, number) for user in range(3) for number in range(5)]
    assert reader.keys("fsm:*", target_nodes="primaries") == []
