"""The hot samples."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import Base, ExternalId, UtcTimestamp
from atlas.tables.sample import COUNTERS


class StatsRecord(Base):
    """One sample of a video's counters, unique by (video_id, timestamp).

    Partitioned by range of ``timestamp``; partitions are named ``video_stats_log_p<start>`` and, once
    sealed, ``video_stats_log_sealed_<seq>`` (detached; see docs/archive.md). No DEFAULT partition and
    no foreign key: samples outlive their video and may precede it. Its counters are those of `SAMPLE`.
    ``seq`` is null for what was written, and that of the archived row for what was restored.
    """

    __tablename__ = "video_stats_log"

    video_id: Mapped[ExternalId] = mapped_column(primary_key=True)
    timestamp: Mapped[UtcTimestamp] = mapped_column(primary_key=True, server_default=func.now())
    locals().update({name: mapped_column(BigInteger) for name in COUNTERS})
    seq: Mapped[int | None]

    __table_args__ = (
        CheckConstraint("octet_length(video_id) BETWEEN 1 AND 64", name="video_id_length"),
        CheckConstraint(" AND ".join(f"{name} >= 0" for name in COUNTERS), name="not_negative"),
        Index("idx_stats_timestamp", "timestamp", postgresql_using="brin"),
        {"postgresql_partition_by": "RANGE (timestamp)"},
    )
