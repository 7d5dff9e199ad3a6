"""From the rows that agents append to sorted tables, one for each hour's folder."""

from __future__ import annotations

import contextlib
import hashlib
import math
import numbers
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas.errors import InvalidInput
from atlas.parsing import invalid, parse_counter, parse_moment
from atlas.tables.parquet import ROW_GROUP_ROWS, open_writer
from atlas.tables.sample import COUNTERS, METRICS_SCHEMA, stated_columns, stated_in_footer
from atlas.types import check_id
from atlas.vault.layout import as_date, metrics_folder

__all__ = ["MetricsFile", "digest_differs", "metrics_files"]

#: In the footer: what the rows of a file follow, on the machine that appended them.
FOLLOW = "atlas.follow"

_NAME = re.compile(r"-?\d+--?\d+-([0-9a-f]{32})\.parquet")
#: No appended sample is older: YouTube is not.
EARLIEST = datetime(2005, 1, 1, tzinfo=UTC)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: How far ahead of this machine's clock a sample may lie.
_AHEAD = timedelta(days=1)

#: What a sample says: counters, then published_at.
_VALUES = (*COUNTERS, "published_at")
Values = tuple[int | datetime | None, ...]


@dataclass(frozen=True, slots=True)
class MetricsFile:
    """The samples of one folder, in a file named ``<first>-<last>-<digest>.parquet``.

    ``first`` and ``last`` bound the rows' timestamps, in microseconds since 1970. The digest is that of the
    rows and of what they ``follow``, so that a repeat is the same object; see `Repeats`.
    """

    day: date
    hour: int
    first: int
    last: int
    seq: int
    rows_digest: str
    table: pa.Table
    follow: str = ""

    @property
    def digest(self) -> str:
        """Identifies the file."""
        return _following(self.rows_digest, self.follow)

    @property
    def name(self) -> str:
        """The name in its folder."""
        return f"{self.first}-{self.last}-{self.digest}.parquet"

    @property
    def key(self) -> str:
        """Where the file lies in a vault."""
        return f"{metrics_folder(self.day, self.hour)}/{self.name}"

    def after(self, what: str) -> MetricsFile:
        """The same rows as they follow something else."""
        return replace(self, follow=what)

    def sample_hashes(self) -> npt.NDArray[np.int64]:
        """A hash for each (video_id, timestamp)."""
        keys = (repr(row[:2]).encode() for row in _rows(self.table))
        hashes = b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in keys)
        return np.frombuffer(hashes, np.int64)

    def write(self, target: BinaryIO) -> None:
        """Write the Parquet file."""
        metadata = {
            **stated_in_footer(),
            "atlas.dataset": "metrics",
            "atlas.rows": str(len(self.table)),
            **({FOLLOW: self.follow} if self.follow else {}),
        }
        with open_writer(target, METRICS_SCHEMA, metadata) as writer:
            writer.write_table(self.table, row_group_size=ROW_GROUP_ROWS)


def metrics_files(
    rows: Iterable[Mapping[str, Any]],
    day: date | datetime | str | None = None,
    hour: int | str | None = None,
    *,
    now: datetime | None = None,
) -> list[MetricsFile]:
    """The files for these rows, or `InvalidInput` naming row and field; see `Vault.append_metrics`."""
    now = now or datetime.now(UTC)
    given_day = None if day is None else as_date(day)
    given_hour = None if hour is None else _hour(hour)
    untimed = _untimed(given_day, given_hour, now)
    # the last of a repeated sample counts
    folders: dict[tuple[date, int], dict[tuple[str, datetime], Values]] = {}
    for number, row in enumerate(rows):
        video_id, moment, values = _parse(row, number, untimed, now + _AHEAD)
        folder = (
            moment.date() if given_day is None else given_day,
            moment.hour if given_hour is None else given_hour,
        )
        folders.setdefault(folder, {})[video_id, moment] = values
    seq = _next_seq() if folders else 0
    return [_file(*folder, samples, seq) for folder, samples in sorted(folders.items())]


def _untimed(day: date | None, hour: int | None, now: datetime) -> datetime:
    """The time of a row that has none: the date and hour given, else now."""
    moment = now.astimezone(UTC)
    if day is not None:
        moment = moment.replace(year=day.year, month=day.month, day=day.day)
    if hour is not None:
        moment = moment.replace(hour=hour, minute=0, second=0, microsecond=0)
    return moment


