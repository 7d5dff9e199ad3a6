"""Random histories of a watchlist that lies in PostgreSQL and in the vault: no video is lost, none doubled.

``ATLAS_CHAOS=N`` undergoes a fifth of N, five where it is not set; ``ATLAS_CHAOS_SEED=17`` replays one.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from atlas.config import reset_settings
from tests.faults.long_ago.acts import History
from tests.support.servers.postgres import Server

SEEDS = (
    [int(os.environ["ATLAS_CHAOS_SEED"])]
    if "ATLAS_CHAOS_SEED" in os.environ
    else range(int(os.environ.get("ATLAS_CHAOS", "25")) // 5)
)
STEPS = 15


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_history_loses_no_video_and_doubles_none(
    seed: int,
    postgres_server: Server,
    migrated_template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WATCHLIST_ON_INGEST", "true" if seed % 2 else "false")
    reset_settings()
    history = await asyncio.to_thread(History, postgres_server, migrated_template, tmp_path, seed)
    try:
        await history.undergo(STEPS)
    finally:
        await history.close()
