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
from atlas.repositories.search_queue import HUNT, LeasedTerm, SearchQueue
from atlas.repositories.videos import COLLECTION, RETRACK, OpenVideo, StaleVideo, Videos
from atlas.repositories.watchlist import TRACK, DueVideo, Watchlist
from atlas.scheduling.items import CollectItem, Item, RetrackItem, SearchItem, TrackItem


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between the kinds of work. ``record`` returns the keys that were still held."""

    queue: Queue
    item: Callable[..., Item[Any]]
    row: Callable[..., Any]
    record: Callable[[Session, uuid.UUID, Any], Awaitable[set[str]]]


#: Kinds by name, in the order in which they are shown.
KINDS = {
    "hunt": Kind(
        HUNT, SearchItem, LeasedTerm, lambda session, *report: SearchQueue(session).record(*report)
    ),
    "track": Kind(
        TRACK, TrackItem, DueVideo, lambda session, *report: Watchlist(session).record(*report)
    ),
    "retrack": Kind(
        RETRACK, RetrackItem, StaleVideo, lambda session, *report: Videos(session).record(*report)
    ),
    "transcript": Kind(
        COLLECTION["transcript"],
        CollectItem,
        OpenVideo,
        lambda session, token, ids: Videos(session).collected(token, "transcript", ids),
    ),
    "visuals": Kind(
        COLLECTION["visuals"],
        CollectItem,
        OpenVideo,
        lambda session, token, ids: Videos(session).collected(token, "visuals", ids),
    ),
}
