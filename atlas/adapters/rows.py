"""The rows that `MaiaDAO` returns and takes, for type checkers. At run time they are plain dicts."""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict

__all__ = [
    "JanitorResult",
    "SampleInput",
    "ScheduleUpdate",
    "SearchTerm",
    "TrackerTarget",
    "TrackingRow",
    "VideoWork",
]


class SearchTerm(TypedDict):
    """A row of `MaiaDAO.fetch_hunter_batch`."""

    id: int
    query_term: str
    next_page_token: str | None
    last_searched_at: datetime | None
    priority: int


class TrackerTarget(TypedDict):
    """A row of `MaiaDAO.fetch_tracker_targets`."""

    id: str
    title: str
    published_at: datetime | None
    last_updated_at: datetime | None
    priority: int


class VideoWork(TypedDict):
    """A row of `MaiaDAO.fetch_scribe_batch` and `MaiaDAO.fetch_painter_batch`."""

    id: str
    title: str
    published_at: datetime | None
    discovered_at: datetime


class TrackingRow(TypedDict):
    """A row of `MaiaDAO.fetch_tracking_batch`."""

    video_id: str
    tracking_tier: str
    last_tracked_at: datetime | None
    next_track_at: datetime


class SampleInput(TypedDict):
    """A sample for `MaiaDAO.log_video_stats_batch`: counters may be numbers or their digits."""

    video_id: str
    views: NotRequired[int | str | None]
    likes: NotRequired[int | str | None]
    comment_count: NotRequired[int | str | None]
    timestamp: NotRequired[datetime | str | None]


class ScheduleUpdate(TypedDict):
    """A report for `MaiaDAO.update_watchlist_schedule`."""

    video_id: str
    tracking_tier: str
    last_tracked_at: datetime | str
    next_track_at: datetime | str


class JanitorResult(TypedDict):
    """What `MaiaDAO.run_janitor` returns: why nothing was done, or a count, or what was done."""

    deleted: int
    reason: NotRequired[str]
    dry_run: NotRequired[bool]
    would_delete: NotRequired[int]
    cutoff_date: NotRequired[str]
    retention_days: NotRequired[float]
    safety_check_enabled: NotRequired[bool]
