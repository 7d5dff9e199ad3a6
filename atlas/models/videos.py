"""Channels, videos, and the ids of videos that are not to be collected again."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, SmallInteger, Text, false, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import Attempts, Base, CreatedAt, ExternalId, LeaseToken, UtcTimestamp

_OPEN = "status IN ('PENDING', 'PROCESSING')"

#: The earliest moment at which a video's counters can be due, as a UTC timestamp without zone: an
#: hour after the last sample while it is younger than a day then, six hours while younger than a
#: week, else a day (what is due later because of its age is sorted out by the claim itself). Written
#: with immutable operators only, so that an index can hold it.
STATS_DUE = """coalesce(
    timezone('UTC', stats_leased_until),
    CASE
        WHEN last_updated_at IS NULL THEN timezone('UTC', discovered_at)
        WHEN last_updated_at - coalesce(published_at, discovered_at) < interval '23 hours'
            THEN timezone('UTC', last_updated_at) + interval '1 hour'
        WHEN last_updated_at - coalesce(published_at, discovered_at) < interval '162 hours'
            THEN timezone('UTC', last_updated_at) + interval '6 hours'
        ELSE timezone('UTC', last_updated_at) + interval '24 hours'
    END)"""

#: How urgent a video's counters were when they were last looked at: what an index can hold of the priority,
#: which depends on the time.
STATS_URGENCY = """CASE
    WHEN coalesce(last_updated_at, discovered_at) - coalesce(published_at, discovered_at)
        < interval '23 hours' THEN 1
    WHEN coalesce(last_updated_at, discovered_at) - coalesce(published_at, discovered_at)
        < interval '162 hours' THEN 2
    ELSE 3 END"""


class ChannelRecord(Base):
    """A channel. ``created_at`` is when YouTube says the channel was made."""

    __tablename__ = "channels"

    id: Mapped[ExternalId] = mapped_column(primary_key=True)
    title: Mapped[str]
    country: Mapped[str | None]
    custom_url: Mapped[str | None]
    created_at: Mapped[UtcTimestamp | None]
    is_verified: Mapped[bool | None]
    last_scraped_at: Mapped[UtcTimestamp | None]


class VideoRecord(Base):
    """A video in collection. The janitor moves finished rows to the vault.

    Each kind of work (transcript, visuals, stats) has its own lease: ``*_leased_until`` is the
    moment from which the row can be claimed again, ``*_attempts`` the claims since the last report,
    ``*_error`` why the last of them failed.
    No foreign key to ``channels``: collectors deliver in any order.
    """

    __tablename__ = "videos"

    id: Mapped[ExternalId] = mapped_column(primary_key=True)
    channel_id: Mapped[ExternalId | None]
    title: Mapped[str]
    published_at: Mapped[UtcTimestamp | None]
    duration: Mapped[int | None]
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    category_id: Mapped[str | None]
    default_language: Mapped[str | None]
    wiki_topics: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    discovered_at: Mapped[CreatedAt]
    last_updated_at: Mapped[UtcTimestamp | None]
    status: Mapped[str] = mapped_column(server_default="PENDING")
    has_transcript: Mapped[bool] = mapped_column(server_default=false())
    has_visuals: Mapped[bool] = mapped_column(server_default=false())
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))

    transcript_leased_until: Mapped[UtcTimestamp | None]
    transcript_lease: Mapped[LeaseToken | None]
    transcript_attempts: Mapped[Attempts]
    visuals_leased_until: Mapped[UtcTimestamp | None]
    visuals_lease: Mapped[LeaseToken | None]
    visuals_attempts: Mapped[Attempts]
    stats_leased_until: Mapped[UtcTimestamp | None]
    stats_lease: Mapped[LeaseToken | None]
    stats_attempts: Mapped[Attempts]
    stats_error: Mapped[str | None]
    transcript_error: Mapped[str | None]
    visuals_error: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("status IN ('PENDING', 'PROCESSING', 'DONE', 'FAILED')", name="status"),
        CheckConstraint("octet_length(id) BETWEEN 1 AND 64", name="id_length"),
        Index("idx_video_status", "status", "discovered_at"),
        Index(
            "idx_video_transcript_claim",
            text("priority DESC"),
            func.coalesce(text("transcript_leased_until"), text("discovered_at")),
            postgresql_where=text(f"NOT has_transcript AND {_OPEN}"),
        ),
        Index(
            "idx_video_visuals_claim",
            text("priority DESC"),
            func.coalesce(text("visuals_leased_until"), text("discovered_at")),
            postgresql_where=text(f"NOT has_visuals AND {_OPEN}"),
        ),
        Index("idx_video_stats_claim", text(f"({STATS_URGENCY})"), text(STATS_DUE)),
    )


class VideoTombstone(Base):
    """An id that must not be collected again: ``collected`` and cleaned up, or ``forgotten``.

    Rows of forgotten ids do not count wherever they still lie; ``erased_at`` is when the last was removed.
    """

    __tablename__ = "video_tombstones"

    video_id: Mapped[ExternalId] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(server_default="collected")
    created_at: Mapped[CreatedAt]
    erased_at: Mapped[UtcTimestamp | None]

    __table_args__ = (
        CheckConstraint("reason IN ('collected', 'forgotten')", name="reason"),
        Index(
            "idx_video_tombstones_forgotten",
            "video_id",
            postgresql_where=text("reason = 'forgotten'"),
        ),
    )
