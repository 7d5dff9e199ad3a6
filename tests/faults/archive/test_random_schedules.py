"""Random schedules of kills, crashes and ill stores while samples keep coming: nothing lost, nothing twice.

``make chaos N=1000`` runs so many; ``ATLAS_CHAOS_SEED=17`` replays one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import atlas.archive.fencing.lock
from atlas.config import reset_settings
from atlas.db import Database
from tests.faults.ordeal import LEASE_SECONDS, Ordeal, Site
from tests.faults.schedule import draw
from tests.support.places import Place
from tests.support.servers.cluster import Cluster

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
