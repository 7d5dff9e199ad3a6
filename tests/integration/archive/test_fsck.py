"""Clean-up and comparison of ledger and store."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import WrongVault
from atlas.ingest import record_samples
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, samples, visible


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
async def archiver(database: Database, vault: LocalVault) -> Archiver:
    await record_samples(database, samples(times=12))
    archiver = Archiver(database, vault)
    await archiver.run(timedelta(days=7))
    return archiver


def copy_of_an_object(vault: LocalVault, name: str, folder: Path) -> str:
    """An object like ours that nothing names, as a run that died would leave it."""
    key = next(vault.store.list("video_stats")).key
    path = folder / "copy.parquet"
    path.write_bytes(vault.store.get_bytes(key) or b"")
    orphan = f"{key.rsplit('/', 1)[0]}/{name}.parquet"
    vault.store.put_files([(orphan, path)])
    return orphan


async def test_clean_up_removes_only_what_the_ledger_calls_dead(
    archiver: Archiver, database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    orphan = next(vault.store.list("video_stats")).key
    rows = vault.store.get_bytes(orphan)
    assert rows is not None
    await archiver.compact()
    await archiver.collect_garbage(timedelta(0))
    named = [info.key for info in vault.store.list("video_stats")]
    assert orphan not in named
    vault.store.put_bytes(orphan, rows)  # an upload that arrived late
    foreign = f"{orphan.rsplit('/', 1)[0]}/foreign.parquet"
    vault.store.put_bytes(foreign, b"not even Parquet")
    vault.append_metrics([{"video_id": "v", "timestamp": OLD, "views": 1}])
    metrics = [info.key for info in vault.store.list("metrics")]
    dry = await archiver.collect_garbage(timedelta(0), dry_run=True)
    assert dry.keys == (orphan,)
    assert vault.store.stat(orphan) is not None
    young = await archiver.collect_garbage()
    assert (young.keys, young.kept) == ((), 2)
    report = await archiver.collect_garbage(timedelta(0))
    assert (report.keys, report.kept) == ((orphan,), 1)
    assert [info.key for info in vault.store.list("video_stats")] == sorted([*named, foreign])
    assert [info.key for info in vault.store.list("metrics")] == metrics
    wanted = as_written([*samples(times=12), Sample("v", OLD, 1)])
    vault.store.delete([foreign])
    assert await visible(database, vault) == wanted


async def test_clean_up_of_another_database_is_refused(
    archiver: Archiver, vault: LocalVault, tmp_path: Path, empty_database_url: str
) -> None:
    from atlas.db.administration import migrations

    copy_of_an_object(vault, "orphan", tmp_path)
    other = Database(empty_database_url)
    await migrations.upgrade(other)
    before = [info.key for info in vault.store.list("")]
    with pytest.raises(WrongVault):
        await Archiver(other, vault).collect_garbage(timedelta(0))
    await other.close()
    assert [info.key for info in vault.store.list("")] == before


async def test_fsck_says_what_is_missing_damaged_and_unnamed(
    archiver: Archiver, vault: LocalVault, tmp_path: Path
) -> None:
    assert await archiver.fsck(deep=True) == []
    first, second = (info.key for info in vault.store.list("video_stats"))
    orphan = copy_of_an_object(vault, "orphan", tmp_path)
    path = tmp_path / "vault" / second
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    os.chmod(path, 0o600)
    path.write_bytes(bytes(content))
    assert [(one.kind, one.key) for one in await archiver.fsck()] == [("unnamed", orphan)]
    deep = {(one.kind, one.key) for one in await archiver.fsck(deep=True)}
    assert deep == {("checksum", second), ("unnamed", orphan)}
    path.write_bytes(bytes(content[:-1]))
    vault.store.delete([first])
    found = await archiver.fsck()
    assert {one.kind for one in found} == {"missing", "size", "unnamed"}
    assert all(one.meaning and one.advice for one in found)
