"""What an operator asks first: how full the tiers are, what is due, what waits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from atlas.db import Database
from atlas.repositories.hot.restored import Pin, Pins
from atlas.repositories.leases import LeaseCounts, Leases
from atlas.repositories.search_queue import SearchQueueReader, SearchSummary
from atlas.repositories.status import StatusReader, StatusSummary, Tiers, VideoReader
from atlas.repositories.watchlist import TierSummary, WatchlistReader
from atlas.scheduling.calendar import CalendarStatus, calendar_status
from atlas.scheduling.kinds import KINDS


@dataclass(frozen=True, slots=True)
class Status:
    """One look at the database, as of one moment."""

    tiers: Tiers
    watchlist: list[TierSummary]
    #: The slow part of it, and the budget of samples a day.
    calendar: CalendarStatus
    searches: list[SearchSummary]
    videos: list[StatusSummary]
    #: What workers hold, and what was put aside.
    work: list[LeaseCounts]
    #: Spans that were restored and stay hot until they are released.
    pins: list[Pin]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; times as datetimes."""
        return asdict(self)


async def gather(database: Database) -> Status:
    """The status of the database. Raises `DatabaseError`."""
    async with database.transaction(read_only=True, isolation="REPEATABLE READ") as session:
        return Status(
            tiers=await StatusReader(session).tiers(),
            watchlist=await WatchlistReader(session).summary(),
            calendar=await calendar_status(session),
            searches=await SearchQueueReader(session).summary(),
            videos=await VideoReader(session).summary(),
            work=[
                await Leases(session, queue).counts()
                for queue in (kind.queue for kind in KINDS.values())
            ],
            pins=await Pins(session).all(),
        )
