"""The filter of old videos: which ids may be in which cohort's files of the schedule; see docs/forever.md.

Its entries are pairs of a cohort and the first bits of a position. Pairs are added and never taken out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from atlas.errors import CorruptObject
from atlas.repositories.base import chunks
from atlas.repositories.ring.page import (
    KNOWN,
    MAX_BYTES,
    Entries,
    Packed,
    look_up_all,
    pack,
    unpack,
)
from atlas.repositories.ring.page_table import RUN, PageReader, PageWriter, Row, by_page
from atlas.repositories.ring.positions import Positions, position

#: Of a position, in the filter: an unknown id matches one of n entries with probability n / 2^34.
PREFIX_BITS = 34
#: Bits of a position that the filter does not have.
DROPPED_BITS = 64 - PREFIX_BITS

_NONE = np.empty(0, np.uint64)
#: Ids that one statement looks up: 16 MB of pages.
_IDS = 2_000
_COHORT_BITS = np.uint64(16)
#: Entries by which the number of pages is estimated.
_SOME = 4_000


def prefixes_of(positions: Positions) -> Positions:
    """What the filter keeps of each position."""
    return positions >> np.uint64(DROPPED_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of a prefix and a cohort, in order, each once. A prefix may come in several cohorts."""

    prefixes: Positions
    cohorts: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.prefixes)

    @classmethod
    def of(cls, prefixes: Positions, cohorts: npt.ArrayLike) -> Pairs:
        """Pairs in any order, of which some may come twice."""
        numbers = np.broadcast_to(np.asarray(cohorts, np.uint64), len(prefixes))
        both = np.unique(prefixes << _COHORT_BITS | numbers)
        return cls(both >> _COHORT_BITS, (both & np.uint64(0xFFFF)).astype(np.uint16))

    def union(self, others: Pairs) -> Pairs:
        """Both."""
        return Pairs.of(
            np.concatenate((self.prefixes, others.prefixes)),
            np.concatenate((self.cohorts, others.cohorts)),
        )

    def between(self, first: int, last: int) -> Pairs:
        """Those of the prefixes that positions of ``first <= position <= last`` have."""
        start = int(np.searchsorted(self.prefixes, np.uint64(first >> DROPPED_BITS), "left"))
        stop = int(np.searchsorted(self.prefixes, np.uint64(last >> DROPPED_BITS), "right"))
        return Pairs(self.prefixes[start:stop], self.cohorts[start:stop])

    def has(self, prefixes: Positions, cohort: int) -> npt.NDArray[np.bool_]:
        """For each prefix whether it is here with that cohort."""
        there = self.prefixes[self.cohorts == cohort]
        if not len(there):
            return np.zeros(len(prefixes), np.bool_)
        index = np.searchsorted(there, prefixes).clip(max=len(there) - 1)
        return np.asarray(there[index] == prefixes)


def pack_pairs(pairs: Pairs, lower: int) -> bytes:
    """The pairs of a page that begins at the position ``lower``, in the format of the ring's pages."""
    none = np.zeros(len(pairs), np.uint16)
    return pack(Entries(pairs.prefixes, pairs.cohorts, none, none), lower >> DROPPED_BITS)


def unpack_pairs(packed: bytes, lower: int) -> Pairs:
    """The pairs of a page that begins at the position ``lower``. Raises `CorruptObject` for other bytes."""
    try:
        entries = unpack(packed, lower >> DROPPED_BITS)
    except CorruptObject as error:
        raise CorruptObject(
            f"the page of the filter that begins at {lower} cannot be read: {error.__cause__}",
            hint="restore the table watchlist_filter from a backup",
        ) from error
    return Pairs(entries.positions, entries.cohorts)


def split_pairs(pairs: Pairs, lower: int, upper: int) -> list[Packed]:
    """As few pages of about equal size as hold the pairs, which together cover ``lower`` to ``upper``."""
    some = Pairs(pairs.prefixes[:_SOME], pairs.cohorts[:_SOME])
    size = len(pack_pairs(some, lower)) / max(len(some), 1)
    count = max(1, math.ceil(size * len(pairs) / MAX_BYTES))
    while True:
        pages = list(_cut(pairs, lower, upper, count))
        if all(len(page.packed) <= MAX_BYTES for page in pages):
            return pages
        count += 1


