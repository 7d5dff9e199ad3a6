"""An id that was forgotten stays so, whatever becomes of the database."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest

import atlas.archive.fencing.epoch as epoch
import atlas.archive.maintenance.erasure as erasure
from atlas.repositories.ledger.swap import Replacement
from tests.support.histories import WEEK, History, in_order


async def test_a_backup_from_between_announcement_and_record_of_an_erasure_forgets_as_well(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4c."""
    await history.archive("A", 1)
    await history.archive("B", 7)
    backup = await history.copied_at(
        monkeypatch, (epoch, "_record"), lambda: history.archiver.forget(["B"])
    )
    await history.put_back(backup)
    await history.archiver.run(WEEK)
    await history.write("B", 9, hour=2)
    await in_order(history, {"A@1": 1})


async def test_a_forgotten_id_does_not_come_back_from_a_backup(history: History) -> None:
    """R5: with rows hot, in a file of its own, and in a file with others."""
    await history.archive("C", 3)
    await history.write("A", 1)
    await history.write("B", 2)
    early = await history.backup()
    await history.archiver.run(WEEK)
    late = await history.backup()
    await history.archiver.forget(["B"])
    for backup in (early, late):
        await history.put_back(backup)
        foreseen = await history.archiver.adopt(dry_run=True)
        report = await history.archiver.adopt()
        assert foreseen.forgotten == 1
        assert report.forgotten == 1
        await history.write("B", 3, hour=2)
        await in_order(history, {"A@1": 1, "C@1": 3})


async def test_what_a_dead_erasure_barred_is_recorded_before_any_job_drops_its_rows(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a backup would count a merged file in which they are missing, and not know why."""
    await history.archive("A", 1)
    await history.write("A", 2)
    await history.archive("B", 3)
    backup = await history.backup()

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(erasure, "record_erasure", die)
        await history.archiver.forget(["B"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Replacement, "swap", die)
        await history.archiver.compact()
    await history.put_back(backup)
    assert (await history.archiver.adopt()).forgotten == 1
    await in_order(history, {"A@1": 2})


async def test_a_forgotten_id_does_not_come_back_after_a_rebuild(history: History) -> None:
    """R6: it is nowhere in the vault, and yet another machine's spool or an agent may bring it."""
    await history.write("A", 1)
    await history.archive("B", 2)
    await history.archiver.forget(["B"])
    await history.lose()
    await history.archiver.rebuild()
    assert await history.seen() == {"A@1": 1}
    history.append("B", 2, hour=2)
    history.append("A", 5, hour=2)
    assert await history.seen() == {"A@1": 1, "A@2": 5}
    await history.write("B", 2, hour=3)
    await in_order(history, {"A@1": 1, "A@2": 5})
    assert await history.sql("SELECT reason FROM video_tombstones") == "forgotten"


async def test_compaction_leaves_out_an_id_that_is_known_to_be_forgotten_by_its_hash(
    history: History,
) -> None:
    await history.write("A", 1)
    await history.archive("B", 2)
    await history.archiver.forget(["B"])
    await history.lose()
    await history.archiver.rebuild()
    history.append("B", 2, hour=2)
    history.append("A", 5, hour=2)
    history.append("B", 3, hour=30)  # another day: by then the id is known
    await history.archiver.compact()
    await history.clean()
    for key in history.files():
        assert (
            "B"
            not in pq.read_table(history.folder / key, partitioning=None)["video_id"].to_pylist()
        )
    assert await history.sql("SELECT video_id FROM video_tombstones") == "B"
    await in_order(history, {"A@1": 1, "A@2": 5})


async def test_a_forgotten_id_is_named_nowhere_in_the_vault(history: History) -> None:
    await history.archive("secretvideo", 1)
    await history.archiver.forget(["secretvideo"])
    (record,) = history.files("_atlas/erasures")
    for key in history.files(""):
        assert b"secretvideo" not in (history.vault.store.get_bytes(key) or b"")
        assert "secretvideo" not in key
    assert record.endswith(".json")


async def test_the_record_of_an_erasure_is_there_before_the_first_deletion(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure that died is finished, also by a database from before it."""
    await history.write("A", 1)
    await history.archive("B", 2)
    backup = await history.backup()

    async def die(*_: Any) -> None:
        raise KeyboardInterrupt

    import atlas.archive.maintenance.erasure as erasure

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(erasure, "_delete_rows", die)
        await history.archiver.forget(["B"])
    await history.put_back(backup)
    assert (await history.archiver.adopt()).forgotten == 1
    await in_order(history, {"A@1": 1})


async def test_ids_that_were_forgotten_before_there_were_records_get_one(
    history: History,
) -> None:
    await history.write("A", 1)
    await history.archive("B", 2)
    await history.archiver.forget(["B"])
    history.vault.store.delete(history.files("_atlas/erasures"))
    await history.sql("DELETE FROM erasure_records")
    await history.archiver.run(WEEK)
    assert len(history.files("_atlas/erasures")) == 1
