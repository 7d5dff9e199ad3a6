"""A process in which a sample has one column more than today, and what that does to files that lie there.

``python -m tests.support.children.wider_child URL FOLDER``: DATABASE_URL names an empty migrated database,
and URL another one. Says ``whole`` at the end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from atlas import types

#: The line that adds a counter; the rest of this module runs with it.
WIDER = dataclasses.make_dataclass(
    "Sample",
    [("favorite_count", "int | None", types._counter(since=3, field_id=8))],
    bases=(types.Sample,),
    frozen=True,
    slots=True,
)
types.Sample = WIDER  # type: ignore[misc,assignment]

from sqlalchemy import text  # noqa: E402

from atlas.archive import Archiver  # noqa: E402
from atlas.db import Database, db  # noqa: E402
from atlas.ingest import parse_sample, record_samples  # noqa: E402
from atlas.reader import StatsReader  # noqa: E402
from atlas.tables.sample import FORMAT, SAMPLE_COLUMNS, STATS_SCHEMA  # noqa: E402
from tests.support import format_1  # noqa: E402

FIRST = datetime(2026, 1, 10, tzinfo=UTC)
WEEK = timedelta(days=7)
Key = tuple[str, datetime]


async def shown(database: Database, vault: Any) -> dict[Key, Sequence[int | None]]:
    found: dict[Key, Sequence[int | None]] = {}
    async for batch in StatsReader(database, vault).scan():
        for row in batch.to_pylist():
            key = (row["video_id"], row["timestamp"])
            assert key not in found
            found[key] = tuple(row[name] for name in SAMPLE_COLUMNS[2:])
    return found


async def main(other_url: str, folder: Path) -> None:
    assert SAMPLE_COLUMNS[-1] == "favorite_count" and FORMAT == 3
    assert STATS_SCHEMA.field("favorite_count").metadata == {b"PARQUET:field_id": b"8"}
    vault = format_1.copied(folder / "vault")
    other = Database(other_url)
    for database in (db, other):
        async with database.transaction() as session:
            # the migration
            for table in ("video_stats_log", "stale_samples"):
                await session.execute(text(f"ALTER TABLE {table} ADD COLUMN favorite_count bigint"))
    await format_1.ledger_of_its_time(db, vault)
    expected = {key: (*one, None) for key, one in format_1.expected().items()}
    archiver = Archiver(db, vault)
    assert await shown(db, vault) == expected, "old files are read"
    assert await archiver.fsck(deep=True) == []

    # new files beside old ones, a correction of an old sample among them
    rows = [
        {
            "video_id": "video-2",
            "timestamp": FIRST + timedelta(hours=2, microseconds=2),
            "views": 8,
        },
        {"video_id": "video-9", "timestamp": FIRST + timedelta(days=1, hours=8), "views": 9},
    ]
    for number, row in enumerate(rows):
        row["favorite_count"] = number
    await record_samples(db, [parse_sample(row, at, FIRST) for at, row in enumerate(rows)])
    assert (await archiver.run(WEEK)).rows == 2
    appended = {
        "video_id": "appended",
        "timestamp": FIRST + timedelta(hours=4),
        "favorite_count": 7,
    }
    assert vault.append_metrics([appended]) == 1 and vault.append_metrics([appended]) == 0
    for row in (*rows, appended):
        expected[row["video_id"], row["timestamp"]] = (
            row.get("views"),
            None,
            None,
            row["favorite_count"],
        )
    assert await shown(db, vault) == expected, "old and new files are read as one"

    until = FIRST + timedelta(days=3)
    assert (await archiver.restore(FIRST, until)).rows == len(expected)
    assert await shown(db, vault) == expected, "restored"
    assert (await archiver.release()).kept == 0
    assert await shown(db, vault) == expected, "released"

    report = await archiver.compact()
    assert report.failed == () and report.days == 3
    assert await shown(db, vault) == expected, "compacted"
    await archiver.collect_garbage(timedelta(0))
    assert await archiver.fsck(deep=True) == []

    assert (await archiver.forget(["video-1", "finished-1"])).cold_rows > 0
    expected = {key: one for key, one in expected.items() if key[0] != "video-1"}
    assert await shown(db, vault) == expected, "erased"

    stale = {**rows[1], "favorite_count": 5}
    await record_samples(other, [parse_sample(stale, 0, FIRST)])
    rebuilt = await Archiver(other, vault).rebuild()
    assert (rebuilt.skipped, rebuilt.stale_rows) == ((), 1)
    assert await shown(other, vault) == expected, "rebuilt"
    async with other.transaction() as session:
        kept = await session.scalar(text("SELECT favorite_count FROM stale_samples"))
    assert kept == 5, "what is older than the vault is kept aside"
    await other.close()
    await db.close()
    print("whole")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
