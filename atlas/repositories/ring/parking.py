"""Between the two forms of the watchlist: parking quiet rows in the ring, and waking what is due."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
from sqlalchemy import ARRAY, Text, bindparam, text

from atlas.repositories.base import Repository
from atlas.repositories.ring.cohorts import (
    Cohorts,
    Passes,
    Turn,
    cohort_of,
    day_number,
    settled,
    tier_of,
)
from atlas.repositories.ring.filter import FilterReader, counting
from atlas.repositories.ring.page import DORMANT, KNOWN, Entries
from atlas.repositories.ring.pages import Ring
from atlas.repositories.ring.positions import Positions, ids_of, positions_of
from atlas.types import TrackingTier

#: A YouTube id, in SQL: the last character carries four bits.
_CANONICAL = "{column} ~ '^[A-Za-z0-9_-]{{10}}[AEIMQUYcgkosw048]$'"

#: Rows that wait for nothing but their next sample, days ahead.
_QUIET = f"""tracking_tier IN ('WEEKLY', 'DORMANT') AND leased_until IS NULL AND error IS NULL
    AND attempts = 0 AND (omissions = 0 OR tracking_tier = 'DORMANT')
    AND next_track_at > CAST(:now AS timestamptz) AND next_track_at - last_tracked_at >= interval '84 hours'
    AND (published_at IS NULL OR published_at < CAST(:now AS timestamptz) - interval '7 days')
    AND (woken_at IS NULL OR woken_at = '-infinity')
    AND {_CANONICAL.format(column="video_id")}"""

_QUIET_IDS = text(f"""
    SELECT video_id FROM watchlist
    WHERE {_QUIET} AND video_id > :after ORDER BY video_id LIMIT :limit
    """)
_COLLECTED_IDS = text(f"""
    SELECT video_id FROM video_tombstones
    WHERE reason = 'collected' AND video_id > :after AND {_CANONICAL.format(column="video_id")}
    ORDER BY video_id LIMIT :limit
    """)
_WAITING = text(f"""
    SELECT (SELECT count(*) FROM watchlist WHERE {_QUIET})
         + (SELECT count(*) FROM video_tombstones
            WHERE reason = 'collected' AND {_CANONICAL.format(column="video_id")})
    """)
_TAKE_ROWS = text(f"""
    WITH quiet AS MATERIALIZED (
        SELECT video_id FROM watchlist WHERE video_id = ANY (:ids) AND {_QUIET}
        ORDER BY video_id FOR UPDATE SKIP LOCKED
    )
    DELETE FROM watchlist w USING quiet WHERE w.video_id = quiet.video_id
    RETURNING w.video_id, w.tracking_tier, w.published_at, w.last_tracked_at,
              w.woken_at IS NOT NULL AS was_parked
    """).bindparams(bindparam("ids", type_=ARRAY(Text)))
_TAKE_TOMBSTONES = text("""
    WITH collected AS MATERIALIZED (
        SELECT video_id FROM video_tombstones WHERE video_id = ANY (:ids) AND reason = 'collected'
        ORDER BY video_id FOR UPDATE SKIP LOCKED
    )
    DELETE FROM video_tombstones t USING collected WHERE t.video_id = collected.video_id
    RETURNING t.video_id
    """).bindparams(bindparam("ids", type_=ARRAY(Text)))
_WAKE_SQL = """
    INSERT INTO watchlist (video_id, tracking_tier, last_tracked_at, next_track_at, woken_at)
    SELECT video_id, tier, to_timestamp(day * 86400.0), CAST(:now AS timestamptz),
           coalesce(CAST(:woken_at AS timestamptz), '-infinity')
    FROM unnest(CAST(:ids AS text[]), CAST(:tiers AS text[]), CAST(:days AS integer[]))
        AS woken (video_id, tier, day)
    -- an erasure bars the id before it removes the entry
    WHERE NOT EXISTS (
        SELECT FROM video_tombstones t
        WHERE t.video_id = woken.video_id AND t.reason = 'forgotten')
    ORDER BY video_id
    ON CONFLICT (video_id) DO NOTHING
    """
# it takes a sixth longer to say which rows are new
_WAKE, _WAKE_IDS = text(_WAKE_SQL), text(_WAKE_SQL + "RETURNING video_id")


class Parked(NamedTuple):
    """What a call moved into the ring."""

    videos: int
    collected: int


class Parking(Repository):
    """Moves entries between rows and ring, inside the caller's transaction."""

    async def waiting(self, now: datetime) -> int:
        """How many rows and tombstones may be parked."""
        return int((await self.session.execute(_WAITING, {"now": now})).scalar_one())

    async def quiet_ids(self, now: datetime, limit: int, after: str = "") -> list[str]:
        """Ids of rows that may be parked, in order."""
        values = {"now": now, "limit": limit, "after": after}
        return list(await self.session.scalars(_QUIET_IDS, values))

    async def collected_ids(self, limit: int, after: str = "") -> list[str]:
        """Ids of videos that were collected and removed, in order."""
        return list(await self.session.scalars(_COLLECTED_IDS, {"limit": limit, "after": after}))

    async def park(
        self, now: datetime, quiet: Sequence[str], collected: Sequence[str] = ()
    ) -> Parked:
        """Move rows and tombstones into the ring; those that are not quiet any more, or locked, stay.

        Best neighbours in order of position: every page between the first and the last is packed anew.
        """
        # rows first, then pages, as everywhere: SKIP LOCKED waits for nobody
        rows = (await self.session.execute(_TAKE_ROWS, {"now": now, "ids": list(quiet)})).all()
        known = list(await self.session.scalars(_TAKE_TOMBSTONES, {"ids": list(collected)}))
        if not rows and not known:
            return Parked(0, 0)
        today = day_number(now)
        tombstones = Entries.of(positions_of(known), KNOWN)
        parked = Entries.of(
            positions_of([row.video_id for row in rows]),
            [cohort_of(row.tracking_tier, row.published_at, now) for row in rows],
            [min(day_number(row.last_tracked_at), today) for row in rows],
            today,
        )
        new = tombstones.merged(parked)
        first, last = int(new.positions[0]), int(new.positions[-1])
        ring, cohorts = Ring(self.session), Cohorts(self.session)
        passes = await cohorts.passes(await cohorts.all())
        changes: Counter[int] = Counter()
        filed = np.empty(0, np.uint64)
        if woken := {row.video_id: row.tracking_tier for row in rows if row.was_parked}:
            # from here on no id of these pages moves to a file
            await ring.lock(first, last)
            filed = await self._filed(woken)
        await ring.rewrite(
            first,
            last,
            lambda lower, upper, old: _combined(
                old, new.between(lower, upper), filed, passes, changes
            ),
        )
        await cohorts.count(changes)
        return Parked(len(rows), len(known))

    async def drop_tombstones(self, video_ids: Sequence[str]) -> None:
        """Delete what says that these videos were collected: something else does."""
        await self.session.execute(_TAKE_TOMBSTONES, {"ids": list(video_ids)})

    async def _filed(self, tiers: Mapping[str, str]) -> Positions:
        """Positions of videos that were woken, and by the filter in this tier: they lie in a file if the ring
        does not have them."""
        tier_at = dict(zip(positions_of([*tiers]).tolist(), tiers.values(), strict=True))
        found = await FilterReader(self.session).cohorts_of([*tier_at])
        filed = [
            number
            for number, cohorts in found.items()
            if any(tier_of(cohort) == tier_at[number] for cohort in cohorts)
        ]
        return np.array(sorted(filed), np.uint64)

    async def wake(
        self,
        turns: Sequence[Turn],
        passes: Mapping[int, Passes],
        now: datetime,
        filed: Mapping[int, Entries],
    ) -> int:
        """Make rows of what lies between pointers and their new places; returns how many entries.

        ``filed``: by cohort, the rows that its files have there.
        """
        ring = await Ring(self.session).around([span for turn in turns for span in turn.spans])
        pairs = await FilterReader(self.session).around(
            [span for turn in turns if turn.cohort.number in filed for span in turn.spans]
        )
        rows = _Rows()
        for turn in turns:
            number = turn.cohort.number
            for first, last in turn.spans:
                there = ring.between(first, last)
                entries = there.taken(there.cohorts == number)
                if number in filed:
                    of_files = filed[number].between(first, last)
                    entries = entries.merged(counting(of_files, there, pairs.between(first, last)))
                due = entries.taken(~turn.is_fresh(entries, day_number(now)))
                rows.add(due, turn.cohort.tier, passes[number])
        await self._insert(rows, now)
        return len(rows.ids)

    async def _insert(self, rows: _Rows, now: datetime) -> None:
        await self.session.execute(_WAKE, rows.values(now, now))

    async def wake_ids(self, video_ids: Iterable[str]) -> set[str]:
        """Make rows of entries out of turn, due now: somebody reports them. Returns those that were none."""
        positions = positions_of([*video_ids])
        near = await Ring(self.session).around([(at, at) for at in positions.tolist()])
        # some may have been erased since they were looked up
        entries = near.taken(np.isin(near.positions, positions) & (near.cohorts != KNOWN))
        calendar = Cohorts(self.session)
        numbers = np.unique(entries.cohorts).tolist()
        passes = await calendar.passes(one for one in await calendar.all() if one.number in numbers)
        rows = _Rows()
        for number in numbers:
            of_cohort = entries.taken(entries.cohorts == number)
            rows.add(of_cohort, tier_of(number), passes.get(number, Passes()))
        # not by its calendar: the report does not remove the row
        values = rows.values(await self.now(), None)
        return set(await self.session.scalars(_WAKE_IDS, values))


