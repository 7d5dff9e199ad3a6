"""A bus of events."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from atlas.config import Settings
from atlas.db import Database
from atlas.events import EventBus
from atlas.events import bus as bus_module
from atlas.events import recording


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the machine takes, no emit is let go of: who tests that sets less."""
    monkeypatch.setattr(recording, "EMIT_TIMEOUT", 600.0)
    monkeypatch.setattr(bus_module, "ENSURE_SECONDS", 600.0)


@pytest.fixture
async def quiet(database: Database) -> AsyncIterator[EventBus]:
    """A bus without a webhook in its settings: nothing is delivered unasked."""
    made = EventBus(database, Settings(_env_file=None, env="test"))
    yield made
    await made.drain()


@pytest.fixture
def bus(quiet: EventBus) -> EventBus:
    """The same; for tests of delivery one with a webhook."""
    return quiet
