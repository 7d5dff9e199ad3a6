"""Reading samples, each once, at every moment: from both tiers as one, or from the vault alone.

`StatsReader` takes one consistent snapshot of the hot rows, the sealed tables and the ledger, ends its
transaction, and only then reads cold files; a slow consumer blocks nobody. Where tiers overlap, hot beats
sealed beats cold, and among cold files the higher ``seq`` counts. `ColdReader` learns from the vault itself
which files count.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from atlas.db import Database, db
from atlas.errors import (
    ConfigurationError,
    CorruptObject,
    DatabaseError,
    InvalidInput,
    VaultError,
    WrongVault,
)
from atlas.logging import get_logger
from atlas.reading.appended import appended_files
from atlas.reading.catalogue import CatalogueReader
from atlas.reading.cold import COLUMNS, as_scalar
from atlas.reading.merge import Blocking, Span, into_spans, joined
from atlas.repositories.hot.snapshot import (
    HOT_SCHEMA,
    ColdFile,
    Selection,
    Snapshot,
    read_snapshot,
    remember_metrics,
)
from atlas.repositories.ledger.files import LedgerReader
from atlas.types import Boundary, Dataset, ObjectStore, ReadableStore, check_id
from atlas.vault import Vault, get_vault
from atlas.vault.offload import offload
from atlas.vault.owners import WRONG_VAULT_HINT, owners_of

__all__ = ["COLUMNS", "ColdReader", "SampleReader", "StatsReader"]

log = get_logger(__name__)

_ROWS = 65_536
#: Times that a scan goes on after files it was about to read were replaced.
_RESUMED_AT_MOST = 16


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be read; ``counts_hold``: where a whole file is selected its number of rows is right."""

    selection: Selection
    spans: list[Span]
    counts_hold: bool = True


class SampleReader(ABC):
    """What `StatsReader` and `ColdReader` have in common."""

    def __init__(self, vault: Vault | None = None) -> None:
        self._vault = vault

    @property
    def store(self) -> ObjectStore:
        """The storage of the vault. Raises `ConfigurationError` where none is configured."""
        return self._the_vault().store

    async def history(
        self, video_id: str, since: Boundary | None = None, until: Boundary | None = None
    ) -> pa.Table:
        """Every sample of one video with ``since <= timestamp < until``, in time order.

        Columns and types are those of `COLUMNS`; for a video without samples the table is empty. Reads
        only row groups that can hold the video. Raises `InvalidInput`, `DatabaseError`, `VaultError`
        (`CorruptObject`); never a part of the history.
        """
        ids = [check_id(video_id)]
        async with contextlib.aclosing(self.scan(ids, since, until)) as scan:
            batches = [batch async for batch in scan]
        table = pa.Table.from_batches(batches, schema_of(COLUMNS))
        return table.sort_by("timestamp")

    async def scan(
        self,
        video_ids: Collection[str] | None = None,
        since: Boundary | None = None,
        until: Boundary | None = None,
        columns: Sequence[str] | None = None,
        *,
        ordered_by_time: bool = False,
    ) -> AsyncGenerator[pa.RecordBatch]:
        """Stream the samples of these videos (None: all) as record batches of at most 65,536 rows.

        Older spans of time come first; inside a span (a file, or files that overlap) rows are in order of
        (video_id, timestamp). With ``ordered_by_time`` all rows are in order of (timestamp, video_id); a
        span of more than a million rows is then sorted on the local disk, under ATLAS_HOME/tmp.

        Memory holds the selected hot rows and, of cold files, a few row groups for each that overlaps
        in time. Raises as `history` does, possibly after some batches.
        """
        wanted = schema_of(COLUMNS if columns is None else columns)
        selection = Selection.of(video_ids, since, until)
        found = self._tables(selection, _needed(wanted), by_time=ordered_by_time)
        async with contextlib.aclosing(found) as tables:
            async for table in tables:
                if table.num_rows:
                    for batch in table.select(wanted.names).to_batches(max_chunksize=_ROWS):
                        yield batch

    async def count(
        self,
        video_ids: Collection[str] | None = None,
        since: Boundary | None = None,
        until: Boundary | None = None,
    ) -> int:
        """How many samples `scan` would give. Whole files are counted by the ledger or the vault's manifest,
        unread."""
        plan = await self._plan(Selection.of(video_ids, since, until))
        known = [
            (span, span.known_rows(plan.selection) if plan.counts_hold else None)
            for span in plan.spans
        ]
        unknown = [span for span, rows in known if rows is None]
        counted = sum(rows or 0 for _, rows in known)
        rest = self._read(replace(plan, spans=unknown), _needed(schema_of(())), by_time=False)
        async with contextlib.aclosing(rest) as tables:
            async for table in tables:
                counted += table.num_rows
        return counted

    async def _tables(
        self, selection: Selection, schema: pa.Schema, *, by_time: bool
    ) -> AsyncGenerator[pa.Table]:
        """The selected rows, in order."""
        plan = await self._plan(selection)
        async with contextlib.aclosing(self._read(plan, schema, by_time=by_time)) as tables:
            async for table in tables:
                yield table

    async def _read(
        self, plan: _Plan, schema: pa.Schema, *, by_time: bool
    ) -> AsyncGenerator[pa.Table]:
        tables = Blocking(
            joined(self._readable, plan.spans, plan.selection, schema, by_time=by_time)
        )
        try:
            while (table := await offload(tables.next)) is not None:
                yield table
        finally:
            # in a thread: it waits for the reads that are under way
            await offload(tables.close)

    @abstractmethod
    async def _plan(self, selection: Selection) -> _Plan:
        """What is to be read as of now."""

    def _readable(self) -> ReadableStore:
        return self._the_vault().as_seen_here()

    def _the_vault(self) -> Vault:
        return self._vault or get_vault()


