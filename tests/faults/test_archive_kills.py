"""SIGKILL at every step of the archive while samples keep coming: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, Counters, Key, as_written, in_folder, samples, visible

STEPS = [
    "archive_sealed",
    "archive_exported",
    "archive_stored",
    "archive_written",
    "archive_verified",
    "archive_live",
]


#: Random schedules to run; ``make chaos N=...`` sets it.
SCHEDULES = int(os.environ.get("ATLAS_CHAOS", "6"))


async def start_child(url: str, folder: Path, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.archive_child",
        url,
        str(folder),
        *args,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def finish(child: asyncio.subprocess.Process) -> int:
    _, err = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode in (0, -signal.SIGKILL), err.decode()[-3000:]
    return int(child.returncode or 0)


class Writer:
    """Writes new, late and corrected samples, and remembers which were acknowledged."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.random = random.Random(seed)
        self.acknowledged: dict[Key, Counters] = {}

    async def write_some(self) -> None:
        rows = []
        for _ in range(self.random.randint(1, 30)):
            late = OLD + timedelta(minutes=self.random.randrange(0, 24 * 60, 7))
            rows.append(
                Sample(f"video-{self.random.randrange(12):04d}", late, self.random.randrange(10**6))
            )
        await record_samples(self.database, rows)
        self.acknowledged.update(as_written(rows))

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Write all the while."""

        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await self.write_some()
                await asyncio.sleep(self.random.random() * 0.02)

        task = asyncio.create_task(write())
        try:
            yield
        finally:
            # a batch under way is finished, so that what is acknowledged is known exactly
            stop.set()
            await task


async def check(
    database: Database, vault: LocalVault, folder: Path, wanted: dict[Key, Counters]
) -> None:
    """Promise 1, for the reader and for a program that only reads the folder."""
    assert await visible(database, vault) == wanted
    async with database.transaction() as session:
        archived = await session.scalar(
            text("SELECT coalesce(sum(row_count), 0) FROM archive_files WHERE state = 'live'")
        )
    if archived:
        found = in_folder(str(folder / "video_stats"))
        assert found <= set(wanted)


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_this_step_loses_and_doubles_nothing(
    step: str, database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    vault = LocalVault(folder)
    writer = Writer(database, seed=STEPS.index(step))
    rows = samples(times=12)
    await record_samples(database, rows)
    writer.acknowledged = as_written(rows)
    for _ in range(2):  # the second run meets what the first one left
        async with writer.at_work():
            child = await start_child(await database.libpq_url(), folder, "archive", step)
            assert await finish(child) == -signal.SIGKILL
        await check(database, vault, folder, writer.acknowledged)
    await Archiver(database, vault).run(timedelta(days=7))
    await check(database, vault, folder, writer.acknowledged)
    assert in_folder(str(folder / "video_stats")) == set(writer.acknowledged)
    async with database.transaction() as session:
        left = await session.scalar(
            text("SELECT count(*) FROM archive_files WHERE state <> 'live' OR relation IS NOT NULL")
        )
        tables = await session.scalar(
            text("SELECT count(*) FROM pg_class WHERE relname LIKE 'video\\_stats\\_log\\_sealed%'")
        )
        hot = await session.scalar(text("SELECT count(*) FROM video_stats_log"))
        live = await session.scalar(text("SELECT count(*) FROM archive_files"))
    assert (left, tables, hot) == (0, 0, 0)
    # one object for each live row of the ledger: no orphans of the runs that died
    assert len(list(vault.store.list("video_stats"))) == live


@pytest.mark.parametrize("seed", range(SCHEDULES))
async def test_kills_at_random_moments_lose_and_double_nothing(
    seed: int, database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    vault = LocalVault(folder)
    writer = Writer(database, seed)
    rows = samples(times=18)
    await record_samples(database, rows)
    writer.acknowledged = as_written(rows)
    for _ in range(3):
        async with writer.at_work():
            child = await start_child(await database.libpq_url(), folder, "archive")
            # start-up takes most of a second; the kill falls into it or into the work
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(child.wait(), 0.5 + writer.random.random())
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await finish(child)
        await check(database, vault, folder, writer.acknowledged)
    await Archiver(database, vault).run(timedelta(days=7), wait=True)
    await check(database, vault, folder, writer.acknowledged)
    assert in_folder(str(folder / "video_stats")) == set(writer.acknowledged)


async def test_two_archivers_at_once_lose_and_double_nothing(
    database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    vault = LocalVault(folder)
    rows = samples(times=48)
    await record_samples(database, rows)
    url = await database.libpq_url()
    children = [await start_child(url, folder, "archive") for _ in range(2)]
    results = []
    for child in children:
        _, err = await asyncio.wait_for(child.communicate(), 60)
        results.append((child.returncode, b"ArchiverBusy" in err))
    # one worked; the other was told busy, or came when all was done
    assert (0, False) in results
    assert all(result in ((0, False), (1, True)) for result in results)
    assert await visible(database, vault) == as_written(rows)
    assert len(list(vault.store.list("video_stats"))) == 8


async def test_readers_see_every_sample_once_while_the_archiver_works(
    database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    vault = LocalVault(folder)
    rows = samples(times=72)
    await record_samples(database, rows)
    child = await start_child(await database.libpq_url(), folder, "archive")
    looks = 0
    while child.returncode is None:
        assert await visible(database, vault) == as_written(rows)
        looks += 1
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(child.wait(), 0.01)
    assert await finish(child) == 0
    assert await visible(database, vault) == as_written(rows)
    assert looks > 3


@pytest.mark.parametrize("step", STEPS[2:])
async def test_a_janitor_killed_at_this_step_deletes_nothing_that_is_not_in_the_vault(
    step: str, database: Database, tmp_path: Path
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
    child = await start_child(await database.libpq_url(), folder, "janitor", step)
    assert await finish(child) == -signal.SIGKILL
    async with database.transaction() as session:
        left = await session.scalar(text("SELECT count(*) FROM videos"))
    assert left == (0 if step == "archive_live" else 50)
    result = await Janitor(database, vault).run()
    assert result["deleted"] == left
    import pyarrow.dataset as ds

    table = ds.dataset(str(folder / "videos"), format="parquet", partitioning="hive").to_table()
    assert sorted(table["id"].to_pylist()) == sorted(f"doomed-{n}" for n in range(1, 51))
