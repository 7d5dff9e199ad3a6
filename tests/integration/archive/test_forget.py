"""A forgotten video leaves every tier and folder, and does not come back."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow.dataset as ds
import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.archive.maintenance import erasure
from atlas.db import Database
from atlas.errors import InvalidInput, VaultError, VaultUnavailable
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.reader import StatsReader
from atlas.types import ObjectStore, Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, samples, visible
from tests.support.sql import scalar

WEEK = timedelta(days=7)
GONE = "video-0003"


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
def archiver(database: Database, vault: LocalVault) -> Archiver:
    return Archiver(database, vault)


def without(rows: list[Sample]) -> list[Sample]:
    return [row for row in rows if row.video_id != GONE]


async def everywhere(database: Database, vault: LocalVault, archiver: Archiver) -> list[Sample]:
    """Samples of many videos, `GONE` among them, in every place where rows can lie."""
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
                "VALUES ('video-0003', 'A title', 'DONE', true, true, now() - interval '30 days'), "
                "('video-0004', 'A title', 'DONE', true, true, now() - interval '30 days')"
            )
        )
        await session.execute(
            text("INSERT INTO watchlist (video_id) VALUES ('video-0003'), ('video-0004')")
        )
        await session.execute(
            text(
                "INSERT INTO system_events (event_type, entity_id, payload) VALUES "
                "('video.discovered', 'video-0003', '{}'), "
                "('video.discovered', null, '{\"video_id\": \"video-0003\"}'), "
                "('video.discovered', 'video-0004', '{}')"
            )
        )
    assert (await Janitor(database, vault).run())["deleted"] == 2
    async with database.transaction() as session:  # discovered again, and done again
        await session.execute(text("INSERT INTO videos (id, title) VALUES ('video-0003', 'Again')"))
    old = samples(times=30)
    await record_samples(database, old)
    await archiver.run(WEEK)
    await archiver.compact()  # what was replaced still lies in the vault
    late = [Sample(row.video_id, row.timestamp, views=8) for row in old[:40]]
    await record_samples(database, late)
    await archiver.run(WEEK)
    fresh = samples(times=1, start=datetime.now(UTC) - timedelta(hours=1))
    await record_samples(database, fresh)
    appended = samples(times=1, start=OLD + timedelta(days=3))
    vault.append_metrics(
        [{"video_id": one.video_id, "timestamp": one.timestamp, "views": 3} for one in appended]
    )
    appended = [Sample(one.video_id, one.timestamp, 3) for one in appended]
    for video_id in (GONE, "video-0004"):
        vault.store_transcript(video_id, {"text": "words"})
        vault.store_json(f"transcripts/{video_id}.json", {"text": "older words"})
        vault.store_metadata(video_id, {"title": "A title"}, OLD)
        vault.store_visual_evidence(video_id, [(0, b"frame")])
    return [*old, *late, *fresh, *appended]


def objects_naming(root: Path, video_id: str) -> list[str]:
    """Every file of the vault that says the id, in its name or in its rows."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if video_id in path.name or video_id.encode() in path.read_bytes():
            found.append(path.name)
        elif path.suffix == ".parquet":
            table = ds.dataset(path, format="parquet").to_table()
            if any(video_id in str(row) for row in table.to_pylist()):
                found.append(path.name)
    return found


async def test_nothing_of_a_forgotten_video_is_left_and_nothing_else_is_touched(
    database: Database, vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    rows = await everywhere(database, vault, archiver)
    before = await visible(database, vault)
    assert len(objects_naming(tmp_path / "vault", GONE)) > 8
    receipt = await archiver.forget([GONE])
    assert objects_naming(tmp_path / "vault", GONE) == []
    wanted = {key: value for key, value in before.items() if key[0] != GONE}
    assert wanted == as_written(without(rows))
    assert await visible(database, vault) == wanted
    assert await StatsReader(database, vault).count() == len(wanted)
    assert (await StatsReader(database, vault).history(GONE)).num_rows == 0
    # the other video kept everything
    assert vault.fetch_transcript("video-0004") == {"text": "words"}
    assert vault.fetch_visual_evidence("video-0004") == [(0, b"frame")]
    assert receipt.hot.samples == 1
    assert (receipt.hot.videos, receipt.hot.watchlist, receipt.hot.events) == (1, 1, 2)
    # two days of merged files, the deltas of one slice, the metrics, the file of removed videos
    assert len(receipt.files) == 5
    assert receipt.cold_rows == 30 + 2 + 1 + 1
    assert all(file.fingerprint_before != file.fingerprint_after for file in receipt.files)
    assert len(receipt.documents) == 4
    assert any("video_tombstones" in line for line in receipt.remains)
    async with database.transaction() as session:
        for query in (
            "SELECT count(*) FROM videos WHERE id = 'video-0003'",
            "SELECT count(*) FROM watchlist WHERE video_id = 'video-0003'",
            "SELECT count(*) FROM system_events WHERE entity_id = 'video-0003'",
            "SELECT count(*) FROM video_stats_log WHERE video_id = 'video-0003'",
        ):
            assert await session.scalar(text(query)) == 0, query
    json.dumps(receipt.remains)
    findings = await archiver.fsck(deep=True)
    assert findings == []


async def test_a_forgotten_video_does_not_come_back_by_any_door(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = await everywhere(database, vault, archiver)
    await archiver.forget([GONE])
    again = [
        Sample(GONE, datetime.now(UTC) - timedelta(minutes=1), views=1),
        Sample(GONE, OLD, views=1),
    ]
    other = Sample("video-0004", datetime.now(UTC) - timedelta(minutes=1), views=1)
    assert await record_samples(database, [*again, other]) == 1
    dao = MaiaDAO(database, vault)
    await dao.add_to_watchlist(GONE)
    await dao.ingest_video_metadata({"id": GONE, "snippet": {"title": "Again", "channelId": "UC1"}})
    async with database.transaction() as session:
        for query in (
            "SELECT count(*) FROM watchlist WHERE video_id = 'video-0003'",
            "SELECT count(*) FROM videos WHERE id = 'video-0003'",
        ):
            assert await session.scalar(text(query)) == 0, query
    # another machine that has not heard of it appends, and a writer that was under way commits late
    vault.append_metrics([{"video_id": GONE, "timestamp": OLD, "views": 2}])
    late = Sample("video-0004", OLD + timedelta(minutes=1), views=1)
    await record_samples(database, [late])
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO video_stats_log (video_id, timestamp, views) "
                "VALUES ('video-0003', now() - interval '2 minutes', 1), ('video-0003', :late, 1)"
            ),
            {"late": OLD + timedelta(minutes=1)},
        )
    wanted = as_written([*without(rows), other, late])
    assert await visible(database, vault) == wanted
    assert (await archiver.run(WEEK)).rows == 1
    assert (await archiver.compact()).failed == ()
    await archiver.collect_garbage(timedelta(0))
    assert await visible(database, vault) == wanted
    assert objects_naming(Path(vault.identity.removeprefix("file://")), GONE) == []


