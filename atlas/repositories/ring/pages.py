"""The pages of the ring in PostgreSQL: looking ids up, and putting them in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import text

from atlas.repositories.base import chunks
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.ring.cohorts import first_cohort_of
from atlas.repositories.ring.filter import FilterReader
from atlas.repositories.ring.membership import Answers, Membership
from atlas.repositories.ring.page import (
    DORMANT,
    Entries,
    joined,
    look_up,
    pack,
    split,
    unpack,
)
from atlas.repositories.ring.page_table import RUN, PageReader, PageWriter, Row, by_page
from atlas.repositories.ring.positions import (
    LAST_POSITION,
    ids_of,
    is_canonical,
    position,
    positions_of,
    stored,
)

#: Pages that one statement reads: 16 MB.
_PAGES = 2_000

_NEXT = text("""
    SELECT lower, upper, version, packed FROM watchlist_ring
    WHERE lower >= :first ORDER BY lower LIMIT 64
    """)


class RingReader(PageReader):
    """Reads the ring."""

    table = "watchlist_ring"

    async def find(
        self,
        video_ids: Iterable[str],
        answers: Answers | None = None,
        published: Mapping[str, datetime | None] | None = None,
    ) -> Membership:
        """Which of the ids are known; one index look-up each in the ring, and in the filter of the files
        where the ring does not say that the id is sampled.

        ``published`` says when videos were, where that is known: no file of an earlier year has them. That
        counts only where files cannot be read: a video that is hidden and shown again gets a new date.
        """
        canonical = [video_id for video_id in video_ids if is_canonical(video_id)]
        cohorts, versions = await self._in_ring(canonical)
        # after the ring: ids go from there to the files
        left = [video_id for video_id in canonical if not cohorts.get(video_id)]
        matched = await self._matched(left)
        if answers is not None and answers.is_away:
            return Membership(cohorts, versions, _possible(matched, published or {}))
        if answers is None or not matched:
            return Membership(cohorts, versions, matched)
        present = {one: answers.present[one] for one in matched.keys() & answers.present.keys()}
        live = await ScheduleFiles(self.session).by_cohort()
        undecided = {}
        for video_id in matched.keys() - present.keys():
            files = {file for cohort in matched[video_id] for file in live.get(cohort, ())}
            if not {file.object_key for file in files} <= answers.read.get(video_id, frozenset()):
                undecided[video_id] = matched[video_id]
        return Membership(cohorts | present, versions, undecided)

    async def cohorts_of(self, video_ids: Iterable[str]) -> dict[str, int]:
        """The cohorts of those that are in the ring, whatever the files have."""
        return (await self._in_ring([one for one in video_ids if is_canonical(one)]))[0]

    async def _in_ring(self, canonical: Sequence[str]) -> tuple[dict[str, int], dict[int, int]]:
        """The cohorts of ids, and the versions of the pages that were looked at."""
        cohorts: dict[str, int] = {}
        versions: dict[int, int] = {}
        for part in chunks(canonical, _PAGES):
            id_at = dict(zip(positions_of(part).tolist(), part, strict=True))
            rows = await self._covering(list(id_at))
            versions.update((row.lower, row.version) for row in rows)
            for row, inside in by_page(rows, sorted(id_at)):
                found = look_up(row.packed, position(row.lower), inside)
                cohorts.update(
                    (id_at[number], cohort)
                    for number, cohort in zip(inside, found, strict=True)
                    if cohort is not None
                )
        return cohorts, versions

    async def _matched(self, video_ids: Sequence[str]) -> dict[str, frozenset[int]]:
        """Ids that may be in files, with the cohorts of these."""
        id_at = dict(zip(positions_of(video_ids).tolist(), video_ids, strict=True))
        matched = await FilterReader(self.session).cohorts_of(list(id_at))
        return {id_at[number]: cohorts for number, cohorts in matched.items()}

    async def runs(self) -> AsyncIterator[Entries]:
        """Every entry of the ring, in order of position, some 100,000 at a time."""
        first, last = stored(0), stored(LAST_POSITION)
        while first <= last:
            rows = [Row(*row) for row in await self.session.execute(_NEXT, {"first": first})]
            if not rows:
                return
            first = rows[-1].upper + 1
            yield joined(unpack(row.packed, position(row.lower)) for row in rows)

    async def ids(self) -> AsyncIterator[list[str]]:
        """Every id of the ring, as `runs`."""
        async for entries in self.runs():
            yield ids_of(entries.positions)

    async def has_changed(self, seen: Membership) -> bool:
        """Whether a page that `find` read was written since."""
        return bool(seen.versions) and await self._changed(seen.versions)

    async def between(self, first: int, last: int) -> Entries:
        """The entries whose position is ``first <= position <= last``."""
        return (await self.around([(first, last)])).between(first, last)

    async def around(self, spans: Sequence[tuple[int, int]]) -> Entries:
        """The entries of all pages that these spans of positions touch."""
        rows = await self._touched(spans)
        return joined(unpack(row.packed, position(row.lower)) for row in rows)


class Ring(RingReader, PageWriter):
    """Changes the ring."""

    async def lock(self, first: int, last: int) -> None:
        """Keep others from changing the pages of a span until the transaction ends."""
        await self._locked(first, last, pack(Entries.empty(), 0))

    async def rewrite(
        self, first: int, last: int, change: Callable[[int, int, Entries], Entries | None]
    ) -> None:
        """Let ``change`` say what each run of neighbouring pages holds from now on; None: it stays.

        It gets the first and the last position that the run covers, and its entries. The pages are locked
        in order, and packed anew as full as they go.
        """
        rows = await self._locked(first, last, pack(Entries.empty(), 0))
        for start in range(0, len(rows), RUN):
            run = rows[start : start + RUN]
            lower, upper = position(run[0].lower), position(run[-1].upper)
            changed = change(
                lower, upper, joined(unpack(row.packed, position(row.lower)) for row in run)
            )
            if changed is not None:
                await self._replace(run, split(changed, lower, upper))

    async def remove(self, video_ids: Iterable[str]) -> dict[str, int]:
        """Take ids out of the ring; returns the cohorts of those that were there."""
        removed: dict[int, int] = {}
        canonical = [video_id for video_id in video_ids if is_canonical(video_id)]
        numbers = positions_of(canonical).tolist()
        for number in sorted(numbers):

            def without(_: int, __: int, entries: Entries, number: int = number) -> Entries | None:
                gone = entries.positions == number
                if not gone.any():
                    return None
                removed[number] = int(entries.cohorts[gone][0])
                return entries.taken(~gone)

            await self.rewrite(number, number, without)
        return {
            video_id: removed[number]
            for video_id, number in zip(canonical, numbers, strict=True)
            if number in removed
        }


def _possible(
    matched: Mapping[str, frozenset[int]], published: Mapping[str, datetime | None]
) -> dict[str, frozenset[int]]:
    """The ids that may be in files of the year in which they were published, or of later ones."""
    possible = {}
    for video_id, cohorts in matched.items():
        moment = published.get(video_id)
        since = DORMANT if moment is None else first_cohort_of(moment)
        if some := frozenset(one for one in cohorts if one >= since or one == DORMANT):
            possible[video_id] = some
    return possible
