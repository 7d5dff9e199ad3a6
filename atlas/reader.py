"""Reading samples from both tiers as one: each sample once, at every moment.

A read takes one consistent snapshot of the hot rows, the sealed tables and the ledger, ends its transaction,
and only then reads cold files; a slow consumer blocks nobody. Where tiers overlap, hot beats sealed beats
cold, and among cold files the higher ``seq`` counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from atlas.archive.cold import COLUMNS, appended_files, as_scalar, read_cold
from atlas.archive.sorting import merge_sorted, sort_samples
from atlas.db import Database, db
from atlas.errors import InvalidInput, WrongVault
from atlas.repositories.snapshot import HOT_SCHEMA, ColdFile, Selection, Snapshot, read_snapshot
from atlas.types import ObjectStore, check_id
from atlas.vault import Vault, get_vault

__all__ = ["COLUMNS", "StatsReader"]

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
        selection, spans = await self._spans(selection)
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
        selection, spans = await self._spans(selection)
        known = [span for span in spans if span.known_rows(selection) is not None]
        counted = sum(span.known_rows(selection) or 0 for span in known)
        rest = _tables(self.store, [span for span in spans if span not in known], selection)
        read: int = await asyncio.to_thread(lambda: sum(table.num_rows for table in rest))
        return counted + read

    async def _spans(self, selection: Selection) -> tuple[Selection, list[_Span]]:
        url = await self.database.libpq_url()
        # appended files never leave the store without the ledger's knowledge, so that listing them after the
        # snapshot cannot lose a sample
        snapshot = await asyncio.to_thread(read_snapshot, url, selection)
        for file in snapshot.files:
            if file.vault != self.store.identity:
                raise WrongVault(
                    f"the ledger names files in {file.vault}, the configured vault is {self.store.identity}"
                )
        selection = replace(selection, excluded=snapshot.forgotten)
        appended = await asyncio.to_thread(
            lambda: list(appended_files(self.store, selection, snapshot.adopted))
        )
        return selection, _into_spans(snapshot, appended)


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
            pc.greater_equal(hot["timestamp"], as_scalar(span.first)),
            pc.less_equal(hot["timestamp"], as_scalar(span.last)),
        )
        span.hot = hot.filter(inside)
        hot = hot.filter(pc.invert(inside))
    if hot.num_rows:
        bounds = pc.min_max(hot["timestamp"]).as_py()
        spans.append(_Span(bounds["min"], bounds["max"], [], hot))
        spans.sort(key=lambda span: (span.first, span.last))
    return spans


def _tables(store: ObjectStore, spans: list[_Span], selection: Selection) -> Iterator[pa.Table]:
    for span in spans:
        sources: list[Iterator[pa.Table]] = [
            read_cold(store, file, selection) for file in span.files
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
