"""Tables whose finished rows go to the vault: one class a table, which chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ARRAY, Text, bindparam, text

from atlas.config import Settings
from atlas.repositories.finished.rows import Condition, FinishedRows
from atlas.tables.archived import ARCHIVED
from atlas.types import Dataset

_COLLECTED = text(
    "INSERT INTO video_tombstones (video_id) SELECT id FROM unnest(:ids) AS ids (id) ORDER BY id "
    "ON CONFLICT DO NOTHING"
).bindparams(bindparam("ids", type_=ARRAY(Text)))


class FinishedVideos(FinishedRows):
    """DONE videos discovered before the cutoff: with JANITOR_SAFETY_CHECK those with transcript and visuals.

    With JANITOR_UNFINISHED_DAYS also those that are not DONE and were discovered so many days ago. An id that
    went is remembered, and not collected again.
    """

    archived = ARCHIVED[Dataset.VIDEOS]
    relation = "videos"

    def finished(self, cutoff: datetime, settings: Settings) -> Condition:
        """Which videos may go."""
        where, values = "status = 'DONE' AND discovered_at < :cutoff", {"cutoff": cutoff}
        if settings.janitor_safety_check:
            where += " AND has_transcript AND has_visuals"
        if settings.janitor_unfinished_days is None:
            return Condition(where, values)
        return Condition(
            f"({where} OR status <> 'DONE' "
            "AND discovered_at < now() - make_interval(days => :unfinished_days))",
            {**values, "unfinished_days": settings.janitor_unfinished_days},
        )

    async def remember(self, keys: Sequence[str]) -> None:
        """Their ids were collected."""
        await self.session.execute(_COLLECTED, {"ids": list(keys)})


#: By the folder in the vault: one for each table that `atlas.tables.archived` declares so.
FINISHED: dict[str, type[FinishedRows]] = {
    kind.archived.dataset: kind for kind in (FinishedVideos,)
}
