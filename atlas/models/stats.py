"""The hot samples."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import Base, Counter, ExternalId, UtcTimestamp


class StatsRecord(Base):
    """One sample of a video's counters, unique by (video_id, timestamp).

    Partitioned by range of ``timestamp``; partitions are named ``video_stats_log_p<start>`` and, once
    sealed, ``video_stats_log_sealed_<seq>`` (detached; see docs/archive.md). No DEFAULT partition and
    no foreign key: samples outlive their video and may precede it.
    """

    __tablename__ = "video_stats_log"

    video_id: Mapped[ExternalId] = mapped_column(primary_key=True)
    timestamp: Mapped[UtcTimestamp] = mapped_column(primary_key=True, server_default=func.now())
    views: Mapped[Counter | None]
    likes: Mapped[Counter | None]
    comment_count: Mapped[Counter | None]

    __table_args__ = (
        CheckConstraint("octet_length(video_id) BETWEEN 1 AND 64", name="video_id_length"),
        CheckConstraint("views >= 0 AND likes >= 0 AND comment_count >= 0", name="not_negative"),
        Index("idx_stats_timestamp", "timestamp", postgresql_using="brin"),
        {"postgresql_partition_by": "RANGE (timestamp)"},
    )
