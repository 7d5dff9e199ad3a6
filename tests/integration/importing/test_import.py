"""Real input, from the file to both tiers."""

from __future__ import annotations

import csv
import gzip
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.importing.importer import import_csv
from atlas.reader import StatsReader
from atlas.vault import LocalVault

REAL = Path(__file__).parents[4] / "shared" / "data" / "youtube_trending_gb.csv.gz"
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
async def test_the_real_export_is_counted_to_the_row_and_survives_the_archive(
    database: Database, tmp_path: Path
) -> None:
    rows, good = expected()
    report = await import_csv(database, REAL, date_formats=["%d.%m"], year=2017)
    assert report.rows == rows == report.good + report.bad
    assert report.samples == len(good)
    assert report.videos == len({video_id for video_id, _ in good})
    bad = rejected_rows(str(report.rejected))
    # the other stray date stands in a row whose id is bad already
    assert len(bad) == report.bad == 116
    assert sum(one["value"] == "#NAME?" and one["field"] == "video_id" for one in bad) == 115
    assert [one["value"] for one in bad if one["field"] == "date"] == ["24.09l7yxJDFvTRM"]
    vault = LocalVault(tmp_path / "vault")
    reader = StatsReader(database, vault)

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


@needs_real_input
async def test_importing_twice_changes_nothing(database: Database, tmp_path: Path) -> None:
    first = await import_csv(database, REAL, date_formats=["%d.%m"], year=2017)
    second = await import_csv(database, REAL, date_formats=["%d.%m"], year=2017)
    assert first == second
    async with database.transaction() as session:
        samples = await session.scalar(text("SELECT count(*) FROM video_stats_log"))
    assert samples == first.samples


async def test_the_last_row_of_a_repeated_sample_wins_across_chunks(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.importing.importer._CHUNK", 2)
    path = tmp_path / "repeats.csv"
    lines = [f"jt2OHQh0HoQ,2026-01-0{1 + n % 2},{n}" for n in range(7)]
    path.write_text("\n".join(["id,date,views", *lines]))
    report = await import_csv(database, path)
    assert (report.rows, report.good, report.bad, report.samples) == (7, 7, 0, 2)
    assert report.rejected is None
    assert not [name for name in os.listdir(tmp_path) if name.endswith("rejected.csv")]
    history = await StatsReader(database, LocalVault(tmp_path / "vault")).history("jt2OHQh0HoQ")
    assert history["views"].to_pylist() == [6, 5]
