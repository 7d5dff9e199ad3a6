"""What cannot be taken is a typed error, and costs no more than itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import DatabaseUnavailable, InvalidInput
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.reader import StatsReader
from atlas.vault import LocalVault
from atlas.vault.layout import as_date
from tests.support.samples import samples
from tests.support.sql import scalar

BAD: list[Any] = [
    None,
    "v",
    7,
    {},
    {"id": {"kind": "x"}},
    {"id": "good", "snippet": {"publishedAt": "yesterday"}},
    {"id": "good", "contentDetails": {"duration": "long"}},
]


async def test_one_bad_item_of_a_page_costs_that_item(database: Database) -> None:
    items = [{"id": f"v{number}", "snippet": {"title": "t"}} for number in range(49)]
    for bad in BAD:
        taken = await MaiaDAO(database).ingest_videos([*items[:20], bad, *items[20:]])
        assert taken == 49
        assert [error.row for error in taken.left_out] == [20]
    assert await scalar(database, "SELECT count(*) FROM videos") == 49


@pytest.mark.parametrize("bad", [None, {}, {"id": "v", "statistics": {"viewCount": "many"}}])
async def test_one_bad_item_of_counters_costs_that_item(bad: Any, database: Database) -> None:
    items = [{"id": f"v{number}", "statistics": {"viewCount": "5"}} for number in range(9)]
    taken = await MaiaDAO(database).update_video_stats_batch([bad, *items])
    assert taken == 9
    assert [error.row for error in taken.left_out] == [0]


@pytest.mark.parametrize("update", [None, "v", 7, {"video_id": "v", "tracking_tier": "DAILY"}])
async def test_an_update_of_a_wrong_shape_is_named(update: Any, database: Database) -> None:
    with pytest.raises(InvalidInput) as caught:
        await MaiaDAO(database).update_watchlist_schedule([update])
    assert caught.value.row == 0


@pytest.mark.parametrize("days", [float("nan"), float("inf"), 1e15, -1, "7", None])
async def test_ages_that_are_none_are_refused(
    days: Any, database: Database, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="retention_days"):
        await MaiaDAO(database, LocalVault(tmp_path)).archive_cold_stats(days)
    if days is not None:
        with pytest.raises(InvalidInput, match="retention_days"):
            await Janitor(database, LocalVault(tmp_path)).run(retention_days=days)
    with pytest.raises(InvalidInput, match="older_than"):
        await Archiver(database, LocalVault(tmp_path)).run(timedelta.max)


async def test_times_may_be_dates_and_text(database: Database, tmp_path: Path) -> None:
    rows = samples(times=4)
    await record_samples(database, rows)
    reader = StatsReader(database, LocalVault(tmp_path))
    middle = min(row.timestamp for row in rows) + timedelta(hours=1)
    wanted = await reader.count(since=middle)
    assert 0 < wanted < len(rows)
    assert await reader.count(since=middle.isoformat()) == wanted  # type: ignore[arg-type]
    assert await reader.count(since=middle.replace(tzinfo=None).isoformat()) == wanted  # type: ignore[arg-type]
    assert await reader.count(since=date(2000, 1, 1)) == len(rows)  # type: ignore[arg-type]
    for wrong in ("yesterday-ish", 7, pd.NaT, datetime(2026, 1, 1)):
        with pytest.raises(InvalidInput, match="since"):
            await reader.count(since=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="older_than"):
        await Archiver(database, LocalVault(tmp_path)).run("soon")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [pd.NaT, "0001-01-01T00:00:00+05:00", "9999-12-31T23:00:00-05:00", 7]
)
def test_dates_outside_of_the_calendar_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        as_date(value)


async def test_a_connection_that_closes_in_the_middle_of_ingest_is_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.repositories.hot import stats

    monkeypatch.setattr(stats, "_COPY_FROM", 1)
    now = datetime.now(UTC)
    rows = list(samples(times=2, start=now - timedelta(hours=8)))
    await record_samples(database, rows)
    allowed = stats.Stats._allowed

    async def cut(self: stats.Stats, newest: Any) -> Any:
        found = await allowed(self, newest)
        pid = await self.session.scalar(text("SELECT pg_backend_pid()"))
        other = Database(await database.libpq_url())
        async with other.transaction() as session:
            await session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        await other.close()
        return found

    monkeypatch.setattr(stats.Stats, "_allowed", cut)
    with pytest.raises(DatabaseUnavailable):
        await record_samples(database, rows)
    monkeypatch.undo()
    assert await record_samples(database, rows) == len(rows)
