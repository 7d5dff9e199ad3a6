"""Tables of packed pages that together cover all positions: what the ring and its filter share."""

from __future__ import annotations

import asyncio
import functools
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

from sqlalchemy import ARRAY, BigInteger, TextClause, bindparam, text

from atlas.repositories.base import Repository
from atlas.repositories.ring.page import Packed
from atlas.repositories.ring.positions import LAST_POSITION, position, stored

#: Neighbouring pages that are packed anew together, so that they stay full.
RUN = 64
#: Seconds in which a run of parking or moving waits for snapshots that keep the room of old pages, and those
#: after which one may have ended.
PATIENCE, _PAUSE = 30.0, 0.2


class Row(NamedTuple):
    """A page as it is stored."""

    lower: int
    upper: int
    version: int
    packed: bytes


class _Vacuums(NamedTuple):
    """How often a table was vacuumed by command, and how many dead pages the last one left."""

    times: int
    dead: int


class PageReader(Repository):
    """Reads the pages of one table."""

    table: ClassVar[str]

    def _statement(self, template: str, *arrays: str) -> TextClause:
        return _statement(self.table, template, arrays)

    async def pages(self) -> int:
        """How many pages there are."""
        count = await self.session.scalar(self._statement("SELECT count(*) FROM {table}"))
        return int(count or 0)

    async def _covering(self, positions: Sequence[int]) -> list[Row]:
        """The pages that hold these positions; an index look-up each."""
        statement = self._statement(
            """
            SELECT lower, upper, version, packed FROM {table}
            WHERE lower IN (
                SELECT (SELECT r.lower FROM {table} r WHERE r.lower <= p.position
                        ORDER BY r.lower DESC LIMIT 1)
                FROM unnest(CAST(:positions AS bigint[])) AS p (position))
            """,
            "positions",
        )
        values = {"positions": [stored(number) for number in positions]}
        return [Row(*row) for row in await self.session.execute(statement, values)]

    async def _touched(self, spans: Sequence[tuple[int, int]], suffix: str = "") -> list[Row]:
        """The pages of several spans, each page once, in order."""
        statement = self._statement(
            """
            SELECT lower, upper, version, packed FROM {table}
            WHERE lower IN (
                SELECT r.lower
                FROM unnest(CAST(:firsts AS bigint[]), CAST(:lasts AS bigint[])) AS s (first, last)
                CROSS JOIN LATERAL (
                    SELECT lower FROM {table} t
                    WHERE t.upper >= s.first AND t.lower <= s.last AND t.lower >= (
                        SELECT coalesce(max(lower), s.first) FROM {table} WHERE lower <= s.first)
                    OFFSET 0 -- keeps the planner from joining whole tables
                ) r)
            ORDER BY lower
            """ + suffix,
            "firsts",
            "lasts",
        )
        values = {
            "firsts": [stored(first) for first, _ in spans],
            "lasts": [stored(last) for _, last in spans],
        }
        return [Row(*row) for row in await self.session.execute(statement, values)]

    async def _changed(self, versions: Mapping[int, int]) -> bool:
        """Whether one of these pages was written since it had this version."""
        statement = self._statement(
            """
            SELECT seen.lower
            FROM unnest(CAST(:lowers AS bigint[]), CAST(:versions AS bigint[]))
                AS seen (lower, version)
            LEFT JOIN {table} r ON r.lower = seen.lower
            WHERE r.version IS DISTINCT FROM seen.version
            """,
            "lowers",
            "versions",
        )
        values = {"lowers": list(versions), "versions": list(versions.values())}
        return (await self.session.execute(statement, values)).first() is not None


class PageWriter(PageReader):
    """Writes the pages of one table."""

    async def _locked(self, first: int, last: int, empty: bytes) -> list[Row]:
        """The pages of a span, locked. One that was split while we waited is looked for again; where the
        table was emptied by hand it gets one page, ``empty``."""
        while True:
            rows = await self._touched([(first, last)], "FOR UPDATE")
            if _covers(rows, stored(first), stored(last)):
                return rows
            if not rows:
                await self._begin(empty)

    async def _begin(self, empty: bytes) -> None:
        await self.session.execute(
            self._statement("""
                INSERT INTO {table} (lower, upper, packed) VALUES (:lower, :upper, :packed)
                ON CONFLICT (lower) DO NOTHING
                """),
            {"lower": stored(0), "upper": stored(LAST_POSITION), "packed": empty},
        )

    async def _clear(self, empty: bytes) -> None:
        """One page, ``empty``, in the place of all."""
        await self.session.execute(self._statement("DELETE FROM {table}"))
        await self._begin(empty)

    async def _replace(self, old: Sequence[Row], new: Sequence[Packed]) -> None:
        version = max(row.version for row in old) + 1
        await self.session.execute(
            self._statement("DELETE FROM {table} WHERE lower = ANY (:lowers)", "lowers"),
            {"lowers": [row.lower for row in old]},
        )
        await self.session.execute(
            self._statement("""
                INSERT INTO {table} (lower, upper, version, entries, packed)
                VALUES (:lower, :upper, :version, :entries, :packed)
                """),
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

    async def vacuum(self, until: float = 0.0) -> None:
        """Give the room of pages that were packed anew to the next ones. Outside of any transaction.

        Waits for no lock, and keeps the file's end: to cut it would lock the table. While somebody's older
        snapshot keeps the room it is tried again, up to the moment ``until`` of `time.monotonic`.
        """
        before = await self._vacuums()
        while True:
            await self.session.execute(
                self._statement("VACUUM (SKIP_LOCKED, TRUNCATE false) {table}")
            )
            after = await self._vacuums()
            if after.times == before.times or not after.dead or time.monotonic() >= until:
                return
            before = after
            await asyncio.sleep(_PAUSE)

    async def _vacuums(self) -> _Vacuums:
        statement = self._statement("""
            SELECT pg_stat_get_vacuum_count(t), pg_stat_get_dead_tuples(t)
            FROM CAST('{table}' AS regclass) AS t
            """)
        return _Vacuums(*(await self.session.execute(statement)).one())


@functools.cache
def _statement(table: str, template: str, arrays: Sequence[str]) -> TextClause:
    return text(template.format(table=table)).bindparams(
        *(bindparam(name, type_=ARRAY(BigInteger)) for name in arrays)
    )


def by_page(rows: Sequence[Row], numbers: Sequence[int]) -> Iterator[tuple[Row, list[int]]]:
    """Each page with those of the sorted positions that it covers."""
    for row in rows:
        start = bisect_left(numbers, position(row.lower))
        stop = bisect_right(numbers, position(row.upper))
        yield row, list(numbers[start:stop])


def _covers(rows: Sequence[Row], first: int, last: int) -> bool:
    """Whether the pages, in order, cover the span without a gap."""
    return (
        bool(rows)
        and rows[0].lower <= first
        and rows[-1].upper >= last
        and all(before.upper + 1 == after.lower for before, after in pairwise(rows))
    )
