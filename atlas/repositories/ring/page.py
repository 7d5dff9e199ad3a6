"""A page of the ring: sorted positions with their cohorts, packed to about six bytes an entry."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from atlas.errors import CorruptObject
from atlas.repositories.ring.positions import Positions

#: Bytes of a packed page: with its other columns a tuple of PostgreSQL's 8 kB page, which may keep the
#: pointers of a few tuples that were there before.
MAX_BYTES = 8_060
#: Cohort of ids that are known, and not sampled.
KNOWN = 0
#: Cohort of DORMANT videos.
DORMANT = 1

_FORMAT = 1
#: Entries by which the number of pages is estimated.
_SOME = 1_000
_HIGH_BYTES = struct.Struct("<I").unpack_from
_HEADER = np.dtype([("format", "u1"), ("low_bytes", "u1"), ("entries", "<u2"), ("high", "<u4")])
_FRESH = np.dtype([("index", "<u2"), ("day", "<u2"), ("parked", "<u2")])


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Entries in order of position, each position once.

    Of an entry that its cohort's pointer has not woken since it was parked, ``days`` is the day of the last
    sample and ``parked`` the day of parking, both as days since 1970; else they are 0.
    """

    positions: Positions
    cohorts: npt.NDArray[np.uint16]
    days: npt.NDArray[np.uint16]
    parked: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def of(
        cls,
        positions: Positions,
        cohorts: npt.ArrayLike,
        days: npt.ArrayLike = 0,
        parked: npt.ArrayLike = 0,
    ) -> Entries:
        """Entries in any order; of a position that comes twice the last one counts."""
        # the first of equal ones counts for numpy
        unique, first = np.unique(positions[::-1], return_index=True)
        facts = (
            np.broadcast_to(np.asarray(fact, np.uint16), len(positions))[::-1][first]
            for fact in (cohorts, days, parked)
        )
        return cls(unique, *facts)

    @classmethod
    def empty(cls) -> Entries:
        """No entries."""
        return cls.of(np.empty(0, np.uint64), 0)

    def taken(self, which: npt.NDArray[np.bool_] | slice) -> Entries:
        """Those of a mask or of a slice."""
        return Entries(
            self.positions[which], self.cohorts[which], self.days[which], self.parked[which]
        )

    def between(self, first: int, last: int) -> Entries:
        """Those whose position lies in ``first <= position <= last``."""
        start = np.searchsorted(self.positions, np.uint64(first), "left")
        stop = np.searchsorted(self.positions, np.uint64(last), "right")
        return self.taken(slice(int(start), int(stop)))

    def merged(self, others: Entries) -> Entries:
        """Both; where a position is in both, what ``others`` says of it."""
        return Entries.of(
            np.concatenate((self.positions, others.positions)),
            np.concatenate((self.cohorts, others.cohorts)),
            np.concatenate((self.days, others.days)),
            np.concatenate((self.parked, others.parked)),
        )

    def found(self, positions: Positions) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """For each of ``positions`` whether it is here, and at which index."""
        if not len(self):
            return np.zeros(len(positions), np.bool_), np.zeros(len(positions), np.intp)
        index = np.searchsorted(self.positions, positions).clip(max=len(self) - 1)
        return self.positions[index] == positions, index


@dataclass(frozen=True, slots=True)
class Packed:
    """A page to be stored: it covers the positions from ``lower`` to ``upper``, both included."""

    lower: int
    upper: int
    entries: int
    packed: bytes


def pack(entries: Entries, lower: int) -> bytes:
    """The entries of a page that begins at ``lower``."""
    offsets = entries.positions - np.uint64(lower)
    size = len(offsets)
    low_bytes, high_bytes = _widths(offsets)
    header = np.array([(_FORMAT, low_bytes, size, high_bytes)], _HEADER)
    low = offsets.astype("<u8").view(np.uint8).reshape(size, 8)[:, :low_bytes]
    ones = np.zeros(high_bytes * 8, np.uint8)
    ones[_high(offsets, low_bytes) + np.arange(size)] = 1
    cohorts, index = np.unique(entries.cohorts, return_inverse=True)
    fresh = np.empty(int(np.count_nonzero(entries.days)), _FRESH)
    fresh["index"] = np.flatnonzero(entries.days)
    fresh["day"] = entries.days[fresh["index"]]
    fresh["parked"] = entries.parked[fresh["index"]]
    bits = (index[:, None] >> np.arange(_index_bits(len(cohorts)))) & 1
    return b"".join(
        (
            header.tobytes(),
            low.tobytes(),
            np.packbits(ones).tobytes(),
            np.uint16(len(cohorts)).astype("<u2").tobytes(),
            cohorts.astype("<u2").tobytes(),
            np.packbits(bits.astype(np.uint8), axis=None).tobytes(),
            fresh.tobytes(),
        )
    )


def unpack(packed: bytes, lower: int) -> Entries:
    """The entries of a page that begins at ``lower``. Raises `CorruptObject` for what `pack` did not make."""
    try:
        return _unpack(packed, lower)
    except (ValueError, IndexError) as error:
        raise CorruptObject(
            f"the page of the ring that begins at {lower} cannot be read: {error}",
            hint="restore the table watchlist_ring from a backup",
        ) from error


def look_up(packed: bytes, lower: int, positions: Sequence[int]) -> list[int | None]:
    """The cohort of each position, None where it is not in the page. A fifth of the cost of `unpack`."""
    return [found[0] if found else None for found in look_up_all(packed, lower, positions)]


