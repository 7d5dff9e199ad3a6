"""The tables of the platform's first version, and how their columns are taken over."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ALL", "COUNTERS", "ID_IS_VALID", "STATS", "TABLES", "OldTable"]

_STATUS = (
    "CASE WHEN upper({0}) IN ('PENDING', 'PROCESSING', 'DONE', 'FAILED') "
    "THEN upper({0}) ELSE 'PENDING' END"
)
_TIER = (
    "CASE WHEN upper({0}) IN ('HOURLY', 'DAILY', 'WEEKLY', 'DORMANT') "
    "THEN upper({0}) ELSE 'DAILY' END"
)
_TERM_STATUS = "CASE WHEN lower({0}) = 'exhausted' THEN 'exhausted' ELSE 'active' END"
_NUMBER = "{0}::bigint"
#: Condition on an id: {0} is its column.
ID_IS_VALID = "octet_length(o.{0}::text) BETWEEN 1 AND 64"


@dataclass(frozen=True, slots=True)
class OldTable:
    """A table of the first schema.

    ``columns`` are those copied, each with how its value is written ({0} is the old column; None: as it
    is); a column that an installation lacks takes the new table's default. ``known_by`` are columns without
    which a table of that name is somebody else's.
    """

    name: str
    key: str
    known_by: tuple[str, ...]
    columns: dict[str, str | None] = field(default_factory=dict)
    valid: str = "true"


_TEXT = "{0}::text"
#: Tables that are copied row by row.
TABLES = (
    OldTable(
        "channels",
        "id",
        ("id", "title"),
        {
            **dict.fromkeys(("id", "country", "custom_url"), _TEXT),
            "title": "coalesce({0}::text, '')",
            **dict.fromkeys(("created_at", "is_verified", "last_scraped_at")),
        },
    ),
    OldTable(
        "videos",
        "id",
        ("id", "channel_id", "title", "status"),
        {
            **dict.fromkeys(("id", "channel_id", "category_id", "default_language"), _TEXT),
            "title": "coalesce({0}::text, '')",
            **dict.fromkeys(("published_at", "last_updated_at")),
            "discovered_at": "coalesce({0}, now())",
            "duration": _NUMBER,
            **dict.fromkeys(("tags", "wiki_topics"), "{0}::text[]"),
            "status": _STATUS,
            **dict.fromkeys(("has_transcript", "has_visuals"), "coalesce({0}, false)"),
        },
        ID_IS_VALID.format("id"),
    ),
    OldTable(
        "watchlist",
        "video_id",
        ("video_id", "tracking_tier", "next_track_at"),
        {
            "video_id": _TEXT,
            "tracking_tier": _TIER,
            **dict.fromkeys(("published_at", "last_tracked_at")),
            **dict.fromkeys(("next_track_at", "created_at"), "coalesce({0}, now())"),
        },
        ID_IS_VALID.format("video_id"),
    ),
    OldTable(
        "search_queue",
        "id",
        ("id", "query_term"),
        {
            "id": _NUMBER,
            **dict.fromkeys(("query_term", "next_page_token"), _TEXT),
            "last_searched_at": None,
            "created_at": "coalesce({0}, now())",
            "priority": "coalesce({0}, 0)",
            "mention_count": "coalesce({0}, 1)",
            "result_count_total": "coalesce({0}, 0)",
            "status": _TERM_STATUS,
        },
        "o.query_term <> ''",
    ),
)
STATS = OldTable("video_stats_log", "timestamp", ("video_id", "timestamp", "views"))
#: Moved aside, and what they say is kept where this version has it: not copied row by row.
_ASIDE = (
    OldTable("transcripts", "video_id", ("video_id", "vault_uri")),
    OldTable("system_events", "id", ("event_type", "payload")),
)
#: Every table that is the platform's.
ALL = (*TABLES, STATS, *_ASIDE)
#: Counters of a sample of that schema.
COUNTERS = ("views", "likes", "comment_count")
