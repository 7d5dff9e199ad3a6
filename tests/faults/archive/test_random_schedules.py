"""Random schedules: of kills, crashes and ill stores while samples keep coming, and of backups that are put
back, copies and losses of the database. Nothing is lost, nothing comes twice.

``make chaos N=1000`` runs so many; ``ATLAS_CHAOS_SEED=17`` replays one.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import atlas.archive.fencing.lock
from atlas.config import reset_settings
from atlas.db import Database
from tests.faults.ordeal import LEASE_SECONDS, Ordeal, Site
from tests.faults.rollbacks import Wandering
from tests.faults.schedule import draw
from tests.support.histories import History
from tests.support.places import Place
from tests.support.servers.cluster import Cluster
from tests.support.servers.postgres import Server

SEEDS = (
    [int(os.environ["ATLAS_CHAOS_SEED"])]
    if "ATLAS_CHAOS_SEED" in os.environ
    else range(int(os.environ.get("ATLAS_CHAOS", "30")))
)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_schedule_of_faults_loses_and_doubles_nothing(
    seed: int,
    cluster: Cluster,
    mortal_database: Database,
    start: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = draw(seed)
    if schedule.pooled:
        monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
        monkeypatch.setattr(atlas.archive.fencing.lock, "LEASE_SECONDS", LEASE_SECONDS)
        reset_settings()
    site = Site(Place("local", str(tmp_path / "vault"), tmp_path / "home"))
    await Ordeal(schedule, cluster, mortal_database, start, site).undergo()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_schedule_of_backups_and_copies_loses_and_doubles_nothing(
    seed: int,
    postgres_server: Server,
    migrated_template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the lock as a lease: while a job runs its database can be copied
    monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
    reset_settings()
    history = await asyncio.to_thread(
        History, postgres_server, migrated_template, tmp_path / "vault"
    )
    try:
        await Wandering(history, seed=seed).undergo()
    finally:
        await history.close()
