"""The calendar of the ring: how far the pointer of each cohort has come, and on which days."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
from sqlalchemy import text

from atlas.repositories.base import Repository
from atlas.repositories.ring.page import DORMANT, KNOWN, Entries
from atlas.types import TrackingTier

#: Positions in a round.
ROUND = 2**64
#: Interval of a cohort that no budget stretches.
INTERVALS = {TrackingTier.WEEKLY: timedelta(days=7), TrackingTier.DORMANT: timedelta(days=30)}

_EPOCH = date(1970, 1, 1)
#: The month that cohort 2 stands for.
_FIRST_MONTH = date(2005, 1, 1)
#: Months back for which each month is a cohort; what is older is one a year.
_MONTHLY = 24

_READ = text(f"""
    SELECT c.cohort, c.entries, coalesce(f.rows, 0), CAST(c.distance AS text), c.interval, c.turned_at
    FROM watchlist_cohorts c LEFT JOIN (
        SELECT 2 + 12 * (date_part('year', timezone('UTC', slice_start)) - {_FIRST_MONTH.year})
                 + date_part('month', timezone('UTC', slice_start)) - 1 AS cohort,
               CAST(sum(row_count) AS bigint) AS rows
        FROM archive_files WHERE dataset = 'schedule' AND state = 'live' GROUP BY 1
    ) f ON f.cohort = c.cohort
    ORDER BY c.cohort
    """)
_DAYS = text("""
    SELECT cohort, day, CAST(distance AS text), skipped_from
    FROM watchlist_cohort_days WHERE cohort = ANY (CAST(:cohorts AS integer[])) ORDER BY cohort, day
    """)
_COUNT = text("""
    INSERT INTO watchlist_cohorts AS c (cohort, entries, interval)
    VALUES (:cohort, :entries, :interval)
    ON CONFLICT (cohort) DO UPDATE SET entries = c.entries + excluded.entries
    """)
_ENSURE = text("""
    INSERT INTO watchlist_cohorts (cohort, interval) VALUES (:cohort, :interval)
    ON CONFLICT (cohort) DO NOTHING
    """)
_TURNED = text("""
    WITH turned AS (
        UPDATE watchlist_cohorts
        SET distance = CAST(:distance AS numeric), turned_at = :at WHERE cohort = :cohort
    ),
    -- a day is needed until the pointer has passed twice since
    swept AS (
        DELETE FROM watchlist_cohort_days
        WHERE cohort = :cohort AND distance < CAST(:distance AS numeric) - 3 * 18446744073709551616
    )
    INSERT INTO watchlist_cohort_days AS d (cohort, day, distance, skipped_from)
    VALUES (:cohort, :day, CAST(:distance AS numeric), :skipped_from)
    ON CONFLICT (cohort, day) DO UPDATE SET distance = excluded.distance
    """)
#: The key of the advisory lock that who turns the calendar holds.
_LOCK_KEY = "hashtextextended('atlas.watchlist_calendar', 0)"
_TRY_LOCK = text(f"SELECT pg_try_advisory_xact_lock({_LOCK_KEY})")
_LOCK = text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
_STRETCH = text("UPDATE watchlist_cohorts SET interval = :interval WHERE cohort = :cohort")


def day_number(moment: datetime) -> int:
    """Days since 1970, UTC."""
    return (moment.astimezone(UTC).date() - _EPOCH).days


def cohort_of(tier: TrackingTier | str, published_at: datetime | None, now: datetime) -> int:
    """The cohort in which a slow video is parked: by the month it was published, else this month."""
    if tier == TrackingTier.DORMANT:
        return DORMANT
    month = min(published_at or now, now).astimezone(UTC)
    if (now.year - month.year) * 12 + now.month - month.month >= _MONTHLY:
        month = month.replace(month=1)
    return max(cohort_of_month(month), DORMANT + 1)


def cohort_of_month(moment: datetime) -> int:
    """The cohort of slow videos published in the month of this moment; of `DORMANT` ones before any video."""
    month = moment.astimezone(UTC)
    return 2 + (month.year - _FIRST_MONTH.year) * 12 + month.month - 1


def first_cohort_of(published_at: datetime) -> int:
    """The earliest cohort but `DORMANT` in which a video that was published then may have been parked."""
    return cohort_of_month(published_at.astimezone(UTC).replace(day=1, month=1))


def month_of(cohort: int) -> tuple[datetime, datetime]:
    """Beginning and end of the month that a cohort stands for; see `cohort_of_month`."""

    def beginning(months: int) -> datetime:
        years, month = divmod(months, 12)
        return datetime(_FIRST_MONTH.year + years, month + 1, 1, tzinfo=UTC)

    return beginning(cohort - 2), beginning(cohort - 1)


def tier_of(cohort: int) -> TrackingTier:
    """The tier of the videos in a cohort."""
    return TrackingTier.DORMANT if cohort == DORMANT else TrackingTier.WEEKLY


@dataclass(frozen=True, slots=True)
class Cohort:
    """Videos with a pointer of their own, which went ``distance`` positions in all.

    ``in_ring`` of them are entries of the ring, ``in_files`` rows of the schedule's files; some may be both.
    """

    number: int
    in_ring: int
    in_files: int
    distance: int
    interval: timedelta
    turned_at: datetime

    @property
    def entries(self) -> int:
        """How many videos there are."""
        return self.in_ring + self.in_files

    @property
    def tier(self) -> TrackingTier:
        """The tier of its videos."""
        return tier_of(self.number)

    @property
    def month(self) -> str | None:
        """The month of its videos, as YYYY-MM; None for DORMANT ones."""
        if self.number < 2:
            return None
        return f"{month_of(self.number)[0]:%Y-%m}"

    def age(self, now: datetime) -> timedelta:
        """Of the videos in it, from the middle of their month; nothing for DORMANT ones."""
        if self.number < 2:
            return timedelta(0)
        middle = month_of(self.number)[0] + timedelta(days=14)
        return max(now - middle, timedelta(0))


@dataclass(frozen=True, slots=True)
class Day:
    """How far a pointer had come at the end of a day; it left out what was sampled since ``skipped_from``."""

    number: int
    distance: int
    skipped_from: int


@dataclass(frozen=True, slots=True)
class Passes:
    """On which days the pointer of a cohort passed what."""

    distance: int = 0
    days: Sequence[Day] = ()

    def last(self, position: int, rounds_back: int = 0) -> Day | None:
        """The day on which the pointer last passed a position; None: never, or too long ago to be known."""
        passed = self.distance - 1 - (self.distance - 1 - position) % ROUND - rounds_back * ROUND
        if passed < 0:
            return None
        at = bisect_right(self.days, passed, key=lambda day: day.distance)
        return self.days[at] if at < len(self.days) else None

    def was_woken(self, day: Day | None, sampled: int, parked: int) -> bool:
        """Whether the pass of that day woke an entry that was parked with the day of its last sample."""
        return day is not None and parked < day.number and sampled < day.skipped_from

    def last_sampled(self, position: int, sampled: int, parked: int) -> int | None:
        """The day of the last sample of an entry; None: not known."""
        day = self.last(position)
        if sampled and not self.was_woken(day, sampled, parked):
            return sampled
        return None if day is None else day.number


def settled(entries: Entries, passes: Mapping[int, Passes]) -> Entries:
    """The entries, without the day of their last sample where the pointer has woken them since."""
    days, parked = entries.days.copy(), entries.parked.copy()
    for index in np.flatnonzero(days).tolist():
        of_cohort = passes.get(int(entries.cohorts[index]), Passes())
        day = of_cohort.last(int(entries.positions[index]))
        if of_cohort.was_woken(day, int(days[index]), int(parked[index])):
            days[index] = parked[index] = 0
    return Entries(entries.positions, entries.cohorts, days, parked)


@dataclass(frozen=True, slots=True)
class Turn:
    """How far the pointer of a cohort goes now, and which entries are too fresh to be woken."""

    cohort: Cohort
    distance: int
    skipped_from: int

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The positions that the pointer passes, as spans with both ends included."""
        return _spans(self.cohort.distance, self.distance)

    def is_fresh(self, entries: Entries, today: int) -> npt.NDArray[np.bool_]:
        """Which entries of the cohort are left to the next round."""
        return (entries.days > 0) & (
            (entries.parked >= today) | (entries.days >= self.skipped_from)
        )


