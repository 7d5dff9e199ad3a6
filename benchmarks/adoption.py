"""Rebuilding and adopting a ledger from files, beside a plain read of them; and peak memory.

The files are large ones, as compaction leaves them. Each job runs in a process of its own, whose peak
resident memory and times the system reports; PostgreSQL is not counted. Rates by processor time hold on a
busy machine too, and count the second core that decodes ahead.

Usage: python -m benchmarks adoption, or for one job: python -m benchmarks.adoption URL FOLDER JOB
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.repositories.hot.partitions import Partitions
from atlas.tables.fingerprint import Fingerprint
from atlas.tables.parquet import ROW_GROUP_ROWS, STATS_SCHEMA, open_writer
from atlas.tables.sample import SAMPLE_COLUMNS, stated_in_footer
from atlas.vault import LocalVault
from benchmarks.reading import sorted_ids
from benchmarks.support import Result

#: Rows of a file at most: a day.
_FILE_ROWS = 5_000_000
_DAY = timedelta(days=1)
_HOURS = 24
#: What of the first file is hot, too, in one of the runs: the budget's default holds 1.5 M rows.
_HOT_ROWS = 1_000_000


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    """``rows`` in all; 20 M for the bound of memory."""
    owner = uuid.uuid4()
    vault = folder / "vault"
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 30 * _DAY
    files = -(-rows // _FILE_ROWS)
    videos = rows // files // _HOURS
    for day in range(files):
        await asyncio.to_thread(_make_file, vault, owner, first + day * _DAY, day + 1, videos)
    made = files * videos * _HOURS
    url = await database.libpq_url()
    read = await _in_a_child(url, vault, "read")
    rebuilt = await _in_a_child(url, vault, "rebuild")
    await _go_back(database)
    adopted = await _in_a_child(url, vault, "adopt")
    await _go_back(database)
    hot = min(videos, _HOT_ROWS // _HOURS)
    await _make_hot(database, first, sorted_ids(videos)[:hot].tolist())
    corrected = await _in_a_child(url, vault, "adopt")
    assert {one["rows"] for one in (read, rebuilt, adopted, corrected)} == {made}
    assert corrected["stale"] == hot * _HOURS
    results = []
    for name, done, goal in (
        ("rebuild", rebuilt, 0.5),
        ("adopt", adopted, 0.5),
        (f"adopt, {hot * _HOURS:,} hot rows go aside", corrected, None),
    ):
        results += [
            Result(
                f"{name}, {made:,} rows",
                made / done[by],
                "pyarrow reads the files",
                made / read[by],
                unit,
                goal=wanted,
            )
            for by, unit, wanted in (("wall", "rows/s", goal), ("cpu", "rows/s of CPU", None))
        ]
        results += [
            Result(f"{name}, peak memory", done["peak"] / 1e6, "500 MB", 500, "MB", 1, most=True),
        ]
    return results


def _make_file(vault: Path, owner: uuid.UUID, start: datetime, seq: int, videos: int) -> None:
    """A day as the archiver writes it: every video once an hour."""
    key = f"video_stats/date={start:%Y-%m-%d}/00-{seq}-{uuid.uuid4().hex}.parquet"
    path = vault / key
    path.parent.mkdir(parents=True)
    footer = {
        "atlas.dataset": "video_stats",
        "atlas.slice_start": start.isoformat(),
        "atlas.slice_end": (start + _DAY).isoformat(),
        "atlas.seq": str(seq),
        "atlas.batch_id": str(uuid.uuid4()),
        "atlas.owner": str(owner),
    }
    fingerprint = Fingerprint(SAMPLE_COLUMNS)
    with open_writer(path, STATS_SCHEMA, footer) as writer:
        for table in _groups(start, seq, videos):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            for batch in table.to_batches():
                fingerprint.update(batch)
        writer.add_key_value_metadata(
            {
                **stated_in_footer(),
                "atlas.rows": str(fingerprint.rows),
                "atlas.fingerprint": fingerprint.hex,
            }
        )


def _groups(start: datetime, seq: int, videos: int) -> Iterator[pa.Table]:
    """Row groups of some videos' hours."""
    ids, numbers = sorted_ids(videos), np.random.default_rng(seq)
    begun = int(start.timestamp() * 1e6)
    for at in range(0, videos, ROW_GROUP_ROWS // _HOURS):
        some = pa.array(ids[at : at + ROW_GROUP_ROWS // _HOURS])
        video = np.repeat(np.arange(len(some)), _HOURS)
        hour = np.tile(np.arange(_HOURS), len(some))
        rate = numbers.pareto(1.0, len(some))[video] * 20
        views = (rate * (seq * _HOURS + hour) * 10).astype(np.int64) + numbers.integers(
            0, 3, len(video)
        )
        yield pa.table(
            [
                pa.DictionaryArray.from_arrays(pa.array(video, pa.int32()), some).cast(pa.string()),
                pa.array(begun + hour * 3_600_000_000).cast(pa.timestamp("us", "UTC")),
                pa.array(views),
                pa.array(views // 30, mask=video % 20 == 0),
                pa.array(views // 400),
                pa.repeat(pa.scalar(seq, pa.int64()), len(video)),
            ],
            schema=STATS_SCHEMA,
        )


async def _go_back(database: Database) -> None:
    """The database as a backup from before the files were made has it."""
    async with database.transaction() as session:
        await session.execute(text("TRUNCATE archive_files"))


async def _make_hot(database: Database, day: datetime, ids: list[str]) -> None:
    """The same backup with rows of the first file still hot."""
    async with database.transaction() as session:
        await Partitions(session).ensure([day], 24)
    async with database.transaction() as session:
        await session.execute(
            text("""
                INSERT INTO video_stats_log (video_id, timestamp, views)
                SELECT id, CAST(:day AS timestamptz) + hour * interval '1 hour', 0
                FROM unnest(CAST(:ids AS text[])) AS ids (id), generate_series(0, 23) hour
                """),
            {"day": day, "ids": ids},
        )


async def _in_a_child(url: str, vault: Path, job: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.adoption", url, str(vault), job]
    environment = os.environ | {"ATLAS_HOME": str(vault.parent / "home")}
    done = await asyncio.to_thread(
        subprocess.run, command, check=True, capture_output=True, text=True, env=environment
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


async def _run(url: str, folder: str, job: str) -> dict[str, float]:
    """One job in this process."""
    database, vault = Database(url), LocalVault(Path(folder))
    stale = 0
    begun, at = time.process_time(), time.perf_counter()
    if job == "read":
        rows = await asyncio.to_thread(_read, Path(folder))
    elif job == "rebuild":
        rows = (await Archiver(database, vault).rebuild()).rows
    else:
        report = await Archiver(database, vault).adopt()
        rows, stale = report.rows, report.stale_rows
    cpu, wall = time.process_time() - begun, time.perf_counter() - at
    await database.close()
    return {"rows": rows, "stale": stale, "cpu": cpu, "wall": wall, "peak": _peak()}


def _read(folder: Path) -> int:
    """What any verified read does: every page decoded, and its checksum compared."""
    rows = 0
    for path in sorted(folder.rglob("*.parquet")):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS):
                rows += batch.num_rows
    return rows


def _peak() -> int:
    """This process's peak resident memory in bytes; `getrusage` counts its parent's too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(*sys.argv[1:]))))
