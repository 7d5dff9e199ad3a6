"""The kinds of work, each declared once: its queue, what a worker is handed, and how it is reported.

A further kind is an entry here, its `Item`, and the repository that owns its table: the queue, the row that a
claim returns, and ``record``. `Work`, the command line's counts and `atlas status` walk this table.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from atlas.db.clock import Session
from atlas.repositories.leases import Queue
from atlas.repositories.search_queue import HUNT, LeasedTerm, SearchQueue, SearchReport
from atlas.repositories.videos import COLLECTION, RETRACK, OpenVideo, StaleVideo, Videos
from atlas.repositories.watchlist import TRACK, DueVideo, Recorded, Watchlist
from atlas.scheduling.items import CollectItem, Item, RetrackItem, SearchItem, TrackItem
from atlas.types import SearchStatus

#: Type, entity and payload.
NewEvent = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between the kinds of work.

    ``record`` returns the keys that were still held; ``event`` is what a reported item is to be emitted as.
    """

    queue: Queue
    item: Callable[..., Item[Any]]
    row: Callable[..., Any]
    record: Callable[[Session, uuid.UUID, Any], Awaitable[set[str]]]
    event: Callable[[Any], NewEvent | None] = lambda item: None


def _searched(item: SearchItem) -> NewEvent | None:
    word = item.word
    if isinstance(word, SearchReport) and word.status is SearchStatus.EXHAUSTED:
        return "search.exhausted", item.key, {"term": item.row.query_term}
    return None


def _tracked(item: TrackItem) -> NewEvent | None:
    word, before = item.word, item.row.tracking_tier
    if isinstance(word, Recorded) and word.tracking_tier != before:
        facts = {"video_id": item.key, "tracking_tier": word.tracking_tier, "before": before}
        return "watchlist.tier_changed", item.key, facts
    return None


def _collected(name: str) -> Callable[[CollectItem], NewEvent | None]:
    def event(item: CollectItem) -> NewEvent | None:
        return (name, item.key, {"video_id": item.key}) if item.word == item.key else None

    return event


#: Kinds by name, in the order in which they are shown.
KINDS = {
    "hunt": Kind(
        HUNT,
        SearchItem,
        LeasedTerm,
        lambda session, *report: SearchQueue(session).record(*report),
        _searched,
    ),
    "track": Kind(
        TRACK,
        TrackItem,
        DueVideo,
        lambda session, *report: Watchlist(session).record(*report),
        _tracked,
    ),
    "retrack": Kind(
        RETRACK, RetrackItem, StaleVideo, lambda session, *report: Videos(session).record(*report)
    ),
    "transcript": Kind(
        COLLECTION["transcript"],
        CollectItem,
        OpenVideo,
        lambda session, token, ids: Videos(session).collected(token, "transcript", ids),
        _collected("video.transcript_safe"),
    ),
    "visuals": Kind(
        COLLECTION["visuals"],
        CollectItem,
        OpenVideo,
        lambda session, token, ids: Videos(session).collected(token, "visuals", ids),
        _collected("video.visuals_safe"),
    ),
}
