"""Of several versions of a sample the latest counts, by whatever way each one came."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

import pytest

import atlas.reading.appended as appended
import atlas.vault.metrics as metrics
from tests.support.histories import History, in_order
from tests.support.samples import OLD


async def test_a_hot_row_from_before_its_correction_goes_aside(history: History) -> None:
    """R11: it would be archived with a higher seq and count for good."""
    await history.archive("keep", 0, hour=48)
    await history.write("A", 1)
    await history.write("B", 7)
    backup = await history.backup()
    await history.write("A", 2)
    await history.archive("C", 3)
    await history.put_back(backup)
    report = await history.archiver.adopt()
    assert report.stale_rows == 2  # B is the same in both
    assert await history.sql("SELECT views FROM stale_samples WHERE video_id = 'A'") == 1
    await in_order(history, {"keep@48": 0, "A@1": 2, "B@1": 7, "C@1": 3})


async def test_a_hot_row_stays_where_only_appended_rows_are_later(history: History) -> None:
    """R11, the other way: numbers of appended rows say nothing of when a hot row was written."""
    await history.archive("keep", 0)
    await history.write("A", 1)
    backup = await history.backup()
    history.append("A", 2)
    await history.archiver.compact()
    await history.clean()
    await history.put_back(backup)
    assert (await history.archiver.adopt()).stale_rows == 0
    await in_order(history, {"keep@1": 0, "A@1": 1})


async def test_a_restored_sample_that_was_not_written_to_is_let_go(history: History) -> None:
    """R8: an untouched copy does not count as a correction, whatever was appended meanwhile."""
    await history.archive("A", 1)
    await history.archiver.restore(OLD, OLD + timedelta(hours=6))
    history.append("A", 2)
    assert await history.seen() == {"A@1": 2}
    report = await history.archiver.release()
    assert (report.rows, report.kept) == (1, 0)
    await in_order(history, {"A@1": 2})


async def test_a_restore_does_not_show_what_an_append_has_outdated(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8b: the files were listed, then a later sample was appended and shown."""
    import atlas.archive.maintenance.restore as restore

    await history.archive("A", 1)
    real = restore._check_budget

    async def check(*args: Any) -> None:
        history.append("A", 2)
        assert await history.seen() == {"A@1": 2}
        await real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_check_budget", check)
        await history.archiver.restore(OLD, OLD + timedelta(hours=6))
    assert await history.seen() == {"A@1": 2}
    await history.archiver.restore(OLD, OLD + timedelta(hours=6))
    assert await history.sql("SELECT views FROM video_stats_log") == 2
    await history.archiver.release()
    await in_order(history, {"A@1": 2})


async def test_a_write_to_a_restored_sample_counts_and_stays(history: History) -> None:
    """Also where it says what the copy says, and where it comes by COPY or by a report."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    await history.archiver.restore(OLD, OLD + timedelta(hours=6))
    await history.write("A", 1)
    history.append("A", 5)
    assert await history.seen() == {"A@1": 1, "B@1": 2}
    report = await history.archiver.release()
    assert (report.rows, report.kept) == (1, 1)
    assert await history.seen() == {"A@1": 1, "B@1": 2}
    await in_order(history, {"A@1": 1, "B@1": 2})


@pytest.mark.parametrize("job", ["compact", "forget"])
async def test_a_correction_outdates_a_sample_of_a_machine_whose_clock_is_fast(
    history: History, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """F4: the machine that appends, its file system and the one that adopts are an hour ahead."""
    ahead = timedelta(hours=1)

    class Fast(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + ahead

    await history.archive("keep", 0, hour=48)
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "_next_seq", lambda: int(Fast.now().timestamp() * 10**6))
        patch.setattr(appended, "datetime", Fast)
        at = OLD + timedelta(hours=1)
        history.vault.append_metrics(
            [{"video_id": name, "timestamp": at, "views": 1} for name in ("A", "gone")]
        )
        for path in history.folder.rglob("metrics/**/*.parquet"):
            os.utime(path, (Fast.now().timestamp(),) * 2)
        if job == "compact":
            await history.archiver.compact()
        else:
            await history.archiver.forget(["gone"])
    shown = {"keep@48": 0, "A@1": 1, **({"gone@1": 1} if job == "compact" else {})}
    assert await history.seen() == shown
    await history.write("A", 2)
    await in_order(history, shown | {"A@1": 2})