class StatsReader(SampleReader):
    """Reads samples, hot and cold, each once.

    A read of recent samples alone asks the vault nothing: one with ``since`` at or after the beginning of
    the oldest attached partition, where no file of the ledger can hold a selected row. The vault is not
    listed for appended metrics then, unless such are known: this machine has appended some, or a run of
    the archiver or a reader has ever found some in the vault. So the first ones that another machine
    appends are seen by such reads after the next run of the archiver, or read that goes further back.
    """

    def __init__(self, database: Database | None = None, vault: Vault | None = None) -> None:
        super().__init__(vault)
        self.database = db if database is None else database

    async def _plan(self, selection: Selection) -> _Plan:
        snapshot, appended = await self._look(selection)
        while await self._has_moved(snapshot, appended):
            # a file adopted and deleted between the snapshot and the listing would be missing in both
            snapshot, appended = await self._look(selection)
        selection = replace(selection, excluded=snapshot.forgotten, erased=snapshot.erased)
        touched = [file for file in appended or () if selection.may_touch(file.first, file.last)]
        spans = into_spans(snapshot, touched)
        log.debug(
            "read_planned",
            hot_rows=snapshot.hot.num_rows,
            files=len(snapshot.files) + len(touched),
            skipped=snapshot.skipped + len(appended or ()) - len(touched),
            spans=len(spans),
        )
        return _Plan(selection, spans)

    async def _look(self, selection: Selection) -> tuple[Snapshot, list[ColdFile] | None]:
        """The snapshot, and then the appended files; None where the vault need not be asked."""
        url = await self.database.libpq_url()
        snapshot = await offload(read_snapshot, url, selection)
        for file in snapshot.files:
            if file.vault != self.store.identity:
                raise WrongVault(
                    f"the ledger names files in {file.vault}, the configured vault is {self.store.identity}"
                )
        if await offload(self._is_hot_only, snapshot, selection):
            return snapshot, None
        if snapshot.is_new:
            await self._refuse_stranger()
        appended = await offload(
            lambda: list(appended_files(self._readable(), Selection(), snapshot.adopted))
        )
        if appended and not snapshot.metrics_seen:
            await self._remember_metrics()
        return snapshot, appended

    async def _refuse_stranger(self) -> None:
        """Raise `WrongVault` where the vault is another database's: what would be shown is a part."""
        owners = await offload(owners_of, self.store)
        if not owners:
            return
        # asked after the vault: the first run may have begun since the snapshot
        async with self.database.transaction(read_only=True) as session:
            control = await LedgerReader(session).control()
        if control.owner not in owners:
            raise WrongVault(
                f"{self.store.identity} belongs to another database: "
                f"{', '.join(map(str, sorted(owners)))}",
                hint=WRONG_VAULT_HINT,
            )

    async def _has_moved(self, snapshot: Snapshot, appended: list[ColdFile] | None) -> bool:
        """Whether appended files were adopted since the snapshot."""
        if appended is None:
            return False
        async with self.database.transaction(read_only=True) as session:
            adopted = await LedgerReader(session).keys(Dataset.METRICS)
        return not adopted <= snapshot.adopted

    def _is_hot_only(self, snapshot: Snapshot, selection: Selection) -> bool:
        """Whether the vault need not be asked; see the class."""
        if snapshot.files or snapshot.metrics_seen or selection.since is None:
            return False
        if snapshot.hot_from is None or selection.since < snapshot.hot_from:
            return False
        try:
            return not self._the_vault().appended_here()
        except ConfigurationError:  # where no vault is configured nobody appends
            return True

    async def _remember_metrics(self) -> None:
        try:
            async with self.database.transaction() as session:
                await remember_metrics(session)
        except (ConfigurationError, DatabaseError) as error:
            # a standby, a role that only reads, or a run that holds the row
            log.debug("metrics_not_remembered", error=type(error).__name__)


