"""From columns of text to samples and facts of videos, whole columns at a time.

A row is good or bad. It is bad if it has no id, if none of its counters can be read, or if their time cannot
be. Any other field that cannot be read costs that field: the row is good in part, and is reported too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.importing.columns import values
from atlas.importing.columns.cells import alike, are_counters, are_ids, trimmed, whole
from atlas.importing.columns.fields import COUNTERS, ColumnMapping
from atlas.importing.files.spool import REASON, SKIPPED
from atlas.importing.files.text import BROKEN
from atlas.repositories.hot.stats import EARLIEST
from atlas.tables.sample import MOMENT

#: Fields of text that are taken as they are.
TEXTS = ("title", "channel_title", "category_id", "default_language", "tags")
#: Facts of a video, with their types.
FACTS: dict[str, pa.DataType] = {
    **{name: pa.string() for name in TEXTS},
    "channel_id": pa.string(),
    "published_at": MOMENT,
    "duration": pa.int64(),
}
SAMPLES = pa.schema(
    [("video_id", pa.string()), ("timestamp", MOMENT), *((name, pa.int64()) for name in COUNTERS)]
)
_ISO_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?)?(Z|\+00:00)?", re.ASCII
)
_FAR = "lies before 1970 or more than a day ahead of the database's clock"
_NO_TIME = "no time: when were these counters read? (--timestamp)"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the columns of a table are read: decided from the whole of each."""

    mapping: ColumnMapping
    timestamp: Callable[[str], datetime]
    published: Callable[[str], datetime]
    latest: datetime
    tag_separator: str = "|"
    dotted: frozenset[str] = frozenset()
    fixed_id: str | None = None
    fixed_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong in a row (its place in the batch): the column, what it holds, why it cannot be taken.

    ``kind``: ``bad`` (the row is left out), ``partial`` (the field is) or ``skipped`` (it is no video's).
    """

    row: int
    column: str
    value: str
    reason: str
    kind: str


@dataclass(frozen=True, slots=True)
class Understood:
    """A batch: its samples, the facts of its videos (one row a good row, the columns that the table has),
    and its faults in order."""

    samples: pa.Table
    facts: pa.Table
    faults: list[Fault]
    good: int


@dataclass(slots=True)
class _Column:
    """A field's column: values with nulls, and for rows whose cell cannot be read the reason."""

    values: pa.Array
    reasons: Any = None
    present: Any = field(default=None)

    def failed(self) -> Any:
        """Which rows have a cell that cannot be read."""
        if self.reasons is None:
            return np.zeros(len(self.values), bool)
        return mask(pc.is_valid(self.reasons))


def understand(batch: pa.Table, plan: Plan) -> Understood:
    """Read a batch by its plan."""
    cells = {name: _trimmed(batch, column) for name, column in plan.mapping.columns.items()}
    count = batch.num_rows
    columns = {name: _read(name, cells.get(name), plan, count) for name in (*FACTS, *COUNTERS)}
    ids = _ids(cells.get("video_id"), plan, count)
    times = _times(cells.get("timestamp"), plan, count)
    _blank_where_disabled(columns, cells)
    broken = mask(pc.is_valid(batch[REASON]))
    skipped = mask(batch[SKIPPED]) | _of_another_kind(cells, count)
    no_id = mask(pc.is_null(ids.values))
    known = np.logical_or.reduce([mask(pc.is_valid(columns[name].values)) for name in COUNTERS])
    unreadable = np.logical_or.reduce([columns[name].failed() for name in COUNTERS])
    no_counter = unreadable & ~known
    no_time = (known | unreadable) & mask(pc.is_null(times.values))
    bad = broken | no_id | no_counter | no_time | skipped
    good = pa.array(~bad)
    sampled = pa.array(~bad & known)
    names = {"video_id": ids.values, "timestamp": times.values} | {
        name: columns[name].values for name in COUNTERS
    }
    facts = {"video_id": ids.values, "born": times.values} | {
        name: columns[name].values for name in FACTS if name in cells
    }
    faults = _Faults(batch, plan, cells, columns | {"video_id": ids, "timestamp": times})
    return Understood(
        pa.table({name: names[name] for name in SAMPLES.names}, SAMPLES).filter(sampled),
        pa.table(facts).filter(good),
        list(faults.find(bad, broken, skipped, no_id, no_time)),
        int((~bad).sum()),
    )


class _Faults:
    def __init__(
        self,
        batch: pa.Table,
        plan: Plan,
        cells: Mapping[str, pa.Array],
        columns: Mapping[str, _Column],
    ) -> None:
        self._batch, self._plan, self._cells, self._columns = batch, plan, cells, columns

    def find(
        self, bad: Any, broken: Any, skipped: Any, no_id: Any, no_time: Any
    ) -> Iterator[Fault]:
        failed = {
            name: column.failed()
            for name, column in self._columns.items()
            if name not in ("video_id", "timestamp")
        }
        lost = np.logical_or.reduce(list(failed.values()))
        # a time that cannot be read, of a row without counters
        idle = self._columns["timestamp"].failed() & ~bad
        for row in np.flatnonzero(bad | lost | idle).tolist():
            if broken[row]:
                reason = self._batch[REASON][row].as_py()
                yield Fault(
                    row, "row", self._first(row), reason, "skipped" if skipped[row] else "bad"
                )
            elif skipped[row]:
                kind = self._cells["kind"][row].as_py().removeprefix("youtube#")[:30]
                yield Fault(row, "kind", kind, "of another kind than a video", "skipped")
            elif no_id[row]:
                yield self._fault(row, "video_id", "bad", values.NO_ID)
            elif no_time[row]:
                yield self._fault(row, "timestamp", "bad", _NO_TIME)
            elif bad[row]:
                name = next(name for name in COUNTERS if failed[name][row])
                yield self._fault(row, name, "bad", values.NO_COUNTER)
            else:
                for name, column in failed.items():
                    if column[row]:
                        yield self._fault(row, name, "partial", values.NO_TEXT)
                if idle[row]:
                    yield self._fault(row, "timestamp", "partial", _NO_TIME)

    def _fault(self, row: int, name: str, kind: str, reason: str) -> Fault:
        reasons = self._columns[name].reasons
        said = None if reasons is None else reasons[row].as_py()
        cells = self._cells.get(name)
        value = "" if cells is None else cells[row].as_py() or ""
        return Fault(row, self._plan.mapping.columns.get(name, name), value, said or reason, kind)

    def _first(self, row: int) -> str:
        return next(
            (
                one
                for name in self._batch.column_names[:3]
                if isinstance(one := self._batch[name][row].as_py(), str)
            ),
            "",
        )


def _trimmed(batch: pa.Table, column: str) -> pa.Array:
    """The cells of a column without space around them; empty ones are null."""
    if column not in batch.column_names:
        return pa.nulls(batch.num_rows, pa.string())
    return trimmed(whole(batch[column]))


def mask(flags: Any) -> Any:
    """A column of truth values as an array of numpy, null being False."""
    flags = whole(flags) if isinstance(flags, pa.ChunkedArray) else flags
    return pc.fill_null(flags, False).to_numpy(zero_copy_only=False)


def _each(cells: pa.Array, parse: Callable[[str], Any], kind: pa.DataType) -> _Column:
    """Parse every distinct cell once."""
    coded = cells.dictionary_encode()
    parsed: list[Any] = []
    reasons: list[str | None] = []
    for one in coded.dictionary.to_pylist():
        try:
            parsed.append(parse(one))
            reasons.append(None)
        except (ValueError, OverflowError) as error:
            parsed.append(None)
            reasons.append(str(error))
    found = pa.array(parsed, kind).take(coded.indices)
    if not any(reasons):
        return _Column(found)
    return _Column(found, pa.array(reasons, pa.string()).take(coded.indices))


def _read(name: str, cells: pa.Array | None, plan: Plan, count: int) -> _Column:
    kind = FACTS.get(name, pa.int64())
    if cells is None:
        return _Column(pa.nulls(count, kind))
    if name in COUNTERS:
        return _counters(cells, name in plan.dotted)
    if name == "published_at":
        return _moments(cells, plan.published)
    if name == "channel_id":
        return _each(cells, values.channel_id, kind)
    if name == "duration":
        scale = 1000 if plan.mapping.columns[name].rstrip(") ").lower().endswith("ms") else 1
        return _each(cells, lambda one: _seconds(one, scale), kind)
    has_broken = pc.or_(pc.match_substring(cells, BROKEN), pc.match_substring(cells, "\0"))
    if not pc.any(has_broken).as_py():
        return _Column(cells)
    return _each(cells, values.text, kind)


def _seconds(value: str, scale: int) -> int | None:
    found = values.duration(value)
    return None if found is None else found // scale


def _counters(cells: pa.Array, dotted: bool) -> _Column:
    if are_counters(cells):
        return _Column(cells.cast(pa.int64()))
    return _each(cells, lambda one: values.counter(one, dotted=dotted), pa.int64())


def _moments(cells: pa.Array, parse: Callable[[str], datetime]) -> _Column:
    quick = _quick_moments(cells, parse)
    if quick is not None:
        return _Column(quick)
    return _each(cells, lambda one: None if values.unknown(one) else parse(one), MOMENT)


def _ids(cells: pa.Array | None, plan: Plan, count: int) -> _Column:
    if plan.fixed_id is not None:
        return _Column(pa.repeat(pa.scalar(plan.fixed_id, pa.string()), count))
    if cells is None:
        return _Column(pa.nulls(count, pa.string()))
    if are_ids(cells):
        return _Column(cells)
    return _each(cells, values.video_id, pa.string())


def _times(cells: pa.Array | None, plan: Plan, count: int) -> _Column:
    if cells is None:
        found = _Column(pa.nulls(count, MOMENT))
    else:
        found = _quick_times(cells, plan) or _each(
            cells, lambda one: None if values.unknown(one) else _in_range(one, plan), MOMENT
        )
    if plan.fixed_time is not None:
        empty = pc.and_(pc.is_null(found.values), pc.invert(pa.array(found.failed())))
        fixed = pa.scalar(plan.fixed_time, MOMENT)
        found = _Column(pc.if_else(empty, fixed, found.values), found.reasons)
    return found


def _quick_times(cells: pa.Array, plan: Plan) -> _Column | None:
    """The same as one by one, where all lie in range."""
    moments = _quick_moments(cells, plan.timestamp)
    if moments is None:
        return None
    in_range = pc.and_(
        pc.greater_equal(moments, pa.scalar(EARLIEST, MOMENT)),
        pc.less_equal(moments, pa.scalar(plan.latest, MOMENT)),
    )
    return _Column(moments) if pc.all(in_range).as_py() is not False else None


def _quick_moments(cells: pa.Array, parse: Callable[[str], datetime]) -> pa.Array | None:
    """Times where all of a batch are in one form of plain ISO 8601, in UTC; else None."""
    if getattr(parse, "formats", ()) or (one := alike(cells)) is None:
        return None
    form = _ISO_TIME.fullmatch(one)
    if form is None:
        return None
    zone = form[1] or ""
    if zone and not pc.all(pc.ends_with(cells, zone)).as_py():
        return None
    try:
        local = pc.utf8_slice_codeunits(cells, 0, len(one) - len(zone)) if zone else cells
        return local.cast(pa.timestamp("us")).cast(MOMENT)
    except pa.ArrowInvalid:
        return None


def _in_range(value: str, plan: Plan) -> datetime:
    moment = plan.timestamp(value)
    if not EARLIEST <= moment <= plan.latest:
        raise ValueError(_FAR)
    return moment


def _blank_where_disabled(columns: dict[str, _Column], cells: Mapping[str, pa.Array]) -> None:
    """A zero of a counter that the video does not show means that it is not known."""
    for flags, name in (("ratings_disabled", "likes"), ("comments_disabled", "comment_count")):
        if flags in cells:
            disabled = _each(cells[flags], values.flag, pa.bool_()).values
            zero = pc.equal(columns[name].values, 0)
            hidden = pc.fill_null(pc.and_(disabled, zero), False)
            nothing = pa.scalar(None, pa.int64())
            columns[name].values = pc.if_else(hidden, nothing, columns[name].values)


def _of_another_kind(cells: Mapping[str, pa.Array], count: int) -> Any:
    """Which rows say that they are of another kind than a video."""
    if "kind" not in cells:
        return np.zeros(count, bool)
    kinds = cells["kind"]
    named = pc.starts_with(kinds, "youtube#")
    video = pc.is_in(
        kinds,
        pa.array(
            ["youtube#video", "youtube#searchResult", "youtube#playlistItem", "youtube#activity"]
        ),
    )
    return mask(pc.and_(named, pc.invert(video)))
