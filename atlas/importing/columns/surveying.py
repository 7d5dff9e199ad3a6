"""Deciding how the columns of a table are read, from the whole of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from atlas.errors import InvalidInput
from atlas.importing.columns import values
from atlas.importing.columns.cells import alike, are_counters, whole
from atlas.importing.columns.fields import (
    COUNTERS,
    ColumnMapping,
    chosen,
    listed,
    no_column,
    normalised,
    recognised,
)
from atlas.importing.columns.rows import Plan
from atlas.importing.columns.times import Survey, reader
from atlas.importing.files.spool import OWN, SKIPPED
from atlas.importing.options import Options

#: Values of a column that are looked at to see whether it holds ids; moments that are kept as a sample.
_LOOKED_AT, _SAMPLED = 2_000, 4_096
#: Dates whose order of parts is to be detected; full ISO 8601 adds no information.
_UNCERTAIN = r"^\d{1,4}[./-]\d{1,2}(?:[./-]\d{1,4}.*)?$"
_CERTAIN = r"^\d{4}-(?:0\d|1[0-2])-\d\d"


@dataclass(slots=True)
class Group:
    """Sources that have the same columns: one plan is made for them."""

    name: str
    header: dict[str, None] = field(default_factory=dict)
    with_ids: set[str] = field(default_factory=set)
    looked_at: int = 0
    skips: bool = False

    def see(self, batch: pa.Table) -> None:
        """Learn the columns, and which of them hold ids; what is of another kind than a video has none."""
        names = [name for name in batch.column_names if name not in OWN]
        if pc.any(batch[SKIPPED]).as_py():
            self.skips = True
            batch = batch.filter(pc.invert(batch[SKIPPED]))
            names = [name for name in names if batch[name].null_count < batch.num_rows]
        self.header.update(dict.fromkeys(names))
        if self.looked_at >= _LOOKED_AT:
            return
        few = batch.slice(0, _LOOKED_AT)
        self.looked_at += few.num_rows
        for name in names:
            if name not in self.with_ids and any(map(_is_id, pc.unique(few[name]).to_pylist())):
                self.with_ids.add(name)

    def mapping(self, options: Options) -> ColumnMapping:
        """The mapping of these columns. Raises `InvalidInput` where there is no id, or no time."""
        header = tuple(self.header)
        if self.skips and not header:
            return ColumnMapping({}, ())
        mapping = chosen(header, options.columns, self.with_ids.__contains__)
        if options.video_id is not None:
            if mapping.columns.get("video_id") in self.with_ids:
                column = mapping.columns["video_id"]
                raise InvalidInput(
                    f"--video-id: column {column} has ids of its own",
                    field="video-id",
                    value=options.video_id,
                )
        elif not mapping.has("video_id"):
            raise no_column("video_id", header)
        if mapping.has(*COUNTERS) and not mapping.has("timestamp") and options.timestamp is None:
            raise InvalidInput(
                "no column for timestamp: when were these counters read?",
                field="timestamp",
                value=list(header),
                hint="say it with --timestamp 2026-01-31T12:00Z, or which column has it with "
                f"--map timestamp=COLUMN; columns: {listed(header)}",
            )
        return mapping

    def is_foreign(self, options: Options) -> bool:
        """Whether no column says that this is about videos: prose, a list of categories."""
        found = recognised(self.header).keys() & {"video_id", *COUNTERS}
        named = {normalised(column) for column in options.columns.values()}
        return not (found or self.skips or named & set(map(normalised, self.header)))


def _is_id(value: str | None) -> bool:
    if not value:
        return False
    try:
        values.video_id(value.strip())
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class Surveyed:
    """The plans of the groups, and moments from all over the input."""

    plans: dict[int, Plan]
    moments: list[datetime]


def survey(
    groups: dict[int, Group],
    batches: Callable[[], Iterable[tuple[int, pa.Table]]],
    options: Options,
    latest: datetime,
) -> Surveyed:
    """Look at every batch once and decide. Raises `InvalidInput` for what only a person can say.

    Of several groups those without an id or a counter have no plan.
    """
    own = {number: one for number, one in groups.items() if not one.is_foreign(options)} or groups
    seen = {number: _Seen(group.mapping(options)) for number, group in own.items()}
    for number, batch in batches():
        if number in seen:
            seen[number].see(batch)
    plans = {number: one.plan(options, latest) for number, one in seen.items()}
    moments = [
        moment
        for number, one in seen.items()
        for moment in _read(one.moments, plans[number].timestamp)
        if moment <= latest
    ]
    return Surveyed(plans, moments)


def _read(cells: Iterable[str], parse: Callable[[str], datetime]) -> Iterator[datetime]:
    """The moments of those cells that can be read, of equal ones as many."""
    for cell, times in Counter(cells).items():
        with suppress(ValueError, OverflowError):
            yield from [parse(cell)] * times


@dataclass(slots=True)
class _Seen:
    mapping: ColumnMapping
    times: Survey = field(default_factory=Survey)
    published: Survey = field(default_factory=lambda: Survey("--published-format"))
    dotted: set[str] = field(default_factory=set)
    piped: bool = False
    moments: list[str] = field(default_factory=list)
    stride: int = 1

    def see(self, batch: pa.Table) -> None:
        columns = self.mapping.columns
        cells = {
            name: whole(batch[column])
            for name, column in columns.items()
            if column in batch.column_names
        }
        for name, dates in (("timestamp", self.times), ("published_at", self.published)):
            if name in cells:
                dates.see(_uncertain(cells[name]))
        for name in COUNTERS:
            if name in cells and name not in self.dotted and not are_counters(cells[name]):
                found = pc.match_substring_regex(cells[name], r"^\s*\d{1,3}(?:\.\d{3}){2,}\s*$")
                if pc.any(found).as_py():
                    self.dotted.add(name)
        if "tags" in cells and not self.piped:
            self.piped = bool(pc.any(pc.match_substring(cells["tags"], "|")).as_py())
        if "timestamp" in cells:
            self._sample(cells["timestamp"])

    def _sample(self, cells: pa.Array) -> None:
        """Keep some moments from all over the input."""
        wanted = [one.strip() for one in cells[:: max(1, self.stride * 16)].to_pylist() if one]
        self.moments += wanted
        while len(self.moments) > _SAMPLED:
            self.moments = self.moments[::2]
            self.stride *= 2

    def plan(self, options: Options, latest: datetime) -> Plan:
        return Plan(
            self.mapping,
            reader(self.times, options.date_formats, options.year),
            reader(self.published, options.published_formats, options.year),
            latest,
            "|" if self.piped else ",",
            # who writes one counter so writes all of them so
            frozenset(COUNTERS if self.dotted else ()),
            options.video_id,
            options.timestamp,
        )


def _all_certain(cells: pa.Array) -> bool:
    """Whether all dates are plain ISO 8601, at a glance."""
    one = alike(cells)
    if one is None or not re.match(_CERTAIN, one):
        return False
    months = pc.utf8_slice_codeunits(cells, 5, 7)
    return bool(pc.all(pc.less_equal(months, "12")).as_py())


def _uncertain(cells: pa.Array) -> list[str]:
    """The different dates of a column whose order of parts says something."""
    if _all_certain(cells):
        return []
    trimmed = pc.utf8_trim_whitespace(cells)
    asked = pc.and_(
        pc.match_substring_regex(trimmed, _UNCERTAIN),
        pc.invert(pc.match_substring_regex(trimmed, _CERTAIN)),
    )
    if not pc.any(asked).as_py():
        return []
    some = pc.match_substring_regex(trimmed, _UNCERTAIN)
    return [one for one in pc.unique(trimmed.filter(pc.fill_null(some, False))).to_pylist() if one]
