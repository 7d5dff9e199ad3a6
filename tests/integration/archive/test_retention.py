"""HOT_MAX_BYTES: the oldest samples go early rather than pass it, by archiver and janitor alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from atlas.archive import Archiver
from atlas.archive.budget import hot_tier
from atlas.archive.fencing.lock import archiver_lock
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import VaultUnavailable
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.repositories.hot.partitions import Partitions
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import as_written, samples, visible
from tests.support.sql import execute, fetch, scalar

#: No sample is so old: what goes with this cutoff goes for the budget alone.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_budget(size: int) -> None:
        monkeypatch.setenv("HOT_MAX_BYTES", str(size))
        reset_settings()

    return set_budget


@pytest.fixture
async def a_day(database: Database) -> list[Sample]:
    """Four closed partitions of yesterday, about 1.5 MB each."""
    rows = samples(videos=2000, times=24, start=YESTERDAY)
    await record_samples(database, rows)
    return rows


async def attached_bytes(database: Database) -> int:
    async with database.transaction(read_only=True) as session:
        return sum(partition.byte_size for partition in await Partitions(session).attached())


async def largest(database: Database) -> int:
    async with database.transaction(read_only=True) as session:
        return max(partition.byte_size for partition in await Partitions(session).attached())


async def test_a_run_leaves_room_for_what_a_partition_takes_in(
    database: Database, vault: LocalVault, a_day: list[Sample], budget: Callable[[int], None]
) -> None:
    whole, partition = await attached_bytes(database), await largest(database)
    # within the budget, but without room: the next partition would pass it before the next run
    budget(whole + partition // 2)
    report = await Archiver(database, vault).run(NEVER)
    assert report.slices == 1
    assert await attached_bytes(database) + partition <= whole + partition // 2
    assert await scalar(database, "SELECT min(timestamp) FROM video_stats_log") >= (
        YESTERDAY + timedelta(hours=6)
    )
    assert await visible(database, vault) == as_written(a_day)
    assert (await Archiver(database, vault).run(NEVER)).slices == 0


async def test_with_room_for_a_partition_nothing_goes_before_its_age(
    database: Database, vault: LocalVault, a_day: list[Sample], budget: Callable[[int], None]
) -> None:
    budget(await attached_bytes(database) + await largest(database))
    assert (await Archiver(database, vault).run(NEVER)).slices == 0


async def test_the_disk_space_of_what_went_early_is_given_back(
    database: Database, vault: LocalVault, a_day: list[Sample], budget: Callable[[int], None]
) -> None:
    size = "SELECT pg_database_size(current_database())"
    before, whole = await scalar(database, size), await attached_bytes(database)
    budget(1_000_000)
    await Archiver(database, vault).run(NEVER)
    await execute(database, "CHECKPOINT")  # files of dropped tables are cut to nothing at once
    assert await scalar(database, size) <= before - 0.95 * whole


async def test_what_is_still_written_stays_and_a_budget_too_small_for_it_is_told(
    database: Database, vault: LocalVault, budget: Callable[[int], None]
) -> None:
    # tomorrow's slot, so that midnight cannot close it under the test
    start = YESTERDAY + timedelta(days=2)
    tomorrow = min(start, datetime.now(UTC) + timedelta(hours=23))
    rows = samples(videos=20_000, times=1, start=tomorrow)
    await record_samples(database, rows)
    budget(1_000_000)
    with capture_logs() as logs:
        report = await Archiver(database, vault).run(NEVER)
    assert report.rows == 0
    (warning,) = [entry for entry in logs if entry["event"] == "hot_budget_too_small"]
    assert warning["hot_bytes"] > warning["hot_max_bytes"] == 1_000_000
    assert "STATS_PARTITION_HOURS" in warning["hint"]
    assert await visible(database, vault) == as_written(rows)


async def test_a_restored_span_neither_goes_for_the_budget_nor_counts_as_what_comes_in(
    database: Database, vault: LocalVault, a_day: list[Sample]
) -> None:
    await Archiver(database, vault).run(timedelta(0))
    await Archiver(database, vault).restore(YESTERDAY, YESTERDAY + timedelta(hours=6))
    async with database.transaction(read_only=True) as session:
        hot = await hot_tier(session)
    assert hot.attached_bytes > 1_000_000
    assert (hot.closed, hot.arriving_bytes < 1_000_000) == ((), True)


async def test_sealed_tables_count_as_hot(
    database: Database,
    vault: LocalVault,
    a_day: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = await attached_bytes(database)

    def refuse(items: object) -> None:
        raise VaultUnavailable("the vault does not answer")

    monkeypatch.setattr(vault.store, "put_files", refuse)
    with pytest.raises(VaultUnavailable):
        await Archiver(database, vault).run(timedelta(0))
    async with database.transaction(read_only=True) as session:
        hot = await hot_tier(session)
    assert hot.sealed_bytes > 0
    assert hot.bytes == whole


async def test_the_janitor_relieves_the_budget_and_leaves_the_age_alone(
    database: Database, vault: LocalVault, a_day: list[Sample], budget: Callable[[int], None]
) -> None:
    oldest = samples(videos=2000, start=YESTERDAY - timedelta(days=20))
    old = samples(start=YESTERDAY - timedelta(days=10))
    await record_samples(database, [*oldest, *old])
    janitor = Janitor(database, vault)
    assert await janitor.run() == {"deleted": 0, "reason": "none_eligible"}
    assert await scalar(database, "SELECT count(*) FROM archive_files") == 0
    budget(await attached_bytes(database) + await largest(database) // 2)  # one partition has to go
    assert await janitor.run() == {"deleted": 0, "reason": "none_eligible"}
    assert await scalar(database, "SELECT count(*) FROM archive_files") == 1
    assert await scalar(database, "SELECT min(timestamp) FROM video_stats_log") == old[0].timestamp
    assert await visible(database, vault) == as_written([*oldest, *a_day, *old])


async def test_a_dry_run_of_the_janitor_archives_nothing(
    database: Database, vault: LocalVault, a_day: list[Sample], budget: Callable[[int], None]
) -> None:
    budget(1_000_000)
    await Janitor(database, vault).run(dry_run=True)
    assert await scalar(database, "SELECT count(*) FROM archive_files") == 0


@pytest.mark.parametrize("obstacle", ["vault", "archiver"])
async def test_a_budget_that_cannot_be_relieved_is_told_and_the_janitor_goes_on(
    obstacle: str,
    database: Database,
    vault: LocalVault,
    a_day: list[Sample],
    budget: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await execute(
        database,
        "INSERT INTO videos (id, title, status, discovered_at) "
        "VALUES ('doomed', 'A title', 'DONE', now() - interval '30 days')",
    )
    monkeypatch.setenv("JANITOR_SAFETY_CHECK", "false")  # deletes without the vault
    budget(1_000_000)
    janitor = Janitor(database, vault)
    with capture_logs() as logs:
        if obstacle == "vault":

            def refuse(items: object) -> None:
                raise VaultUnavailable("the vault does not answer")

            monkeypatch.setattr(vault.store, "put_files", refuse)
            result = await janitor.run()
        else:
            async with archiver_lock(database):
                result = await janitor.run()
    assert result["deleted"] == 1
    (told,) = [entry for entry in logs if entry["event"] == "hot_budget_passed"]
    assert (told["log_level"], told["hot_max_bytes"]) == ("error", 1_000_000)
    assert any(entry["event"] == "hot_budget_relief_failed" for entry in logs)
    (event,) = await fetch(
        database,
        "SELECT event_type, payload FROM system_events WHERE event_type LIKE 'archive.hot%'",
    )
    assert event["event_type"] == "archive.hot_budget_passed"
    assert event["payload"]["hot_bytes"] == told["hot_bytes"] > 1_000_000
    assert await visible(database, vault) == as_written(a_day)


async def test_empty_partitions_of_the_past_are_dropped(
    database: Database, vault: LocalVault
) -> None:
    async with database.transaction() as session:
        old = [YESTERDAY - timedelta(days=days) for days in (20, 30)]
        await Partitions(session).ensure(old, 6)
    await Janitor(database, vault).run()  # makes those ahead
    report = await Archiver(database, vault).run(timedelta(days=7))
    assert report.slices == 0
    async with database.transaction(read_only=True) as session:
        left = await Partitions(session).attached()
    assert left
    assert all(partition.upper > YESTERDAY + timedelta(days=1) for partition in left)
