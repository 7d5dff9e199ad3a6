"""Sampling schedules for agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from atlas.adapters.rows import TrackingRow
from atlas.errors import InvalidInput, VaultUnavailable
from atlas.events import bus_of
from atlas.parsing import invalid, parse_moment
from atlas.repositories.ring.membership import Answers
from atlas.repositories.watchlist import DueVideo, NewEntry, TrackingReport, Watchlist
from atlas.scheduling import AgePolicy
from atlas.scheduling.undecided import Undecided, until_decided
from atlas.types import ReadableStore, TrackingTier, check_id

if TYPE_CHECKING:
    from atlas.db import Database
    from atlas.db.clock import Session
    from atlas.repositories.leases import Head
    from atlas.scheduling.calendar import Calendar

__all__ = ["GhostTrackingMixin"]

_POLICY = AgePolicy()


class GhostTrackingMixin:
    """The part of `MaiaDAO` that keeps videos under observation after their rows are gone.

    Naive times are taken as UTC. Raises `InvalidInput` for what cannot be taken; nothing is written
    then.
    """

    database: Database
    _watchlist_head: Head
    _calendar: Calendar
    _store: Callable[[], ReadableStore]

    async def add_to_watchlist(
        self, video_id: str, tier: str = "HOURLY", published_at: datetime | str | None = None
    ) -> None:
        """Sample a video from now on; it is due at once. One that is on the list stays as it is, one that
        was forgotten stays out. Raises `VaultUnavailable` where only files in the vault could tell.
        """
        entry = NewEntry(
            check_id(video_id),
            _tier(tier, field="tier"),
            parse_moment(published_at, field="published_at"),
        )

        async def add(_: object, answers: Answers | None) -> Undecided:
            async with self.database.transaction() as session:
                watchlist = Watchlist(session, answers)
                await watchlist.add([entry])
                await self._emit_added(session, watchlist.added, entry.tracking_tier)
                return watchlist.undecided

        if await until_decided(self.database, self._store, add):
            raise VaultUnavailable(
                f"only files in the vault, which cannot be read, say whether {video_id} is on the watchlist",
                hint="nothing was changed; add it again once `atlas vault fsck` finds the vault well",
            )

    async def fetch_tracking_batch(self, batch_size: int = 50) -> list[TrackingRow]:
        """Lease due videos, earliest first: video_id, tracking_tier, last_tracked_at, next_track_at.

        `update_watchlist_schedule` reports them.
        """

        async def claim(limit: int, before: datetime | None) -> list[DueVideo]:
            async with self.database.autocommit() as session:
                return await Watchlist(session).claim(limit, self._watchlist_head, before)

        due = await self._calendar.claim(batch_size, claim)
        return [
            {
                "video_id": video.video_id,
                "tracking_tier": video.tracking_tier,
                "last_tracked_at": video.last_tracked_at,
                "next_track_at": video.next_track_at,
            }
            for video in due
        ]

    async def update_watchlist_schedule(self, updates: Sequence[Mapping[str, Any]]) -> None:
        """Report samplings and end their leases.

        Each update has video_id, tracking_tier, last_tracked_at and next_track_at. One that is older
        by last_tracked_at than what is stored changes nothing, nor does one of a video that is not
        on the list.
        """
        reports = [_report(update, row) for row, update in enumerate(updates)]
        if not reports:
            return
        async with self.database.transaction() as session:
            watchlist = Watchlist(session)
            await watchlist.report(reports)
            changed = [
                (
                    "watchlist.tier_changed",
                    one.video_id,
                    {"video_id": one.video_id, "tracking_tier": one.after, "before": one.before},
                )
                for one in watchlist.tier_changes
            ]
            await bus_of(self.database).emit_many(changed, session=session)

    async def _emit_added(self, session: Session, ids: Sequence[str], tier: TrackingTier) -> None:
        added = [("watchlist.added", one, {"video_id": one, "tracking_tier": tier}) for one in ids]
        await bus_of(self.database).emit_many(added, session=session)

    def calculate_next_track_time(
        self, published_at: datetime | str | None, tier: str | None = None
    ) -> tuple[str, datetime]:
        """The tier that a video's age calls for, and when to sample it again, from now.

        HOURLY under 24 hours, DAILY under 7 days, else WEEKLY. ``tier`` is the one it has: a DORMANT
        video stays so, 30 days at a time, and one of unknown age keeps its tier; otherwise age decides.
        """
        current = None if tier is None else _tier(tier, field="tier")
        published = parse_moment(published_at, field="published_at")
        schedule = _POLICY.next(published, datetime.now(UTC), current)
        return schedule.tier.value, schedule.next_track_at


def _tier(value: object, *, field: str, row: int | None = None) -> TrackingTier:
    try:
        return TrackingTier(str(value).upper())
    except ValueError:
        raise InvalidInput(
            f"{field} is not a tracking tier: {value!r:.80}",
            row=row,
            field=field,
            value=value,
            hint="tiers are " + ", ".join(TrackingTier),
        ) from None


def _report(update: Mapping[str, Any], row: int) -> TrackingReport:
    if not isinstance(update, Mapping):
        raise invalid(update, "update", row, "give a mapping with a video_id")
    return TrackingReport(
        check_id(update.get("video_id"), row=row),
        _tier(update.get("tracking_tier"), field="tracking_tier", row=row),
        last_tracked_at=_moment(update, "last_tracked_at", row),
        next_track_at=_moment(update, "next_track_at", row),
    )


def _moment(update: Mapping[str, Any], field: str, row: int) -> datetime:
    moment = parse_moment(update.get(field), field=field, row=row)
    if moment is None:
        raise InvalidInput(
            f"{field} is missing in row {row}", row=row, field=field, hint="give a datetime"
        )
    return moment