def _cut(pairs: Pairs, lower: int, upper: int, count: int) -> Iterator[Packed]:
    edges = np.linspace(0, len(pairs), count + 1).astype(int)[1:-1]
    # a prefix lies in one page, with all of its cohorts
    starts = np.searchsorted(pairs.prefixes, pairs.prefixes[edges], "left").tolist()
    for start, stop in pairwise([0, *sorted({*starts} - {0}), len(pairs)]):
        part = Pairs(pairs.prefixes[start:stop], pairs.cohorts[start:stop])
        is_last = stop == len(pairs)
        last = upper if is_last else (int(pairs.prefixes[stop]) << DROPPED_BITS) - 1
        yield Packed(lower, last, len(part), pack_pairs(part, lower))
        lower = last + 1


@dataclass(frozen=True, slots=True)
class Settled:
    """What the ring keeps of a span once a file's rows were settled there, and those that the filter gets."""

    ring: Entries
    added: Entries


def settle(ring: Entries, rows: Entries, barred: Positions) -> Settled:
    """Let the ``rows`` of files, by position, take the place of what the ring has of them in one span.

    To be repeated at will. What the ring has in another cohort, or with a later sample, stays there: the ring
    wins. But ids that are only known (cohort 0) are in the file from then on. Barred ids are left to their
    erasure.
    """
    stays, index = ring.found(rows.positions)
    if len(ring):
        is_older = (ring.cohorts[index] == rows.cohorts) & (ring.days[index] <= rows.days)
        stays = stays & ~is_older & (ring.cohorts[index] != KNOWN)
    added = rows.taken(~stays & ~np.isin(rows.positions, barred))
    return Settled(ring.taken(~np.isin(ring.positions, added.positions)), added)


def counting(rows: Entries, ring: Entries, pairs: Pairs) -> Entries:
    """The rows of a file, all of one cohort, that mean something: the filter matches them, and the ring does
    not have them, unless as ids that are only known."""
    if not len(rows):
        return rows
    in_ring, index = ring.found(rows.positions)
    if len(ring):
        in_ring = in_ring & (ring.cohorts[index] != KNOWN)
    return rows.taken(~in_ring & pairs.has(prefixes_of(rows.positions), int(rows.cohorts[0])))


class FilterReader(PageReader):
    """Reads the filter."""

    table = "watchlist_filter"

    async def cohorts_of(self, positions: Sequence[int]) -> dict[int, frozenset[int]]:
        """For each position that may be in files: in those of which cohorts."""
        found: dict[int, frozenset[int]] = {}
        for part in chunks(sorted(positions), _IDS):
            rows = await self._covering(part)
            for row, inside in by_page(rows, part):
                prefixes = [number >> DROPPED_BITS for number in inside]
                cohorts = look_up_all(row.packed, position(row.lower) >> DROPPED_BITS, prefixes)
                found.update(
                    (number, frozenset(some))
                    for number, some in zip(inside, cohorts, strict=True)
                    if some
                )
        return found

    async def between(self, first: int, last: int) -> Pairs:
        """The pairs whose prefixes positions of ``first <= position <= last`` have."""
        return (await self.around([(first, last)])).between(first, last)

    async def around(self, spans: Sequence[tuple[int, int]]) -> Pairs:
        """The pairs of all pages that these spans of positions touch."""
        return _joined(await self._touched(spans))


class Filter(FilterReader, PageWriter):
    """Changes the filter."""

    async def rewrite(
        self, first: int, last: int, change: Callable[[int, int, Pairs], Pairs | None]
    ) -> None:
        """Let ``change`` say what each run of neighbouring pages holds from now on; see `Ring.rewrite`."""
        rows = await self._locked(first, last, pack_pairs(Pairs.of(_NONE, 0), 0))
        for start in range(0, len(rows), RUN):
            run = rows[start : start + RUN]
            lower, upper = position(run[0].lower), position(run[-1].upper)
            changed = change(lower, upper, _joined(run))
            if changed is not None:
                await self._replace(run, split_pairs(changed, lower, upper))

    async def empty(self) -> None:
        """Take all pairs out: no file counts any more."""
        await self._clear(pack_pairs(Pairs.of(_NONE, 0), 0))


def _joined(rows: Iterable[Row]) -> Pairs:
    parts = [unpack_pairs(row.packed, position(row.lower)) for row in rows]
    parts = parts or [Pairs.of(_NONE, 0)]
    return Pairs(
        np.concatenate([part.prefixes for part in parts]),
        np.concatenate([part.cohorts for part in parts]),
    )
