"""Spans of time that are read one after the other, so that memory holds the hot rows of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from atlas.repositories.hot.partitions import Partition

#: Bytes of hot rows in PostgreSQL that are read at once: some 125,000 rows.
BYTES = 16 << 20


def windows(
    partitions: Iterable[Partition], since: datetime | None, until: datetime | None
) -> Iterator[tuple[datetime | None, datetime | None]]:
    """``since`` to ``until`` in spans without a gap, each with few hot rows by the sizes of partitions."""
    begun, held = since, 0
    for moment, size in _pieces(partitions):
        inside = (since is None or since < moment) and (until is None or moment < until)
        if held and held + size > BYTES and inside:
            yield begun, moment
            begun, held = moment, 0
        if until is None or moment < until:
            held += size
    yield begun, until


def _pieces(partitions: Iterable[Partition]) -> Iterator[tuple[datetime, int]]:
    """Where pieces of partitions begin, and their sizes, the oldest first."""
    for one in partitions:
        count = -(-one.byte_size // BYTES) or 1
        for number in range(count):
            yield one.lower + (one.upper - one.lower) * number / count, one.byte_size // count
