"""What an object in a data folder says of itself, and whether it is true."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.archive.export.finished import facts_of_rows
from atlas.archive.export.samples import Bounds, read_back
from atlas.errors import AtlasError
from atlas.repositories.ledger.adoption import FoundFile
from atlas.repositories.ledger.files import FileFacts, NewFile
from atlas.tables.archived import ARCHIVED, Origin
from atlas.tables.fingerprint import Fingerprint
from atlas.tables.parquet import ROW_GROUP_ROWS, UNDECODABLE
from atlas.tables.sample import stated_columns
from atlas.types import Dataset, ObjectStore
from atlas.vault.owners import digest

#: Threads that read a file at most; each holds some row groups' rows.
_READERS = 4
#: Microseconds.
_HOUR = 3_600_000_000

#: What reading an object that is not whole, or not Atlas's, raises.
NOT_WHOLE = (*UNDECODABLE, pa.ArrowException, EOFError, KeyError, ValueError)


def raise_if_no_damage(error: BaseException) -> None:
    """Raise again what says nothing of the bytes: the store refused (wrong token), or this machine could not
    read or write (no space, too many open files). Damage has no number, or is an offset that cannot be.
    """
    refused = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    if refused or isinstance(error, AtlasError):
        raise error


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says of itself in its footer."""

    owner: uuid.UUID
    rows: int
    fingerprint: str
    new: NewFile


def look_at(store: ObjectStore, key: str) -> Footer | None:
    """The footer of an object, a ranged read or two; None if there is no such object.

    Raises one of `NOT_WHOLE` for what is no whole file of Atlas.
    """
    source: BinaryIO | None = store.open(key)
    if source is None:
        return None
    with source:
        return _footer(pq.read_metadata(source).metadata or {}, key, store.identity)


