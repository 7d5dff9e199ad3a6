"""The pages of the ring in PostgreSQL: looking ids up, and putting them in."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from sqlalchemy import ARRAY, BigInteger, bindparam, text

from atlas.repositories.base import Repository, chunks
from atlas.repositories.ring.page import KNOWN, Entries, Packed, joined, look_up, split, unpack
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

#: Neighbouring pages that are packed anew together, so that they stay full.
_RUN = 64

_COVERING = text("""
    SELECT lower, upper, version, packed FROM watchlist_ring
    WHERE lower IN (
        SELECT (SELECT r.lower FROM watchlist_ring r WHERE r.lower <= p.position
                ORDER BY r.lower DESC LIMIT 1)
        FROM unnest(CAST(:positions AS bigint[])) AS p (position))
    """).bindparams(bindparam("positions", type_=ARRAY(BigInteger)))

_CHANGED = text("""
    SELECT seen.lower FROM unnest(CAST(:lowers AS bigint[]), CAST(:versions AS bigint[]))
        AS seen (lower, version)
    LEFT JOIN watchlist_ring r ON r.lower = seen.lower
    WHERE r.version IS DISTINCT FROM seen.version
    """).bindparams(
    bindparam("lowers", type_=ARRAY(BigInteger)), bindparam("versions", type_=ARRAY(BigInteger))
)

_RANGE = """
    SELECT lower, upper, version, packed FROM watchlist_ring
    WHERE upper >= :first AND lower <= :last AND lower >= (
        SELECT coalesce(max(lower), :first) FROM watchlist_ring WHERE lower <= :first)
    ORDER BY lower
    """

_NEXT = text("""
    SELECT lower, upper, version, packed FROM watchlist_ring
    WHERE lower >= :first ORDER BY lower LIMIT 64
    """)

#: Waits for nobody, and keeps the file's end: to cut it would lock the ring.
_VACUUM = text("VACUUM (SKIP_LOCKED, TRUNCATE false) watchlist_ring")

_INSERT = text("""
    INSERT INTO watchlist_ring (lower, upper, version, entries, packed)
    VALUES (:lower, :upper, :version, :entries, :packed)
    """)


@dataclass(frozen=True, slots=True)
class Membership:
    """What the ring knew of some ids: the cohort of each one that is in it, and which pages said so."""

    cohorts: Mapping[str, int]
    versions: Mapping[int, int]

    @property
    def sampled(self) -> set[str]:
        """Ids that are on the watchlist, in the ring."""
        return {video_id for video_id, cohort in self.cohorts.items() if cohort != KNOWN}


class _Row(NamedTuple):
    lower: int
    upper: int
    version: int
    packed: bytes


class RingReader(Repository):
    """Reads the ring."""

    async def find(self, video_ids: Iterable[str]) -> Membership:
        """Which of the ids are in the ring; one index look-up each."""
        canonical = [video_id for video_id in video_ids if is_canonical(video_id)]
        cohorts: dict[str, int] = {}
        versions: dict[int, int] = {}
        for part in chunks(canonical, _PAGES):
            numbers = positions_of(part).tolist()
            found = await self.session.execute(
                _COVERING, {"positions": [stored(number) for number in numbers]}
            )
            rows = [_Row(*row) for row in found]
            versions.update((row.lower, row.version) for row in rows)
            id_at = dict(zip(numbers, part, strict=True))
            for row, inside in _by_page(rows, sorted(id_at)):
                answers = look_up(row.packed, position(row.lower), inside)
                cohorts.update(
                    (id_at[number], cohort)
                    for number, cohort in zip(inside, answers, strict=True)
                    if cohort is not None
                )
        return Membership(cohorts, versions)

    async def pages(self) -> int:
        """How many pages there are."""
        return int((await self.session.scalar(text("SELECT count(*) FROM watchlist_ring"))) or 0)

    async def ids(self) -> AsyncIterator[list[str]]:
        """Every id of the ring, in order of position, some 100,000 at a time."""
        first, last = stored(0), stored(LAST_POSITION)
        while first <= last:
            rows = [_Row(*row) for row in await self.session.execute(_NEXT, {"first": first})]
            if not rows:
                return
            first = rows[-1].upper + 1
            yield ids_of(joined(unpack(row.packed, position(row.lower)) for row in rows).positions)

    async def has_changed(self, seen: Membership) -> bool:
        """Whether a page that `find` read was written since."""
        if not seen.versions:
            return False
        values = {"lowers": list(seen.versions), "versions": list(seen.versions.values())}
        return (await self.session.execute(_CHANGED, values)).first() is not None

    async def between(self, first: int, last: int) -> Entries:
        """The entries whose position is ``first <= position <= last``."""
        rows = await self.session.execute(
            text(_RANGE), {"first": stored(first), "last": stored(last)}
        )
        return joined(unpack(row.packed, position(row.lower)).between(first, last) for row in rows)


class Ring(RingReader):
    """Changes the ring."""

    async def rewrite(
        self, first: int, last: int, change: Callable[[int, int, Entries], Entries | None]
    ) -> None:
        """Let ``change`` say what each run of neighbouring pages holds from now on; None: it stays.

        It gets the first and the last position that the run covers, and its entries. The pages are locked
        in order, and packed anew as full as they go.
        """
        rows = await self._locked(first, last)
        for start in range(0, len(rows), _RUN):
            run = rows[start : start + _RUN]
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

    async def vacuum(self) -> None:
        """Give the room of pages that were packed anew to the next ones. Outside of any transaction."""
        await self.session.execute(_VACUUM)

    async def _locked(self, first: int, last: int) -> Sequence[_Row]:
        """The pages of a span, locked. One that was split while we waited is looked for again."""
        while True:
            found = await self.session.execute(
                text(_RANGE + " FOR UPDATE"), {"first": stored(first), "last": stored(last)}
            )
            rows = [_Row(*row) for row in found]
            if _covers(rows, stored(first), stored(last)):
                return rows
            if not rows:
                await self._begin()

    async def _begin(self) -> None:
        """One page without entries, where there is none at all: the table was emptied by hand."""
        [page] = split(Entries.empty(), 0, LAST_POSITION)
        await self.session.execute(
            text("""
                INSERT INTO watchlist_ring (lower, upper, packed) VALUES (:lower, :upper, :packed)
                ON CONFLICT (lower) DO NOTHING
                """),
            {"lower": stored(page.lower), "upper": stored(page.upper), "packed": page.packed},
        )

    async def _replace(self, old: Sequence[_Row], new: Sequence[Packed]) -> None:
        version = max(row.version for row in old) + 1
        await self.session.execute(
            text("DELETE FROM watchlist_ring WHERE lower = ANY (:lowers)").bindparams(
                bindparam("lowers", type_=ARRAY(BigInteger))
            ),
            {"lowers": [row.lower for row in old]},
        )
        await self.session.execute(
            _INSERT,
            [
                {
                    "lower": stored(page.lower),
                    "upper": stored(page.upper),
                    "version": version,
                    "entries": page.entries,
                    "packed": page.packed,
                }
                for page in new
            ],
        )


def _by_page(rows: Sequence[_Row], numbers: Sequence[int]) -> Iterator[tuple[_Row, list[int]]]:
    """Each page with those of the sorted positions that it covers."""
    for row in rows:
        start = bisect_left(numbers, position(row.lower))
        stop = bisect_right(numbers, position(row.upper))
        yield row, list(numbers[start:stop])


def _covers(rows: Sequence[_Row], first: int, last: int) -> bool:
    """Whether the pages, in order, cover the span without a gap."""
    return (
        bool(rows)
        and rows[0].lower <= first
        and rows[-1].upper >= last
        and all(before.upper + 1 == after.lower for before, after in pairwise(rows))
    )
