"""A backup takes the database's place: adoption takes in what the vault has from after it."""

from __future__ import annotations

import errno
from datetime import timedelta
from typing import Any

import pytest

from atlas.archive.export.slices import Run
from atlas.archive.recovery import examination
from atlas.archive.session import Steps
from atlas.errors import EpochBehind, VaultDenied, VerificationFailed, WrongVault
from tests.support.histories import WEEK, History, in_order


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


async def test_a_machine_or_store_that_cannot_write_or_read_leaves_no_file_out(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows would be shown to nobody: a file that is left out is not looked at again."""
    await history.write("A", 1)
    await history.write("B", 2)
    backup = await history.backup()
    await history.archive("B", 3)
    await history.put_back(backup)

    for refusal in (OSError(errno.EMFILE, "refused"), VaultDenied("refused")):

        def fail(*_: Any, refusal: Exception = refusal) -> None:
            raise refusal

        for owner, name in ((examination.LaterRows, "add"), (examination.pq, "read_metadata")):
            with monkeypatch.context() as patch, pytest.raises(type(refusal), match="refused"):
                patch.setattr(owner, name, fail)
                await history.archiver.adopt()
    report = await history.archiver.adopt()
    assert (report.files, report.skipped) == (1, ())
    await in_order(history, {"A@1": 1, "B@1": 3})


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
