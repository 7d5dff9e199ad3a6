"""A database and the vault that it archives into, with a past."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.histories import History
from tests.support.servers.postgres import Server


@pytest.fixture
async def history(
    postgres_server: Server, migrated_template: str, tmp_path: Path
) -> AsyncIterator[History]:
    history = await asyncio.to_thread(
        History, postgres_server, migrated_template, tmp_path / "vault"
    )
    yield history
    await history.close()
