"""No space where temporary files or the vault lie: told, nothing lost, nothing half-written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.vault import LocalVault
from tests.support.samples import as_written, samples, visible


@pytest.mark.parametrize("limit", [2_000, 12_000])
async def test_a_full_disk_is_told_and_the_next_run_archives_everything(
    limit: int, database: Database, tmp_path: Path
) -> None:
    rows = samples(videos=3_000, times=4)
    await record_samples(database, rows)
    vault = LocalVault(tmp_path / "home" / "vault")

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # -B: the limit would cut compiled modules short, and every later process would read them
    done = subprocess.run(  # noqa: ASYNC221 - the test has nothing else to do meanwhile
        [sys.executable, "-B", "-c", "from atlas.cli.main import main; main()", "archive"],
        preexec_fn=small_disk,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "no space" in done.stderr
    assert "hint:" in done.stderr
    assert list(vault.store.list("video_stats")) == []
    assert await visible(database, vault) == as_written(rows)
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == len(rows)
    assert await visible(database, vault) == as_written(rows)
