"""The videos that the janitor may remove, and removing exactly the versions that were archived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.tables.parquet import VIDEOS_SCHEMA

#: Columns of a video that are kept in the vault.
VIDEO_COLUMNS = (
    "id",
    "channel_id",
    "title",
    "published_at",
    "duration",
    "tags",
    "category_id",
    "default_language",
    "wiki_topics",
    "discovered_at",
    "last_updated_at",
    "status",
    "has_transcript",
    "has_visuals",
)


@dataclass(frozen=True, slots=True)
class DoomedVideo:
    """A row as it was read. ``version`` changes with every update of the row."""

    version: str
    values: dict[str, Any]


class Doomed:
    """DONE videos discovered before ``cutoff``; with ``safe_only`` those with transcript and visuals.

    With ``unfinished_days`` also those that are not DONE and were discovered so many days ago.
    """

    def __init__(
        self,
        session: AsyncSession,
        cutoff: datetime,
        *,
        safe_only: bool,
        unfinished_days: int | None = None,
    ) -> None:
        self.session = session
        self._values: dict[str, object] = {"cutoff": cutoff}
        self._where = "status = 'DONE' AND discovered_at < :cutoff" + (
            " AND has_transcript AND has_visuals" if safe_only else ""
        )
        if unfinished_days is not None:
            self._where = (
                f"({self._where} OR status <> 'DONE' "
                "AND discovered_at < now() - make_interval(days => :unfinished_days))"
            )
            self._values["unfinished_days"] = unfinished_days

    async def count(self) -> int:
        """How many there are."""
        query = text(f"SELECT count(*) FROM videos WHERE {self._where}")
        return int(await self.session.scalar(query, self._values) or 0)

    async def read(self) -> list[DoomedVideo]:
        """All of them, in order of id, with their row versions."""
        return await _read(self.session, self._where, self._values)

    async def delete(self, videos: Sequence[DoomedVideo]) -> int:
        """Delete those whose version is still the one read, and remember that they were collected."""
        return await _delete(self.session, videos)


async def delete_archived(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Delete the videos that are still what a file in the vault says of them, and remember that all in there
    were collected."""
    await session.execute(_COLLECTED, {"ids": [row["id"] for row in rows]})
    archived = {row["id"]: row for row in _as_archived(rows)}
    found = await _read(session, "id = ANY(:ids)", {"ids": list(archived)})
    same = [
        video
        for video, row in zip(found, _as_archived([one.values for one in found]), strict=True)
        if row == archived[row["id"]]
    ]
    await _delete(session, same)


def _as_archived(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns that are kept, as they are read from a file."""
    schema = pa.schema([VIDEOS_SCHEMA.field(name) for name in VIDEO_COLUMNS])
    kept = [{name: row.get(name) for name in VIDEO_COLUMNS} for row in rows]
    return list(pa.Table.from_pylist(kept, schema).to_pylist())


async def _read(
    session: AsyncSession, where: str, values: Mapping[str, object]
) -> list[DoomedVideo]:
    columns = ", ".join(VIDEO_COLUMNS)
    query = text(f"SELECT xmin::text AS version, {columns} FROM videos WHERE {where} ORDER BY id")
    rows = (await session.execute(query, dict(values))).mappings().all()
    return [
        DoomedVideo(row["version"], {name: row[name] for name in VIDEO_COLUMNS}) for row in rows
    ]


async def _delete(session: AsyncSession, videos: Sequence[DoomedVideo]) -> int:
    values = {
        "ids": [video.values["id"] for video in videos],
        "versions": [video.version for video in videos],
    }
    return int(await session.scalar(_DELETE, values) or 0)


_DELETE = text("""
    WITH doomed AS (
        DELETE FROM videos v
        USING unnest(:ids, :versions) AS archived (id, version)
        WHERE v.id = archived.id AND v.xmin::text = archived.version
        RETURNING v.id
    ), kept AS (
        INSERT INTO video_tombstones (video_id) SELECT id FROM doomed
        ON CONFLICT (video_id) DO NOTHING
    )
    SELECT count(*) FROM doomed
    """).bindparams(bindparam("ids", type_=ARRAY(Text)), bindparam("versions", type_=ARRAY(Text)))
_COLLECTED = text(
    "INSERT INTO video_tombstones (video_id) SELECT id FROM unnest(:ids) AS ids (id) ORDER BY id "
    "ON CONFLICT DO NOTHING"
).bindparams(bindparam("ids", type_=ARRAY(Text)))
