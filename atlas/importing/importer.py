"""Taking in exports of videos and counters: CSV, plain or gzip, as dirty as real ones are.

Each row is good or bad. A good row becomes a channel, a video, a watchlist entry and a sample; a bad one a
line of the report, with line number, field, value and reason. Nothing is guessed: what the formats do
not say is bad.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from atlas.db import Database
from atlas.db.clock import clock
from atlas.errors import AtlasError, InvalidInput
from atlas.ingest import AHEAD, record_samples
from atlas.parsing import parse_counter
from atlas.repositories.hot.stats import EARLIEST
from atlas.repositories.videos import Videos
from atlas.repositories.watchlist import NewEntry, Watchlist
from atlas.scheduling import AgePolicy
from atlas.types import Channel, Progress, Sample, Video

#: Fields a column can be mapped to, with the headers that mean them where nothing is mapped.
FIELDS: dict[str, tuple[str, ...]] = {
    "video_id": ("video_id", "id"),
    "timestamp": ("timestamp", "date", "trending_date", "collected_at"),
    "title": ("title", "video_title"),
    "channel_id": ("channel_id",),
    "channel_title": ("channel_title", "channel", "channel_name"),
    "category_id": ("category_id", "category"),
    "tags": ("tags",),
    "default_language": ("default_language", "language"),
    "published_at": ("published_at", "publish_time", "publish_date", "published"),
    "views": ("views", "view_count"),
    "likes": ("likes", "like_count"),
    "comment_count": ("comment_count", "comments", "comment_total"),
}

#: Rows written at once: bounds memory, and what has to be repeated after a crash.
_CHUNK = 5_000
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CHANNEL_ID = re.compile(r"UC[A-Za-z0-9_-]{22}")
_HAS_YEAR = re.compile("%[YyGcxD]")
_LOST_ZERO = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column of the file holds which field, and how its dates are written."""

    columns: Mapping[str, str]
    date_formats: tuple[str, ...] = ()
    year: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A good row. ``line`` is where it begins in the file, counted from 1."""

    line: int
    video: Video
    channel: Channel | None
    sample: Sample


@dataclass(frozen=True, slots=True)
class Rejected:
    """A bad row: the field that is wrong, what it holds and why that cannot be taken."""

    line: int
    field: str
    value: str
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What an import did. ``good + bad == rows``; ``samples`` are distinct (video_id, timestamp)."""

    rows: int = 0
    good: int = 0
    bad: int = 0
    videos: int = 0
    samples: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rejected: str | None = None


class _Bad(Exception):
    """Raised while a row is read; becomes a `Rejected`."""

    def __init__(self, column: str, value: object, reason: str) -> None:
        super().__init__(reason)
        self.column, self.value, self.reason = column, str(value), reason