async def test_an_erasure_that_died_is_finished_by_the_next_run(
    database: Database,
    vault: LocalVault,
    archiver: Archiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = await everywhere(database, vault, archiver)
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise VaultUnavailable("the store went away")

        broken.setattr(type(vault.store), "delete", fail)
        with pytest.raises(VaultUnavailable):
            await archiver.forget([GONE])
    # already nobody sees it
    assert await visible(database, vault) == as_written(without(rows))
    await archiver.run(WEEK)
    assert objects_naming(tmp_path / "vault", GONE) == []
    assert await visible(database, vault) == as_written(without(rows))


async def test_rows_that_wait_on_this_machine_are_forgotten_too(
    database: Database, vault: LocalVault, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise VaultUnavailable("the store went away")

        broken.setattr(type(vault.store), "put_files", fail)
        vault.append_metrics([{"video_id": GONE, "timestamp": OLD, "views": 2}])
        assert vault.pending().count == 1
    await archiver.forget([GONE])
    assert vault.pending().count == 0
    assert objects_naming(Path(vault.identity.removeprefix("file://")), GONE) == []


async def test_what_is_no_id_is_refused_before_anything_happens(
    database: Database, archiver: Archiver
) -> None:
    with pytest.raises(InvalidInput):
        await archiver.forget(["not an id"])
    async with database.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM video_tombstones")) == 0


async def test_documents_that_the_store_refused_leave_this_machine_too(
    vault: LocalVault, archiver: Archiver
) -> None:
    refused = vault._spool().documents
    for key in ("transcripts/vi/video-0003.json", "metadata/2026-01-01/video-0003.json"):
        refused.add(key, io.BytesIO(b"{}"))
    refused.add("transcripts/vi/video-0004.json", io.BytesIO(b"{}"))
    refused.deliver(cast(ObjectStore, SimpleNamespace(put_many=_refuse)), 9)
    assert refused.refused() == 3
    receipt = await archiver.forget([GONE])
    assert set(receipt.documents) == {
        "transcripts/vi/video-0003.json",
        "metadata/2026-01-01/video-0003.json",
    }
    assert refused.refused() == 1


def _refuse(items: object) -> None:
    raise VaultError("no")


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "goes on"])
async def test_a_writer_that_began_before_the_bar_leaves_nothing(
    database: Database, archiver: Archiver, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(erasure, "_PATIENCE", 30.0 if ends else 0.0)
    may_end = asyncio.Event()

    def report(_: int, __: int | None, what: str) -> None:
        if "transactions" in what:
            may_end.set()

    async with database.transaction() as writing:
        await writing.execute(text(f"INSERT INTO watchlist (video_id) VALUES ('{GONE}')"))
        forgetting = asyncio.create_task(archiver.forget([GONE], progress=report))
        if ends:
            await may_end.wait()
        else:
            receipt = await forgetting
            assert any("ends the erasure" in line for line in receipt.remains)
    receipt = await forgetting
    unfinished = "SELECT count(*) FROM video_tombstones WHERE erased_at IS NULL"
    if not ends:
        assert receipt.hot.watchlist == 0 and await scalar(database, unfinished) == 1
        assert await scalar(database, "SELECT count(*) FROM watchlist") == 1
        await archiver.run(WEEK)
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    assert await scalar(database, unfinished) == 0
    receipt = await archiver.forget([GONE])
    assert not any("ends the erasure" in line for line in receipt.remains)