class CohortReader(Repository):
    """Reads the calendar."""

    async def all(self) -> list[Cohort]:
        """Every cohort, that of known ids included."""
        return [
            Cohort(number, in_ring, in_files, int(distance), interval, turned_at)
            for number, in_ring, in_files, distance, interval, turned_at in (
                await self.session.execute(_READ)
            )
        ]

    async def passes(self, cohorts: Iterable[Cohort]) -> dict[int, Passes]:
        """What the pointers of these passed on which days, by cohort."""
        distances = {one.number: one.distance for one in cohorts}
        days: dict[int, list[Day]] = {number: [] for number in distances}
        found = await self.session.execute(_DAYS, {"cohorts": [*distances]})
        for cohort, number, distance, skipped_from in found:
            days[cohort].append(Day(number, int(distance), skipped_from))
        return {number: Passes(distances[number], days[number]) for number in distances}


class Cohorts(CohortReader):
    """Changes the calendar."""

    async def try_lock(self) -> bool:
        """Whether this transaction may turn the calendar: one at a time."""
        return bool(await self.session.scalar(_TRY_LOCK))

    async def lock(self) -> None:
        """Wait for whoever turns the calendar, and let nobody do so while this transaction lasts."""
        await self.session.execute(_LOCK)

    async def ensure(self, cohorts: Iterable[int]) -> None:
        """Have these cohorts: a new one begins at the first position."""
        for cohort in sorted(cohorts):
            values = {"cohort": cohort, "interval": INTERVALS[tier_of(cohort)]}
            await self.session.execute(_ENSURE, values)

    async def count(self, changes: Mapping[int, int]) -> None:
        """Add to the number of entries of cohorts in the ring; a new one begins at the first position."""
        for cohort in sorted(cohort for cohort, change in changes.items() if change):
            await self.session.execute(
                _COUNT,
                {
                    "cohort": cohort,
                    "entries": changes[cohort],
                    "interval": INTERVALS[tier_of(cohort)] if cohort != KNOWN else timedelta(0),
                },
            )

    async def turned(self, turns: Sequence[Turn], at: datetime) -> None:
        """Record how far the pointers have come today."""
        await self.session.execute(
            _TURNED,
            [
                {
                    "cohort": turn.cohort.number,
                    "distance": str(turn.distance),
                    "at": at,
                    "day": day_number(at),
                    "skipped_from": turn.skipped_from,
                }
                for turn in turns
            ],
        )

    async def stretch(self, intervals: Iterable[tuple[int, timedelta]]) -> None:
        """Set the interval of cohorts."""
        for cohort, interval in sorted(intervals):
            await self.session.execute(_STRETCH, {"cohort": cohort, "interval": interval})


def _spans(start: int, end: int) -> list[tuple[int, int]]:
    """The positions from one distance to another, as spans with both ends included."""
    if end <= start:
        return []
    first, last = start % ROUND, (end - 1) % ROUND
    if end - start >= ROUND:
        return [(0, ROUND - 1)]
    return [(first, last)] if first <= last else [(first, ROUND - 1), (0, last)]
