"""An endpoint on loopback, and a bus that delivers to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from atlas.db import Database
from atlas.events import EventBus
from tests.support.events import settings
from tests.support.servers.http import LoopbackServer, loopback_server


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        yield running


@pytest.fixture
async def bus(database: Database, server: LoopbackServer) -> AsyncIterator[EventBus]:
    made = EventBus(database, settings(server))
    yield made
    await made.drain()
