"""A database that was restored, copied or lost, and the vault that went on: no sample is lost.

Each test is a counterexample that the protocol once had; docs/adoption.md tells what keeps it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import atlas.archive.fencing.epoch as epoch
import atlas.reading.appended as appended
import atlas.vault.metrics as metrics
from atlas.archive import Archiver
from atlas.archive.export.slices import Run
from atlas.archive.session import Steps
from atlas.db import Database
from atlas.errors import Conflict, EpochBehind, VerificationFailed, WrongVault
from atlas.repositories.ledger.control import ControlWriter
from atlas.vault import LocalVault
from tests.support.histories import WEEK, History
from tests.support.samples import OLD
from tests.support.servers.postgres import Server


@pytest.fixture
async def history(
    postgres_server: Server, migrated_template: str, tmp_path: Path
) -> AsyncIterator[History]:
    history = await asyncio.to_thread(
        History, postgres_server, migrated_template, tmp_path / "vault"
    )
    yield history
    await history.close()


async def in_order(history: History, shown: dict[str, int]) -> None:
    """Ledger and vault agree, and it stays so through every job and past the grace period."""
    assert await history.seen() == shown
    assert [one.kind for one in await history.archiver.fsck(deep=True)] == []
    await history.archiver.run(WEEK)
    await history.archiver.compact()
    await history.clean()
    assert await history.seen() == shown
    assert [one.kind for one in await history.archiver.fsck(deep=True)] == []


async def test_what_was_archived_after_a_backup_is_taken_in(history: History) -> None:
    """R1."""
    await history.archive("keep", 0)
    backup = await history.backup()
    await history.archive("A", 1, hour=25)
    await history.put_back(backup)
    with pytest.raises(EpochBehind, match=r"carries epoch 2.* from "):
        await history.archiver.run(WEEK)
    (finding,) = await history.archiver.fsck()
    assert finding.kind == "unnamed"
    assert "adopt" in finding.advice
    foreseen = await history.archiver.adopt(dry_run=True)
    report = await history.archiver.adopt()
    assert (report.files, report.rows, report.only_there) == (1, 1, 1)
    assert (foreseen.files, foreseen.rows, foreseen.only_there) == (1, 1, 1)
    assert foreseen.epoch == report.epoch
    assert report.other is not None and report.other.epoch == 2 and report.other.host
    await in_order(history, {"keep@1": 0, "A@25": 1})


async def test_files_merged_and_deleted_after_a_backup_are_replaced_in_the_ledger(
    history: History,
) -> None:
    """R2."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    backup = await history.backup()
    await history.archiver.compact()
    await history.clean()
    assert len(history.files()) == 1
    await history.put_back(backup)
    foreseen = await history.archiver.adopt(dry_run=True)
    report = await history.archiver.adopt()
    assert len(report.replaced) == 2 and report.missing == ()
    assert foreseen.replaced == report.replaced
    await in_order(history, {"A@1": 1, "B@1": 2})


async def test_an_erasure_after_an_adoption_takes_nothing_else_along(history: History) -> None:
    """R3."""
    await history.archive("keep", 0, hour=48)
    backup = await history.backup()
    await history.write("A", 1)
    await history.archive("B", 2)
    await history.put_back(backup)
    await history.archiver.adopt()
    receipt = await history.archiver.forget(["B"])
    assert receipt.cold_rows == 1
    await in_order(history, {"keep@48": 0, "A@1": 1})


