"""SIGKILL between a change of the files that count and its publication: cold readers miss nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.reader import ColdReader
from atlas.reading.footers import footers
from atlas.vault import LocalVault
from tests.support.children.archive_child import KILLED, RETENTION
from tests.support.samples import as_written, samples, shown_by
from tests.support.sql import fetch

#: Six slices of two days.
ROWS = samples(times=36)
FORGOTTEN = "video-0007"

KILLS = [
    # the last of six is live, and nothing says so
    ("archive", (), "archive_live", 6),
    ("archive", (), "manifest_published", 1),
    ("compact", (), "archive_verified", 1),
    ("compact", (), "archive_swapped", 1),
    ("forget", (FORGOTTEN,), "archive_swapped", 3),
    # nothing is deleted yet
    ("forget", (FORGOTTEN,), "manifest_published", 1),
]


@pytest.mark.parametrize(("job", "arguments", "step", "number"), KILLS)
async def test_a_cold_reader_shows_each_sample_once_after_a_kill_and_the_next_run_publishes(
    job: str,
    arguments: tuple[str, ...],
    step: str,
    number: int,
    start: Any,
    database: Database,
    tmp_path: Path,
) -> None:
    vault = LocalVault(tmp_path / "vault")
    await record_samples(database, ROWS)
    archiver = Archiver(database, vault)
    if job != "archive":
        await archiver.run(RETENTION)
    expected = as_written(one for one in ROWS if one.video_id not in arguments)
    assert await start(database, job, *arguments, kill_at=(step, number)).code() == KILLED
    footers.clear()
    reader = ColdReader(vault)
    assert await shown_by(reader) == expected
    assert await reader.count() == len(expected)
    await archiver.run(RETENTION)
    assert await shown_by(reader) == expected
    (path,) = (tmp_path / "vault/_atlas/manifests").iterdir()
    said = json.loads(path.read_text())
    live = await fetch(database, "SELECT object_key AS key FROM archive_files WHERE state = 'live'")
    assert {file["key"] for file in said["files"]} == {row["key"] for row in live}
    assert said["settled"] and not said["erasing"]
