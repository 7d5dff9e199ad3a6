"""What a read asks of the store: nothing where it can, and little of each file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import ConfigurationError
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.reading.footers import footers
from atlas.types import ObjectStore, Sample
from atlas.vault import LocalVault, Vault, get_vault
from tests.support.samples import OLD, samples
from tests.support.stores import CountedStore, Counts, SilentStore

NOW = datetime.now(UTC).replace(microsecond=0)
RECENT = NOW - timedelta(hours=2)


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    footers.clear()
    return LocalVault(tmp_path / "vault")


def counted(vault: Vault) -> Counts:
    """Put a counting store into the vault."""
    store = CountedStore(vault.store)
    vault.store = cast(ObjectStore, store)
    return store.counts


def silent(tmp_path: Path) -> Vault:
    return Vault(cast(ObjectStore, SilentStore()), tmp_path / "home")


async def in_partition(database: Database) -> datetime:
    """A moment that the oldest attached partition holds."""
    await record_samples(database, samples(times=2, start=RECENT))
    return RECENT


async def rows(reader: StatsReader, **selection: Any) -> int:
    return sum([batch.num_rows async for batch in reader.scan(**selection)])


# what needs no vault


async def test_a_recent_read_asks_the_store_nothing(database: Database, tmp_path: Path) -> None:
    since = await in_partition(database)
    reader = StatsReader(database, silent(tmp_path))
    assert (await reader.history("video-0003", since)).num_rows == 2
    assert await rows(reader, since=since) == 40
    assert await rows(reader, since=since, ordered_by_time=True) == 40
    assert await reader.count(since=since) == 40


async def test_a_recent_read_asks_nothing_of_a_vault_with_older_files(
    database: Database, vault: LocalVault
) -> None:
    await record_samples(database, samples(times=30))
    since = await in_partition(database)
    await Archiver(database, vault).run(timedelta(days=7))
    counts = counted(vault)
    assert await StatsReader(database, vault).count(since=since) == 40
    assert counts == Counts()


async def test_a_recent_read_needs_no_configured_vault(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = await in_partition(database)
    monkeypatch.setenv("ENV", "prod")
    reset_settings()
    with pytest.raises(ConfigurationError):
        get_vault().list_files()
    assert (await StatsReader(database).history("video-0003", since)).num_rows == 2


@pytest.mark.needs_writing_reader
async def test_a_read_without_a_beginning_still_finds_metrics_of_another_machine(
    database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    since = await in_partition(database)
    elsewhere = LocalVault(vault.store.root, home=tmp_path / "elsewhere")
    elsewhere.append_metrics([{"video_id": "new", "timestamp": RECENT, "views": 1}])
    reader = StatsReader(database, vault)
    assert await reader.count(since=since) == 40
    assert await reader.count() == 41
    # and from then on every reader of this database does
    assert await reader.count(since=since) == 41
    assert (await StatsReader(database, vault).history("new", since)).num_rows == 1


async def test_a_read_that_begins_before_the_hot_partitions_finds_metrics_of_another_machine(
    database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    await in_partition(database)
    elsewhere = LocalVault(vault.store.root, home=tmp_path / "elsewhere")
    elsewhere.append_metrics([{"video_id": "new", "timestamp": RECENT, "views": 1}])
    since = RECENT - timedelta(days=2)
    assert (await StatsReader(database, vault).history("new", since)).num_rows == 1


async def test_metrics_appended_on_this_machine_are_seen_by_recent_reads_at_once(
    database: Database, vault: LocalVault
) -> None:
    since = await in_partition(database)
    vault.append_metrics([{"video_id": "new", "timestamp": RECENT, "views": 1}])
    reader = StatsReader(database, LocalVault(vault.store.root))
    assert (await reader.history("new", since)).num_rows == 1


async def test_a_run_that_holds_the_control_row_delays_no_reader(
    database: Database, vault: LocalVault
) -> None:
    await in_partition(database)
    vault.append_metrics([{"video_id": "new", "timestamp": RECENT, "views": 1}])
    reader = StatsReader(database, vault)
    async with database.transaction() as session:
        await session.execute(text("SELECT FROM archive_control FOR SHARE"))
        assert await reader.count() == 41


async def test_late_rows_in_a_file_are_found_by_a_recent_read(
    database: Database, vault: LocalVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the partition of two hours ago is closed then, whatever the time of day
    monkeypatch.setenv("STATS_PARTITION_HOURS", "1")
    reset_settings()
    await record_samples(database, [Sample("late", RECENT, views=1)])
    await Archiver(database, vault).run(NOW + timedelta(days=1))
    await record_samples(database, [Sample("late", RECENT + timedelta(minutes=1), views=1)])
    elsewhere = LocalVault(vault.store.root, home=tmp_path / "elsewhere")
    moment = RECENT + timedelta(minutes=2)
    elsewhere.append_metrics([{"video_id": "late", "timestamp": moment, "views": 1}])
    reader = StatsReader(database, vault)
    # with the vault asked anyhow, metrics are looked for
    assert (await reader.history("late", RECENT)).num_rows == 3


# how much of a file


async def test_a_history_reads_one_range_of_a_file_and_only_the_row_group_that_can_hold_it(
    database: Database, vault: LocalVault
) -> None:
    await record_samples(database, samples(videos=40_000, times=4))
    await Archiver(database, vault).run(timedelta(days=7))
    counts = counted(vault)
    reader = StatsReader(database, vault)
    assert (await reader.history("video-0007")).num_rows == 4
    (info,) = vault.store.list("video_stats")
    assert len(counts.reads) == 2
    assert counts.looks == 0
    assert counts.reads[1][1] < info.size / 2
    # the footer is remembered
    counts.reads.clear()
    assert (await reader.history("video-39999")).num_rows == 4
    assert len(counts.reads) == 1
    counts.reads.clear()
    assert (await reader.history("video-4")).num_rows == 0
    assert len(counts.reads) <= 1


async def test_files_that_cannot_hold_the_video_or_the_time_are_not_read(
    database: Database, vault: LocalVault
) -> None:
    for number in range(4):
        day = OLD + timedelta(days=number)
        await record_samples(database, [Sample(f"v{number}", day, views=1)])
        await record_samples(database, [Sample("all", day, views=1)])
    await Archiver(database, vault).run(timedelta(days=7))
    counts = counted(vault)
    reader = StatsReader(database, vault)
    assert (await reader.history("v2")).num_rows == 1
    assert len(counts.keys) == 2  # "all" < "v2" < "v3"
    counts.reads.clear()
    assert await rows(reader, until=OLD + timedelta(days=2)) == 4
    assert len(counts.keys) == 2


async def test_a_small_file_is_read_by_one_request(database: Database, vault: LocalVault) -> None:
    vault.append_metrics([{"video_id": "new", "timestamp": OLD, "views": 1}])
    counts = counted(vault)
    assert (await StatsReader(database, vault).history("new")).num_rows == 1
    # the second listing proves, until the first archive, that the vault is nobody else's
    assert (len(counts.reads), counts.looks, counts.lists) == (1, 0, 2)
