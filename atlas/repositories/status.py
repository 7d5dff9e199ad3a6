"""How full the tiers are, and how far videos have come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from atlas.repositories.base import Repository
from atlas.repositories.hot.partitions import Partitions
from atlas.repositories.ledger.files import LedgerReader

_VIDEOS = text("""
    SELECT status, count(*),
           count(*) FILTER (WHERE NOT has_transcript AND status IN ('PENDING', 'PROCESSING')),
           count(*) FILTER (WHERE NOT has_visuals AND status IN ('PENDING', 'PROCESSING'))
    FROM videos GROUP BY status ORDER BY status
    """)


@dataclass(frozen=True, slots=True)
class Tier:
    """Samples of a tier. ``tables`` counts partitions, sealed tables or files."""

    rows: int
    bytes: int
    tables: int


@dataclass(frozen=True, slots=True)
class Tiers:
    """Where the samples are; ``oldest_hot`` is None where no sample is hot."""

    hot: Tier
    sealed: Tier
    cold: Tier
    cold_videos: int
    oldest_hot: datetime | None
    database_bytes: int


class StatusReader(Repository):
    """Counts, exactly; a few tenths of a second for a hot tier of millions."""

    async def tiers(self) -> Tiers:
        """Rows and bytes of the three tiers."""
        partitions = await Partitions(self.session).attached()
        hot = (
            await self.session.execute(text("SELECT count(*), min(timestamp) FROM video_stats_log"))
        ).one()
        ledger = LedgerReader(self.session)
        sealed = [file.relation for file in await ledger.open_files() if file.relation is not None]
        cold = (
            await self.session.execute(
                text(
                    "SELECT coalesce(sum(row_count) FILTER (WHERE dataset = 'video_stats'), 0), "
                    "coalesce(sum(byte_size) FILTER (WHERE dataset = 'video_stats'), 0), "
                    "count(*) FILTER (WHERE dataset = 'video_stats'), "
                    "coalesce(sum(row_count) FILTER (WHERE dataset = 'videos'), 0) "
                    "FROM archive_files WHERE state = 'live'"
                )
            )
        ).one()
        return Tiers(
            hot=Tier(hot[0], sum(part.byte_size for part in partitions), len(partitions)),
            sealed=Tier(
                sum([await ledger.count_rows(name) for name in sealed]),
                await ledger.sealed_bytes(),
                len(sealed),
            ),
            cold=Tier(int(cold[0]), int(cold[1]), cold[2]),
            cold_videos=int(cold[3]),
            oldest_hot=hot[1],
            database_bytes=int(
                await self.session.scalar(text("SELECT pg_database_size(current_database())")) or 0
            ),
        )


@dataclass(frozen=True, slots=True)
class StatusSummary:
    """How many videos have a status, and how many of them wait for a transcript, for visuals."""

    status: str
    videos: int
    without_transcript: int
    without_visuals: int


class VideoReader(Repository):
    """Reads videos."""

    async def summary(self) -> list[StatusSummary]:
        """One row a status that videos have."""
        return [StatusSummary(*row) for row in await self.session.execute(_VIDEOS)]
