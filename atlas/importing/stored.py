"""What is stored of the samples that an import brings, hot and cold."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.errors import ConfigurationError, Unavailable, WrongVault
from atlas.importing.columns.fields import COUNTERS
from atlas.importing.columns.last_known import numbered
from atlas.importing.columns.rows import SAMPLES, mask
from atlas.reader import StatsReader
from atlas.repositories.hot.snapshot import Selection, read_snapshot
from atlas.vault.offload import offload

KEY = ["video_id", "timestamp"]
_OLD = "_old"


class StoredSamples(StatsReader):
    """Looks samples up in both tiers."""

    async def may_be_archived(self, samples: pa.Table) -> bool:
        """Whether sealed tables or files, archived or appended, may hold samples of the same span of time."""
        selection = Selection(None, *_span(samples), hot=False)
        try:
            snapshot, appended = await self._look(selection)
        except WrongVault:
            raise
        except (ConfigurationError, Unavailable):
            return True
        touched = [one for one in appended or () if selection.may_touch(one.first, one.last)]
        return bool(snapshot.sealed or snapshot.files or touched)

    async def among(self, samples: pa.Table) -> tuple[pa.Table, str | None]:
        """What is stored of these samples, and a remark where the vault cannot be asked: then what is hot.

        Raises what the vault said where it may hold counters that these samples lack.
        """
        ids, (since, until) = pc.unique(samples["video_id"]).to_pylist(), _span(samples)
        keys = samples.select(KEY)
        found: list[pa.Table] = []
        remark = None
        try:
            async for batch in self.scan(ids, since, until, [*KEY, *COUNTERS]):
                found.append(_joined(keys, pa.Table.from_batches([batch])))
        except WrongVault:
            raise
        except (ConfigurationError, Unavailable):
            selection = Selection.of(ids, since, until)
            snapshot = await offload(read_snapshot, await self.database.libpq_url(), selection)
            if snapshot.files and any(samples[name].null_count for name in COUNTERS):
                raise
            # nothing is lost by this: what was archived before is written once more, and counts once
            hot = snapshot.hot.sort_by([("priority", "descending")])
            _, firsts = numbered(hot, KEY)
            found = [_joined(keys, hot.take(pa.array(firsts)))]
            remark = "the vault could not be asked: samples that lie in it alone are counted as new"
        return pa.concat_tables([SAMPLES.empty_table(), *found]), remark


def _span(samples: pa.Table) -> tuple[datetime, datetime]:
    span = pc.min_max(samples["timestamp"]).as_py()
    return span["min"], span["max"] + timedelta(microseconds=1)


def _joined(keys: pa.Table, stored: pa.Table) -> pa.Table:
    """The stored rows of these keys."""
    rows = stored.select([*KEY, *COUNTERS]).cast(SAMPLES)
    return keys.join(rows, KEY, join_type="inner", use_threads=False).select(SAMPLES.names)


def compared(samples: pa.Table, stored: pa.Table) -> tuple[pa.Table, Any, Any]:
    """Samples completed by what is stored, which of them are new, and which would change what is stored."""
    if not stored.num_rows:
        count = samples.num_rows
        return samples, np.ones(count, bool), np.zeros(count, bool)
    marked = stored.append_column("_there", pa.repeat(pa.scalar(True), stored.num_rows))
    both = samples.join(marked, KEY, join_type="left outer", right_suffix=_OLD, use_threads=False)
    there = mask(both["_there"])
    changed = np.zeros(both.num_rows, bool)
    merged = {name: both[name] for name in KEY}
    for name in COUNTERS:
        old = both[f"{name}{_OLD}"]
        merged[name] = pc.coalesce(both[name], old)
        same = mask(pc.equal(merged[name], old)) | mask(
            pc.and_(pc.is_null(merged[name]), pc.is_null(old))
        )
        changed |= ~same
    return pa.table(merged), ~there, there & changed
