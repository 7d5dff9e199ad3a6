"""The calendar of slow videos: parking them, waking what is due, and the budget of samples a day.

docs/forever.md describes it. Nothing runs by itself: workers that claim track work turn the calendar, the
janitor parks and plans.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from atlas.config import get_settings
from atlas.db.clock import Session
from atlas.db.locks import retry_when_locked
from atlas.events import bus_of
from atlas.logging import get_logger
from atlas.repositories.leases import check_limit
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.ring.cohorts import (
    INTERVALS,
    Cohort,
    CohortReader,
    Cohorts,
    day_number,
)
from atlas.repositories.ring.page import KNOWN
from atlas.repositories.ring.page_table import PATIENCE
from atlas.repositories.ring.pages import Ring, RingReader
from atlas.repositories.ring.parking import Parked, Parking
from atlas.repositories.ring.positions import positions_of
from atlas.repositories.ring.tracking_budget import TrackingBudget
from atlas.repositories.watchlist import WatchlistReader
from atlas.scheduling.read_ahead import TURN_EVERY, Ahead, ReadAhead, turn_of
from atlas.types import ReadableStore, TrackingTier

if TYPE_CHECKING:

    from atlas.db import Database

log = get_logger(__name__)

RowT = TypeVar("RowT")

_DAY = timedelta(days=1)
#: Rows that may lie awake before the calendar waits for the workers.
_AWAKE = 10_000
#: Rows in one transaction of parking, and those that are looked at for it at a time.
_PARK_ROWS, _LOOK_ROWS = 5_000, 100_000
#: Parts of the ring, unless there are few pages. A transaction packs one anew: as much is free space then.
_PARTS = 28
#: Slices of the ring of which one is packed anew a day, unless many rows wait for each page or there are few.
_SLICES = 7
_MANY_PER_PAGE = 20
_FEW_PAGES = 100
#: Part of the budget that slow videos have whatever fast ones need.
_LEAST_SLOW = 0.1


class Calendar:
    """The schedule of slow videos of one database, with ``store``: its part in the vault."""

    def __init__(
        self, database: Database, store: Callable[[], ReadableStore] | None = None
    ) -> None:
        self.database = database
        self._ahead = ReadAhead(database, store)
        self._turn_at = 0.0
        self._block = 0
        self._block_ends = 0.0
        self._day_ends: datetime | None = None

    async def turn_if_due(self) -> int:
        """Wake what is due, at most once a minute; returns how many entries were woken."""
        if time.monotonic() < self._turn_at:
            return 0
        self._turn_at = time.monotonic() + TURN_EVERY
        return await self.turn()

    async def turn(self, now: datetime | None = None) -> int:
        """Wake what has become due since the calendar was last turned, by whomever.

        A cohort that has files in the vault waits while they cannot be read. ``now`` is the database's clock
        where it is not given; here and below it serves simulations.
        """
        ahead = await self._ahead.read(now)
        return await self._turn(now if ahead is None else ahead.now, ahead)

    @retry_when_locked
    async def _turn(self, now: datetime | None, ahead: Ahead | None) -> int:
        async with self.database.transaction() as session:
            cohorts = Cohorts(session)
            if not await cohorts.try_lock():
                return 0
            now = now or await cohorts.now()
            calendar = [one for one in await cohorts.all() if one.number != KNOWN and one.entries]
            files = await ScheduleFiles(session).by_cohort()
            due = [one for one in calendar if (now - one.turned_at).total_seconds() >= TURN_EVERY]
            # what has files moves to where they were read, or not at all
            read = {
                one.number: passed
                for one in due
                if one.number in files
                and ahead is not None
                and (passed := ahead.of(one, files[one.number])) is not None
            }
            due = [one for one in due if one.number in read or one.number not in files]
            if not due:
                return 0
            share = sum(one.entries / (one.interval / _DAY) for one in calendar)
            if await WatchlistReader(session).awake() > max(_AWAKE, share / 4):
                log.info("calendar_waits", hint="more is due than workers claim")
                return 0
            passes = await cohorts.passes(due)
            turns = [
                read[n].turn if (n := one.number) in read else turn_of(one, passes[n], now)
                for one in due
            ]
            filed = {number: passed.rows for number, passed in read.items()}
            woken = await Parking(session).wake(turns, passes, now, filed)
            # the cohorts' rows last: parking, which holds rows of the watchlist, waits for nobody then
            await cohorts.turned(turns, now)
        if woken:
            log.debug("calendar_turned", woken=woken)
        return woken

    async def park(self, now: datetime | None = None) -> Parked:
        """Move quiet rows, and ids of videos that were collected and removed, into the ring.

        Only those of one slice of the ring a day, so that not every page is packed anew; all, where many wait
        for each page.
        """
        async with self.database.transaction(read_only=True) as session:
            now = now or await RingReader(session).now()
            waiting = await Parking(session).waiting(now)
            pages = await RingReader(session).pages()
        parts = _PARTS if pages > _FEW_PAGES else 1
        is_cheap = parts == 1 or waiting > pages * _MANY_PER_PAGE
        one_slice = None if is_cheap else day_number(now) % _SLICES
        until = time.monotonic() + PATIENCE
        videos = collected = 0
        async for ids in self._pages(
            lambda parking, after: parking.quiet_ids(now, _LOOK_ROWS, after)
        ):
            for part in _in_order(ids, parts, one_slice):
                videos += (await self._park_and_reclaim(now, part, (), until)).videos
        async for ids in self._pages(
            lambda parking, after: parking.collected_ids(_LOOK_ROWS, after)
        ):
            for part in _in_order(ids, parts, one_slice):
                collected += (await self._park_and_reclaim(now, (), part, until)).collected
        parked = Parked(videos, collected)
        log.info("watchlist_parked", videos=parked.videos, collected=parked.collected)
        return parked

    async def _pages(
        self, look: Callable[[Parking, str], Awaitable[list[str]]]
    ) -> AsyncIterator[list[str]]:
        after = ""
        while True:
            async with self.database.transaction(read_only=True) as session:
                ids = await look(Parking(session), after)
            if not ids:
                return
            yield ids
            after = ids[-1]

    async def _park_and_reclaim(
        self, now: datetime, quiet: Sequence[str], collected: Sequence[str], until: float
    ) -> Parked:
        """Park, and give the room of the pages that were packed anew to the next ones.

        Autovacuum would come after the day's work only. A role that may not is passed over with a warning.
        """
        parked = await self._park(now, quiet, collected)
        if any(parked) and get_settings().database_pool_mode != "transaction":
            async with self.database.autocommit() as session:
                await Ring(session).vacuum(until)
        return parked

    @retry_when_locked
    async def _park(self, now: datetime, quiet: Sequence[str], collected: Sequence[str]) -> Parked:
        async with self.database.transaction() as session:
            return await Parking(session).park(now, quiet, collected)

    @retry_when_locked
    async def plan(self, now: datetime | None = None) -> list[Cohort]:
        """Set the interval of each cohort by the budget; returns the cohorts."""
        budget = get_settings().tracking_samples_per_day
        async with self.database.transaction() as session:
            cohorts = Cohorts(session)
            calendar = [one for one in await cohorts.all() if one.number != KNOWN]
            fast = await WatchlistReader(session).samples_a_day()
            now = now or await cohorts.now()
            ages = {one.number: _age_days(one, now) for one in calendar}
            days = intervals(calendar, ages, None if budget is None else slow_share(budget, fast))
            await cohorts.stretch(
                (one.number, days[one.number])
                for one in calendar
                if abs(days[one.number] - one.interval) > timedelta(hours=1)
            )
            return await cohorts.all()

    async def claim(
        self, limit: int, claim: Callable[[int, datetime | None], Awaitable[list[RowT]]]
    ) -> list[RowT]:
        """Claim up to ``limit`` videos, after waking what is due, within the day's budget.

        ``claim`` receives the limit and a deadline by the database's clock, from which on it claims nothing.
        """
        check_limit(limit)
        await self.turn_if_due()
        budget = get_settings().tracking_samples_per_day
        if budget is None or not limit:
            return await claim(limit, None)
        while granted := await self._granted(limit, budget):
            day_ends = self._day_ends
            claimed = await claim(granted, day_ends)
            if day_ends == self._day_ends:  # else the rest belongs to a day that is over
                self._block += granted - len(claimed)
            if claimed or not await self._is_over(day_ends):
                return claimed
        return []

    async def _granted(self, wanted: int, budget: int) -> int:
        if time.monotonic() >= self._block_ends:
            self._block = 0
        if self._block < wanted:
            await self._take(max(wanted - self._block, budget // 100), budget)
        granted = min(wanted, self._block)
        self._block -= granted
        return granted

    @retry_when_locked
    async def _take(self, wanted: int, budget: int) -> None:
        asked_at = time.monotonic()
        async with self.database.transaction() as session:
            grant = await TrackingBudget(session).grant(wanted, budget)
            if grant.last:
                facts = {"samples": budget, "until": grant.ends}
                bus = bus_of(self.database)
                await bus.emit("watchlist.budget_spent", payload=facts, session=session)
        if grant.ends != self._day_ends:
            self._block = 0
        self._block += grant.samples
        self._day_ends, self._block_ends = grant.ends, asked_at + grant.seconds_left

    async def _is_over(self, day_ends: datetime | None) -> bool:
        """Whether the day of a grant has ended. While a machine sleeps, its own clock may stand still."""
        async with self.database.transaction(read_only=True) as session:
            is_over = day_ends is not None and await RingReader(session).now() >= day_ends
        if is_over and day_ends == self._day_ends:
            self._block_ends = 0.0
        return is_over


@dataclass(frozen=True, slots=True)
class CohortStatus:
    """Slow videos published in ``month`` (None: DORMANT ones), each sampled every ``interval_days``.

    ``in_vault`` of them lie in files of the vault. ``turned_at`` is when the calendar last moved on for them.
    """

    month: str | None
    videos: int
    interval_days: float
    in_vault: int
    turned_at: datetime


@dataclass(frozen=True, slots=True)
class CalendarStatus:
    """The slow part of the watchlist: how many videos are parked, and what becomes of their intervals.

    ``known`` more ids are kept because they were collected. ``budget`` is TRACKING_SAMPLES_PER_DAY, of which
    ``granted_today`` samples were given to workers; ``needed`` a day would sample every slow video weekly
    (DORMANT ones monthly), fast ones by their tiers.
    """

    parked: int
    known: int
    cohorts: list[CohortStatus]
    budget: int | None
    granted_today: int
    needed: int


async def calendar_status(session: Session) -> CalendarStatus:
    """The calendar as of the session's moment."""
    cohorts = await CohortReader(session).all()
    slow = [one for one in cohorts if one.number != KNOWN and one.entries]
    fast = await WatchlistReader(session).samples_a_day()
    return CalendarStatus(
        parked=sum(one.entries for one in slow),
        known=sum(one.entries for one in cohorts if one.number == KNOWN),
        cohorts=[
            CohortStatus(
                one.month,
                one.entries,
                one.interval / _DAY,
                one.in_files,
                one.turned_at,
            )
            for one in slow
        ],
        budget=get_settings().tracking_samples_per_day,
        granted_today=await TrackingBudget(session).granted(),
        needed=round(fast + sum(one.entries / (INTERVALS[one.tier] / _DAY) for one in slow)),
    )


