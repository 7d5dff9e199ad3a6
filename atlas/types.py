"""Names shared by every room: ids, enumerations, small frozen records and the ports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, TypeAlias, runtime_checkable

from atlas.errors import InvalidInput

__all__ = [
    "AlertChannel",
    "AlertLevel",
    "ArchiveState",
    "Boundary",
    "Channel",
    "Dataset",
    "ObjectInfo",
    "ObjectStore",
    "Progress",
    "ReadableStore",
    "Sample",
    "SearchStatus",
    "Taken",
    "TrackingTier",
    "Video",
    "VideoStatus",
    "check_id",
    "utc",
]

#: A moment that bounds a span: an aware datetime, a date (its midnight in UTC), or ISO 8601 text (UTC where
#: it names no zone). Spans begin at ``since`` and end before ``until``.
Boundary: TypeAlias = datetime | date | str

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class VideoStatus(StrEnum):
    """Where a video stands in collection."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    DONE = "DONE"
    FAILED = "FAILED"


class TrackingTier(StrEnum):
    """How often a video's counters are sampled."""

    HOURLY = "HOURLY"
    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    DORMANT = "DORMANT"


class SearchStatus(StrEnum):
    """Whether a search term still yields pages."""

    ACTIVE = "active"
    EXHAUSTED = "exhausted"


class Dataset(StrEnum):
    """Top folders of tabular data in the vault."""

    STATS = "video_stats"
    METRICS = "metrics"
    VIDEOS = "videos"
    SCHEDULE = "schedule"


class ArchiveState(StrEnum):
    """States of a ledger row, in order; see docs/archive.md."""

    SEALED = "sealed"
    WRITTEN = "written"
    VERIFIED = "verified"
    LIVE = "live"
    RETIRED = "retired"
    GONE = "gone"
    ASIDE = "aside"


class AlertLevel(Enum):
    """Severity of a notification; the value is the embed colour Discord shows."""

    INFO = 0x3498DB
    SUCCESS = 0x2ECC71
    WARNING = 0xF1C40F
    CRITICAL = 0xE74C3C


class AlertChannel(StrEnum):
    """Where a notification goes."""

    ALERTS = "alerts"
    HUNT = "hunt"
    SURVEILLANCE = "watch"
    OPS = "ops"


