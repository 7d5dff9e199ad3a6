"""The ledger of cold files: every statement of the archive protocol.

Each method is one step inside the caller's transaction. Methods that change the ledger take the fence
of the archiver and raise `LeaseLost` when a later archiver has taken over.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.sql import identifier
from atlas.errors import LeaseLost, NotFound
from atlas.models import ArchiveControl, ArchiveFile
from atlas.repositories.erasure import NOT_FORGOTTEN
from atlas.repositories.hot.partitions import LOCK_TIMEOUT, PARENT, PREFIX, Partition
from atlas.types import ArchiveState, Dataset

#: States in which a file is still on its way.
OPEN_STATES = (ArchiveState.SEALED, ArchiveState.WRITTEN, ArchiveState.VERIFIED)


@dataclass(frozen=True, slots=True)
class Control:
    """The control row; ``owner`` and ``vault`` are None before the first run."""

    vault: str | None
    owner: uuid.UUID | None
    epoch: int
    nonce: uuid.UUID | None
    pending_nonce: uuid.UUID | None
    fence: int
    metrics_seen: bool


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A ledger row."""

    id: int
    dataset: str
    state: str
    object_key: str
    vault: str
    seq: int
    batch_id: uuid.UUID
    relation: str | None
    slice_start: datetime
    slice_end: datetime
    is_late: bool
    min_timestamp: datetime | None
    max_timestamp: datetime | None
    min_video_id: str | None
    max_video_id: str | None
    row_count: int | None
    byte_size: int | None
    sha256: str | None
    fingerprint: str | None
    merged: bool

    @property
    def facts(self) -> FileFacts:
        """What the object must be; of a file that is at least written."""
        return FileFacts(*(getattr(self, name) for name in FileFacts.__slots__))


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file once it is written. ``fingerprint`` is order-free, in hexadecimal."""

    row_count: int
    byte_size: int
    sha256: str
    fingerprint: str
    min_timestamp: datetime | None
    max_timestamp: datetime | None
    min_video_id: str | None
    max_video_id: str | None


@dataclass(frozen=True, slots=True)
class NewFile:
    """A ledger row to be: the object's place is decided before its content is made."""

    dataset: Dataset
    object_key: str
    vault: str
    seq: int
    slice_start: datetime
    slice_end: datetime
    batch_id: uuid.UUID = field(default_factory=uuid.uuid4)
    merged: bool = False


_FIELDS = tuple(getattr(ArchiveFile, name) for name in FileRecord.__slots__)