class ColdReader(SampleReader):
    """Reads archived and appended samples from the vault alone: no database is asked, forgotten ids are left
    out, each sample comes once. What is still hot is not there.

    Which files count is read from the manifest that each job of the archive publishes, without one from
    the files' own footers; docs/cold-reader.md is the protocol. A scan whose files are replaced by compaction
    or erasure goes on with those that took their place, after the last row that it returned; rows inside of
    the span that was under way may then come in another order.
    """

    def __init__(self, vault: Vault | None = None) -> None:
        super().__init__(vault)
        self._catalogue: CatalogueReader | None = None

    async def count(
        self,
        video_ids: Collection[str] | None = None,
        since: Boundary | None = None,
        until: Boundary | None = None,
    ) -> int:
        """How many samples `scan` would give. Whole files are counted by the manifest, unread."""
        for left in range(_RESUMED_AT_MOST, -1, -1):
            try:
                return await super().count(video_ids, since, until)
            except VaultError as error:
                if not left or not await self._was_replaced(error):
                    raise
        raise AssertionError("unreachable")

    async def _plan(self, selection: Selection) -> _Plan:
        if self._catalogue is None:
            self._catalogue = CatalogueReader(self.store, self._readable())
        found = await offload(self._catalogue.look)
        files = [
            file.as_cold(self.store.identity) for file in found.files if file.may_touch(selection)
        ]
        appended = [file for file in found.appended if selection.may_touch(file.first, file.last)]
        snapshot = Snapshot(HOT_SCHEMA.empty_table(), files)
        spans = into_spans(snapshot, appended)
        log.debug(
            "read_planned",
            hot_rows=0,
            files=len(files) + len(appended),
            skipped=len(found.files) + len(found.appended) - len(files) - len(appended),
            spans=len(spans),
        )
        return _Plan(replace(selection, erased=found.erased), spans, found.is_exact)

    async def _tables(
        self, selection: Selection, schema: pa.Schema, *, by_time: bool
    ) -> AsyncGenerator[pa.Table]:
        left: list[Callable[[pa.Table], pa.Table]] = []
        for resumed in range(_RESUMED_AT_MOST + 1):
            plan = await self._plan(selection)
            last: tuple[datetime, str] | None = None
            try:
                read = self._read(plan, schema, by_time=by_time)
                async with contextlib.aclosing(read) as tables:
                    async for table in tables:
                        for still_to_come in left:
                            table = still_to_come(table)
                        if table.num_rows:
                            last = table["timestamp"][-1].as_py(), table["video_id"][-1].as_py()
                            yield table
                return
            except VaultError as error:
                if resumed == _RESUMED_AT_MOST or not await self._was_replaced(error):
                    raise
            if last is not None:
                begun = last[0] if by_time else _span_of(plan.spans, last[0]).first
                selection = replace(selection, since=begun)
                left.append(
                    partial(_after_in_time, last=last)
                    if by_time
                    else partial(_after_in_span, last=last, span=_span_of(plan.spans, last[0]))
                )

    async def _was_replaced(self, error: VaultError) -> bool:
        """Whether reading failed because a file is no longer there; a new look finds what replaced it."""
        if isinstance(error, CorruptObject) or error.path is None or self._catalogue is None:
            return False
        return await offload(self.store.stat, error.path) is None and not (
            await offload(self._catalogue.names, error.path)
        )


def _span_of(spans: list[Span], moment: datetime) -> Span:
    return next(span for span in spans if span.first <= moment <= span.last)


def _after_in_time(table: pa.Table, last: tuple[datetime, str]) -> pa.Table:
    """The rows behind the last one, in order of (timestamp, video_id)."""
    moment = as_scalar(last[0])
    same = pc.and_(pc.equal(table["timestamp"], moment), pc.greater(table["video_id"], last[1]))
    return table.filter(pc.or_(pc.greater(table["timestamp"], moment), same))


def _after_in_span(table: pa.Table, last: tuple[datetime, str], span: Span) -> pa.Table:
    """The rows behind the last one: of its span in order of (video_id, timestamp), and of later spans."""
    same = pc.and_(
        pc.equal(table["video_id"], last[1]), pc.greater(table["timestamp"], as_scalar(last[0]))
    )
    behind = pc.or_(pc.greater(table["video_id"], last[1]), same)
    later = pc.greater(table["timestamp"], as_scalar(span.last))
    return table.filter(pc.or_(later, behind))


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """These columns as a reader returns them. Raises `InvalidInput` for one that there is not."""
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise InvalidInput(
            f"unknown columns: {', '.join(unknown)}",
            field="columns",
            value=list(columns),
            hint=f"choose from {', '.join(COLUMNS)}",
        )
    return pa.schema([HOT_SCHEMA.field(name) for name in columns])


def _needed(wanted: pa.Schema) -> pa.Schema:
    """What has to be read for these columns: what rows are ordered and chosen by, too."""
    names = {*wanted.names, "video_id", "timestamp", "priority"}
    return pa.schema([one for one in HOT_SCHEMA if one.name in names])
