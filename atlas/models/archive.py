"""The ledger of cold files and the archiver's control row; see docs/archive.md."""

from __future__ import annotations

import uuid

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, SmallInteger, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import Base, CreatedAt, ExternalId, UtcTimestamp
from atlas.tables.sample import COUNTERS
from atlas.types import Dataset


class ArchiveFile(Base):
    """One cold file: the catalogue entry of an object and the journal of its making.

    ``seq`` orders files of a data set: of two rows for one sample the higher one counts. It need not be
    unique: two histories of a database may draw the same number.
    ``relation`` is the sealed table while there is one. A ``merged`` file was made from other files, and its
    rows keep the ``seq`` of the file that first carried them. ``fingerprint`` is the order-free sum of
    64-bit row hashes, in hexadecimal.
    """

    __tablename__ = "archive_files"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    dataset: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="sealed")
    object_key: Mapped[str] = mapped_column(unique=True)
    vault: Mapped[str]
    seq: Mapped[int]
    batch_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    relation: Mapped[str | None]
    slice_start: Mapped[UtcTimestamp]
    slice_end: Mapped[UtcTimestamp]
    is_late: Mapped[bool] = mapped_column(server_default=text("false"))
    min_timestamp: Mapped[UtcTimestamp | None]
    max_timestamp: Mapped[UtcTimestamp | None]
    min_video_id: Mapped[ExternalId | None]
    max_video_id: Mapped[ExternalId | None]
    row_count: Mapped[int | None]
    byte_size: Mapped[int | None]
    sha256: Mapped[str | None]
    fingerprint: Mapped[str | None]
    sealed_at: Mapped[CreatedAt]
    live_at: Mapped[UtcTimestamp | None]
    retired_at: Mapped[UtcTimestamp | None]
    merged: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Of a file of the schedule: since when the ring has none of its rows, and the filter all.
    settled_at: Mapped[UtcTimestamp | None]

    __table_args__ = (
        CheckConstraint(
            "state IN ('sealed', 'written', 'verified', 'live', 'retired', 'gone', 'aside')",
            name="state",
        ),
        CheckConstraint(
            f"dataset IN ({', '.join(repr(str(one)) for one in Dataset)})", name="dataset"
        ),
        CheckConstraint("slice_start < slice_end", name="slice"),
        CheckConstraint(
            "state = 'sealed' OR (row_count IS NOT NULL AND byte_size IS NOT NULL "
            "AND sha256 IS NOT NULL AND fingerprint IS NOT NULL)",
            name="written_is_described",
        ),
        # both go into SQL and paths of other programs, too
        CheckConstraint("relation ~ '^[a-z_][a-z0-9_]{0,62}$'", name="relation"),
        CheckConstraint(
            "starts_with(object_key, dataset || '/') AND object_key !~ '[[:cntrl:]]' "
            "AND object_key !~ '(^|/)[.]{0,2}(/|$)'",
            name="object_key",
        ),
        Index("idx_archive_files_seq", "dataset", "seq"),
        Index("idx_archive_files_slice", "dataset", "slice_start", "slice_end"),
        Index(
            "idx_archive_files_open",
            "id",
            postgresql_where=text("state IN ('sealed', 'written', 'verified')"),
        ),
    )


class ArchiveControl(Base):
    """The one row that says which vault this database belongs to and who may archive.

    ``owner`` marks this database's files; it is drawn at the first run, not by the migration, so that
    copies of an unused database are no relatives. ``epoch`` and ``nonce`` are kept equal to the vault's by
    compare-and-swap at each run; ``pending_nonce`` is the one announced before the swap. ``fence``
    grows with every archiver; a step under an older one is refused. ``holder`` and ``held_until``
    serve as the lock where session locks do not work (a pooler in transaction mode). ``metrics_seen``:
    the vault has at some time been found to hold appended metrics. ``adopting_from`` is the highest ``seq``
    of samples that the ledger knew when an adoption began which is not over.
    """

    __tablename__ = "archive_control"

    id: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, autoincrement=False, server_default=text("1")
    )
    vault: Mapped[str | None]
    owner: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    nonce: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    pending_nonce: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    holder: Mapped[str | None]
    held_until: Mapped[UtcTimestamp | None]
    metrics_seen: Mapped[bool] = mapped_column(server_default=text("false"))
    adopting_from: Mapped[int | None]

    __table_args__ = (CheckConstraint("id = 1", name="singleton"),)


class ArchivePin(Base):
    """A span of time whose restored samples stay hot until the pin is released."""

    __tablename__ = "archive_pins"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    pinned_from: Mapped[UtcTimestamp]
    pinned_until: Mapped[UtcTimestamp]
    created_at: Mapped[CreatedAt]

    __table_args__ = (CheckConstraint("pinned_from < pinned_until", name="range"),)


class StaleSample(Base):
    """A hot row that an adoption removed, because the vault holds a later one; ``outdated_by`` is that one's
    ``seq``. Its counters are those of `SAMPLE`. Kept for people, read by nothing."""

    __tablename__ = "stale_samples"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    video_id: Mapped[ExternalId]
    timestamp: Mapped[UtcTimestamp]
    locals().update({name: mapped_column(BigInteger) for name in COUNTERS})
    outdated_by: Mapped[int]
    removed_at: Mapped[CreatedAt]


class ErasureRecord(Base):
    """A record of forgotten ids in the vault that this database has read."""

    __tablename__ = "erasure_records"

    object_key: Mapped[str] = mapped_column(primary_key=True)
    read_at: Mapped[CreatedAt]


class ErasedDigest(Base):
    """The hash of a forgotten id that this database has not met, from a record in the vault."""

    __tablename__ = "erased_digests"

    digest: Mapped[bytes] = mapped_column(primary_key=True)


class UnclaimedObject(Base):
    """An object in a data folder that is not this database's, or not whole: it is not looked at again."""

    __tablename__ = "unclaimed_objects"

    object_key: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    seen_at: Mapped[CreatedAt]