class LedgerReader:
    """Reads the ledger and the control row."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def control(self) -> Control:
        """The control row."""
        row = await self.session.get_one(ArchiveControl, 1, populate_existing=True)
        return Control(*(getattr(row, name) for name in Control.__slots__))

    async def open_files(self) -> list[FileRecord]:
        """Files on their way, oldest seq first."""
        return await self._files(ArchiveFile.state.in_(OPEN_STATES))

    async def live_files(self, dataset: Dataset) -> list[FileRecord]:
        """Files that count, oldest seq first."""
        return await self._files(
            and_(ArchiveFile.dataset == dataset, ArchiveFile.state == ArchiveState.LIVE)
        )

    async def keys(self, dataset: Dataset) -> frozenset[str]:
        """Every object name of a data set that the ledger knows."""
        rows = await self.session.scalars(
            select(ArchiveFile.object_key).where(ArchiveFile.dataset == dataset)
        )
        return frozenset(rows)

    async def retired_files(self) -> list[FileRecord]:
        """Files whose rows lie in others, but whose objects may still be there."""
        return await self._files(ArchiveFile.state == ArchiveState.RETIRED)

    async def gone_keys(self) -> frozenset[str]:
        """Object names that were given up and whose objects were deleted."""
        rows = await self.session.scalars(
            select(ArchiveFile.object_key).where(ArchiveFile.state == ArchiveState.GONE)
        )
        return frozenset(rows)

    async def named_files(self) -> list[FileRecord]:
        """Every file whose object must not be touched: all but those that are gone."""
        return await self._files(ArchiveFile.state != ArchiveState.GONE)

    async def other_vaults(self, vault: str) -> list[str]:
        """Vaults other than ``vault`` that ledger rows name."""
        rows = await self.session.scalars(
            select(ArchiveFile.vault)
            .where(ArchiveFile.state != ArchiveState.GONE, ArchiveFile.vault != vault)
            .distinct()
        )
        return list(rows)

    async def all_files(self) -> list[FileRecord]:
        """Every ledger row, oldest seq first."""
        return await self._files(true())

    async def _files(self, condition: ColumnElement[bool]) -> list[FileRecord]:
        rows = await self.session.execute(
            select(*_FIELDS).where(condition).order_by(ArchiveFile.seq)
        )
        return [FileRecord(*row) for row in rows]

    async def sealed_bytes(self) -> int:
        """Bytes of sealed tables with their indexes."""
        return int(
            await self.session.scalar(
                text(
                    "SELECT coalesce(sum(pg_total_relation_size(to_regclass(quote_ident(relation)))), 0) "
                    "FROM archive_files WHERE relation IS NOT NULL"
                )
            )
            or 0
        )

    async def count_rows(self, relation: str) -> int:
        """Rows of a sealed table that count, counted by PostgreSQL."""
        query = text(f"SELECT count(*) FROM {identifier(relation)} WHERE {NOT_FORGOTTEN}")
        return int(await self.session.scalar(query) or 0)


class LedgerWriter(LedgerReader):
    """The steps of the protocol, each fenced."""

    def __init__(self, session: AsyncSession, fence: int) -> None:
        super().__init__(session)
        self.fence = fence

    async def hold(self) -> None:
        """Refuse the step if a later archiver has begun; see `hold_fence`."""
        await hold_fence(self.session, self.fence)

    async def next_seq(self, dataset: Dataset) -> int:
        """The next file number: the clock in microseconds, but always above every earlier one.

        A clock instead of a counter keeps numbers rising through a rebuilt or restored ledger and
        comparable with those of appended metrics.
        """
        return int(
            await self.session.scalar(
                text(
                    "SELECT greatest(coalesce(max(seq), 0) + 1, "
                    "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint) "
                    "FROM archive_files WHERE dataset = :dataset"
                ),
                {"dataset": dataset},
            )
            or 1
        )

    async def seal(self, partition: Partition, new: NewFile) -> FileRecord | None:
        """Detach the partition and write its ledger row; None if it was empty and is dropped.

        Takes ACCESS EXCLUSIVE on the parent for as long as this transaction lasts.
        """
        await self.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        name = identifier(partition.name)
        await self.session.execute(text(f"ALTER TABLE {PARENT} DETACH PARTITION {name}"))
        rows = await self.session.scalar(text(f"SELECT EXISTS (SELECT FROM {name})"))
        if not rows:
            await self.session.execute(text(f"DROP TABLE {name}"))
            return None
        relation = f"{PREFIX}sealed_{new.seq}"
        await self.session.execute(text(f"ALTER TABLE {name} RENAME TO {identifier(relation)}"))
        return await self.add(new, relation=relation)

    async def add(self, new: NewFile, *, relation: str | None = None) -> FileRecord:
        """Write the ledger row of a file that is about to be made."""
        row = ArchiveFile(
            dataset=new.dataset,
            object_key=new.object_key,
            vault=new.vault,
            seq=new.seq,
            batch_id=new.batch_id,
            relation=relation,
            slice_start=new.slice_start,
            slice_end=new.slice_end,
            is_late=await self.is_late(new),
            merged=new.merged,
        )
        self.session.add(row)
        await self.session.flush()
        return await self.get(row.id)

    async def is_late(self, new: NewFile) -> bool:
        """Whether a slice overlaps one that is known."""
        if new.dataset is not Dataset.STATS or new.merged:
            return False
        found = await self.session.scalar(
            select(
                select(ArchiveFile.id)
                .where(
                    ArchiveFile.dataset == new.dataset,
                    ArchiveFile.merged.is_(False),
                    ArchiveFile.slice_start < new.slice_end,
                    ArchiveFile.slice_end > new.slice_start,
                )
                .exists()
            )
        )
        return bool(found)

    async def get(self, file_id: int) -> FileRecord:
        """The ledger row. Raises `NotFound`."""
        found = await self._files(ArchiveFile.id == file_id)
        if not found:
            raise NotFound(f"the ledger has no file {file_id}")
        return found[0]

    async def mark_written(self, file_id: int, facts: FileFacts) -> None:
        """sealed -> written: the object is in the store, and this is what it must be."""
        await self._move(
            file_id,
            ArchiveState.SEALED,
            ArchiveState.WRITTEN,
            **{name: getattr(facts, name) for name in FileFacts.__slots__},
        )

    async def mark_verified(self, file_id: int) -> None:
        """written -> verified: the object was read back and is what it must be."""
        await self._move(file_id, ArchiveState.WRITTEN, ArchiveState.VERIFIED)

    async def mark_live(self, file: FileRecord) -> None:
        """verified -> live, and drop the sealed table in the same transaction.

        Readers hold ACCESS SHARE on the ledger while they look at sealed tables; taking it
        exclusively here is what keeps a table from vanishing under them.
        """
        await self.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        if file.relation is not None:
            await self.session.execute(text("LOCK TABLE archive_files IN ACCESS EXCLUSIVE MODE"))
        await self._move(
            file.id, ArchiveState.VERIFIED, ArchiveState.LIVE, relation=None, live_at=func.now()
        )
        if file.relation is not None:
            await self.session.execute(text(f"DROP TABLE {identifier(file.relation)}"))

    async def send_back(self, file: FileRecord, object_key: str) -> FileRecord:
        """Any open state -> sealed, under a new object name; returns the old name as a retired file.

        What lies there was never read by anybody, and is remembered until it is deleted: one that cannot be
        decoded has no owner's mark, and clean-up would leave it.
        """
        await self.session.execute(
            update(ArchiveFile)
            .where(ArchiveFile.id == file.id, ArchiveFile.state.in_(OPEN_STATES))
            .values(state=ArchiveState.SEALED, object_key=object_key)
        )
        dropped = ArchiveFile(
            dataset=file.dataset,
            state=ArchiveState.RETIRED,
            object_key=file.object_key,
            vault=file.vault,
            seq=await self.next_seq(Dataset(file.dataset)),
            batch_id=file.batch_id,
            slice_start=file.slice_start,
            slice_end=file.slice_end,
            merged=True,
            retired_at=func.now(),
            row_count=0,
            byte_size=0,
            sha256="",
            fingerprint="",
        )
        self.session.add(dropped)
        await self.session.flush()
        return await self.get(dropped.id)

    async def give_up(self, files: Sequence[FileRecord]) -> None:
        """Any open state -> gone, for files whose rows lie in their inputs too.

        The row stays: an object of this name, now or later, is known to be dead and no sign that the database
        went back.
        """
        await self.session.execute(
            update(ArchiveFile)
            .where(
                ArchiveFile.id.in_([file.id for file in files]),
                ArchiveFile.relation.is_(None),
                ArchiveFile.state.in_(OPEN_STATES),
            )
            .values(
                state=ArchiveState.GONE,
                row_count=func.coalesce(ArchiveFile.row_count, 0),
                byte_size=func.coalesce(ArchiveFile.byte_size, 0),
                sha256=func.coalesce(ArchiveFile.sha256, ""),
                fingerprint=func.coalesce(ArchiveFile.fingerprint, ""),
            )
        )

    async def _move(
        self, file_id: int, before: ArchiveState, after: ArchiveState, **values: object
    ) -> None:
        result = await self.session.execute(
            update(ArchiveFile)
            .where(ArchiveFile.id == file_id, ArchiveFile.state == before)
            .values(state=after, **values)
            .returning(ArchiveFile.id)
        )
        if result.scalar() is None:
            raise LeaseLost(f"file {file_id} of the ledger is no longer {before}")


async def hold_fence(session: AsyncSession, fence: int) -> None:
    """Raise `LeaseLost` if a later archiver has begun; keep one from beginning until the commit."""
    # an archiver that freezes in here must not keep its locks, on the parent least of all
    await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '30s'"))
    current = await session.scalar(text("SELECT fence FROM archive_control WHERE id = 1 FOR SHARE"))
    if current != fence:
        raise LeaseLost(
            f"another archiver took over (fence {current}, ours is {fence})",
            hint="nothing was changed; the other one finishes the work",
        )