def _counter(*, since: int, field_id: int, watched: bool = False) -> Any:
    """A counter of a sample; ``watched``: the schedule keeps its last value."""
    metadata = {"sql": "bigint", "since": since, "field_id": field_id, "watched": watched}
    return field(default=None, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Sample:
    """One observation of a video's counters. ``None`` means not known, never zero.

    ``timestamp`` is timezone-aware. This is the one declaration of a sample's columns: `atlas.tables.sample`
    derives all others from it. A field's number belongs to it for ever (6 and 7 are given), and ``since`` is
    the format of files that brought it.
    """

    video_id: str = field(metadata={"sql": "text", "since": 1, "field_id": 1})
    timestamp: datetime = field(metadata={"sql": "timestamptz", "since": 1, "field_id": 2})
    views: int | None = _counter(since=1, field_id=3, watched=True)
    likes: int | None = _counter(since=1, field_id=4, watched=True)
    comment_count: int | None = _counter(since=1, field_id=5, watched=True)


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as discovered."""

    id: str
    title: str
    country: str | None = None
    custom_url: str | None = None
    created_at: datetime | None = None
    is_verified: bool | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """A video as discovered; ``duration`` in seconds."""

    id: str
    title: str
    channel_id: str | None = None
    published_at: datetime | None = None
    duration: int | None = None
    tags: tuple[str, ...] | None = None
    category_id: str | None = None
    default_language: str | None = None
    wiki_topics: tuple[str, ...] | None = None
    priority: int = 0


class Taken(int):
    """How many of a batch were taken, and in ``left_out`` why the others were not (row, field, value)."""

    left_out: tuple[InvalidInput, ...]

    def __new__(cls, number: int, left_out: tuple[InvalidInput, ...] = ()) -> Self:
        self = super().__new__(cls, number)
        self.left_out = left_out
        return self


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object in the vault. ``modified_at`` is the store's own time, timezone-aware."""

    key: str
    size: int
    modified_at: datetime | None = None


class Progress(Protocol):
    """Receives progress of long work: units done, units in all (None: not known), what."""

    def __call__(self, done: int, total: int | None, what: str) -> None: ...


class ReadableStore(Protocol):
    """What readers need of a vault's storage; see `ObjectStore`."""

    @property
    def identity(self) -> str:
        """Stable name of this place, without secrets: ``hf://datasets/<repo>/<prefix>`` and so on."""
        ...

    def open(self, key: str, size: int | None = None) -> BinaryIO | None:
        """A seekable reader that fetches ranges, or None if there is no such object.

        With ``size``, which the caller knows, no request is made to learn it: an object that is missing
        or of another size is then a `VaultError`, at the first read at the latest.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key begins with the folder ``prefix``, in key order, never cached."""
        ...


@runtime_checkable
class ObjectStore(ReadableStore, Protocol):
    """What the archive needs of a vault's storage. Synchronous and thread-safe.

    Keys are normalised relative paths. Every method raises `VaultError` on failure, `VaultUnavailable`
    where the answer is not known; a missing object is ``None``, never an error.
    """

    @property
    def batch(self) -> int:
        """Files that go in one put: 1, or many where each put is a commit."""
        ...

    def uri(self, key: str) -> str:
        """Address of an object for people and other programs."""
        ...

    def put_files(self, items: Sequence[tuple[str, Path]]) -> None:
        """Create every object from its local file, in their order, each whole; one commit on Hugging Face.
        Elsewhere a failure leaves the first of them.

        Raises `ObjectExists` (with ``path``) when a key is taken.
        """
        ...

    def put_bytes(self, key: str, data: bytes, *, overwrite: bool = True) -> None:
        """Write a small object whole. With ``overwrite=False`` raises `ObjectExists` if taken."""
        ...

    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        """Write every object whole, streamed from its reader, replacing what is there; one commit on
        Hugging Face. After a failure some may be written."""
        ...

    def get_bytes(self, key: str) -> bytes | None:
        """The object's content, or None if there is none."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time as the store knows them now (never a cached listing), or None."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in their order; those already gone are no error. One commit on Hugging Face.
        Elsewhere a failure leaves the last of them."""
        ...

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        """Replace the object only if its content is ``expected`` (None: absent). False: it was not."""
        ...


def check_id(value: object, *, field: str = "video_id", row: int | None = None) -> str:
    """Return ``value`` if it is an id (``[A-Za-z0-9_-]{1,64}``), else raise `InvalidInput`."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    where = "" if row is None else f" in row {row}"
    raise InvalidInput(
        f"{field}{where} is not a valid id: {value!r:.80}",
        row=row,
        field=field,
        value=value,
        hint="ids are 1 to 64 of A-Z a-z 0-9 _ -",
    )


def utc(value: datetime, *, field: str = "timestamp", row: int | None = None) -> datetime:
    """Return ``value`` if it is a timezone-aware time, else raise `InvalidInput`."""
    # pandas' NaT is a datetime too, one that has no year
    if not isinstance(value, datetime) or not isinstance(value.year, int):
        raise InvalidInput(
            f"{field} is no time: {value!r:.80}",
            row=row,
            field=field,
            value=value,
            hint="give a timezone-aware datetime",
        )
    if value.tzinfo is not None and value.utcoffset() is not None:
        return value
    raise InvalidInput(
        f"{field} has no time zone: {value.isoformat()}",
        row=row,
        field=field,
        value=value,
        hint="use datetime.now(timezone.utc) or add a time zone",
    )