async def import_csv(
    database: Database,
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    date_formats: Sequence[str] = (),
    year: int | None = None,
    rejected: Path | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a file. ``columns`` maps fields (`FIELDS`) to headers; others are found by their names.

    ``date_formats`` are tried in order, as `datetime.strptime` reads them; none: ISO 8601. ``year``
    completes those without one. A format ``%d.%m`` reads ``1.1`` as 1 October: as a decimal number
    ``01.10`` loses its zeros, while January would be ``1.01``. ``rejected`` names the report file, made
    if there is a bad row (default: ``<name>.rejected.csv`` in the working folder).

    Can be repeated: what is there is replaced by the same. A failure leaves whole chunks. Raises
    `InvalidInput` for a wrong mapping or a file that is no CSV, and `DatabaseError`.
    """
    report = ImportReport()
    seen: set[tuple[str, datetime]] = set()
    videos: set[str] = set()
    target = rejected or Path(f"{path.name.removesuffix('.gz')}.rejected.csv")
    async with database.transaction(read_only=True) as session:
        now = await clock(session)
    with _opened(path) as (header, lines, size, position), _ReportFile(target) as bad_rows:
        layout = resolve(header, columns or {}, date_formats, year)
        pending: list[Row] = []

        async def flush() -> None:
            await _write(database, pending)
            seen.update((row.sample.video_id, row.sample.timestamp) for row in pending)
            videos.update(row.video.id for row in pending)
            report.good += len(pending)
            pending.clear()
            if progress is not None:
                progress(position(), size, f"{report.rows:,} rows")

        for row in read_rows(lines, layout, latest=now + AHEAD):
            report.rows += 1
            if isinstance(row, Rejected):
                report.bad += 1
                report.reasons[row.reason] = report.reasons.get(row.reason, 0) + 1
                bad_rows.add(row)
                continue
            pending.append(row)
            if len(pending) == _CHUNK:
                await flush()
        await flush()
    report.videos, report.samples = len(videos), len(seen)
    report.rejected = str(target) if report.bad else None
    return report


def resolve(
    header: Sequence[str], columns: Mapping[str, str], date_formats: Sequence[str], year: int | None
) -> Layout:
    """The mapping of a file with this header. Raises `InvalidInput` for what cannot be."""
    for name, column in columns.items():
        if name not in FIELDS:
            raise InvalidInput(
                f"--map {name}={column}: there is no field {name}",
                field="map",
                value=name,
                hint=f"fields: {', '.join(FIELDS)}",
            )
        if column not in header:
            raise InvalidInput(
                f"--map {name}={column}: the file has no column {column}",
                field="map",
                value=column,
                hint=f"columns: {', '.join(header)}",
            )
    found = dict(columns)
    for name, synonyms in FIELDS.items():
        match = next((one for one in header if one.strip().lower() in synonyms), None)
        if name not in found and match is not None and match not in found.values():
            found[name] = match
    for needed in ("video_id", "timestamp"):
        if needed not in found:
            raise InvalidInput(
                f"no column for {needed}",
                field=needed,
                value=list(header),
                hint=f"say which with --map {needed}=COLUMN; columns: {', '.join(header)}",
            )
    for one in date_formats:
        if "%" not in one:
            raise InvalidInput(f"--date-format {one} has no % code", field="date-format", value=one)
        if year is None and not _HAS_YEAR.search(one):
            raise InvalidInput(
                f"--date-format {one} has no year",
                field="date-format",
                value=one,
                hint="give --year",
            )
    return Layout(found, tuple(date_formats), year)


def read_rows(
    lines: Iterator[tuple[int, dict[str, str] | _Bad]], layout: Layout, *, latest: datetime
) -> Iterator[Row | Rejected]:
    """Every row of the file, in order, as good or bad."""
    for line, cells in lines:
        try:
            if isinstance(cells, _Bad):
                raise cells
            yield _row(line, cells, layout, latest)
        except _Bad as bad:
            yield Rejected(line, bad.column, bad.value, bad.reason)


def _row(line: int, cells: Mapping[str, str], layout: Layout, latest: datetime) -> Row:
    def cell(name: str) -> str:
        return cells.get(layout.columns.get(name, ""), "").strip()

    def bad(name: str, reason: str) -> _Bad:
        return _Bad(layout.columns.get(name, name), cell(name), reason)

    video_id = cell("video_id")
    if not _VIDEO_ID.fullmatch(video_id):
        raise bad("video_id", "not a YouTube video id (11 of A-Z a-z 0-9 _ -)")
    try:
        moment = parse_date(cell("timestamp"), layout.date_formats, layout.year)
    except ValueError as error:
        raise bad("timestamp", str(error)) from error
    if not EARLIEST <= moment <= latest:
        raise bad("timestamp", "lies before 1970 or more than a day ahead of the database's clock")
    try:
        published = parse_date(cell("published_at"), (), None) if cell("published_at") else None
    except ValueError as error:
        raise bad("published_at", str(error)) from error
    counters = {}
    for name in ("views", "likes", "comment_count"):
        try:
            counters[name] = parse_counter(cell(name) or None, field=name)
        except InvalidInput as error:
            raise bad(name, "not a counter (a whole number, 0 or more)") from error
    channel = _channel(cell("channel_id"), cell("channel_title"), bad)
    video = Video(
        id=video_id,
        title=cell("title") or video_id,
        channel_id=channel.id if channel else None,
        published_at=published,
        tags=tuple(one for one in cell("tags").split("|") if one) or None,
        category_id=cell("category_id") or None,
        default_language=cell("default_language") or None,
    )
    return Row(line, video, channel, Sample(video_id, moment, **counters))


def _channel(channel_id: str, title: str, bad: Callable[[str, str], _Bad]) -> Channel | None:
    if channel_id:
        if not _CHANNEL_ID.fullmatch(channel_id):
            raise bad("channel_id", "not a YouTube channel id (UC and 22 more)")
        return Channel(channel_id, title or channel_id)
    return Channel(derived_channel_id(title), title) if title else None


def derived_channel_id(title: str) -> str:
    """A stable id for a channel known by its title only; never the shape of a real one."""
    return f"name-{hashlib.sha256(title.encode()).hexdigest()[:20]}"


def parse_date(value: str, formats: Sequence[str], year: int | None) -> datetime:
    """The moment that ``value`` names, in UTC where it says no zone. Raises ValueError with the reason."""
    if not formats:
        try:
            return _in_utc(datetime.fromisoformat(value))
        except ValueError:
            raise ValueError(
                "not an ISO 8601 date; say how it is written with --date-format"
            ) from None
    for one in formats:
        written = f"{value}0" if one == "%d.%m" and _LOST_ZERO.fullmatch(value) else value
        if not _HAS_YEAR.search(one):
            written, one = f"{written} {year}", f"{one} %Y"
        with suppress(ValueError):
            return _in_utc(datetime.strptime(written, one))
    raise ValueError(f"does not fit the date format {' or '.join(formats)}")


def _in_utc(moment: datetime) -> datetime:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


async def _write(database: Database, rows: Sequence[Row]) -> None:
    """One chunk; whatever is there already is replaced by the same."""
    if not rows:
        return
    await record_samples(database, [row.sample for row in rows])
    policy = AgePolicy()
    entries: dict[str, NewEntry] = {}
    async with database.transaction() as session:
        videos = Videos(session)
        await videos.upsert(
            [row.video for row in rows],
            list({row.channel.id: row.channel for row in rows if row.channel}.values()),
        )
        now = await videos.now()
        for row in rows:
            # a video is at least as old as its first sample here
            born = row.video.published_at or row.sample.timestamp
            entries.setdefault(
                row.video.id,
                NewEntry(row.video.id, policy.tier(born, now), published_at=row.video.published_at),
            )
        await Watchlist(session).add(entries.values())


class _ReportFile:
    """The report of bad rows; there is no file as long as there is no bad row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._writer: Any = None

    def __enter__(self) -> _ReportFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: Rejected) -> None:
        """Write one line."""
        try:
            if self._file is None:
                self._file = self.path.open("w", newline="", encoding="utf-8")
                self._writer = csv.writer(self._file)
                self._writer.writerow(("line", "field", "value", "reason"))
            self._writer.writerow((row.line, row.field, row.value, row.reason))
        except OSError as error:
            raise AtlasError(
                f"cannot write the report {self.path}: {error.strerror}",
                hint="give another place with --report",
            ) from error


