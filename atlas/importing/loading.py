"""Writing the samples that were understood.

They are compared with what is stored, hot and cold: those that are there already are not written again,
and a counter that is not known never replaces one that is.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.db import Database
from atlas.errors import ConfigurationError, Unavailable, WrongVault
from atlas.importing.columns.cells import whole
from atlas.importing.columns.fields import COUNTERS
from atlas.importing.columns.last_known import last_known
from atlas.importing.columns.rows import SAMPLES, mask
from atlas.importing.files.spool import Spool, release
from atlas.ingest import record_table
from atlas.reader import StatsReader

#: Samples that are compared and written together: bounds memory.
BUCKET = 98_304
_MOST_BUCKETS = 256
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
            ids = whole(samples["video_id"]).dictionary_encode()
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
    ids = pc.unique(samples["video_id"]).to_pylist()
    span = pc.min_max(samples["timestamp"]).as_py()
    keys = samples.select(_KEY)
    found: list[pa.Table] = []
    try:
        scan = reader.scan(ids, span["min"], span["max"] + timedelta(microseconds=1))
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
