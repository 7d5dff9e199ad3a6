"""Real input, from the file to both tiers."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.importing.importer import Options, import_files
from atlas.importing.stored import StoredSamples
from atlas.reader import StatsReader
from atlas.repositories.hot.bulk import BulkStats
from atlas.vault import LocalVault
from tests.support.cli import Run

REAL = next(
    (
        found
        for folder in Path(__file__).parents
        if (found := folder / "shared" / "data" / "youtube_trending_gb.csv.gz").exists()
    ),
    Path("nowhere"),
)
FORMAT = Options(date_formats=("%d.%m",), year=2017)
needs_real_input = pytest.mark.skipif(
    not REAL.exists(), reason="the real export is not beside the checkout"
)


def expected() -> tuple[int, dict[tuple[str, datetime], tuple[int, int | None, int]]]:
    """Rows in the file, and its good samples, told independently of the importer."""
    rows, good = 0, {}
    with gzip.open(REAL, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows += 1
            written = re.fullmatch(r"(\d{1,2})\.(09|1)", row["date"])
            if written and re.fullmatch(r"[A-Za-z0-9_-]{11}", row["video_id"]):
                month = 9 if written[2] == "09" else 10
                day = datetime(2017, month, int(written[1]), tzinfo=UTC)
                good[row["video_id"], day] = (
                    int(row["views"]),
                    int(row["likes"]) if row["likes"] else None,
                    int(row["comment_total"]),
                )
    return rows, good


def rejected_rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@needs_real_input
async def test_the_real_export_is_counted_to_the_row_and_an_identical_one_rewrites_nothing(
    database: Database, tmp_path: Path
) -> None:
    rows, good = expected()
    vault = LocalVault(tmp_path / "vault")
    reader = StatsReader(database, vault)
    report = await import_files(database, [REAL], FORMAT, vault=vault)
    assert report.rows == rows == report.good + report.bad
    assert report.samples == report.new == len(good)
    assert report.videos == len({video_id for video_id, _ in good})
    bad = rejected_rows(str(report.rejected))
    # the other stray date stands in a row whose id is bad already
    assert len(bad) == report.bad == 116
    assert sum(one["value"] == "#NAME?" and one["field"] == "video_id" for one in bad) == 115
    assert [one["value"] for one in bad if one["field"] == "date"] == ["24.09l7yxJDFvTRM"]

    async def shown() -> dict[tuple[str, datetime], tuple[int, int | None, int]]:
        found = {}
        async for batch in reader.scan():
            for one in batch.to_pylist():
                found[one["video_id"], one["timestamp"]] = (
                    one["views"],
                    one["likes"],
                    one["comment_count"],
                )
        return found

    assert await shown() == good
    archived = await Archiver(database, vault).run(timedelta(days=7))
    assert archived.rows == len(good)
    # the whole column says what the format does
    again = await import_files(database, [REAL], Options(year=2017), vault=vault)
    assert (again.new, again.replaced, again.unchanged) == (0, 0, len(good))
    assert await shown() == good
    assert await reader.count() == len(good)
    async with database.transaction() as session:
        counts = (
            await session.execute(
                text(
                    "SELECT (SELECT count(*) FROM videos), (SELECT count(*) FROM watchlist), "
                    "(SELECT count(*) FROM videos WHERE channel_id NOT IN (SELECT id FROM channels)), "
                    "(SELECT count(*) FROM video_stats_log)"
                )
            )
        ).one()
    assert tuple(counts) == (report.videos, report.videos, 0, 0)


async def test_a_later_export_replaces_what_it_knows_and_nothing_else(
    database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")

    async def take(content: str) -> tuple[int, int, int]:
        (tmp_path / "export.csv").write_text(content)
        report = await import_files(database, [tmp_path / "export.csv"], vault=vault)
        return report.new, report.replaced, report.unchanged

    async def shown() -> list[tuple[int | None, ...]]:
        history = await StatsReader(database, vault).history("jt2OHQh0HoQ")
        return [(row["views"], row["likes"], row["comment_count"]) for row in history.to_pylist()]

    line = "\njt2OHQh0HoQ,2026-01-0"
    full = f"id,date,views,likes,comments{line}1,500,10,3{line}2,600,11,4\n"
    assert await take(full) == (2, 0, 0)
    assert await take(f"videoId,date,viewCount,mood{line}1,501,x{line}3,700,y\n") == (1, 1, 0)
    assert await shown() == [(501, 10, 3), (600, 11, 4), (700, None, None)]
    await Archiver(database, vault).run(timedelta(days=7))
    assert await take(f"videoId,date,likeCount{line}1,10{line}2,12\n") == (0, 1, 1)
    assert await take(f"videoId,date,title{line}1,A title\n") == (0, 0, 0)
    assert await shown() == [(501, 10, 3), (600, 12, 4), (700, None, None)]


async def test_new_samples_are_known_as_such_by_their_key_and_archived_ones_are_not_new(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.importing.files.spool.ROWS", 2)
    monkeypatch.setattr("atlas.importing.loading.BUCKET", 2)
    looks: list[int] = []
    look = StoredSamples.among

    async def watched(self: StoredSamples, samples: pa.Table) -> tuple[pa.Table, str | None]:
        looks.append(samples.num_rows)
        return await look(self, samples)

    monkeypatch.setattr(StoredSamples, "among", watched)
    vault = LocalVault(tmp_path / "vault")
    path = tmp_path / "export.csv"

    async def take(*days: int) -> tuple[int, int, int]:
        rows = ({"id": "jt2OHQh0HoQ", "date": f"2026-01-{day:02}", "views": day} for day in days)
        path.write_text("\n".join(map(json.dumps, rows)))
        report = await import_files(database, [path], vault=vault)
        return report.new, report.replaced, report.unchanged

    assert (await take(*range(1, 7)), looks) == ((6, 0, 0), [])
    # a bucket with a stored sample is compared, and so are those that follow while they hold such
    assert (await take(*range(6, 13)), looks) == ((6, 0, 1), [2, 2])
    await Archiver(database, vault).run(timedelta(days=7))
    assert await take(*range(1, 14)) == (1, 0, 12)
    assert await StatsReader(database, vault).count() == 13


async def test_samples_of_a_forgotten_video_are_none_of_the_new_ones(
    database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    path = tmp_path / "export.csv"
    path.write_text("id,date,views\njt2OHQh0HoQ,2026-01-01,1\n9bZkp7q19f0,2026-01-01,2\n")
    await import_files(database, [path], vault=vault)
    await Archiver(database, vault).forget(["9bZkp7q19f0"])
    line = "\n9bZkp7q19f0,2026-01-01,2\n9bZkp7q19f0,2026-01-03,2"
    for more, expected in (
        ("", (0, 0, 0, 2)),
        ("\njt2OHQh0HoQ,2026-01-02,1", (1, 0, 0, 2)),
        ("\njt2OHQh0HoQ,2026-01-02,1", (0, 0, 1, 2)),
    ):
        path.write_text(f"id,date,views{line}{more}\n")
        report = await import_files(database, [path], vault=vault)
        counts = (report.new, report.replaced, report.unchanged, report.forgotten)
        assert counts == expected


async def test_the_last_row_of_a_repeated_sample_wins_wherever_it_stands(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.importing.files.spool.ROWS", 2)
    monkeypatch.setattr("atlas.importing.loading.BUCKET", 2)
    path = tmp_path / "repeats.csv"
    lines = [f"jt2OHQh0HoQ,2026-01-0{1 + n % 2},{n}" for n in range(7)]
    path.write_text("\n".join(["id,date,views", *lines]))
    vault = LocalVault(tmp_path / "vault")
    report = await import_files(database, [path], vault=vault)
    assert (report.rows, report.good, report.bad, report.samples, report.new) == (7, 7, 0, 2, 2)
    assert report.rejected is None
    assert not [name for name in os.listdir(tmp_path) if name.endswith("rejected.csv")]
    history = await StatsReader(database, vault).history("jt2OHQh0HoQ")
    assert history["views"].to_pylist() == [6, 5]


async def test_one_transaction_locks_few_partitions_however_long_a_history_is(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.ingest.PARTITIONS", 4)
    written: list[set[datetime]] = []
    upsert = BulkStats.upsert_table

    async def watched(self: BulkStats, samples: pa.Table, *, latest: datetime) -> int:
        written.append(set(samples["timestamp"].to_pylist()))
        return await upsert(self, samples, latest=latest)

    monkeypatch.setattr(BulkStats, "upsert_table", watched)
    days = [datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(10)]
    lines = [
        f"{video},{day:%Y-%m-%d},{n}"
        for n, day in enumerate(days)
        for video in ("jt2OHQh0HoQ", "9bZkp7q19f0")
    ]
    path = tmp_path / "history.csv"
    path.write_text("\n".join(["id,date,views", *lines]))
    report = await import_files(database, [path], vault=LocalVault(tmp_path / "vault"))
    assert (report.new, [len(one) for one in written]) == (20, [4, 4, 2])
    assert set.union(*written) == set(days)


def test_by_command_nothing_good_is_a_failure_and_the_input_stays(
    database: Database, atlas: Run, tmp_path: Path
) -> None:
    path = tmp_path / "export.csv"
    path.write_text("id,date,views\n#NAME?,2026-01-01,5\n")
    before = path.read_bytes()
    done = atlas("import", "export.csv", "--report", "export.csv")
    assert (done.returncode, path.read_bytes()) == (2, before), done.stderr
    done = atlas("import", "export.csv", "--json")
    assert (done.returncode, json.loads(done.stdout)["good"]) == (1, 0)