async def test_a_backup_from_within_a_run_is_refused_until_it_is_adopted(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: the epoch does not tell, the slices do."""
    await history.archive("A", 1)
    await history.write("A", 2)
    backup = await history.copied_at(
        monkeypatch, (Run, "_seal"), lambda: history.archiver.run(WEEK)
    )
    await history.put_back(backup)
    with pytest.raises(EpochBehind, match="went back"):
        await history.archiver.run(WEEK)
    report = await history.archiver.adopt()
    assert report.stale_rows == 1
    await in_order(history, {"A@1": 2})


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
    await history.archiver.compact()
    await history.clean()
    for key in history.files():
        assert (
            "B"
            not in pq.read_table(history.folder / key, partitioning=None)["video_id"].to_pylist()
        )
    assert await history.sql("SELECT video_id FROM video_tombstones") == "B"
    await in_order(history, {"A@1": 1, "A@2": 5})


async def test_a_second_database_is_refused_before_it_writes_anything(history: History) -> None:
    """R7."""
    history.append("A", 1)
    await history.archive("keep", 0)
    first, url = history.database, history.current
    before = history.files("")
    await history.lose()
    await history.write("other", 1)
    for job in (
        lambda: history.archiver.run(WEEK),
        lambda: history.archiver.compact(),
        lambda: history.archiver.forget(["other"]),
    ):
        with pytest.raises(WrongVault) as error:
            await job()
        assert "VAULT_PREFIX" in str(error.value.hint)
        assert "atlas vault adopt" in str(error.value.hint)
    assert history.files("") == before
    assert await history.sql("SELECT owner IS NULL AND vault IS NULL FROM archive_control")
    assert await history.sql("SELECT count(*) FROM archive_files") == 0
    await first.close()
    history.database, history.current = Database(url), url
    await in_order(history, {"keep@1": 0, "A@1": 1})


async def test_of_two_new_databases_that_begin_at_once_one_gets_the_vault(
    history: History,
) -> None:
    await history.write("A", 1)
    other = Database(await asyncio.to_thread(history.create, history.template))
    results = await asyncio.gather(
        history.archiver.run(WEEK), Archiver(other, history.vault).run(WEEK), return_exceptions=True
    )
    await other.close()
    assert sum(isinstance(one, WrongVault) for one in results) == 1, results


async def test_a_rebuild_that_died_is_finished_by_another(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10."""
    import atlas.archive.recovery.adoption as adoption

    await history.archive("A", 1)
    for step in ("swap_for_adoption", "take_in", "record_adoption"):
        await history.lose()

        async def die(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(adoption, step, die)
            await history.archiver.rebuild()
        await history.archiver.rebuild()
        await in_order(history, {"A@1": 1})
    with pytest.raises(Conflict, match="adopt"):
        await history.archiver.rebuild()


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


async def test_a_clone_that_adopts_during_a_clean_up_keeps_its_samples(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    clone_url = await history.backup()
    await history.archiver.compact()
    await history.age()
    clone = Database(clone_url)
    store, loop = history.vault.store, asyncio.get_running_loop()
    real, adopted = type(store).delete, list[object]()

    def delete(self: Any, keys: Any) -> None:
        keys = list(keys)
        if not adopted and any(key.startswith("video_stats") for key in keys):
            adopting = Archiver(clone, history.vault).adopt()
            adopted.append(asyncio.run_coroutine_threadsafe(adopting, loop).result())
        real(self, keys)

    monkeypatch.setattr(type(store), "delete", delete)
    report = await history.archiver.collect_garbage()
    assert len(report.keys) == 2 and adopted
    with pytest.raises(EpochBehind):
        await history.archiver.run(WEEK)
    assert await history.seen(clone) == {"A@1": 1, "B@1": 2}
    assert await Archiver(clone, history.vault).fsck() == []
    await clone.close()


async def test_a_deletion_is_refused_once_a_clone_has_adopted(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12, the other order: what is about to be deleted is announced, and then the epoch is looked at."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    clone_url = await history.backup()
    await history.archiver.compact()
    await history.age()
    clone = Database(clone_url)
    real = Steps.delete_files

    async def delete_files(self: Steps, *args: Any) -> None:
        await Archiver(clone, history.vault).adopt()
        await real(self, *args)

    monkeypatch.setattr(Steps, "delete_files", delete_files)
    before = history.files()
    with pytest.raises(EpochBehind):
        await history.archiver.collect_garbage()
    assert history.files() == before
    assert await history.seen(clone) == {"A@1": 1, "B@1": 2}
    await clone.close()


async def test_what_is_condemned_is_taken_for_absent(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that was given up arrives late; a clone adopts while the clean-up is frozen."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    clone_url = await history.backup()
    real_put, late = Steps.put, list[Any]()

    async def put(self: Steps, new: Any, records: Any = ()) -> None:
        await real_put(self, new, records)
        for file, _ in new:
            late.append((file.object_key, history.vault.store.get_bytes(file.object_key)))
        history.vault.store.delete([key for key, _ in late])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Steps, "put", put)
        await history.archiver.compact()
    await history.archiver.run(WEEK)  # gives it up
    history.vault.store.put_bytes(*late[0])
    await history.age()
    frozen, go_on = asyncio.Event(), asyncio.Event()
    store, loop, real = (
        history.vault.store,
        asyncio.get_running_loop(),
        type(history.vault.store).delete,
    )

    def delete(self: Any, keys: Any) -> None:
        keys = list(keys)
        if late[0][0] in keys:
            loop.call_soon_threadsafe(frozen.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        real(self, keys)

    monkeypatch.setattr(type(store), "delete", delete)
    cleaning = asyncio.create_task(history.archiver.collect_garbage())
    await frozen.wait()
    clone = Database(clone_url)
    await Archiver(clone, history.vault).adopt()
    go_on.set()
    assert (await cleaning).keys == (late[0][0],)
    assert await history.seen(clone) == {"A@1": 1, "B@1": 2}
    assert await Archiver(clone, history.vault).fsck() == []
    await clone.close()


async def test_what_a_copy_archived_can_be_set_aside(history: History) -> None:
    """R13: a staging copy ran first; the original is told who it was, and what counts is its own."""
    await history.archive("A", 1)
    await history.write("B", 2)
    copy_url = await history.backup()
    copy = Database(copy_url)
    await Archiver(copy, history.vault).run(WEEK)
    await copy.close()
    await history.write("B", 3)
    with pytest.raises(EpochBehind, match=r"reached .* from"):
        await history.archiver.run(WEEK)
    foreseen = await history.archiver.adopt(dry_run=True, set_aside=True)
    report = await history.archiver.adopt(set_aside=True)
    assert (report.aside, report.files, report.stale_rows) == (1, 0, 0)
    assert foreseen.aside == 1
    assert await history.seen() == {"A@1": 1, "B@1": 3}
    await history.archiver.run(WEEK)
    await history.archiver.compact()
    await history.clean()
    assert await history.seen() == {"A@1": 1, "B@1": 3}
    (finding,) = await history.archiver.fsck()
    assert finding.kind == "aside"
    assert not any(finding.key in one for one in (await history.archiver.forget(["A"])).remains)
    assert any(finding.key in one for one in (await history.archiver.forget(["B"])).remains)


async def test_a_backup_from_before_the_first_run_is_refused_and_can_adopt(
    history: History,
) -> None:
    """R14."""
    await history.write("A", 1)
    backup = await history.backup()
    await history.archiver.run(WEEK)
    await history.archive("A", 2)
    await history.archive("C", 5)
    await history.put_back(backup)
    with pytest.raises(WrongVault, match="epoch 3"):
        await history.archiver.run(WEEK)
    report = await history.archiver.adopt()
    assert report.stale_rows == 1
    await in_order(history, {"A@1": 2, "C@1": 5})


async def test_appended_samples_merged_after_a_backup_are_kept(history: History) -> None:
    """R15: they were never in any database."""
    await history.archive("keep", 0, hour=48)
    history.append("A", 1)
    backup = await history.backup()
    await history.archiver.compact()
    await history.clean()
    assert history.files("metrics") == []
    await history.put_back(backup)
    await history.archiver.adopt()
    await in_order(history, {"keep@48": 0, "A@1": 1})


async def test_a_backup_from_within_a_compaction_does_not_delete_what_it_made(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R16: the next plain run deleted the only copy, at once."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    backup = await history.copied_at(
        monkeypatch, (Steps, "put"), lambda: history.archiver.compact()
    )
    await history.clean()
    await history.put_back(backup)
    await history.archiver.adopt()
    await in_order(history, {"A@1": 1, "B@1": 2})


async def test_a_slice_verified_at_the_backup_is_proved_again(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.archive("A", 1)
    await history.write("B", 2)
    backup = await history.copied_at(
        monkeypatch, (Steps, "live"), lambda: history.archiver.run(WEEK)
    )
    await history.archiver.compact()
    await history.clean()
    await history.put_back(backup)
    await history.archiver.adopt()
    await in_order(history, {"A@1": 1, "B@1": 2})


async def test_a_slice_under_two_names_is_lost_by_no_history(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent back, and the process died: a copy finds both, either side deletes what it calls dead."""
    await history.archive("keep", 0, hour=48)
    await history.write("A", 1)
    backup = await history.backup()
    original = history.current

    async def die(*_: Any) -> None:
        raise RuntimeError("it died")

    async def misread(*_: Any) -> None:
        raise VerificationFailed("it was misread")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="it died"):
        patch.setattr(Run, "_prove", misread)
        patch.setattr(Steps, "delete_files", die)
        await history.archiver.run(WEEK)
    await history.archiver.run(WEEK)
    assert len(history.files()) == 3
    shown = {"keep@48": 0, "A@1": 1}
    assert await history.seen() == shown
    await history.put_back(backup)
    await history.archiver.adopt()
    assert await history.seen() == shown
    await history.clean()
    for url in (original, history.current, original):
        await history.put_back(url)
        report = await history.archiver.adopt()
        assert report.missing == ()
        assert await history.seen() == shown
        await history.clean()
    await in_order(history, shown)


async def test_an_adoption_that_died_is_finished_by_another(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    import atlas.archive.recovery.taking as taking

    await history.archive("keep", 0, hour=48)
    await history.write("A", 1)
    await history.write("B", 1, hour=24)
    backup = await history.backup()
    await history.write("A", 2)
    await history.write("B", 2, hour=24)
    await history.archiver.run(WEEK)
    # what is left then is a merged file: its number is higher than those of the slices that it holds
    await history.archive("C", 3)
    await history.archiver.compact()
    await history.clean()
    assert len(history.files()) == 3
    await history.put_back(backup)
    real, calls = taking._take, list[int]()

    async def take(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        await real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(taking, "_take", take)
        await history.archiver.adopt()
    with pytest.raises(EpochBehind):
        await history.archiver.run(WEEK)
    report = await history.archiver.adopt()
    assert (report.files, report.stale_rows) == (1, 1)
    await in_order(history, {"keep@48": 0, "A@1": 2, "B@24": 2, "C@1": 3})


async def test_a_dry_run_changes_nothing(history: History) -> None:
    await history.archive("keep", 0)
    backup = await history.backup()
    await history.archive("A", 1, hour=25)
    await history.put_back(backup)
    before = history.files("")
    await history.archiver.adopt(dry_run=True)
    assert history.files("") == before
    assert await history.sql("SELECT count(*) FROM archive_files") == 1
    with pytest.raises(EpochBehind):
        await history.archiver.run(WEEK)


async def test_videos_that_were_removed_after_a_backup_are_not_collected_again(
    history: History,
) -> None:
    from atlas.janitor import Janitor

    await history.archive("keep", 0)
    await history.sql(
        "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
        "VALUES ('doomed', 'A title', 'DONE', true, true, now() - interval '30 days')"
    )
    backup = await history.backup()
    assert (await Janitor(history.database, history.vault).run())["deleted"] == 1
    await history.put_back(backup)
    report = await history.archiver.adopt()
    assert report.collected == 1
    assert await history.sql("SELECT video_id FROM video_tombstones") == "doomed"
    # nor are they archived again
    assert await history.sql("SELECT count(*) FROM videos") == 0
    assert len(history.files("videos")) == 1
    await in_order(history, {"keep@1": 0})


async def test_a_video_that_changed_since_it_was_archived_stays(history: History) -> None:
    from atlas.janitor import Janitor

    await history.archive("keep", 0)
    await history.sql(
        "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
        "VALUES ('doomed', 'A title', 'DONE', true, true, now() - interval '30 days')"
    )
    backup = await history.backup()
    await Janitor(history.database, history.vault).run()
    await history.put_back(backup)
    await history.sql("UPDATE videos SET title = 'Another'")
    await history.archiver.adopt()
    assert await history.sql("SELECT title FROM videos") == "Another"


async def test_a_compaction_that_died_is_rolled_forward(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.archive("A", 1)
    await history.archive("B", 2)
    import atlas.archive.maintenance.rewrite as rewrite

    async def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rewrite, "_swap", die)
        await history.archiver.compact()
    await history.archiver.run(WEEK)
    states = "SELECT string_agg(state, ',' ORDER BY seq) FROM archive_files"
    assert await history.sql(states) == "retired,retired,live"
    await in_order(history, {"A@1": 1, "B@1": 2})


async def test_a_batch_with_an_output_missing_replaces_nothing(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.archive("A", 1)
    await history.archive("B", 2)
    real = Steps.put

    async def put(self: Steps, new: Any, records: Any = ()) -> None:
        await real(self, new, records)
        self.store.delete([new[0][0].object_key])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Steps, "put", put)
        await history.archiver.compact()
    await history.archiver.run(WEEK)
    states = "SELECT string_agg(state, ',' ORDER BY seq) FROM archive_files"
    assert await history.sql(states) == "live,live,gone"
    await in_order(history, {"A@1": 1, "B@1": 2})


async def test_an_unnamed_file_is_never_deleted(history: History) -> None:
    """Whatever clean-up is asked for: an own file that the ledger does not know is taken in instead."""
    await history.archive("A", 1)
    await history.archive("B", 2, hour=25)
    await history.sql("DELETE FROM archive_files WHERE seq = (SELECT min(seq) FROM archive_files)")
    assert await history.seen() == {"B@25": 2}
    await history.age()
    report = await history.archiver.collect_garbage(timedelta(0))
    assert report.keys == ()
    assert await history.seen() == {"A@1": 1, "B@25": 2}


async def test_appended_samples_of_a_shared_vault_are_adopted_by_nobody(history: History) -> None:
    """Vaults that two databases shared before that was refused: what is appended is both's."""
    history.append("A", 1)
    await history.archive("keep", 0)
    stranger = "_atlas/epochs/11111111-1111-1111-1111-111111111111.json"
    nonce = "22222222-2222-2222-2222-222222222222"
    history.vault.store.put_bytes(stranger, f'{{"epoch": 1, "nonce": "{nonce}"}}'.encode())
    await history.archiver.compact()
    await history.clean()
    assert len(history.files("metrics")) == 1
    history.vault.store.delete([stranger])
    await history.archiver.compact()
    await in_order(history, {"keep@1": 0, "A@1": 1})


async def test_a_reader_of_a_new_database_refuses_the_vault_of_another(history: History) -> None:
    history.append("A", 1)
    assert await history.seen() == {"A@1": 1}  # nobody's yet
    await history.archive("keep", 0)
    await history.lose()
    with pytest.raises(WrongVault, match="another database"):
        await history.seen()


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


@pytest.mark.parametrize("step", ["_open", "move_to", "_close", "nothing"])
async def test_a_vault_is_moved_whatever_stops_it_on_the_way(
    history: History, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    import atlas.archive.recovery.moving as moving

    history.vault.store_transcript("dQw4w9WgXcQ", {"text": "..."})
    await history.write("A", 1)
    await history.archive("B", 2)
    await history.archiver.forget(["B"])
    history.append("C", 3)
    backup = await history.backup()
    target = LocalVault(tmp_path / "elsewhere", home=tmp_path / "home")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    if step != "nothing":
        owner: Any = ControlWriter if step == "move_to" else moving
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, step, die)
            await history.archiver.move(target)
    report = await history.archiver.move(target)
    assert report.was_moved == (step == "_close")
    old, history.vault = history.vault, target
    assert await history.seen() == {"A@1": 1, "C@1": 3}
    await history.archiver.run(WEEK)
    assert target.fetch_transcript("dQw4w9WgXcQ") == {"text": "..."}
    # what another machine delivers to the old place
    old.append_metrics([{"video_id": "D", "timestamp": OLD, "views": 4}])
    await Archiver(history.database, old).move(target)
    await in_order(history, {"A@1": 1, "C@1": 3, "D@0": 4})
    # an older copy of the database is told where it went, and may adopt there
    await history.put_back(backup)
    with pytest.raises(WrongVault, match=r"moved to .*elsewhere"):
        await Archiver(history.database, old).run(WEEK)
    await history.archiver.adopt()
    await in_order(history, {"A@1": 1, "C@1": 3, "D@0": 4})


async def test_a_vault_is_not_moved_to_another_databases_place(
    history: History, tmp_path: Path
) -> None:
    target = LocalVault(tmp_path / "elsewhere", home=tmp_path / "home")
    await history.archive("A", 1)
    other = Database(await asyncio.to_thread(history.create, history.template))
    await Archiver(other, target).run(WEEK)
    await other.close()
    before = [info.key for info in target.store.list("")]
    with pytest.raises(WrongVault, match="another database"):
        await history.archiver.move(target)
    assert [info.key for info in target.store.list("")] == before
    await in_order(history, {"A@1": 1})


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
