"""The videos that the janitor may remove, and removing exactly the versions that were archived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

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
        columns = ", ".join(VIDEO_COLUMNS)
        query = text(
            f"SELECT xmin::text AS version, {columns} FROM videos WHERE {self._where} ORDER BY id"
        )
        rows = (await self.session.execute(query, self._values)).mappings().all()
        return [
            DoomedVideo(row["version"], {name: row[name] for name in VIDEO_COLUMNS}) for row in rows
        ]

    async def delete(self, videos: Sequence[DoomedVideo]) -> int:
        """Delete those whose version is still the one read, and remember that they were collected."""
        query = text("""
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
            """).bindparams(
            bindparam("ids", type_=ARRAY(Text)), bindparam("versions", type_=ARRAY(Text))
        )
        values = {
            "ids": [video.values["id"] for video in videos],
            "versions": [video.version for video in videos],
        }
        return int(await self.session.scalar(query, values) or 0)