Lines = Iterator[tuple[int, "dict[str, str] | _Bad"]]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Lines, int, Callable[[], int]]]:
    """The file's header, its rows, its size in bytes, and how far it has been read."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            binary: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
            with io.TextIOWrapper(
                binary, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as content:
                reader = csv.reader(content)
                header = [name.strip() for name in next(reader, [])]
                if not any(header):
                    raise InvalidInput(f"{path} is empty", field="file", value=str(path))
                yield header, _lines(reader, header), path.stat().st_size, raw.tell
    except (OSError, EOFError, csv.Error, zlib.error) as error:
        raise InvalidInput(f"cannot read {path}: {error}", field="file", value=str(path)) from error


def _lines(reader: Any, header: list[str]) -> Lines:
    """Each row with the line it begins at; a broken one as `_Bad`."""
    line = reader.line_num + 1
    for values in reader:
        begins, line = line, reader.line_num + 1
        if not values:
            continue
        if len(values) != len(header):
            reason = f"{len(values)} cells, the header has {len(header)}"
            yield begins, _Bad("row", ascii(",".join(values))[:80], reason)
        elif any(_broken(value) for value in values):
            yield begins, _Bad(
                "row", ascii(",".join(values))[:80], "bytes that are no text in UTF-8"
            )
        else:
            yield begins, dict(zip(header, values, strict=True))


def _broken(value: str) -> bool:
    """Whether PostgreSQL would refuse the text: a NUL, or what was not UTF-8 in the file."""
    if value.isascii():
        return "\0" in value
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return "\0" in value
