"""An executor on a clock of the test, and a server on loopback that answers as the YouTube API does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from atlas import retry as retries
from atlas.config import ApiKey
from atlas.keys import Accounts, HydraExecutor, KeyRing
from tests.support.keys import Clock
from tests.support.servers.http import loopback_server
from tests.support.servers.youtube import YouTube


@pytest.fixture
async def youtube() -> AsyncIterator[YouTube]:
    with loopback_server() as server:
        yield YouTube(server)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retries, "pause", clock.pause)
    return clock


@pytest.fixture
def make(clock: Clock) -> Callable[..., HydraExecutor]:
    """An executor over the given keys, that raises when they are spent unless told otherwise."""

    def make(*keys: str | ApiKey, on_exhausted: Any = "raise") -> HydraExecutor:
        ring = KeyRing("hunting", keys, accounts=Accounts(clock))
        return HydraExecutor(ring, agent_name="hunter", on_exhausted=on_exhausted)

    return make
