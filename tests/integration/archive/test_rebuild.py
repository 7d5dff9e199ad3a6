"""The ledger made again from the files, and what fsck says of a vault that was tampered with."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import Conflict, EpochBehind, InvalidInput
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, samples, visible

WEEK = timedelta(days=7)


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
def archiver(database: Database, vault: LocalVault) -> Archiver:
    return Archiver(database, vault)


async def filled(database: Database, vault: LocalVault, archiver: Archiver) -> list[Sample]:
    """Slices, deltas, merged files, removed videos and adopted metrics."""
    rows = samples(times=30)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    appended = Sample("appended", OLD + timedelta(hours=1), views=4)
    vault.append_metrics([{"video_id": "appended", "timestamp": appended.timestamp, "views": 4}])
    await archiver.compact()
    corrected = [Sample(row.video_id, row.timestamp, views=9) for row in rows[:7]]
    await record_samples(database, corrected)
    await archiver.run(WEEK)
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
                "VALUES ('doomed', 'A title', 'DONE', true, true, now() - interval '30 days')"
            )
        )
    assert (await Janitor(database, vault).run())["deleted"] == 1
    return [*rows, appended, *corrected]


async def test_a_lost_database_reads_everything_again_after_a_rebuild(
    database: Database, vault: LocalVault, archiver: Archiver, empty: Database
) -> None:
    rows = await filled(database, vault, archiver)
    rebuilder = Archiver(empty, vault)
    report = await rebuilder.rebuild()
    assert report.skipped == ()
    assert await visible(empty, vault) == as_written(rows)
    assert await rebuilder.fsck(deep=True) == []
    async with empty.transaction() as session:
        assert await session.scalar(text("SELECT video_id FROM video_tombstones")) == "doomed"
    # it goes on as the vault's database: numbers keep rising, and a correction wins
    newest = Sample(rows[0].video_id, rows[0].timestamp, views=1)
    await record_samples(empty, [newest])
    assert (await rebuilder.run(WEEK)).late_rows == 1
    assert await visible(empty, vault) == as_written([*rows, newest])
    assert (await rebuilder.compact()).failed == ()
    await rebuilder.collect_garbage(timedelta(0))
    assert await visible(empty, vault) == as_written([*rows, newest])
    assert await rebuilder.fsck(deep=True) == []
    # and the lost one, should it turn up again, is refused
    with pytest.raises(EpochBehind):
        await archiver.run(WEEK)


async def test_a_database_with_a_ledger_is_not_rebuilt(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    await filled(database, vault, archiver)
    with pytest.raises(Conflict, match="has a ledger"):
        await archiver.rebuild()


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Let a second database archive into a vault, as versions did that did not refuse it."""
    own, hidden = folder / "_atlas", folder.with_name("hidden")
    own.rename(hidden)
    yield
    shutil.copytree(hidden, own, dirs_exist_ok=True)


async def test_only_the_files_of_one_owner_are_taken(
    database: Database, vault: LocalVault, archiver: Archiver, empty: Database, tmp_path: Path
) -> None:
    rows = await filled(database, vault, archiver)
    async with database.transaction() as session:
        owner = await session.scalar(text("SELECT owner FROM archive_control"))
    other = Sample("other-database", OLD, views=1)
    await record_samples(empty, [other])
    with shared(tmp_path / "vault"):
        await Archiver(empty, vault).run(WEEK)
    async with empty.transaction() as session:  # as if it had never been
        await session.execute(text("TRUNCATE archive_files"))
        await session.execute(
            text("UPDATE archive_control SET owner = null, vault = null, nonce = null, epoch = 0")
        )
    with pytest.raises(InvalidInput, match="2 databases"):
        await Archiver(empty, vault).rebuild()
    with pytest.raises(InvalidInput, match="no file of"):
        await Archiver(empty, vault).rebuild(uuid.uuid4())
    await Archiver(empty, vault).rebuild(uuid.UUID(str(owner)))
    assert await visible(empty, vault) == as_written(rows)


async def test_damaged_files_are_skipped_and_named_and_repeated_ones_are_shown_once(
    database: Database, vault: LocalVault, archiver: Archiver, empty: Database, tmp_path: Path
) -> None:
    rows = samples(times=12)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    paths = sorted((tmp_path / "vault" / "video_stats").rglob("*.parquet"))
    shutil.copy(paths[0], paths[0].with_name("00-again.parquet"))
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    report = await Archiver(empty, vault).rebuild()
    assert report.files == 2
    (line,) = report.skipped
    assert paths[1].name in line
    paths[1].unlink()
    assert len(await visible(empty, vault)) == len(rows) // 2
    assert await StatsReader(empty, vault).count() == len(rows) // 2


async def test_fsck_tells_every_kind_of_difference(
    database: Database, vault: LocalVault, archiver: Archiver, empty: Database, tmp_path: Path
) -> None:
    await record_samples(database, samples(times=24))
    await archiver.run(WEEK)
    await record_samples(empty, samples(videos=1, times=1))
    with shared(tmp_path / "vault"):
        await Archiver(empty, vault).run(WEEK)
    folder = tmp_path / "vault" / "video_stats"
    async with database.transaction() as session:
        keys = list(
            await session.scalars(text("SELECT object_key FROM archive_files ORDER BY seq"))
        )
    missing, short, flipped, swapped = (tmp_path / "vault" / key for key in keys)
    stray = folder / f"date={OLD:%Y-%m-%d}" / "00-stray.parquet"
    shutil.copy(swapped, stray)
    swapped_for = flipped.read_bytes()
    missing.unlink()
    short.write_bytes(short.read_bytes()[:-8])
    whole = flipped.read_bytes()
    flipped.write_bytes(whole[:80] + bytes([whole[80] ^ 1]) + whole[81:])
    swapped.write_bytes(swapped_for + b"\0" * 0)
    (folder / "half.parquet").write_bytes(b"PAR1 half")
    metrics = tmp_path / "vault" / "metrics" / "date=2026-01-01" / "hour=00"
    metrics.mkdir(parents=True)
    (metrics / "0-1-ab.parquet").write_bytes(b"nothing")
    found = {finding.key.rsplit("/", 1)[-1]: finding for finding in await archiver.fsck(deep=True)}
    kinds = {name: finding.kind for name, finding in found.items()}
    assert kinds.pop(missing.name) == "missing"
    assert kinds.pop(short.name) == "size"
    assert kinds.pop(flipped.name) == "checksum"
    # another slice's object under this name: of the right size by chance, or of another
    assert kinds.pop(swapped.name) in ("footer", "size")
    assert kinds.pop("00-stray.parquet") == "unnamed"
    assert kinds.pop("half.parquet") == "unreadable"
    assert kinds.pop("0-1-ab.parquet") == "unreadable"
    (foreign,) = kinds.values()
    assert foreign == "foreign"
    assert all(finding.meaning and finding.advice for finding in found.values())


async def test_fsck_finds_an_object_of_the_right_size_with_another_footer(
    database: Database, vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    await record_samples(database, samples(times=1))
    await archiver.run(WEEK)
    (path,) = (tmp_path / "vault" / "video_stats").rglob("*.parquet")
    async with database.transaction() as session:
        fingerprint = await session.scalar(text("SELECT fingerprint FROM archive_files"))
    other = f"{int(str(fingerprint), 16) ^ 1:016x}"
    path.write_bytes(path.read_bytes().replace(str(fingerprint).encode(), other.encode()))
    (finding,) = await archiver.fsck()
    assert finding.kind == "footer"
    assert "atlas.fingerprint" in finding.meaning
