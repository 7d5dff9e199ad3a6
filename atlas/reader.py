"""Reading samples from both tiers as one: each sample once, at every moment.

A read takes one consistent snapshot of the hot rows, the sealed tables and the ledger, ends its transaction,
and only then reads cold files; a slow consumer blocks nobody. Where tiers overlap, hot beats sealed beats
cold, and among cold files the higher ``seq`` counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import replace
from datetime import datetime

import pyarrow as pa

from atlas.db import Database, db
from atlas.errors import ConfigurationError, DatabaseError, InvalidInput, WrongVault
from atlas.logging import get_logger
from atlas.reading.appended import appended_files
from atlas.reading.cold import COLUMNS
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
from atlas.types import Dataset, ObjectStore, ReadableStore, check_id
from atlas.vault import Vault, get_vault
from atlas.vault.offload import offload
from atlas.vault.owners import WRONG_VAULT_HINT, owners_of

__all__ = ["COLUMNS", "StatsReader"]

log = get_logger(__name__)

_ROWS = 65_536


class StatsReader:
    """Reads samples, hot and cold, each once.

    A read of recent samples alone asks the vault nothing: one with ``since`` at or after the beginning of
    the oldest attached partition, where no file of the ledger can hold a selected row. The vault is not
    listed for appended metrics then, unless such are known: this machine has appended some, or a run of
    the archiver or a reader has ever found some in the vault. So the first ones that another machine
    appends are seen by such reads after the next run of the archiver, or read that goes further back.
    """

    def __init__(self, database: Database | None = None, vault: Vault | None = None) -> None:
        self.database = db if database is None else database
        self._vault = vault

    @property
    def store(self) -> ObjectStore:
        """The storage of the vault. Raises `ConfigurationError` where none is configured."""
        return self._the_vault().store

    async def history(
        self, video_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> pa.Table:
        """Every sample of one video with ``since <= timestamp < until``, in time order.

        Columns and types are those of `COLUMNS`; a video without samples gives an empty table. Reads
        only row groups that can hold the video. Raises `InvalidInput`, `DatabaseError`, `VaultError`
        (`CorruptObject`); never a part of the history.
        """
        ids = [check_id(video_id)]
        async with contextlib.aclosing(self.scan(ids, since, until)) as scan:
            batches = [batch async for batch in scan]
        table = pa.Table.from_batches(batches, _schema(COLUMNS))
        return table.sort_by("timestamp")

    async def scan(
        self,
        video_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
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
        wanted = _schema(COLUMNS if columns is None else columns)
        selection = Selection.of(video_ids, since, until)
        selection, spans = await self._spans(selection)
        tables = Blocking(
            joined(self._readable, spans, selection, _needed(wanted), by_time=ordered_by_time)
        )
        try:
            while (table := await offload(tables.next)) is not None:
                if table.num_rows:
                    for batch in table.select(wanted.names).to_batches(max_chunksize=_ROWS):
                        yield batch
        finally:
            # in a thread: it waits for the reads that are under way
            await offload(tables.close)

    async def count(
        self,
        video_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """How many samples `scan` would give. Whole files are counted by the ledger, unread."""
        selection = Selection.of(video_ids, since, until)
        selection, spans = await self._spans(selection)
        known = [(span, span.known_rows(selection)) for span in spans]
        unknown = [span for span, rows in known if rows is None]
        tables = Blocking(joined(self._readable, unknown, selection, _needed(_schema(()))))
        counted = sum(rows or 0 for _, rows in known)
        try:
            while (table := await offload(tables.next)) is not None:
                counted += table.num_rows
        finally:
            await offload(tables.close)
        return counted

    async def _spans(self, selection: Selection) -> tuple[Selection, list[Span]]:
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
        return selection, spans

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
        except DatabaseError as error:  # a server that only reads, or a run that holds the row
            log.debug("metrics_not_remembered", error=type(error).__name__)

    def _readable(self) -> ReadableStore:
        return self._the_vault().as_seen_here()

    def _the_vault(self) -> Vault:
        return self._vault or get_vault()


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


def _needed(wanted: pa.Schema) -> pa.Schema:
    """What has to be read for these columns: what rows are ordered and chosen by, too."""
    names = {*wanted.names, "video_id", "timestamp", "priority"}
    return pa.schema([one for one in HOT_SCHEMA if one.name in names])