def look_up_all(packed: bytes, lower: int, positions: Sequence[int]) -> list[list[int]]:
    """Every cohort of each position, for pages that may have one in several."""
    low_bytes, size, high_bytes = packed[1], packed[2] | packed[3] << 8, _HIGH_BYTES(packed, 4)[0]
    at = _HEADER.itemsize + size * low_bytes
    ones = np.unpackbits(np.frombuffer(packed, np.uint8, high_bytes, at))
    high = np.flatnonzero(ones.view(np.bool_)) - np.arange(size)
    found: list[list[int]] = []
    for position in positions:
        offset = position - lower
        start, stop = np.searchsorted(
            high, (offset >> 8 * low_bytes, (offset >> 8 * low_bytes) + 1)
        )
        wanted = (offset & ((1 << 8 * low_bytes) - 1)).to_bytes(low_bytes, "little")
        found.append(
            [
                _cohort(packed, at + high_bytes, entry)
                for entry in range(start, stop)
                if packed.startswith(wanted, _HEADER.itemsize + entry * low_bytes)
            ]
        )
    return found


def _cohort(packed: bytes, at: int, entry: int) -> int:
    kinds = packed[at] | packed[at + 1] << 8
    width = _index_bits(kinds)
    index_at = at + 2 + 2 * kinds
    first = entry * width
    at_bits = index_at + first // 8
    window = int.from_bytes(packed[at_bits : at_bits + 3].ljust(3, b"\0"), "big")
    bits = window << first % 8 & 0xFFFFFF
    # the bits of an index are stored lowest first
    index = int(f"{bits >> 24 - width:0{width}b}"[::-1], 2) if width else 0
    return packed[at + 2 + 2 * index] | packed[at + 3 + 2 * index] << 8


def split(entries: Entries, lower: int, upper: int) -> list[Packed]:
    """As few pages of equal size as hold the entries, which together cover ``lower`` to ``upper``."""
    some = entries.taken(slice(0, _SOME))
    count = max(1, math.ceil(len(pack(some, lower)) / max(len(some), 1) * len(entries) / MAX_BYTES))
    while True:
        pages = list(_cut(entries, lower, upper, count))
        if all(len(page.packed) <= MAX_BYTES for page in pages):
            return pages
        count += 1


def _cut(entries: Entries, lower: int, upper: int, count: int) -> Iterator[Packed]:
    edges = np.linspace(0, len(entries), count + 1).astype(int)
    for start, stop in pairwise(edges.tolist()):
        part = entries.taken(slice(start, stop))
        last = upper if stop == len(entries) else int(entries.positions[stop]) - 1
        yield Packed(lower, last, len(part), pack(part, lower))
        if last == upper:
            return
        lower = last + 1


def _unpack(packed: bytes, lower: int) -> Entries:
    header = np.frombuffer(packed, _HEADER, 1)[0]
    size, low_bytes = int(header["entries"]), int(header["low_bytes"])
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']}")
    at = _HEADER.itemsize
    offsets = np.zeros((size, 8), np.uint8)
    offsets[:, :low_bytes] = np.frombuffer(packed, np.uint8, size * low_bytes, at).reshape(
        size, low_bytes
    )
    at += size * low_bytes
    ones = np.unpackbits(np.frombuffer(packed, np.uint8, int(header["high"]), at))
    at += int(header["high"])
    high = (np.flatnonzero(ones.view(np.bool_)) - np.arange(size)).astype(np.uint64)
    numbers = offsets.reshape(-1).view("<u8").astype(np.uint64)
    if low_bytes < 8:
        numbers |= high << np.uint64(8 * low_bytes)
    kinds = int(np.frombuffer(packed, "<u2", 1, at)[0])
    cohorts = np.frombuffer(packed, "<u2", kinds, at + 2).astype(np.uint16)
    at += 2 + 2 * kinds
    width = _index_bits(kinds)
    index_bytes = -(-size * width // 8)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8, index_bytes, at), count=size * width)
    index = bits.reshape(size, width) @ (1 << np.arange(width))
    days, parked = np.zeros(size, np.uint16), np.zeros(size, np.uint16)
    if len(packed) > at + index_bytes:
        fresh = np.frombuffer(packed, _FRESH, offset=at + index_bytes)
        days[fresh["index"]], parked[fresh["index"]] = fresh["day"], fresh["parked"]
    return Entries(
        numbers + np.uint64(lower),
        cohorts[index.astype(np.intp)] if size else cohorts[:0],
        days,
        parked,
    )


def _widths(offsets: Positions) -> tuple[int, int]:
    """Low bytes an entry, and bytes of the unary part, at which both together are smallest."""
    size, last = len(offsets), int(offsets[-1]) if len(offsets) else 0

    def high_bytes(low_bytes: int) -> int:
        return -(-(size + (last >> 8 * low_bytes)) // 8)

    low_bytes = min(range(9), key=lambda low: size * low + high_bytes(low))
    return low_bytes, high_bytes(low_bytes)


def _high(offsets: Positions, low_bytes: int) -> npt.NDArray[np.intp]:
    if low_bytes == 8:
        return np.zeros(len(offsets), np.intp)
    return (offsets >> np.uint64(8 * low_bytes)).astype(np.intp)


def _index_bits(kinds: int) -> int:
    return max(kinds - 1, 0).bit_length()


def in_order(entries: Entries) -> Entries:
    """The same entries by position; one that comes several times stays so."""
    order = np.argsort(entries.positions, kind="stable")
    return Entries(
        entries.positions[order],
        entries.cohorts[order],
        entries.days[order],
        entries.parked[order],
    )


def joined(pages: Iterable[Entries]) -> Entries:
    """The entries of neighbouring pages, in order."""
    parts = [*pages] or [Entries.empty()]
    return Entries(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.cohorts for part in parts]),
        np.concatenate([part.days for part in parts]),
        np.concatenate([part.parked for part in parts]),
    )
