"""What others put under metrics/ never fails what is ours: read where meant well, else left out and named."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import CorruptObject
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, samples, visible
from tests.support.sql import fetch

WEEK = timedelta(days=7)
FOLDER = f"metrics/date={OLD:%Y-%m-%d}/hour=03"
AT = OLD + timedelta(hours=3)


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault", home=tmp_path / "home")


def put(vault: LocalVault, name: str, **columns: Any) -> str:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target)
    vault.store.put_bytes(f"{FOLDER}/{name}", target.getvalue())
    return f"{FOLDER}/{name}"


def as_the_first_version(vault: LocalVault, views: float = 5.0) -> str:
    return put(
        vault,
        "stats.parquet",
        video_id=["old"],
        timestamp=[AT.strftime("%Y-%m-%dT%H:%M:%S")],
        views=[views],
        comments=[6],
    )


async def test_hostile_objects_fail_no_read_of_others_and_no_compaction(
    database: Database, vault: LocalVault
) -> None:
    archiver, rows = Archiver(database, vault), samples(videos=5)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    vault.append_metrics([{"video_id": "ours", "timestamp": AT, "views": 1}])
    expected = {
        **as_written(rows),
        ("ours", AT): (1, None, None),
        ("old", AT): (5, None, 6),
    }
    adopted = as_the_first_version(vault)
    first = rows[0]
    hostile = [
        # a row above every other, for a sample that is archived
        put(
            vault,
            "a.parquet",
            video_id=[first.video_id],
            timestamp=[first.timestamp],
            views=[-1],
            seq=[2**63 - 1],
        ),
        put(vault, "b.parquet", video_id=["../../etc; drop"], timestamp=[AT]),
        put(vault, "c.parquet", video_id=["V"], timestamp=[datetime(1999, 1, 1, tzinfo=UTC)]),
        put(vault, f"{10**19}-{10**19}-{'0' * 32}.parquet", video_id=["V"], timestamp=[7]),
        put(vault, "d.parquet", wrong=["columns"]),
        f"{FOLDER}/e.parquet",
    ]
    vault.store.put_bytes(hostile[-1], b"junk" * 20)
    assert await visible(database, vault) == expected
    history = await StatsReader(database, vault).history(first.video_id)
    assert history.num_rows == 6
    named = {finding.key for finding in await archiver.fsck()}
    assert named == set(hostile)

    report = await archiver.compact()
    assert report.failed == () and report.days == 1
    assert sorted(one.split(": ")[0] for one in report.left_out) == sorted(hostile)
    assert await visible(database, vault) == expected
    (event,) = await fetch(
        database, "SELECT payload FROM system_events WHERE event_type = 'archive.metrics_left_out'"
    )
    payload = event["payload"]
    assert (json.loads(payload) if isinstance(payload, str) else payload)["count"] == len(hostile)
    # nor an erasure, of what was adopted from others too, nor a restore
    receipt = await archiver.forget(["ours", "old"])
    assert adopted in receipt.objects and vault.store.stat(adopted) is None
    expected.pop(("ours", AT))
    expected.pop(("old", AT))
    await archiver.restore(OLD, OLD + timedelta(days=1))
    assert await visible(database, vault) == expected
    assert all(vault.store.stat(key) is not None for key in hostile)


async def test_a_damaged_object_of_the_ledger_still_fails_loudly(
    database: Database, vault: LocalVault
) -> None:
    await record_samples(database, samples(videos=2))
    await Archiver(database, vault).run(WEEK)
    key, *_ = vault.list_files("video_stats")
    content = vault.store.get_bytes(key)
    assert content is not None
    vault.store.put_bytes(key, b"x" * len(content))
    with pytest.raises(CorruptObject):
        await visible(database, vault)


async def test_a_name_that_another_program_uses_again_is_not_deleted(
    database: Database, vault: LocalVault
) -> None:
    archiver = Archiver(database, vault)
    key = as_the_first_version(vault)
    assert (await archiver.compact()).failed == ()
    as_the_first_version(vault, views=7.0)
    async with database.transaction() as session:
        from sqlalchemy import text

        await session.execute(
            text("UPDATE archive_files SET retired_at = now() - interval '3 days'")
        )
    await archiver.collect_garbage(timedelta(0))
    assert vault.store.stat(key) is not None
    assert ("old", AT) in await visible(database, vault)


async def test_a_correction_wins_over_a_row_from_a_clock_that_is_fast(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    archiver = Archiver(database, vault)
    import time

    real = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr("time.time_ns", lambda: real() + 3_600 * 10**9)
        # put back as well: this process would number its rows from that hour for ever
        patch.setattr("atlas.vault.metrics._last_seq", 0)
        vault.append_metrics([{"video_id": "V", "timestamp": AT, "views": 1}])
        vault.append_metrics([{"video_id": "W", "timestamp": AT, "views": 1}])
    # of V before it is adopted, of W after
    for video_id in ("V", "W"):
        await record_samples(database, [Sample(video_id, AT, views=2)])
        assert (await visible(database, vault))[video_id, AT] == (2, None, None)
        await archiver.run(WEEK)
        assert (await visible(database, vault))[video_id, AT] == (2, None, None)
        assert (await archiver.compact()).failed == ()
        assert (await visible(database, vault))[video_id, AT] == (2, None, None)
