"""A real standby is promoted: a listener goes on there, by time, and misses nothing that the standby had."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from atlas.config import Settings
from atlas.db import Database
from atlas.events import EventBus
from tests.support.servers import standby
from tests.support.servers.postgres import name_of
from tests.support.sql import scalar


async def read(bus: EventBus) -> list[str]:
    """What waits for the listener, acknowledged."""
    async with aclosing(bus.listen("a", once=True)) as batches:
        return [event.event_type async for batch in batches for event in batch]


def on(url: str) -> EventBus:
    return EventBus(Database(url), Settings(_env_file=None, env="test"))


async def test_a_listener_goes_on_after_a_promotion_and_misses_nothing() -> None:
    with standby.running_pair(standby.wheel()) as (primary, second):
        url = await asyncio.to_thread(primary.server.migrated)
        bus = on(url)
        await bus.emit_many([("a",), ("b",)])
        assert await read(bus) == ["a", "b"]
        await bus.emit("c")
        await asyncio.to_thread(second.catch_up, primary)
        await asyncio.to_thread(second.cut_off)
        # only the primary knows that c was read, and that there was d
        assert await read(bus) == ["c"]
        await bus.emit("d")
        await bus.database.close()
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(second.run, "pg_ctl", "promote", "-w")

        bus = on(second.server.database_url(name_of(url)))
        await bus.emit("e")
        assert await read(bus) == ["a", "b", "c", "e"]
        await bus.emit("f")
        assert await read(bus) == ["f"]  # by snapshots again
        server = await scalar(bus.database, "SELECT server FROM event_cursors WHERE name = 'a'")
        assert server.split("/")[1] == "00000002"
        await bus.database.close()
