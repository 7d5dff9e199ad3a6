"""No space where temporary files or the vault lie: told, nothing lost, nothing half-written."""

from __future__ import annotations

import asyncio
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

    done = await asyncio.to_thread(_on_a_small_disk, limit, "archive")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "no space" in done.stderr
    assert "hint:" in done.stderr
    assert list(vault.store.list("video_stats")) == []
    assert await visible(database, vault) == as_written(rows)
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == len(rows)
    assert await visible(database, vault) == as_written(rows)


def test_an_import_without_space_for_its_temporary_files_says_so(
    database_url: str, tmp_path: Path
) -> None:
    lines = (f"dQw4w9WgX{n:05d},2026-01-{n % 28 + 1:02d}T12:00:00Z,{n}\n" for n in range(20_000))
    (tmp_path / "in.csv").write_text("video_id,timestamp,views\n" + "".join(lines))
    done = _on_a_small_disk(50_000, "import", str(tmp_path / "in.csv"))
    assert done.returncode == 1, done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: no space for a temporary file in"), done.stderr
    assert "ATLAS_HOME" in hint


def _on_a_small_disk(limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, where no file may be larger than ``limit``."""

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # -B: the limit would cut compiled modules short, and every later process would read them
    return subprocess.run(
        [sys.executable, "-B", "-c", "from atlas.cli.main import main; main()", *arguments],
        preexec_fn=small_disk,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=60,
        check=False,
    )
