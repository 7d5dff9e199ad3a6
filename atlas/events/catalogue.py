"""Every event that Atlas emits, with its payload. Names are stable: programs subscribe to them.

docs/events.md is made from this table (``make docs``); a test compares it with the code, both ways.
To emit a new one: an entry here, and ``await bus_of(database).emit(NAME, ENTITY, {...}, session=session)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CATALOGUE", "EventType"]


@dataclass(frozen=True, slots=True)
class EventType:
    """One type: what happened, what ``entity_id`` is, and what each field of the payload says."""

    meaning: str
    entity: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


_REASON = {"reason": "what it answered, or who disabled it"}

#: By name, in alphabetical order.
CATALOGUE: Mapping[str, EventType] = {
    "archive.adopted": EventType(
        "The database was made the one that its vault belongs to.",
        fields={
            "epoch": "the new epoch",
            "files": "files that came into the ledger",
            "missing": "ledger rows whose object is gone",
        },
    ),
    "archive.compacted": EventType(
        "Small files were merged.",
        fields={"files_before": "files replaced", "files_after": "files written"},
    ),
    "archive.finished": EventType(
        "A run of the archiver moved samples to the vault.",
        fields={
            "rows": "samples archived",
            "files": "files written",
            "bytes": "their size",
            "late_rows": "samples of hours that had been archived before",
        },
    ),
    "archive.forgotten": EventType(
        "Videos were erased, and are barred from coming back.", fields={"videos": "how many"}
    ),
    "archive.garbage_collected": EventType(
        "Objects were deleted that nothing names any more.", fields={"objects": "how many"}
    ),
    "archive.hot_budget_passed": EventType(
        "The hot samples are over HOT_MAX_BYTES, and archiving did not help.",
        fields={"hot_bytes": "their size", "hot_max_bytes": "the budget"},
    ),
    "archive.metrics_left_out": EventType(
        "Objects under metrics/ are not what append_metrics writes: nobody reads or adopts them.",
        fields={"objects": "the first twenty, each with the reason", "count": "how many there are"},
    ),
    "archive.moved": EventType(
        "The vault was copied to another place, and counts there.",
        fields={"objects": "objects copied", "bytes": "their size"},
    ),
    "archive.rebuilt": EventType(
        "The ledger was written anew from the files in the vault.",
        fields={"epoch": "the new epoch", "files": "files found", "rows": "their samples"},
    ),
    "archive.released": EventType(
        "Restored spans were let go of.",
        fields={
            "spans": "how many",
            "rows": "samples removed from PostgreSQL",
            "kept": "samples written meanwhile, which the next run archives",
        },
    ),
    "archive.restored": EventType(
        "Cold samples were brought back to PostgreSQL.",
        fields={"since": "beginning of the span", "until": "its end", "rows": "samples restored"},
    ),
    "endpoint.added": EventType("A webhook endpoint was added.", "its name"),
    "endpoint.disabled": EventType(
        "An endpoint gets no deliveries until it is enabled: it answered 410, failed for five days, or an "
        "operator asked.",
        "its name",
        {**_REASON, "held": "true: what is and comes due waits"},
    ),
    "endpoint.enabled": EventType("An endpoint gets deliveries again.", "its name"),
    "endpoint.paused": EventType(
        "An endpoint is unwell; one delivery at a time probes it.",
        "its name",
        {**_REASON, "seconds": "length of the first pause"},
    ),
    "endpoint.removed": EventType(
        "An endpoint was removed.", "its name", {"discarded": "deliveries that waited"}
    ),
    "endpoint.resumed": EventType(
        "A paused endpoint took a delivery.", "its name", {"due": "deliveries made due at once"}
    ),
    "endpoint.rotated": EventType(
        "The secret of an endpoint changes.",
        "its name",
        {"rotating": "true: two secrets sign; false: the second has become the only one"},
    ),
    "events.retention_forced": EventType(
        "A day of the log was dropped that somebody had still to read.",
        fields={"day": "the UTC day", "readers": "cursors and endpoints left behind"},
    ),
    "hydra.key_disabled": EventType(
        "An API key, or its project, was refused for good.",
        "the pool",
        {"key": "its last characters", "agent": "who used it", "error": "what Google said"},
    ),
    "hydra.key_rotated": EventType(
        "A key's quota is spent; its project rests, and another key is used.",
        "the pool",
        {"key": "its last characters", "agent": "who used it", "error": "what Google said"},
    ),
    "hydra.pool_exhausted": EventType(
        "No key of a pool is usable.",
        "the pool",
        {
            "agent": "who asked",
            "bucket": "the quota bucket",
            "retry_at": "when the first is usable again",
        },
    ),
    "janitor.cycle_complete": EventType(
        "The janitor has run.",
        fields={
            "deleted": "videos removed",
            "cutoff_date": "those discovered before",
            "retention_days": "the age",
            "safety_check_enabled": "whether only safe ones went",
            "reason": "why nothing was removed, if so",
        },
    ),
    "search.added": EventType("Search terms were added.", fields={"terms": "how many new ones"}),
    "search.exhausted": EventType(
        "A search term has no further results.", "the term's id", {"term": "its text"}
    ),
    "search.revived": EventType(
        "Search terms exhausted SEARCH_REVIVE_DAYS ago are searched for again.",
        fields={"terms": "how many"},
    ),
    "video.discovered": EventType(
        "A video is new.",
        "the video's id",
        {
            "video_id": "the video's id",
            "channel_id": "the channel's id",
            "published_at": "when it was published",
        },
    ),
    "video.done": EventType(
        "Collection of a video is finished.", "the video's id", {"video_id": "the video's id"}
    ),
    "video.failed": EventType(
        "Collection of a video failed.", "the video's id", {"video_id": "the video's id"}
    ),
    "video.requeued": EventType(
        "FAILED videos are to be collected again.", fields={"videos": "how many"}
    ),
    "video.transcript_safe": EventType(
        "A transcript is in the vault.", "the video's id", {"video_id": "the video's id"}
    ),
    "video.visuals_safe": EventType(
        "Frames of a video are in the vault.", "the video's id", {"video_id": "the video's id"}
    ),
    "watchlist.added": EventType(
        "A video is sampled from now on.",
        "the video's id",
        {"video_id": "the video's id", "tracking_tier": "how often"},
    ),
    "watchlist.archived": EventType(
        "Slow videos of long ago have their place in the schedule in the vault from now on.",
        fields={"videos": "how many", "months": "of how many months"},
    ),
    "watchlist.budget_spent": EventType(
        "The last samples of a day's TRACKING_SAMPLES_PER_DAY were given to workers.",
        fields={"samples": "the budget", "until": "end of the UTC day"},
    ),
    "watchlist.tier_changed": EventType(
        "A video is sampled more often, or less.",
        "the video's id",
        {
            "video_id": "the video's id",
            "tracking_tier": "how often",
            "before": "the tier that it had",
        },
    ),
    "watchlist.undecided": EventType(
        "Videos were left out: only files in the vault, which could not be read, say whether they are known.",
        fields={"videos": "how many", "reason": "why the files could not be read"},
    ),
    "work.quarantined": EventType(
        "Work was put aside: its attempts are spent.",
        "the kind of work",
        {"keys": "which, the first of them", "rows": "how many"},
    ),
    "work.requeued": EventType(
        "Work was brought back from quarantine.", "the kind of work", {"rows": "how many"}
    ),
}