def slow_share(budget: int, fast: float) -> float:
    """Samples a day for the ring: what rows leave of the budget, a tenth of it at least."""
    return max(budget * _LEAST_SLOW, budget - fast)


def intervals(
    cohorts: Iterable[Cohort], ages: dict[int, float], samples: float | None
) -> dict[int, timedelta]:
    """The interval of each cohort at which together they take ``samples`` a day; None: there is no bound.

    ``max(tier's interval, age / c)`` with one ``c`` for all: what is older bends less. ``ages`` are in days.
    """
    calendar = [one for one in cohorts if one.entries]

    def days(one: Cohort, c: float) -> float:
        return max(INTERVALS[one.tier] / _DAY, ages[one.number] / c)

    low, high = 1e-6, 1e6
    if samples is None or sum(one.entries / days(one, high) for one in calendar) <= samples:
        return {one.number: INTERVALS[one.tier] for one in cohorts}
    for _ in range(60):
        c = (low * high) ** 0.5
        if sum(one.entries / days(one, c) for one in calendar) > samples:
            high = c
        else:
            low = c
    return {one.number: timedelta(days=min(days(one, low), 36_500.0)) for one in cohorts}


def _age_days(cohort: Cohort, now: datetime) -> float:
    # what the API leaves out is asked for a quarter as often as a video of one year
    return 4 * 365.0 if cohort.tier is TrackingTier.DORMANT else max(cohort.age(now) / _DAY, 7.0)


def _in_order(ids: Sequence[str], parts: int, parking_slice: int | None) -> Iterator[list[str]]:
    """Ids of a slice of the ring in order of their positions, as many at a time as one transaction takes:
    of one of so many equal parts of the ring."""
    positions = positions_of(ids)
    part_of = (positions >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)
    order = np.argsort(positions)
    if parking_slice is not None:
        order = order[part_of[order] * _SLICES // parts == parking_slice]
    for part in np.split(order, np.flatnonzero(np.diff(part_of[order])) + 1):
        for start in range(0, len(part), _PARK_ROWS):
            yield [ids[index] for index in part[start : start + _PARK_ROWS]]
