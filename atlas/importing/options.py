"""What a person can say about an import."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from atlas.errors import InvalidInput
from atlas.importing.columns import values
from atlas.importing.columns.times import check_formats, plain
from atlas.importing.files.text import check_encoding, printable


@dataclass(frozen=True, slots=True)
class Options:
    """How a file is read where that cannot, or must not, be detected from it.

    ``columns`` maps fields to columns. ``date_formats`` and ``published_formats`` are tried in order, as
    `datetime.strptime` reads them; ``year`` completes those without one. ``timestamp`` is the time of rows
    that have none, ``video_id`` the video of a table without ids. More bad rows than ``max_bad`` (a number,
    or a percentage such as ``5%``) end the import before anything is written. ``report`` is where rows go
    that are bad or lost a field.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    date_formats: tuple[str, ...] = ()
    published_formats: tuple[str, ...] = ()
    year: int | None = None
    delimiter: str | None = None
    encoding: str | None = None
    timestamp: datetime | None = None
    video_id: str | None = None
    max_bad: str | int | None = None
    report: Path | None = None

    def __post_init__(self) -> None:
        check_formats("--date-format", self.date_formats, self.year)
        check_formats("--published-format", self.published_formats, self.year)
        if self.encoding is not None:
            object.__setattr__(self, "encoding", check_encoding(self.encoding))
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", _delimiter(self.delimiter))
        if self.video_id is not None:
            try:
                object.__setattr__(self, "video_id", values.video_id(self.video_id))
            except ValueError as error:
                raise _invalid("video-id", self.video_id, str(error)) from error
        if self.max_bad is not None and not re.fullmatch(
            r"\d{1,18}|\d{1,3}(?:\.\d+)?%", str(self.max_bad)
        ):
            raise _invalid(
                "max-bad", str(self.max_bad), "give a number of rows, or a percentage: 5%"
            )

    def allows(self, bad: int, rows: int) -> bool:
        """Whether so many bad rows may be."""
        if self.max_bad is None:
            return True
        most = str(self.max_bad)
        return bad * 100 <= float(most[:-1]) * rows if most.endswith("%") else bad <= int(most)


def parse_time(value: str) -> datetime:
    """The time in ``--timestamp``: ISO 8601, or seconds since 1970; UTC where it says no zone."""
    moment = plain(value.strip())
    if moment is None:
        raise _invalid("timestamp", value, "write it as 2026-01-31T12:00Z")
    return moment


def _delimiter(value: str) -> str:
    named = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|"}
    value = named.get(value.lower(), value)
    if len(value) != 1 or value in '\r\n"':
        raise _invalid("delimiter", value, "give one character, or tab")
    return value


def _invalid(name: str, value: str, hint: str) -> InvalidInput:
    return InvalidInput(
        f"--{name} {printable(value)[:60]} cannot be taken", field=name, value=value, hint=hint
    )
