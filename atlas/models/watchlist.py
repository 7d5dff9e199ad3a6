"""The sampling schedule and the search terms: the two queues that never end."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

from sqlalchemy import (
    CheckConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import (
    Attempts,
    Base,
    Counter,
    CreatedAt,
    ExternalId,
    LeaseToken,
    UtcTimestamp,
    after_create,
)


class WatchlistEntry(Base):
    """When a video is sampled next. Outlives the video's row; no foreign key.

    Claimable from ``coalesce(leased_until, next_track_at)``: a claim moves that time to the end of
    the lease, a report sets ``next_track_at`` and clears the lease.
    """

    __tablename__ = "watchlist"

    video_id: Mapped[ExternalId] = mapped_column(primary_key=True)
    tracking_tier: Mapped[str] = mapped_column(server_default="HOURLY")
    published_at: Mapped[UtcTimestamp | None]
    last_tracked_at: Mapped[UtcTimestamp | None]
    next_track_at: Mapped[UtcTimestamp] = mapped_column(server_default=func.now())
    created_at: Mapped[CreatedAt]
    last_views: Mapped[Counter | None]
    last_likes: Mapped[Counter | None]
    last_comment_count: Mapped[Counter | None]
    leased_until: Mapped[UtcTimestamp | None]
    lease: Mapped[LeaseToken | None]
    attempts: Mapped[Attempts]
    error: Mapped[str | None]
    #: Answers of the API in a row that left the video out.
    omissions: Mapped[Attempts]
    #: When the calendar of slow videos made this row; -infinity: long ago; NULL: the id is not in the ring.
    woken_at: Mapped[UtcTimestamp | None]

    __table_args__ = (
        CheckConstraint(
            "tracking_tier IN ('HOURLY', 'DAILY', 'WEEKLY', 'DORMANT')", name="tracking_tier"
        ),
        CheckConstraint("octet_length(video_id) BETWEEN 1 AND 64", name="video_id_length"),
        Index(
            "idx_watchlist_next_track", func.coalesce(text("leased_until"), text("next_track_at"))
        ),
        Index("idx_watchlist_woken", "woken_at", postgresql_where=text("woken_at IS NOT NULL")),
    )


# claims rewrite rows in place for ever: room on the page keeps the heap from growing
after_create(WatchlistEntry, "ALTER TABLE watchlist SET (fillfactor = 80)")


class RingPage(Base):
    """Slow videos of the watchlist, and ids that were collected, packed; see docs/forever.md.

    The pages cover all positions from ``lower`` to ``upper``, both included, without gap or overlap.
    """

    __tablename__ = "watchlist_ring"

    lower: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    upper: Mapped[int]
    version: Mapped[int] = mapped_column(server_default=text("0"))
    entries: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    packed: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("lower <= upper", name="bounds"),)


# a page fits into one tuple: neither compressed nor moved out of line
after_create(RingPage, "ALTER TABLE watchlist_ring ALTER COLUMN packed SET STORAGE PLAIN")
after_create(RingPage, "ALTER TABLE watchlist_ring SET (autovacuum_vacuum_scale_factor = 0.05)")


class FilterPage(Base):
    """Which ids may be in which month's files of the schedule, packed; see docs/forever.md.

    Pairs of the first 34 bits of a position and a cohort. Pages cover all positions, as the ring's do.
    """

    __tablename__ = "watchlist_filter"

    lower: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    upper: Mapped[int]
    version: Mapped[int] = mapped_column(server_default=text("0"))
    entries: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    packed: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("lower <= upper", name="bounds"),)


after_create(FilterPage, "ALTER TABLE watchlist_filter ALTER COLUMN packed SET STORAGE PLAIN")
after_create(FilterPage, "ALTER TABLE watchlist_filter SET (autovacuum_vacuum_scale_factor = 0.05)")


class RingCohort(Base):
    """Slow videos of one month of publication, in ring and files, and how far their pointer has come."""

    __tablename__ = "watchlist_cohorts"

    cohort: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    entries: Mapped[int] = mapped_column(server_default=text("0"))
    distance: Mapped[Decimal] = mapped_column(Numeric(40, 0), server_default=text("0"))
    interval: Mapped[timedelta] = mapped_column(Interval)
    turned_at: Mapped[UtcTimestamp] = mapped_column(server_default=func.now())


class RingDay(Base):
    """How far a cohort's pointer had come at the end of a day (days since 1970)."""

    __tablename__ = "watchlist_cohort_days"

    cohort: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    distance: Mapped[Decimal] = mapped_column(Numeric(40, 0))
    skipped_from: Mapped[int] = mapped_column(Integer)


class TrackingBudgetDay(Base):
    """Samples that were granted to workers on a UTC day."""

    __tablename__ = "tracking_budget"

    day: Mapped[date] = mapped_column(primary_key=True)
    granted: Mapped[int] = mapped_column(server_default=text("0"))


class SearchTerm(Base):
    """A term for the hunters, with the page token to go on from."""

    __tablename__ = "search_queue"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    query_term: Mapped[str] = mapped_column(unique=True)
    priority: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    mention_count: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    next_page_token: Mapped[str | None]
    last_searched_at: Mapped[UtcTimestamp | None]
    result_count_total: Mapped[int] = mapped_column(server_default=text("0"))
    status: Mapped[str] = mapped_column(server_default="active")
    created_at: Mapped[CreatedAt]
    leased_until: Mapped[UtcTimestamp | None]
    lease: Mapped[LeaseToken | None]
    attempts: Mapped[Attempts]
    error: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("status IN ('active', 'exhausted')", name="status"),
        CheckConstraint("query_term <> ''", name="query_term_not_empty"),
        Index(
            "idx_search_queue_claim",
            text("priority DESC"),
            text("mention_count DESC"),
            "id",
            postgresql_where=text("status = 'active'"),
        ),
    )