class LaterRows:
    """Keys and ``seq`` of rows, on this machine's disk: a file may hold any number of them."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None
        self._writer: Any = None
        self._adding = threading.Lock()

    def begin(self, folder: Path) -> None:
        """Start anew; what is added lies in ``folder``."""
        self.close()
        self._path = folder / "later.arrow"
        self._path.unlink(missing_ok=True)

    def add(self, rows: pa.Table) -> None:
        """Keep some rows. Safe from any thread."""
        with self._adding:
            if self._writer is None:
                self._file = pa.OSFile(str(self._path), "wb")
                self._writer = pa.ipc.new_stream(self._file, rows.schema)
            self._writer.write_table(rows)

    def close(self) -> None:
        """All are added. Repeatable."""
        if self._writer is not None:
            self._writer.close()
            self._file.close()
            self._writer = self._file = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if self._path is not None and self._path.exists():
            with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as batches:
                yield from batches


@dataclass(slots=True)
class Sieve:
    """What is looked for in the rows of a file, and was found there. Safe from any thread.

    Ids that are ``forgotten`` or that have one of the ``digests``; the keys of rows whose ``seq`` is that of
    a slice above ``since``, in the ``hot_hours``: hours since 1970 in which there are hot rows.
    """

    owner: uuid.UUID
    forgotten: frozenset[str] = frozenset()
    digests: frozenset[bytes] = frozenset()
    is_later_slice: Callable[[int], bool] = lambda seq: False
    hot_hours: pa.Array | None = None
    met: set[str] = field(default_factory=set)
    later: LaterRows = field(default_factory=LaterRows)

    def see_ids(self, ids: pa.Array) -> None:
        """Look at the ids of some rows."""
        if not (self.forgotten or self.digests):
            return
        for one in pc.unique(ids).to_pylist():
            if one in self.forgotten or digest(self.owner, one) in self.digests:
                self.met.add(one)

    def see(self, batch: pa.RecordBatch) -> None:
        """Look at some samples."""
        self.see_ids(batch["video_id"])
        if self.hot_hours is None:
            return
        seqs = [one for one in pc.unique(batch["seq"]).to_pylist() if self.is_later_slice(one)]
        if not seqs:
            return
        hours = pc.divide(batch["timestamp"].cast(pa.int64()), _HOUR)
        mask = pc.and_(
            pc.is_in(hours, value_set=self.hot_hours),
            pc.is_in(batch["seq"], value_set=pa.array(seqs, pa.int64())),
        )
        rows = pa.Table.from_batches([batch]).select(["video_id", "timestamp", "seq"]).filter(mask)
        if rows.num_rows:
            self.later.add(rows)


def examine(store: ObjectStore, key: str, folder: Path, sieve: Sieve) -> FoundFile | None:
    """Read an object whole and compare it with its own footer; None if there is no such object.

    The sieve keeps its finds in ``folder``.

    Raises one of `NOT_WHOLE`, which says what is wrong, for what is not a whole file of the sieve's owner.
    """
    sieve.later.begin(folder)
    fetched = read_back(store, key, folder)
    if fetched is None:
        return None
    path, sha256 = fetched
    with pq.ParquetFile(path) as file:
        footer = _footer(file.metadata.metadata or {}, key, store.identity)
        if footer.owner != sieve.owner:
            raise ValueError(f"it belongs to another database, {footer.owner}")
        finished: list[dict[str, Any]] = []
        table = ARCHIVED[footer.new.dataset]
        if table.origin in (Origin.FINISHED, Origin.PARKED):
            rows = file.read()
            finished = rows.to_pylist() if table.origin is Origin.FINISHED else []
            if table.video_column is not None:
                sieve.see_ids(rows[table.video_column])
            facts = facts_of_rows(rows, table, path, sha256)
        else:
            facts = _facts_of_samples(path, sha256, sieve)
    if (facts.row_count, facts.fingerprint) != (footer.rows, footer.fingerprint):
        raise ValueError("its rows do not match its footer")
    return FoundFile(footer.new, facts, finished)


def _footer(metadata: dict[bytes, bytes], key: str, vault: str) -> Footer:
    said = {name.decode(): value.decode() for name, value in metadata.items()}
    if "atlas.owner" not in said:
        raise ValueError("it has no owner's mark")
    return Footer(
        uuid.UUID(said["atlas.owner"]),
        int(said["atlas.rows"]),
        said["atlas.fingerprint"],
        NewFile(
            Dataset(said["atlas.dataset"]),
            key,
            vault,
            int(said["atlas.seq"]),
            datetime.fromisoformat(said["atlas.slice_start"]),
            datetime.fromisoformat(said["atlas.slice_end"]),
            uuid.UUID(said["atlas.batch_id"]),
            merged=said.get("atlas.merged") == "true",
        ),
    )


def _facts_of_samples(path: Path, sha256: str, sieve: Sieve) -> FileFacts:
    """What the rows say: a thread for each part of the file, since fingerprints of parts add up."""
    metadata = pq.read_metadata(path)
    columns = stated_columns(metadata.metadata or {})

    def look(groups: range) -> tuple[Fingerprint, Bounds]:
        samples, bounds = Fingerprint(columns), Bounds()
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS, row_groups=groups, use_threads=False):
                samples.update(batch)
                bounds.see(batch)
                bounds.see_sorted(batch)
                sieve.see(batch)
        return samples, bounds

    count = metadata.num_row_groups
    step = max(1, -(-count // min(_READERS, os.cpu_count() or 1)))
    parts = [range(count)[at : at + step] for at in range(0, count, step)]
    samples, bounds = Fingerprint(columns), Bounds()
    with contextlib.closing(sieve.later), ThreadPoolExecutor(_READERS) as readers:
        for some, their_bounds in readers.map(look, parts):
            samples.add(some)
            bounds.add(their_bounds)
    return FileFacts(
        samples.rows,
        path.stat().st_size,
        sha256,
        samples.hex,
        bounds.min_timestamp,
        bounds.max_timestamp,
        bounds.min_video_id,
        bounds.max_video_id,
    )


def ids_in(store: ObjectStore, key: str, column: str, sieve: Sieve) -> None:
    """Show the sieve the ids of a file that the ledger knows, reading no other column."""
    source = store.open(key)
    if source is None:
        return
    with source, pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS, columns=[column]):
            sieve.see_ids(batch[column])


def whole(found: FoundFile | None, known: Collection[str | None]) -> bool:
    """Whether an object was found whole, and with the SHA-256 that the ledger knows, if it knows one."""
    return found is not None and all(one in (None, found.facts.sha256) for one in known)