def _file(
    day: date, hour: int, samples: dict[tuple[str, datetime], Values], seq: int
) -> MetricsFile:
    ordered = sorted(samples.items())
    columns: dict[str, list[Any]] = {
        "video_id": [video_id for (video_id, _), _ in ordered],
        "timestamp": [moment for (_, moment), _ in ordered],
        "seq": [seq] * len(ordered),
    }
    for at, name in enumerate(_VALUES):
        columns[name] = [values[at] for _, values in ordered]
    table = pa.table(columns, schema=METRICS_SCHEMA)
    first, last = (
        (moment - _EPOCH) // _MICROSECOND
        for moment in (min(columns["timestamp"]), max(columns["timestamp"]))
    )
    return MetricsFile(day, hour, first, last, seq, _rows_digest([table]), table)


def _rows(table: pa.Table, counters: Sequence[str] = COUNTERS) -> Iterator[tuple[object, ...]]:
    """What each row says, without its ``seq``."""
    moments = [table[name].cast(pa.int64()) for name in ("timestamp", "published_at")]
    columns = [table["video_id"], moments[0], *(table[name] for name in counters), moments[1]]
    yield from zip(*(column.to_pylist() for column in columns), strict=True)


def _rows_digest(tables: Iterable[pa.Table], counters: Sequence[str] = COUNTERS) -> str:
    """Identifies the rows, whenever they were appended."""
    digest = hashlib.blake2b(digest_size=16)
    for table in tables:
        for row in _rows(table, counters):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def _following(rows_digest: str, what: str) -> str:
    if not what:
        return rows_digest
    return hashlib.blake2b(f"{rows_digest} {what}".encode(), digest_size=16).hexdigest()


def is_name_of_rows(name: str) -> bool:
    """Whether the name says what is in the file, so that it is never used for anything else."""
    return _NAME.fullmatch(name) is not None


def digest_differs(name: str, tables: Iterable[pa.Table], footer: Mapping[bytes, bytes]) -> bool:
    """Whether an appended file holds other rows, or other columns, than the digest in its name.

    Names that other programs chose hold no digest: False.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        return False
    try:
        stated = stated_columns(footer)
        digest = _rows_digest(_of_shape(tables, {*stated, "seq", "published_at"}), stated[2:])
    except ValueError:
        return True
    return parts[1] != _following(digest, footer.get(FOLLOW.encode(), b"").decode(errors="replace"))


def _of_shape(tables: Iterable[pa.Table], names: set[str]) -> Iterator[pa.Table]:
    """The tables, as long as they have these columns of appended rows and no others."""
    shape = pa.schema([field for field in METRICS_SCHEMA if field.name in names])
    for table in tables:
        if not table.schema.equals(shape):
            raise ValueError(f"not the columns of appended rows: {table.schema.names}")
        yield table


def _parse(
    row: Mapping[str, Any], number: int, untimed: datetime, latest: datetime
) -> tuple[str, datetime, Values]:
    if not isinstance(row, Mapping):
        raise invalid(row, "row", number, "give a mapping with a video_id")
    video_id = check_id(row.get("video_id"), row=number)
    moment = parse_moment(row.get("timestamp"), field="timestamp", row=number) or untimed
    if not EARLIEST <= moment <= latest:
        hint = "samples lie between 2005 and a day ahead of this machine's clock"
        raise invalid(moment.isoformat(), "timestamp", number, hint)
    comments = "comments" if _unknown(row.get("comment_count")) else "comment_count"
    spelled = {"comment_count": comments}
    return (
        video_id,
        moment,
        (
            *(_counter(row, spelled.get(name, name), number) for name in COUNTERS),
            parse_moment(row.get("published_at"), field="published_at", row=number),
        ),
    )


def _counter(row: Mapping[str, Any], field: str, number: int) -> int | None:
    value = row.get(field)
    return None if _unknown(value) else parse_counter(value, field=field, row=number)


def _unknown(value: object) -> bool:
    """Whether it is None, or what a column of numbers holds in its place: NaN, or NA of pandas."""
    if isinstance(value, numbers.Real):
        return math.isnan(value)
    # by name: pandas is no dependency, and NA compares with nothing
    return value is None or type(value).__name__ == "NAType"


def _hour(value: object) -> int:
    hour = None
    with contextlib.suppress(InvalidInput):
        hour = parse_counter(value, field="hour")
    if hour is not None and hour <= 23:
        return hour
    raise InvalidInput(
        f"hour cannot be taken: {value!r:.80}", field="hour", value=value, hint="0 to 23, UTC"
    )


_seq_lock = threading.Lock()
_last_seq = 0


def _next_seq() -> int:
    """Microseconds since 1970, always higher than the one before: a later append wins."""
    global _last_seq
    with _seq_lock:
        _last_seq = max(_last_seq + 1, time.time_ns() // 1000)
        return _last_seq
