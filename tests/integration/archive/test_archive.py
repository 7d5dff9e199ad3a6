"""The archive protocol on a real database and a real folder."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.archive.fencing.lock import archiver_lock
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import (
    ArchiverBusy,
    EpochBehind,
    LeaseLost,
    VaultUnavailable,
    VerificationFailed,
    WrongVault,
)
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.repositories.ledger.files import LedgerWriter
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, in_folder, samples, visible


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


async def scalar(database: Database, query: str) -> object:
    async with database.transaction() as session:
        return await session.scalar(text(query))


async def test_archived_samples_leave_the_database_and_stay_visible(
    database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    rows = samples(times=30)  # crosses a day and several partitions
    await record_samples(database, rows)
    report = await Archiver(database, vault).run(timedelta(days=7))
    assert (report.rows, report.late_rows) == (len(rows), 0)
    assert report.files == report.slices == 5
    assert report.bytes > 0
    assert await scalar(database, "SELECT count(*) FROM video_stats_log") == 0
    assert (
        await scalar(database, "SELECT count(*) FROM pg_class WHERE relname LIKE '%sealed%'") == 0
    )
    assert await visible(database, vault) == as_written(rows)
    assert in_folder(str(tmp_path / "vault" / "video_stats")) == set(as_written(rows))
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == 0


async def test_recent_samples_stay_hot(database: Database, vault: LocalVault) -> None:
    fresh = samples(videos=3, times=2, start=datetime.now(UTC) - timedelta(hours=3))
    await record_samples(database, samples() + fresh)
    report = await Archiver(database, vault).run(timedelta(days=7))
    assert report.rows == len(samples())
    assert await scalar(database, "SELECT count(*) FROM video_stats_log") == len(fresh)
    assert await visible(database, vault) == as_written(samples() + fresh)


async def test_a_file_says_in_its_footer_what_it_holds(
    database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    await record_samples(database, samples())
    await Archiver(database, vault).run(timedelta(days=7))
    (path,) = (tmp_path / "vault" / "video_stats").rglob("*.parquet")
    with pq.ParquetFile(path) as file:
        footer = {k.decode(): v.decode() for k, v in file.metadata.metadata.items()}
        table = file.read()
    seq = await scalar(database, "SELECT seq FROM archive_files")
    assert footer["atlas.dataset"] == "video_stats"
    assert footer["atlas.rows"] == str(len(samples()))
    assert footer["atlas.seq"] == str(seq)
    assert datetime.fromisoformat(footer["atlas.slice_start"]) == OLD
    assert datetime.fromisoformat(footer["atlas.slice_end"]) == OLD + timedelta(hours=6)
    assert uuid.UUID(footer["atlas.owner"])
    assert uuid.UUID(footer["atlas.batch_id"])
    assert footer["atlas.fingerprint"] == await scalar(
        database, "SELECT fingerprint FROM archive_files"
    )
    assert set(table["seq"].to_pylist()) == {seq}
    keys = list(zip(table["video_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
    assert keys == sorted(keys)


async def test_a_late_sample_becomes_a_delta_and_a_correction_wins_in_every_tier(
    database: Database, vault: LocalVault
) -> None:
    rows = samples()
    await record_samples(database, rows)
    archiver = Archiver(database, vault)
    await archiver.run(timedelta(days=7))
    late = Sample("late-comer", OLD + timedelta(minutes=5), views=1)
    corrected = Sample(rows[0].video_id, rows[0].timestamp, views=77)  # replaces the whole row
    await record_samples(database, [late, corrected])
    wanted = as_written([*rows, late, corrected])
    assert await visible(database, vault) == wanted
    report = await archiver.run(timedelta(days=7))
    assert (report.rows, report.late_rows) == (2, 2)
    assert await visible(database, vault) == wanted
    assert await StatsReader(database, vault).count() == len(wanted)


async def test_max_rows_stops_after_the_slice_that_reaches_it(
    database: Database, vault: LocalVault
) -> None:
    await record_samples(database, samples(times=18))
    archiver = Archiver(database, vault)
    assert (await archiver.run(timedelta(days=7), max_rows=1)).slices == 1
    assert (await archiver.run(timedelta(days=7), max_rows=121)).slices == 2


async def test_a_dry_run_counts_and_changes_nothing(database: Database, vault: LocalVault) -> None:
    await record_samples(database, samples())
    report = await Archiver(database, vault).run(timedelta(days=7), dry_run=True)
    assert report.rows == len(samples())
    assert await scalar(database, "SELECT count(*) FROM archive_files") == 0
    assert list(vault.store.list("")) == []


async def test_past_the_byte_budget_the_oldest_closed_slices_go_early(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday -= timedelta(days=1)
    rows = samples(videos=3000, times=24, start=yesterday)
    await record_samples(database, rows)
    monkeypatch.setenv("HOT_MAX_BYTES", "5MB")
    reset_settings()
    foreseen = await Archiver(database, vault).run(timedelta(days=7), dry_run=True)
    report = await Archiver(database, vault).run(timedelta(days=7))
    assert 0 < report.rows < len(rows)
    assert (foreseen.rows, foreseen.slices) == (report.rows, report.slices)
    hot = await scalar(
        database,
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits "
        "WHERE inhparent = 'video_stats_log'::regclass",
    )
    assert isinstance(hot, int | float) or hot is not None
    assert int(str(hot)) <= 5_000_000
    assert await visible(database, vault) == as_written(rows)


async def test_a_second_archiver_is_told_busy(database: Database, vault: LocalVault) -> None:
    async with archiver_lock(database):
        with pytest.raises(ArchiverBusy):
            await Archiver(database, vault).run(timedelta(days=7))
    await Archiver(database, vault).run(timedelta(days=7))


async def test_the_lease_serves_where_session_locks_do_not(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
    reset_settings()
    async with archiver_lock(database):
        with pytest.raises(ArchiverBusy):
            await Archiver(database, vault).run(timedelta(days=7))
    await record_samples(database, samples())
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == len(samples())


async def test_an_overtaken_archiver_changes_nothing(database: Database) -> None:
    async with archiver_lock(database) as fence:
        async with database.transaction() as session:
            await session.execute(text("UPDATE archive_control SET fence = fence + 1"))
        async with database.transaction() as session:
            with pytest.raises(LeaseLost):
                await LedgerWriter(session, fence).hold()


async def test_another_vault_than_the_ledgers_is_refused(
    database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    await record_samples(database, samples())
    await Archiver(database, vault).run(timedelta(days=7))
    other = LocalVault(tmp_path / "other")
    with pytest.raises(WrongVault):
        await Archiver(database, other).run(timedelta(days=7))
    with pytest.raises(WrongVault):
        await StatsReader(database, other).count()
    assert list(other.store.list("")) == []


async def test_an_old_copy_of_the_database_is_refused_until_a_person_adopts(
    database: Database, vault: LocalVault
) -> None:
    archiver = Archiver(database, vault)
    await record_samples(database, samples())
    await archiver.run(timedelta(days=7))
    async with database.transaction() as session:
        before = (
            await session.execute(text("SELECT epoch, nonce, pending_nonce FROM archive_control"))
        ).one()
    await archiver.run(timedelta(days=7))
    async with database.transaction() as session:  # what a restored backup would say
        await session.execute(
            text("UPDATE archive_control SET epoch = :epoch, nonce = :nonce"),
            {"epoch": before.epoch, "nonce": before.nonce},
        )
    await record_samples(database, [Sample("late-comer", OLD, views=1)])
    files = {info.key for info in vault.store.list("video_stats")}
    with pytest.raises(EpochBehind):
        await archiver.run(timedelta(days=7))
    assert {info.key for info in vault.store.list("video_stats")} == files
    await archiver.adopt()
    assert (await archiver.run(timedelta(days=7))).rows == 1


async def test_an_epoch_swap_that_was_not_recorded_is_finished(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    archiver = Archiver(database, vault)
    await archiver.run(timedelta(days=7))
    import atlas.archive.fencing.epoch as epoch

    async def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(epoch, "_record", die)
        await archiver.run(timedelta(days=7))
    await record_samples(database, samples())
    assert (await archiver.run(timedelta(days=7))).rows == len(samples())


class FailingStore:
    """Forwards to a real store, but one method does something else first."""

    def __init__(self, store: object, **instead: object) -> None:
        self._store = store
        self._instead = instead

    def __getattr__(self, name: str) -> object:
        return self._instead.get(name) or getattr(self._store, name)


def failing(vault: LocalVault, monkeypatch: pytest.MonkeyPatch, **instead: object) -> None:
    monkeypatch.setattr(vault, "store", FailingStore(vault.store, **instead))


async def test_a_vault_that_is_down_loses_nothing(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_samples(database, samples())

    def refuse(items: object) -> None:
        raise VaultUnavailable("the vault does not answer")

    with monkeypatch.context() as patch:
        failing(vault, patch, put_files=refuse)
        with pytest.raises(VaultUnavailable):
            await Archiver(database, vault).run(timedelta(days=7))
    assert await visible(database, vault) == as_written(samples())
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == len(samples())
    assert await visible(database, vault) == as_written(samples())


async def test_a_lost_answer_is_settled_by_looking_not_by_writing_again(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_samples(database, samples())
    put, calls = vault.store.put_files, []

    def succeed_and_lose_the_answer(items: list[tuple[str, Path]]) -> None:
        calls.append(items)
        put(items)
        raise VaultUnavailable("the answer is lost")

    failing(vault, monkeypatch, put_files=succeed_and_lose_the_answer)
    report = await Archiver(database, vault).run(timedelta(days=7))
    assert (report.rows, len(calls)) == (len(samples()), 1)


async def test_a_flipped_byte_is_seen_and_the_object_replaced(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await record_samples(database, samples())
    put, calls = vault.store.put_files, []

    def flip_the_first(items: list[tuple[str, Path]]) -> None:
        calls.append(items)
        if len(calls) == 1:
            content = bytearray(items[0][1].read_bytes())
            content[len(content) // 3] ^= 1
            items[0][1].write_bytes(content)
        put(items)

    failing(vault, monkeypatch, put_files=flip_the_first)
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == len(samples())
    assert len(calls) == 2
    assert await visible(database, vault) == as_written(samples())
    assert len(list(vault.store.list("video_stats"))) == 1


async def test_a_store_that_damages_everything_keeps_the_sealed_table(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_samples(database, samples())
    put = vault.store.put_files

    def cut_short(items: list[tuple[str, Path]]) -> None:
        for _, path in items:
            path.write_bytes(path.read_bytes()[:-9])
        put(items)

    with monkeypatch.context() as patch:
        failing(vault, patch, put_files=cut_short)
        with pytest.raises(VerificationFailed):
            await Archiver(database, vault).run(timedelta(days=7))
    assert await visible(database, vault) == as_written(samples())
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == len(samples())


async def test_an_export_that_loses_rows_is_caught_by_the_count(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_samples(database, samples())
    from atlas.db.arrow import ArrowConnection

    whole = ArrowConnection.batches

    def short(self: ArrowConnection, query: str):
        for batch in whole(self, query):
            yield batch.slice(1)

    with monkeypatch.context() as patch:
        patch.setattr(ArrowConnection, "batches", short)
        with pytest.raises(VerificationFailed, match="rows"):
            await Archiver(database, vault).run(timedelta(days=7))
    assert await visible(database, vault) == as_written(samples())


async def test_sealing_gives_way_to_a_long_writer_and_then_succeeds(
    database: Database, vault: LocalVault
) -> None:
    await record_samples(database, samples())
    async with database.session() as session:
        await session.execute(
            text("INSERT INTO video_stats_log VALUES ('slow-writer', :at, 1, 1, 1)"), {"at": OLD}
        )
        run = asyncio.create_task(Archiver(database, vault).run(timedelta(days=7)))
        # other writers get through while the archiver waits for this one
        await record_samples(database, [Sample("quick-writer", OLD, views=1)])
        assert not run.done()
        await session.commit()
    assert (await run).rows == len(samples()) + 2
