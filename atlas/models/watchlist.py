"""The sampling schedule and the search terms: the two queues that never end."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import (
    Attempts,
    Base,
    Counter,
    CreatedAt,
    ExternalId,
    LeaseToken,
    UtcTimestamp,
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

    __table_args__ = (
        CheckConstraint(
            "tracking_tier IN ('HOURLY', 'DAILY', 'WEEKLY', 'DORMANT')", name="tracking_tier"
        ),
        CheckConstraint("octet_length(video_id) BETWEEN 1 AND 64", name="video_id_length"),
        Index(
            "idx_watchlist_next_track", func.coalesce(text("leased_until"), text("next_track_at"))
        ),
        # claims rewrite rows in place for ever: room on the page keeps the heap from growing
        {"postgresql_with": {"fillfactor": "80"}},
    )


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
