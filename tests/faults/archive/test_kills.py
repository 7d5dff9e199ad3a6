"""SIGKILL at every step of the archive while samples keep coming: nothing lost, nothing twice."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.faults.load import Reader, Writer
from tests.faults.schedule import STEPS
from tests.faults.truth import Truth, in_files, shown_by_reader
from tests.support.children.archive_child import BUSY, DONE, KILLED, RETENTION
from tests.support.samples import OLD, as_written, in_folder, samples, visible
from tests.support.sql import scalar


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_this_step_loses_and_doubles_nothing(
    step: str, start: Any, database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    vault, truth = LocalVault(folder), Truth()
    writer = Writer(database, vault, truth, seed=STEPS.index(step))
    await writer.write(samples(times=12))
    for _ in range(2):  # the second run meets what the first one left
        reader = Reader(database, vault, truth)
        async with reader.at_work(), writer.at_work(batches=6):
            assert await start(database, "archive", kill_at=(step, 1)).code() == KILLED
        assert await shown_by_reader(database, vault) == truth.newest()
        assert in_files(folder) <= truth.versions.keys()
    await Archiver(database, vault).run(RETENTION)
    assert await shown_by_reader(database, vault) == truth.newest()
    archived = in_folder(str(folder / "video_stats"))
    hot = await scalar(database, "SELECT count(*) FROM video_stats_log")
    assert len(archived) + hot == len(truth.versions)
    unfinished = "SELECT count(*) FROM archive_files WHERE state <> 'live' OR relation IS NOT NULL"
    assert await scalar(database, unfinished) == 0
    # one object for each live row of the ledger: no orphans of the runs that died
    live = await scalar(database, "SELECT count(*) FROM archive_files")
    assert len(list(vault.store.list("video_stats"))) == live


async def test_two_archivers_at_once_lose_and_double_nothing(
    start: Any, database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    rows = samples(times=48)
    await record_samples(database, rows)
    children = [start(database, "archive") for _ in range(2)]
    codes = [await child.code() for child in children]
    # one worked; the other was told busy, or came when all was done
    assert DONE in codes
    assert set(codes) <= {DONE, BUSY}
    assert await visible(database, vault) == as_written(rows)
    assert len(list(vault.store.list("video_stats"))) == 8


async def test_readers_see_every_sample_once_while_the_archiver_works(
    start: Any, database: Database, tmp_path: Path
) -> None:
    vault, truth = LocalVault(tmp_path / "vault"), Truth()
    await Writer(database, vault, truth, seed=0).write(samples(times=72))
    reader = Reader(database, vault, truth)
    async with reader.at_work():
        assert await start(database, "archive").code() == DONE
    assert await shown_by_reader(database, vault) == truth.newest()
    assert reader.looks > 3


async def test_a_run_ends_though_late_samples_keep_coming(
    start: Any, database: Database, tmp_path: Path
) -> None:
    await record_samples(database, samples(times=24))
    child = start(database, "archive")
    number = 0
    while not await child.ended(0):
        number += 1
        moment = OLD + timedelta(hours=number % 24, seconds=number)
        await record_samples(database, [Sample("late", moment, number)])
    assert await child.code() == DONE
    # each range was taken once
    assert await scalar(database, "SELECT count(*) FROM archive_files") == 4


@pytest.mark.parametrize("step", STEPS[2:])
async def test_a_janitor_killed_at_this_step_deletes_nothing_that_is_not_in_the_vault(
    step: str, start: Any, database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    vault = LocalVault(folder)
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
                "SELECT 'doomed-' || n, 'A title', 'DONE', true, true, now() - interval '30 days' "
                "FROM generate_series(1, 50) n"
            )
        )
    assert await start(database, "janitor", kill_at=(step, 1)).code() == KILLED
    left = await scalar(database, "SELECT count(*) FROM videos")
    assert left == (0 if step == "archive_live" else 50)
    await Janitor(database, vault).run()
    assert await scalar(database, "SELECT count(*) FROM videos") == 0
    table = ds.dataset(str(folder / "videos"), format="parquet", partitioning="hive").to_table()
    assert sorted(table["id"].to_pylist()) == sorted(f"doomed-{n}" for n in range(1, 51))
