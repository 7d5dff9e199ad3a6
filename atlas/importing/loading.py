"""Writing what was understood: videos with their channels and schedule, then samples.

Samples are compared with what is stored, hot and cold: those that are there already are not written again,
and a counter that is not known never replaces one that is.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.db import Database
from atlas.errors import ConfigurationError, Unavailable, WrongVault
from atlas.importing.columns import values
from atlas.importing.columns.fields import COUNTERS
from atlas.importing.columns.rows import FACTS, SAMPLES, mask
from atlas.importing.files.spool import Spool, release
from atlas.ingest import record_table
from atlas.reader import StatsReader
from atlas.repositories.base import CHUNK
from atlas.repositories.videos import Videos
from atlas.repositories.watchlist import NewEntry, Watchlist
from atlas.scheduling import AgePolicy
from atlas.types import Channel, Video

#: Samples that are compared and written together: bounds memory.
BUCKET = 65_536
_MOST_BUCKETS = 256
#: Ids up to which a look at what is stored is narrowed to them.
_FEW_IDS = 5_000
#: Facts that are merged before they are written.
_FACTS_BYTES = 8 << 20
_FACTS_OF = operator.itemgetter("video_id", *FACTS)
_KEY = ["video_id", "timestamp"]
_OLD = "_old"


@dataclass(slots=True)
class Loaded:
    """How many samples were new, replaced others, were there already, or are of forgotten videos.

    ``remarks`` are for people.
    """

    new: int = 0
    replaced: int = 0
    unchanged: int = 0
    forgotten: int = 0
    remarks: list[str] = field(default_factory=list)


class Buckets:
    """Samples shared out so that those of one (video_id, timestamp) meet, nearly in order of time.

    A bucket is a span of time (``bounds``), divided by id where one moment has very many samples.
    """

    def __init__(self, folder: Path, rows: int, moments: Sequence[datetime]) -> None:
        wanted = min(_MOST_BUCKETS, -(-rows // BUCKET))
        times = np.sort(np.array([one.timestamp() for one in moments] or [0.0]))
        cuts = (
            times[[len(times) * at // wanted for at in range(1, wanted)]]
            if wanted > 1
            else times[:0]
        )
        self._bounds, weights = np.unique(cuts, return_counts=True)
        self._parts = int(weights.max()) if len(weights) else 1
        self._folder = folder
        self._memory: list[pa.Table] = []
        self._spools: dict[int, Spool] = {}
        self._single = wanted <= 1

    def add(self, samples: pa.Table) -> None:
        """Share out samples, in the order of the input."""
        if not samples.num_rows:
            return
        if self._single:
            self._memory.append(samples)
            return
        numbers = self._numbers(samples)
        for number in np.unique(numbers).tolist():
            if number not in self._spools:
                self._spools[number] = Spool(self._folder / f"bucket-{number}")
            self._spools[number].add(samples.filter(pa.array(numbers == number)))

    def _numbers(self, samples: pa.Table) -> Any:
        seconds = samples["timestamp"].cast(pa.int64()).to_numpy() / 1e6
        numbers = np.searchsorted(self._bounds, seconds, side="right")
        if self._parts > 1:
            ids = samples["video_id"].combine_chunks().dictionary_encode()
            hashes = np.array([zlib.crc32(one.encode()) for one in ids.dictionary.to_pylist()])
            numbers = numbers * self._parts + hashes[ids.indices.to_numpy()] % self._parts
        return numbers

    def __iter__(self) -> Iterator[pa.Table]:
        if self._memory:
            yield last_known(pa.concat_tables(self._memory), _KEY, COUNTERS)
            self._memory = []
        for number in sorted(self._spools):
            tables = [table for _, table in self._spools.pop(number)]
            yield last_known(pa.concat_tables(tables), _KEY, COUNTERS)


def last_known(table: pa.Table, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """One row a key; of each column the last value that is known."""
    ordered = table.combine_chunks()
    grouped = ordered.group_by(list(keys), use_threads=False).aggregate(
        [(name, "last") for name in columns]
    )
    named = {name: grouped[name] for name in keys} | {
        name: grouped[f"{name}_last"].cast(table.schema.field(name).type) for name in columns
    }
    return pa.table(named)


async def load_samples(
    database: Database, reader: StatsReader, buckets: Buckets, loaded: Loaded
) -> AsyncIterator[int]:
    """Write every bucket; yields after each how many samples it had, ``loaded`` being up to date."""
    for samples in buckets:
        stored, remark = await _stored(reader, samples)
        if remark and remark not in loaded.remarks:
            loaded.remarks.append(remark)
        merged, is_new, is_changed = compared(samples, stored)
        to_write = merged.filter(pa.array(is_new | is_changed))
        new_count, changed_count = int(is_new.sum()), int(is_changed.sum())
        written = await record_table(database, to_write)
        release()
        loaded.forgotten += to_write.num_rows - written
        loaded.new += new_count
        loaded.replaced += changed_count
        loaded.unchanged += samples.num_rows - new_count - changed_count
        yield samples.num_rows


async def _stored(reader: StatsReader, samples: pa.Table) -> tuple[pa.Table, str | None]:
    """What is stored of these samples; where the vault cannot be asked, what is hot of them."""
    ids = pc.unique(samples["video_id"])
    span = pc.min_max(samples["timestamp"]).as_py()
    keys = samples.select(_KEY)
    found: list[pa.Table] = []
    wanted = ids.to_pylist() if len(ids) <= _FEW_IDS else None
    try:
        scan = reader.scan(wanted, span["min"], span["max"] + timedelta(microseconds=1))
        async for batch in scan:
            table = pa.Table.from_batches([batch]).select([*_KEY, *COUNTERS])
            found.append(keys.join(table, _KEY, join_type="inner", use_threads=False))
        remark = None
    except WrongVault:
        raise
    except (ConfigurationError, Unavailable):
        # nothing is lost by this: what was archived before is written once more, and counts once
        remark = "the vault could not be asked: samples that lie in it alone are counted as new"
    schema = pa.schema([(one.name, one.type) for one in SAMPLES])
    tables = [one.select(schema.names).cast(schema) for one in found]
    return (pa.concat_tables(tables) if tables else schema.empty_table()), remark


def compared(samples: pa.Table, stored: pa.Table) -> tuple[pa.Table, Any, Any]:
    """Samples completed by what is stored, which of them are new, and which would change what is stored."""
    if not stored.num_rows:
        count = samples.num_rows
        return samples, np.ones(count, bool), np.zeros(count, bool)
    marked = stored.append_column("_there", pa.repeat(pa.scalar(True), stored.num_rows))
    both = samples.join(marked, _KEY, join_type="left outer", right_suffix=_OLD, use_threads=False)
    there = mask(both["_there"])
    changed = np.zeros(both.num_rows, bool)
    merged = {name: both[name] for name in _KEY}
    for name in COUNTERS:
        old = both[f"{name}{_OLD}"]
        merged[name] = pc.coalesce(both[name], old)
        same = mask(pc.equal(merged[name], old)) | mask(
            pc.and_(pc.is_null(merged[name]), pc.is_null(old))
        )
        changed |= ~same
    return pa.table(merged), ~there, there & changed


class VideoLoader:
    """Writes videos, each with its channel and its place in the schedule; the same facts once."""

    #: Facts that are remembered as written: saves repeats, costs some 100 bytes each.
    _REMEMBERED = 200_000

    def __init__(self, database: Database) -> None:
        self._database = database
        self._written: set[int] = set()

    async def load(self, facts: pa.Table, tag_separator: str) -> None:
        """Write a batch of facts, one row a video (see `distinct`)."""
        for part in facts.to_batches(max_chunksize=CHUNK):
            await self._load(part, tag_separator)

    async def _load(self, facts: pa.RecordBatch, tag_separator: str) -> None:
        rows = [row for row in facts.to_pylist() if self._is_news(row)]
        if not rows:
            return
        videos, channels = [], {}
        for row in rows:
            channel = _channel(row)
            if channel is not None:
                channels[channel.id] = channel
            videos.append(_video(row, channel, tag_separator))
        policy = AgePolicy()
        async with self._database.transaction() as session:
            repository = Videos(session)
            await repository.upsert(videos, channels.values())
            now = await repository.now()
            entries = []
            for row, video in zip(rows, videos, strict=True):
                # a video is at least as old as its first sample here
                born = video.published_at or row["born"] or now
                entries.append(
                    NewEntry(video.id, policy.tier(born, now), published_at=video.published_at)
                )
            await Watchlist(session).add(entries)

    def _is_news(self, row: dict[str, Any]) -> bool:
        """Whether these facts were not written yet; when the video was first seen is none of them."""
        key = hash(_FACTS_OF(row))
        if key in self._written:
            return False
        if len(self._written) < self._REMEMBERED:
            self._written.add(key)
        return True


def together(batches: Iterable[tuple[int, pa.Table]]) -> Iterator[tuple[int, pa.Table, int]]:
    """Facts of a few batches of a group at a time, one row a video, with the number of rows read."""
    held: list[pa.Table] = []
    group = -1
    for number, batch in batches:
        if held and (number != group or sum(one.nbytes for one in held) > _FACTS_BYTES):
            yield group, distinct(pa.concat_tables(held)), sum(one.num_rows for one in held)
            held = []
        group = number
        held.append(batch)
    if held:
        yield group, distinct(pa.concat_tables(held)), sum(one.num_rows for one in held)


def distinct(facts: pa.Table) -> pa.Table:
    """One row a video, of each fact the last that is known; ``born`` is the first time."""
    ordered = facts.combine_chunks()
    grouped = ordered.group_by(["video_id"], use_threads=False).aggregate(
        [("born", "min"), *((name, "last") for name in FACTS)]
    )
    return pa.table(
        {"video_id": grouped["video_id"], "born": grouped["born_min"]}
        | {name: grouped[f"{name}_last"].cast(kind) for name, kind in FACTS.items()}
    )


def _channel(row: dict[str, Any]) -> Channel | None:
    title = row["channel_title"]
    if row["channel_id"]:
        return Channel(row["channel_id"], title or row["channel_id"])
    return Channel(values.derived_channel_id(title), title) if title else None


def _video(row: dict[str, Any], channel: Channel | None, tag_separator: str) -> Video:
    return Video(
        id=row["video_id"],
        title=row["title"] or row["video_id"],
        channel_id=channel.id if channel else None,
        published_at=row["published_at"],
        duration=row["duration"],
        tags=values.tags(row["tags"], tag_separator) or None if row["tags"] else None,
        category_id=row["category_id"],
        default_language=row["default_language"],
    )


class Distinct:
    """Counts different ids in bounded memory: their hashes, shared out over files where they are many."""

    _MOST, _FILES = 1 << 20, 64

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[Any] = []
        self._count = 0
        self._spilt = False

    def add(self, ids: pa.ChunkedArray) -> None:
        """Take ids into account."""
        hashes = np.fromiter((hash(one) for one in ids.to_pylist()), np.int64, len(ids))
        self._held.append(hashes)
        self._count += len(hashes)
        if self._count > self._MOST:
            self._held = [np.unique(np.concatenate(self._held))]
            self._count = len(self._held[0])
            if self._count > self._MOST // 2:
                self._spill()

    def _spill(self) -> None:
        self._spilt = True
        (hashes,) = self._held
        for number in range(self._FILES):
            with (self._folder / f"ids-{number}").open("ab") as file:
                hashes[hashes % self._FILES == number].tofile(file)
        self._held, self._count = [], 0

    def total(self) -> int:
        """How many there were."""
        if not self._spilt:
            return len(np.unique(np.concatenate(self._held))) if self._held else 0
        self._held = [np.concatenate(self._held)] if self._held else [np.array([], np.int64)]
        self._spill()
        files = (self._folder / f"ids-{number}" for number in range(self._FILES))
        return sum(len(np.unique(np.fromfile(file, np.int64))) for file in files)
