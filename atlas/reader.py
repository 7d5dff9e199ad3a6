"""Reading samples from both tiers as one: each sample once, at every moment.

A read takes one consistent snapshot of the hot rows, the sealed tables and the ledger, ends its transaction,
and only then reads cold files; a slow consumer blocks nobody. Where tiers overlap, hot beats sealed beats
cold, and among cold files the higher ``seq`` counts.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.archive.sorting import merge_sorted, sort_samples
from atlas.db import Database, db
from atlas.errors import CorruptObject, InvalidInput, VaultError, WrongVault
from atlas.repositories.snapshot import HOT_SCHEMA, ColdFile, Selection, Snapshot, read_snapshot
from atlas.types import Dataset, ObjectStore, check_id
from atlas.vault import Vault, get_vault

__all__ = ["COLUMNS", "StatsReader"]

#: What a reader gives: string, timestamp[us, UTC] and three int64, null where not known.
COLUMNS = ("video_id", "timestamp", "views", "likes", "comment_count")

_APPENDED = re.compile(r"(-?\d+)-(-?\d+)-[0-9a-f]+\.parquet$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_ROWS = 65_536


class StatsReader:
    """Reads samples, hot and cold, each once."""

    def __init__(self, database: Database | None = None, vault: Vault | None = None) -> None:
        self.database = db if database is None else database
        self._vault = vault

    @property
    def store(self) -> ObjectStore:
        """The storage of the vault."""
        return (self._vault or get_vault()).store

    async def history(
        self, video_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> pa.Table:
        """Every sample of one video with ``since <= timestamp < until``, in time order.

        Columns and types are those of `COLUMNS`; a video without samples gives an empty table. Raises
        `InvalidInput`, `DatabaseError`, `VaultError`; never a part of the history.
        """
        ids = [check_id(video_id)]
        batches = [batch async for batch in self.scan(ids, since, until)]
        table = pa.Table.from_batches(batches, _schema(COLUMNS))
        return table.sort_by("timestamp")

    async def scan(
        self,
        video_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> AsyncIterator[pa.RecordBatch]:
        """Stream the samples of these videos (None: all) as record batches of at most 65,536 rows.

        Older spans of time come first; inside a span (a file, or files that overlap) rows are in order of
        (video_id, timestamp). Memory holds the selected hot rows and a few row groups a file.
        """
        wanted = _schema(COLUMNS if columns is None else columns)
        selection = Selection.of(video_ids, since, until)
        spans = await self._spans(selection)
        tables = _tables(self.store, spans, selection)
        while (table := await asyncio.to_thread(next, tables, None)) is not None:
            for batch in table.select(wanted.names).cast(wanted).to_batches(max_chunksize=_ROWS):
                yield batch

    async def count(
        self,
        video_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """How many samples `scan` would give. Whole files are counted by the ledger, unread."""
        selection = Selection.of(video_ids, since, until)
        spans = await self._spans(selection)
        known = [span for span in spans if span.known_rows(selection) is not None]
        counted = sum(span.known_rows(selection) or 0 for span in known)
        rest = _tables(self.store, [span for span in spans if span not in known], selection)
        read: int = await asyncio.to_thread(lambda: sum(table.num_rows for table in rest))
        return counted + read

    async def _spans(self, selection: Selection) -> list[_Span]:
        url = await self.database.libpq_url()
        # appended files never leave the store without the ledger's knowledge, so that listing them after the
        # snapshot cannot lose a sample
        snapshot = await asyncio.to_thread(read_snapshot, url, selection)
        for file in snapshot.files:
            if file.vault != self.store.identity:
                raise WrongVault(
                    f"the ledger names files in {file.vault}, the configured vault is {self.store.identity}"
                )
        appended = await asyncio.to_thread(lambda: list(_appended(self.store, selection)))
        return _into_spans(snapshot, appended)


@dataclass(slots=True)
class _Span:
    """Sources that overlap in time, and nothing else does."""

    first: datetime
    last: datetime
    files: list[ColdFile] = field(default_factory=list)
    hot: pa.Table = field(default_factory=HOT_SCHEMA.empty_table)

    def known_rows(self, selection: Selection) -> int | None:
        """The number of selected rows, if that needs no reading."""
        if not self.files:
            return int(self.hot.num_rows)
        if (
            len(self.files) == 1
            and not self.hot.num_rows
            and selection.covers(self.first, self.last)
        ):
            return self.files[0].row_count
        return None


def _schema(columns: Sequence[str]) -> pa.Schema:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise InvalidInput(
            f"unknown columns: {', '.join(unknown)}",
            field="columns",
            value=list(columns),
            hint=f"choose from {', '.join(COLUMNS)}",
        )
    return pa.schema([HOT_SCHEMA.field(name) for name in columns])


def _appended(store: ObjectStore, selection: Selection) -> Iterator[ColdFile]:
    """Files written by ``append_metrics`` that can hold selected rows; their names carry the bounds."""
    for info in store.list(str(Dataset.METRICS)):
        name = info.key.rsplit("/", 1)[-1]
        if name.startswith((".", "_")) or not name.endswith(".parquet"):
            continue
        bounds = _APPENDED.search(name)
        first, last = _FOREVER
        if bounds:
            first, last = (_EPOCH + timedelta(microseconds=int(one)) for one in bounds.groups())
        if selection.may_touch(first, last):
            yield ColdFile(info.key, store.identity, first, last, None)


def _into_spans(snapshot: Snapshot, appended: list[ColdFile]) -> list[_Span]:
    """Files grouped by overlap in time, oldest first, each with the hot rows of its time."""
    spans: list[_Span] = []
    for file in sorted(snapshot.files + appended, key=lambda file: (file.first, file.last)):
        if spans and file.first <= spans[-1].last:
            spans[-1].files.append(file)
            spans[-1].last = max(spans[-1].last, file.last)
        else:
            spans.append(_Span(file.first, file.last, [file]))
    hot = snapshot.hot
    for span in spans:
        if not hot.num_rows:
            break
        inside = pc.and_(
            pc.greater_equal(hot["timestamp"], _moment(span.first)),
            pc.less_equal(hot["timestamp"], _moment(span.last)),
        )
        span.hot = hot.filter(inside)
        hot = hot.filter(pc.invert(inside))
    if hot.num_rows:
        bounds = pc.min_max(hot["timestamp"]).as_py()
        spans.append(_Span(bounds["min"], bounds["max"], [], hot))
        spans.sort(key=lambda span: (span.first, span.last))
    return spans


def _moment(value: datetime) -> pa.Scalar:
    return pa.scalar(value, HOT_SCHEMA.field("timestamp").type)


def _tables(store: ObjectStore, spans: list[_Span], selection: Selection) -> Iterator[pa.Table]:
    for span in spans:
        sources: list[Iterator[pa.Table]] = [
            _read_cold(store, file, selection) for file in span.files
        ]
        if span.hot.num_rows:
            sources.append(_sliced(sort_samples(span.hot, tie_breaks=("priority",))))
        # one source alone has each sample once; hot and sealed rows together may not
        alone = len(sources) == 1 and all(file.row_count is not None for file in span.files)
        winner = None if alone and not span.hot.num_rows else "priority"
        yield from merge_sorted(sources, winner=winner)


def _sliced(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _ROWS):
        yield table.slice(start, _ROWS)


def _read_cold(store: ObjectStore, cold: ColdFile, selection: Selection) -> Iterator[pa.Table]:
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
                        yield _matching(_conformed(table), selection)
        except (pa.ArrowException, EOFError) as error:
            raise CorruptObject(
                f"{cold.object_key} cannot be read: {error}", path=cold.object_key
            ) from error


def _conformed(table: pa.Table) -> pa.Table:
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


def _matching(table: pa.Table, selection: Selection) -> pa.Table:
    conditions: list[pa.ChunkedArray] = []
    if selection.video_ids is not None:
        ids = pa.array(selection.video_ids, pa.string())
        conditions.append(pc.is_in(table["video_id"], value_set=ids))
    if selection.since is not None:
        conditions.append(pc.greater_equal(table["timestamp"], _moment(selection.since)))
    if selection.until is not None:
        conditions.append(pc.less(table["timestamp"], _moment(selection.until)))
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
