"""Reading cold files: which rows of which objects, in the one shape that every reader shares."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.errors import CorruptObject, VaultError
from atlas.repositories.snapshot import HOT_SCHEMA, ColdFile, Selection
from atlas.types import Dataset, ObjectStore

#: What a reader gives: string, timestamp[us, UTC] and three int64, null where not known.
COLUMNS = ("video_id", "timestamp", "views", "likes", "comment_count")

_APPENDED = re.compile(r"(-?\d+)-(-?\d+)-[0-9a-f]+\.parquet$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def appended_files(
    store: ObjectStore, selection: Selection, adopted: Collection[str] = ()
) -> Iterator[ColdFile]:
    """Files written by ``append_metrics`` that can hold selected rows; their names carry the bounds.

    Those that compaction has ``adopted`` are left out: their rows lie in files of the ledger.
    """
    for info in store.list(str(Dataset.METRICS)):
        if info.key in adopted:
            continue
        name = info.key.rsplit("/", 1)[-1]
        if name.startswith((".", "_")) or not name.endswith(".parquet"):
            continue
        bounds = _APPENDED.search(name)
        first, last = _FOREVER
        if bounds:
            first, last = (_EPOCH + timedelta(microseconds=int(one)) for one in bounds.groups())
        if selection.may_touch(first, last):
            yield ColdFile(info.key, store.identity, first, last, None)


def read_cold(store: ObjectStore, cold: ColdFile, selection: Selection) -> Iterator[pa.Table]:
    """The selected rows of a file, in order, from the row groups that can hold them."""
    source = store.open(cold.object_key)
    if source is None:
        raise VaultError(
            f"the ledger names {cold.object_key}, which is not in the vault",
            path=cold.object_key,
            hint="somebody deleted it: restore it from the vault's history or a backup",
        )
    with source:
        try:
            with pq.ParquetFile(source) as file:
                present = [name for name in (*COLUMNS, "seq") if name in file.schema_arrow.names]
                for group in range(file.num_row_groups):
                    if _group_may_match(file.metadata.row_group(group), selection):
                        table = file.read_row_group(group, columns=present)
                        yield matching(conformed(table), selection)
        except (pa.ArrowException, EOFError) as error:
            raise CorruptObject(
                f"{cold.object_key} cannot be read: {error}", path=cold.object_key
            ) from error


def conformed(table: pa.Table) -> pa.Table:
    """The file's rows as `HOT_SCHEMA`; absent columns are null, a lossy cast is an error."""
    columns = []
    for wanted in HOT_SCHEMA:
        name = "seq" if wanted.name == "priority" else wanted.name
        if name in table.column_names:
            columns.append(table[name].cast(wanted.type))
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, wanted.type)]))
    conformed = pa.table(columns, schema=HOT_SCHEMA)
    priority = pc.fill_null(conformed["priority"], 0)
    return conformed.set_column(HOT_SCHEMA.get_field_index("priority"), "priority", priority)


def matching(table: pa.Table, selection: Selection) -> pa.Table:
    conditions: list[pa.ChunkedArray] = []
    if selection.video_ids is not None:
        ids = pa.array(selection.video_ids, pa.string())
        conditions.append(pc.is_in(table["video_id"], value_set=ids))
    if selection.excluded:
        ids = pa.array(selection.excluded, pa.string())
        conditions.append(pc.invert(pc.is_in(table["video_id"], value_set=ids)))
    if selection.since is not None:
        conditions.append(pc.greater_equal(table["timestamp"], as_scalar(selection.since)))
    if selection.until is not None:
        conditions.append(pc.less(table["timestamp"], as_scalar(selection.until)))
    return table.filter(functools.reduce(pc.and_, conditions)) if conditions else table


def _group_may_match(group: pq.RowGroupMetaData, selection: Selection) -> bool:
    bounds = {}
    for index in range(group.num_columns):
        column = group.column(index)
        statistics = column.statistics
        if statistics is not None and statistics.has_min_max:
            bounds[column.path_in_schema] = (statistics.min, statistics.max)
    first, last = bounds.get("timestamp", _FOREVER)
    first_id, last_id = bounds.get("video_id", (None, None))
    return selection.may_touch(_aware(first), _aware(last), first_id, last_id)


def _aware(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def as_scalar(value: datetime) -> pa.Scalar:
    """A moment in the type of the column ``timestamp``."""
    return pa.scalar(value, HOT_SCHEMA.field("timestamp").type)