@dataclass(slots=True)
class _Rows:
    """Rows of the watchlist to be: ids, tiers, and the day of the last sample where it is known."""

    ids: list[str] = field(default_factory=list)
    tiers: list[str] = field(default_factory=list)
    days: list[int | None] = field(default_factory=list)

    def add(self, entries: Entries, tier: TrackingTier, passes: Passes) -> None:
        """Of entries of one cohort."""
        facts = (entries.positions, entries.days, entries.parked)
        self.ids += ids_of(entries.positions)
        self.tiers += [tier] * len(entries)
        self.days += [
            passes.last_sampled(*of_one)
            for of_one in zip(*(one.tolist() for one in facts), strict=True)
        ]

    def values(self, now: datetime, woken_at: datetime | None) -> dict[str, object]:
        """The statement's parameters."""
        return {
            "ids": self.ids,
            "tiers": self.tiers,
            "days": self.days,
            "now": now,
            "woken_at": woken_at,
        }


def _combined(
    old: Entries,
    new: Entries,
    filed: Positions,
    passes: Mapping[int, Passes],
    changes: Counter[int],
) -> Entries | None:
    """The entries of some pages with the new ones, but those that are ``filed`` and not here; adds to
    ``changes`` how many more a cohort has."""
    there, _ = old.found(new.positions)
    # of what is there a tombstone says nothing new
    new = new.taken(np.where(there, new.cohorts != KNOWN, ~np.isin(new.positions, filed)))
    if not len(new):
        return None
    kept = settled(old, passes)
    there, index = kept.found(new.positions)
    cohorts = new.cohorts.copy()
    if there.any():
        before = kept.cohorts[index]
        # a slow video stays in the cohort of its month
        stays = there & (before > DORMANT) & (cohorts > DORMANT)
        cohorts[stays] = before[stays]
    merged = kept.merged(Entries.of(new.positions, cohorts, new.days, new.parked))
    changes.update(Counter(merged.cohorts.tolist()))
    changes.subtract(Counter(old.cohorts.tolist()))
    return merged
