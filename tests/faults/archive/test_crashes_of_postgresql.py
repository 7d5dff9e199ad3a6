"""PostgreSQL dies while the archive is at a step: what was acknowledged is there afterwards, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.vault import LocalVault
from tests.faults.schedule import STEPS
from tests.support.children.archive_child import DONE, RETENTION, UNAVAILABLE
from tests.support.samples import as_written, in_folder, samples, visible
from tests.support.servers.cluster import Cluster
from tests.support.sql import scalar


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_this_step_loses_and_doubles_nothing(
    step: str, cluster: Cluster, mortal_database: Database, start: Any, tmp_path: Path
) -> None:
    database, vault = mortal_database, LocalVault(tmp_path / "vault")
    rows = samples(times=24)
    await record_samples(database, rows)
    # acknowledged just before, so that no checkpoint has it
    child = start(database, "archive", pause_at=(step, 1))
    await child.paused()
    await record_samples(database, late := samples(videos=3, times=30))
    await database.close()
    cluster.kill()
    cluster.start()
    child.resume()
    # between two transactions a crash may go unnoticed: the lock is gone, the fence still holds
    assert await child.code() in (UNAVAILABLE, DONE)
    wanted = as_written(rows + late)
    assert await visible(database, vault) == wanted
    await Archiver(database, vault).run(RETENTION)
    assert await visible(database, vault) == wanted
    assert in_folder(str(tmp_path / "vault" / "video_stats")) == wanted.keys()
    assert await scalar(database, "SELECT count(*) FROM archive_files WHERE state <> 'live'") == 0
