"""Writing the samples that were understood.

They are compared with what is stored, hot and cold: those that are there already are not written again,
and a counter that is not known never replaces one that is. Where nothing is archived, PostgreSQL itself says
by its key that samples are new.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.db import Database
from atlas.importing.columns.cells import whole
from atlas.importing.columns.fields import COUNTERS
from atlas.importing.columns.last_known import last_known
from atlas.importing.files.spool import Spool, release
from atlas.importing.stored import KEY, StoredSamples, compared
from atlas.ingest import insert_table, record_table

#: Samples that are compared and written together: bounds memory.
BUCKET = 98_304
_MOST_BUCKETS = 256


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
            yield last_known(pa.concat_tables(self._memory), KEY, COUNTERS)
            self._memory = []
        for number in sorted(self._spools):
            tables = [table for _, table in self._spools.pop(number)]
            yield last_known(pa.concat_tables(tables), KEY, COUNTERS)


async def load_samples(
    database: Database, stored: StoredSamples, buckets: Buckets, loaded: Loaded
) -> AsyncIterator[int]:
    """Write every bucket; yields after each how many samples it had, ``loaded`` being up to date."""
    fresh = True  # what came before was new, and so may be what comes next
    for samples in buckets:
        written = None
        if fresh and not await stored.may_be_archived(samples):
            written = await insert_table(database, samples)
        if written is None:
            fresh = await _compare_and_write(database, stored, samples, loaded)
        else:
            loaded.new += written
            loaded.forgotten += samples.num_rows - written
        release()
        yield samples.num_rows


async def _compare_and_write(
    database: Database, stored: StoredSamples, samples: pa.Table, loaded: Loaded
) -> bool:
    """Write what is new or changed; returns whether nothing of it was stored."""
    known, remark = await stored.among(samples)
    if remark and remark not in loaded.remarks:
        loaded.remarks.append(remark)
    merged, is_new, is_changed = compared(samples, known)
    to_write = merged.filter(pa.array(is_new | is_changed))
    new_count, changed_count = int(is_new.sum()), int(is_changed.sum())
    forgotten = to_write.num_rows - await record_table(database, to_write)
    loaded.forgotten += forgotten
    loaded.new += new_count - forgotten
    loaded.replaced += changed_count
    loaded.unchanged += samples.num_rows - new_count - changed_count
    return not known.num_rows
