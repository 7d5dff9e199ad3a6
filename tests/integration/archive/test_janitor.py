"""The janitor removes what is finished and safe, and only that."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.archive.export import finished
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import VaultUnavailable, VerificationFailed
from atlas.janitor import Janitor
from atlas.vault import LocalVault
from tests.support.sql import execute, scalar


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
async def janitor(database: Database, vault: LocalVault) -> Janitor:
    """Four doomed videos, and one each that is not: unfinished, young, without transcript, visuals."""
    rows = [(f"doomed-{n}", "DONE", 30, True, True) for n in range(4)]
    rows += [("unfinished", "PENDING", 30, True, True), ("young", "DONE", 3, True, True)]
    rows += [("no-transcript", "DONE", 30, False, True), ("no-visuals", "DONE", 30, True, False)]
    async with database.transaction() as session:
        for video_id, status, days, transcript, visuals in rows:
            await session.execute(
                text(
                    "INSERT INTO videos (id, title, tags, status, discovered_at, has_transcript, "
                    "has_visuals) VALUES (:id, 'Ein Titel', '{a,b}', :status, "
                    "now() - make_interval(days => :days), :transcript, :visuals)"
                ),
                {
                    "id": video_id,
                    "status": status,
                    "days": days,
                    "transcript": transcript,
                    "visuals": visuals,
                },
            )
    return Janitor(database, vault)


async def left(database: Database) -> set[str]:
    async with database.transaction() as session:
        return set(await session.scalars(text("SELECT id FROM videos")))


async def test_doomed_videos_are_in_the_vault_before_they_are_gone(
    janitor: Janitor, database: Database, tmp_path: Path
) -> None:
    result = await janitor.run()
    cutoff = datetime.fromisoformat(result.pop("cutoff_date"))
    assert result == {"deleted": 4, "retention_days": 7, "safety_check_enabled": True}
    assert 6.9 < (datetime.now(UTC) - cutoff).total_seconds() / 86_400 < 7.1
    assert await left(database) == {"unfinished", "young", "no-transcript", "no-visuals"}
    table = ds.dataset(tmp_path / "vault" / "videos", partitioning="hive").to_table()
    assert table["id"].to_pylist() == [f"doomed-{n}" for n in range(4)]
    assert table["tags"].to_pylist() == [["a", "b"]] * 4
    async with database.transaction() as session:
        tombs = set(await session.scalars(text("SELECT video_id FROM video_tombstones")))
    assert tombs == {f"doomed-{n}" for n in range(4)}
    assert await janitor.run() == {"deleted": 0, "reason": "none_eligible"}


async def test_a_dry_run_counts_and_deletes_nothing(janitor: Janitor, database: Database) -> None:
    assert await janitor.run(dry_run=True) == {"deleted": 0, "dry_run": True, "would_delete": 4}
    assert len(await left(database)) == 8


async def test_a_disabled_janitor_does_nothing(
    janitor: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANITOR_ENABLED", "false")
    reset_settings()
    assert await janitor.run() == {"deleted": 0, "reason": "disabled"}


async def test_without_the_safety_check_every_finished_old_video_goes(
    janitor: Janitor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANITOR_SAFETY_CHECK", "false")
    reset_settings()
    result = await janitor.run()
    assert (result["deleted"], result["safety_check_enabled"]) == (6, False)
    assert await left(database) == {"unfinished", "young"}


async def test_a_video_that_changed_while_it_was_written_stays(
    janitor: Janitor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce = finished.announce

    async def change_then_announce(*args: Any) -> Any:
        async with database.transaction() as session:
            await session.execute(text("UPDATE videos SET title = 'new' WHERE id = 'doomed-2'"))
        return await announce(*args)

    monkeypatch.setattr(finished, "announce", change_then_announce)
    assert (await janitor.run())["deleted"] == 3
    assert "doomed-2" in await left(database)
    monkeypatch.undo()
    assert (await janitor.run())["deleted"] == 1


async def test_a_vault_that_fails_or_damages_deletes_nothing(
    janitor: Janitor, database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = vault.store.put_files

    def refuse(items: object) -> None:
        raise VaultUnavailable("the vault does not answer")

    def cut_short(items: list[tuple[str, Path]]) -> None:
        for _, path in items:
            path.write_bytes(path.read_bytes()[:-9])
        put(items)

    for behaviour, error in ((refuse, VaultUnavailable), (cut_short, VerificationFailed)):
        with monkeypatch.context() as patch:
            patch.setattr(vault.store, "put_files", behaviour)
            with pytest.raises(error):
                await janitor.run()
        assert len(await left(database)) == 8
    assert (await janitor.run())["deleted"] == 4
    # what was cut short never counted, and goes with the next clean-up
    await Archiver(database, vault).collect_garbage(timedelta(0))
    assert len(list(vault.store.list("videos"))) == 1


async def test_exhausted_search_terms_are_revived_but_not_by_a_dry_run(
    janitor: Janitor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(
        database,
        "INSERT INTO search_queue (query_term, status, last_searched_at) "
        "VALUES ('cats', 'exhausted', now() - interval '25 hours')",
    )
    status = "SELECT status FROM search_queue"
    await janitor.run()
    assert await scalar(database, status) == "exhausted"  # a month is not over
    monkeypatch.setenv("SEARCH_REVIVE_DAYS", "1")
    reset_settings()
    await janitor.run(dry_run=True)
    assert await scalar(database, status) == "exhausted"
    await janitor.run()
    assert await scalar(database, status) == "active"


async def test_partitions_are_made_ahead_and_the_watchlist_is_not_touched(
    janitor: Janitor, database: Database
) -> None:
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO watchlist (video_id) VALUES ('doomed-1')"))
    await janitor.run()
    async with database.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM watchlist")) == 1
        await session.execute(
            text("INSERT INTO video_stats_log VALUES ('v', now() + interval '40 hours', 1, 1, 1)")
        )


async def test_a_video_whose_transcript_or_visuals_still_wait_on_this_machine_stays(
    janitor: Janitor, vault: LocalVault, database: Database
) -> None:
    documents = vault._spool().documents
    documents.add("transcripts/do/doomed-1.json", io.BytesIO(b"[]"))
    documents.add("visuals/do/doomed-2.parquet", io.BytesIO(b"[]"))
    assert (await janitor.run())["deleted"] == 2
    assert {"doomed-1", "doomed-2"} <= await left(database)
    assert not {"doomed-0", "doomed-3"} & await left(database)
